"""The site of the documents: built without warnings, whole, and without anything from elsewhere."""

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import griffe
import pytest
from browser import Browser

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-5000:]
    assert "WARNING" not in result.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a":
            self.links.add(given.get("href") or "")
        elif "src" in given:
            self.loads.add(given["src"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loads.add(given["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.mark.long
def test_nothing_comes_from_elsewhere(site, pages):
    loads = {load for page in pages.values() for load in page.loads}
    assert loads and not [load for load in loads if urlsplit(load).netloc]
    sheets = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", sheets)


@pytest.mark.long
def test_links_lead_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links | page.loads:
            parts = urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = not anchor or (target in pages and anchor in pages[target].anchors)
            if not target.exists() or not known:
                broken.append(f"{path.name}: {link}")
    assert not broken


@pytest.mark.long
def test_every_public_name_is_in_the_reference(pages):
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    anchors = set().union(*(p.anchors for x, p in pages.items() if x.parent.name == "reference"))
    package = griffe.load("bert4keras", search_paths=[ROOT])
    homes = {
        f"{face}.{name}": hooks.home_of(package[face], name)
        for face in hooks.FACES
        for name in package[face].exports
    }
    ours = {name: home for name, home in homes.items() if home.startswith("bert4keras.")}
    described = {home for name, home in ours.items() if f"bert4keras.{name}" in anchors}
    assert len(described) > 300 and not set(ours.values()) - described
    # What is left out belongs to Keras.
    names = {name.split(".")[1] for name in homes.keys() - ours.keys()}
    assert names == {"keras", "Layer", "initializers", "ops"}


@pytest.mark.long
def test_all_documents_and_examples_are_pages(site):
    for folder, suffix in (("docs", ".md"), ("examples", ".py")):
        for path in sorted((ROOT / folder).glob(f"*{suffix}")):
            name = path.stem if folder == "docs" else f"examples/{path.name}"
            assert (site / f"{name}.html").is_file(), path
    for path in (ROOT / "examples/notebooks").glob("*.ipynb"):
        page = (site / f"examples/notebooks/{path.name}.html").read_text(encoding="utf-8")
        pictures = [each for each in re.findall(r'src="([^"]+)"', page) if ".ipynb-" in each]
        assert len(pictures) == path.read_text(encoding="utf-8").count('"image/png"') > 0
        assert all((site / "examples/notebooks" / picture).is_file() for picture in pictures)
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    for path in (ROOT / "docs").glob("*.md"):
        assert f": {path.name}\n" in nav, f"{path.name} is not in the nav of mkdocs.yml"


@pytest.mark.long
def test_chinese_is_cut_into_words_for_the_search(site):
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    words = {word for entry in index["docs"] for word in entry["text"].split("\u200b")}
    assert {"权重", "分词器", "语言"} <= {word.strip() for word in words}
    assert "zh" in index["config"]["lang"]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *args):
        pass


@pytest.mark.long
def test_a_browser_finds_a_chinese_word(site, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/index.html?q=分词器"
    try:
        with Browser(tmp_path, url) as browser:
            found = (
                "[...document.querySelectorAll('.md-search-result__item h1')].map(x => x.innerText)"
            )
            browser.wait_for(f"{found}.length")
            assert any(
                "分词" in title or "token" in title.lower() for title in browser.evaluate(found)
            )
            assert not browser.problems
    finally:
        server.shutdown()
        server.server_close()
