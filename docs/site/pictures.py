"""Make the pictures of the README: what `make demo` prints, and the page of `WebServing`.

    make demo && .venv/bin/python docs/site/pictures.py     # anew, after a change of either

Runs `make demo` in a terminal and serves the model that it has saved, so it takes as long as
`make demo` does; Chromium draws both (`apt install chromium fonts-noto-cjk`). Needs Linux.
"""

import base64
import html
import json
import os
import pty
import re
import sys
import tempfile
import threading
from pathlib import Path

import keras

from bert4keras.models import Model
from bert4keras.snippets import WebServing
from bert4keras.tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs/pictures"
sys.path.append(str(ROOT / "tests/support"))

from browser import Browser  # noqa: E402

COLORS = {"1": "font-weight:bold", "31": "color:#e88", "32": "color:#7c7", "37": "color:#777"}
TERMINAL = """<meta charset="utf-8">
<style>
  body { margin: 0; background: #1e2227 }
  pre { display: inline-block; margin: 0; padding: 1.2em; color: #ddd;
        font: 14px/1.45 "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace }
</style>
<pre>{}</pre>"""


def printed_by(command: list[str]) -> str:
    """Run a command in a terminal, and return what it printed.

    Raises:
        SystemExit: If it fails.
    """
    parts = []

    def read(file: int) -> bytes:
        parts.append(os.read(file, 1 << 16))
        return parts[-1]

    if status := pty.spawn(command, read):
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return b"".join(parts).decode()


def shown(line: str) -> str:
    """A line as HTML as it stands in the end: of a progress bar its last state, in colors."""
    line = re.split(r"\r|\x08+", line.rstrip("\r"))[-1]
    line = re.sub(r"\x1b\[\d*K", "", line)
    opened = 0
    parts = []
    for text, code in re.findall(r"([^\x1b]*)(?:\x1b\[(\d*)m)?", line):
        parts.append(html.escape(text))
        if code in COLORS:
            parts.append(f'<span style="{COLORS[code]}">')
            opened += 1
        elif code:
            parts.append("</span>" * opened)
            opened = 0
    return "".join(parts) + "</span>" * opened


def photograph(page: Browser, element: str, name: str, margin: int) -> None:
    """Save what a page shows of an element, with a margin in pixels."""
    box = f"document.querySelector({element!r}).getBoundingClientRect()"
    x, y, width, height = page.evaluate(f"(b => [b.x, b.y, b.width, b.height])({box})")
    clip = {"x": x - margin, "y": y - margin, "width": width + 2 * margin, "scale": 1.5}
    clip["height"] = height + 2 * margin
    picture = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / name).write_bytes(base64.b64decode(picture))


def demo(folder: Path) -> None:
    """Draw the terminal after `make demo`."""
    lines = printed_by(["make", "-C", str(ROOT), "--no-print-directory", "demo"]).split("\n")
    lines = ["$ make demo", *lines]
    file = folder / "demo.html"
    file.write_text(TERMINAL.replace("{}", "\n".join(map(shown, lines)).strip()), encoding="utf-8")
    with Browser(folder / "demo", file.as_uri()) as page:
        photograph(page, "pre", "demo.png", margin=0)


def serving(folder: Path) -> None:
    """Draw the page of a server that classifies with the model of the demo, after an answer."""
    tokenizer = Tokenizer(str(ROOT / "examples/weights/tiny_zh/vocab.txt"), do_lower_case=True)
    model = keras.saving.load_model(ROOT / "runs/quickstart.keras")
    assert isinstance(model, Model)

    def classify(text: str) -> dict:
        """好评还是差评 / Is a review good or bad?"""
        token_ids, segment_ids = tokenizer.encode(text)
        probabilities = model.predict([[token_ids], [segment_ids]], verbose=0)[0].tolist()
        best = max(probabilities)
        return {"label": ["好评", "差评"][probabilities.index(best)], "probability": round(best, 4)}

    classify("编译")  # which the first call does
    web = WebServing(port=0)
    web.route("/classify", classify, {"text": (None, True)})
    thread = threading.Thread(target=web.start)
    thread.start()
    web.wait_until_started()
    with Browser(folder / "serving", web.url) as page:
        text = json.dumps("房间又小又脏，再也不会来了。")
        page.evaluate(f"document.forms[0].elements.text.value = {text}")
        page.evaluate("document.forms[0].querySelector('button').click()")
        page.wait_for("/^[0-9]+ · /.test(document.querySelector('output span')?.textContent)")
        photograph(page, "body", "serving.png", margin=16)
    web.stop()
    thread.join()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        demo(Path(name))
        serving(Path(name))
