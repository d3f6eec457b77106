"""What mkdocs does not know of the site: pages from all over the repository, and the reference.

A page that stands elsewhere (`README.md`, `examples/…`) keeps its place in the tree. Scripts and
other files that pages link to are pages with their text, notebooks with their pictures. Links are
written as they work in the repository, and are made to work on the site. The reference has a page
for each module that scripts import from, read from the sources without importing them.
"""

import base64
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
ELSEWHERE = (
    *("README.md", "README_en.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("examples/README.md", "examples/data/README.md", "examples/weights/tiny_zh/README.md"),
    *("experiments/README.md", "experiments/data.md", "benchmarks/README.md"),
    *("pretraining/README.md", "pretraining/texts/README.md"),
)
"""Documents outside of `docs/`."""
RENAMED = {"README.md": "index.md", "README_en.md": "index_en.md"}
FACES = (
    *("models", "tokenizers", "layers", "optimizers", "training", "generation", "snippets"),
    *("metrics", "sentences", "checkpoints", "serving", "backend", "legacy"),
)
"""Modules with a page in the reference; a name that several offer stands in the first."""
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".cff": "yaml"}
CHINESE = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”]"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents from elsewhere, what they link to, and the reference."""
    documents = [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    for name in ELSEWHERE:
        files.append(generated(config, uri_of(name), (ROOT / name).read_text("utf-8")))
        documents.append(ROOT / name)
    for path in sorted({target for document in documents for target in targets_of(document)}):
        if path.endswith(".ipynb"):
            for file in page_of_notebook(config, path):
                files.append(file)
        elif uri_of(path) not in files.src_uris:
            files.append(page_of_file(config, path))
    for face, text in reference():
        files.append(generated(config, f"reference/{face}.md", text))
    return files


def generated(config: Any, uri: str, content: str | bytes) -> File:
    """A file of the site that is not one of `docs/`."""
    return File.generated(config, uri, content=content)


def targets_of(document: Path) -> Iterator[str]:
    """The files in the repository that a document links to, as paths from its root."""
    for line, code in lines_of(document.read_text("utf-8")):
        for link in LINK.findall(line) if not code else ():
            path = (document.parent / link).resolve()
            if path.is_file():
                yield path.relative_to(ROOT).as_posix()


def lines_of(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a document, each with itself again if it is in a block of code, else empty."""
    fence = ""
    for line in text.split("\n"):
        found = re.match(r"\s*(```+)", line)
        if found and not fence:
            fence = found[1]
            yield line, line
        else:
            yield line, line if fence else ""
            if fence and line.strip() == fence:
                fence = ""


def uri_of(path: str) -> str:
    """Where a file of the repository stands in the sources of the site."""
    path = RENAMED.get(path, path.removeprefix("docs/"))
    return path if Path(path).suffix in (".md", ".png") else f"{path}.md"


def page_of_file(config: Any, path: str) -> File:
    """A page with the text of a file, which the search passes over; pictures as they are."""
    content = (ROOT / path).read_bytes()
    if uri_of(path) == path:
        return generated(config, path, content)
    language = LANGUAGES.get(Path(path).suffix, "text")
    return generated(
        config,
        uri_of(path),
        f"---\nsearch:\n  exclude: true\n---\n\n# {Path(path).name}\n\n`{path}`\n\n"
        f"`````{language}\n{content.decode()}\n`````\n",
    )


def page_of_notebook(config: Any, path: str) -> Iterator[File]:
    """A page with the texts, code and outputs of a notebook, and its pictures beside it."""
    blocks, n_pictures = [], 0
    for cell in json.loads((ROOT / path).read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"`````python\n{source}\n`````")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                n_pictures += 1
                picture = f"{path}-{n_pictures}.png"
                yield generated(config, picture, base64.b64decode(data["image/png"]))
                blocks.append(f"![]({posixpath.basename(picture)})")
            else:
                text = "".join(output.get("text") or data["text/plain"])
                blocks.append(f"`````text\n{text.rstrip()}\n`````")
    yield generated(config, uri_of(path), "\n\n".join(blocks) + "\n")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make links work on the site, and lists look as they do elsewhere."""
    uri = page.file.src_uri
    path = {new: old for old, new in RENAMED.items()}.get(uri, uri)
    if path == uri and (ROOT / "docs" / path).is_file():
        path = f"docs/{path}"
    if path.endswith(".ipynb.md"):
        path = path.removesuffix(".md")
    folder = posixpath.dirname(path)

    def relinked(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if (ROOT / target).is_dir():
            target = f"{target}/README.md"
        return os.path.relpath(uri_of(target), posixpath.dirname(uri) or ".")

    if not (ROOT / path).is_file():
        return markdown  # of the reference, or of a script
    lines = ((code or LINK.sub(relinked, line), code) for line, code in lines_of(markdown))
    return "\n".join(joined(indented(lines)))


def indented(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Indent what belongs to an item of a list by four, which Python-Markdown asks for."""
    in_item = False
    for line, code in lines:
        if line[:1].strip():
            in_item = re.match(r"([*-]|\d+\.) ", line) is not None
        more = "  " if in_item and line.startswith("  ") else ""
        yield more + line, code and more + code


def joined(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Join lines that break between Chinese characters, which would become a space."""
    before = None
    for line, code in lines:
        if before is None:
            before = line
        elif not code and re.search(f"{CHINESE}$", before) and re.match(f" *{CHINESE}", line):
            before += line.lstrip()
        else:
            yield before
            before = line
    yield before or ""


def reference() -> Iterator[tuple[str, str]]:
    """The pages of the reference: what each module offers, with signature, shapes and errors."""
    package = griffe.load("bert4keras", search_paths=[ROOT])
    described: set[str] = set()
    for face in FACES:
        module = package[face]
        homes = {name: home_of(module, name) for name in sorted(module.exports, key=str.lower)}
        homes = {name: home for name, home in homes.items() if home.startswith("bert4keras.")}
        text = f"# bert4keras.{face}\n\n{module.docstring.value.splitlines()[0]}\n"
        seen = [f"[`{name}`][{home}]" for name, home in homes.items() if home in described]
        if seen:
            text += f"\n另见 / see also: {', '.join(seen)}\n"
        for name, home in homes.items():
            if home not in described:
                text += f"\n::: bert4keras.{face}.{name}\n"
        described.update(homes.values())
        yield face, text


def home_of(module: Any, name: str) -> str:
    """Where something that a module offers is defined; empty if that is not in this library."""
    try:
        found = module[name]
        return found.final_target.path if found.is_alias else found.path
    except (griffe.AliasResolutionError, KeyError):
        return ""
