"""From the files of a source to documents: lists of paragraphs and headings, which begin with `# `.

Code, tables, formulas and markup are left out here; what is left of a paragraph is judged by
`cleaning.py`.
"""

import ast
import html
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any

Document = list[str]
HEADING = "# "

# --- Markdown

_NOT_TEXT = re.compile(
    r"\A---\s*\n.*?\n---\s*\n"  # front matter
    r"|<!--.*?-->|^[ \t>]*(`{3,}|~{3,}).*?^[ \t>]*\1[`~]*[ \t]*$|\$\$.*?\$\$"
    r"|<(script|style|table|pre)\b.*?</\2>|\{\{[<%].*?[%>]\}\}|\{%.*?%\}",
    re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*(?:\{.*\})?$")
_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,3}[.)、])\s+(?=\S)")
_QUOTE = re.compile(r"(?:>\s*)+")
_LINE_WITHOUT_TEXT = re.compile(r"\||:::|\[!|!!!|\?\?\?|===|---|\[[^\]]+\]:\s|<[/!]?\w[^>]*>$")
_INLINE = [
    (re.compile(r"!\[[^\]]*\]\([^)]*\)|!\[[^\]]*\]\[[^\]]*\]|\[\^[^\]]*\]"), ""),
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[([^\]]+)\]\[[^\]]*\]"), r"\1"),
    (re.compile(r"<br\s*/?>"), "\n"),
    (re.compile(r"</?\w[^>]*>|<https?:[^>]*>"), ""),
    (re.compile(r"(?<!\\)(?:\*\*|__|`+|~~|(?<!\*)\*(?=\S)|(?<=\S)\*(?!\*))"), ""),
    (re.compile(r"\\([^\w\s])"), r"\1"),
]


def markdown(content: bytes, path: str) -> Iterator[Document]:
    text = decoded(content).replace("\r\n", "\n")
    document: Document = []
    is_open = False  # whether the next line goes on with the last paragraph
    for line in _NOT_TEXT.sub("\n", text).split("\n"):
        line = _QUOTE.sub("", line.strip(), count=1) if line.strip().startswith(">") else line
        line = line.strip()
        if not line or _LINE_WITHOUT_TEXT.match(line):
            is_open = False
        elif found := _HEADING.match(line):
            document.append(HEADING + plain(found[1]))
            is_open = False
        elif is_open and not _LIST_ITEM.match(line):
            document[-1] = joined(document[-1], plain(line))
        else:
            document.append(plain(_LIST_ITEM.sub("", line, count=1)))
            is_open = True
    yield document


def plain(line: str) -> str:
    for pattern, by in _INLINE:
        line = pattern.sub(by, line)
    return html.unescape(line).strip()


def joined(first: str, second: str) -> str:
    """Two lines of a paragraph: with a space between them where both are Latin."""
    apart = first[-1:].isascii() and second[:1].isascii()
    return first + (" " if apart else "") + second


def decoded(content: bytes) -> str:
    return content.decode("utf-8-sig", "replace")


# --- HTML, and XML of DocBook and Mallard


class Markup(HTMLParser):
    """Collects headings and paragraphs."""

    HEADINGS = frozenset(["title", "refname", *(f"h{i}" for i in range(1, 7))])
    BREAKS = HEADINGS.union(
        ("p", "li", "dd", "dt", "div", "section", "article", "body", "blockquote", "br", "td"),
        ("para", "simpara", "listitem", "entry", "refsect1", "sect1", "sect2", "sect3"),
        ("page", "item", "desc", "note", "info"),
    )
    SKIPPED = frozenset(("script", "style", "pre", "table", "nav", "header", "footer")).union(
        ("programlisting", "screen", "synopsis", "methodsynopsis", "informaltable", "revision")
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.document: Document = []
        self.text: list[str] = []
        self.depth, self.is_heading = 0, False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in self.SKIPPED:
            self.depth += 1
        if tag in self.BREAKS:
            self.flush()
        if tag in self.HEADINGS:
            self.flush()
            self.is_heading = True

    def handle_endtag(self, tag: str) -> None:
        if tag in self.SKIPPED:
            self.depth = max(0, self.depth - 1)
        if tag in self.BREAKS:
            self.flush()

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        if tag in self.BREAKS:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.text.append(data)

    def flush(self) -> None:
        lines = [line.strip() for line in "".join(self.text).split("\n")]
        self.text.clear()
        paragraph = ""
        for line in filter(None, lines):
            paragraph = joined(paragraph, line) if paragraph else line
        if paragraph:
            self.document.append((HEADING if self.is_heading else "") + paragraph)
        self.is_heading = False


_UNPARSED = re.compile(r"<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<!DOCTYPE[^>]*>|&[\w.-]+;", re.DOTALL)


def markup(content: bytes, path: str) -> Iterator[Document]:
    parser = Markup()
    text = decoded(content)
    # Entities of DocBook name other files; HTML's own become characters.
    text = _UNPARSED.sub(lambda found: known_entity(found[0]), text)
    parser.feed(text)
    parser.close()
    parser.flush()
    yield parser.document


def known_entity(text: str) -> str:
    return html.unescape(text) if text.startswith("&") and html.unescape(text) != text else " "


# --- translations


_PO_STRING = re.compile(r'^msgstr(?:\[0\])? ("(?:[^"\\]|\\.)*"(?:\n"(?:[^"\\]|\\.)*")*)', re.M)
_ROLES = [
    (re.compile(r":[\w:+-]+:`!?~?([^`<]*?)\s*(?:<[^`]*>)?`"), r"\1"),
    (re.compile(r"`([^`<]*?)\s*(?:<[^`]*>)?`_{0,2}"), r"\1"),
    (re.compile(r"``|\*\*|(?<!\*)\*(?=\S)|(?<=\S)\*|\|"), ""),
    (re.compile(r"\\(.)"), r"\1"),
]


def translations(content: bytes, path: str) -> Iterator[Document]:
    """The translated paragraphs of a `.po` file of reStructuredText."""
    document = []
    for quoted in _PO_STRING.findall(decoded(content)):
        text = "".join(map(ast.literal_eval, quoted.split("\n")))
        for pattern, by in _ROLES:
            text = pattern.sub(by, text)
        document.append(text.replace("\n", ""))
    yield document


def messages(content: bytes, path: str) -> Iterator[Document]:
    """The translated messages of a `.mo` file (GNU gettext), without the markup of games."""
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    count, _, offset = struct.unpack(f"{order}3I", content[8:20])
    document: Document = []
    for i in range(count):
        size, start = struct.unpack_from(f"{order}2I", content, offset + 8 * i)
        text = decoded(content[start : start + size]).split("\0")[0]
        text = re.sub(r"<[^<>\n]*>", "", text)
        document += [line.strip() for line in text.split("\n")]
    yield document


# --- manual pages


_ROFF_REQUEST = re.compile(r"[.']\s*(\w+)\s*(.*)")
_ROFF_ESCAPE = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\s[+-]?\d|\\[&|^%/,]|\\\((\w\w)|\\\*.|\\(.)")


def manual(content: bytes, path: str) -> Iterator[Document]:
    document: Document = []
    is_open = is_code = False
    for line in decoded(content).split("\n"):
        request = _ROFF_REQUEST.match(line)
        name, words = (request[1], request[2].strip('"')) if request else ("", line)
        is_code = name in ("nf", "EX") or (is_code and name not in ("fi", "EE"))
        words = _ROFF_ESCAPE.sub(lambda found: {"-": "-", "e": "\\"}.get(found[2], ""), words)
        if is_code or line.startswith(('.\\"', '\\"', ".TS")):
            continue
        if name in ("SH", "SS", "TH"):
            document.append(HEADING + words.split('"')[0])
            is_open = False
        elif name in ("B", "I", "BR", "IR", "RB", "BI", "RI") or not name:
            words = words.replace('"', "") if name else words.strip()
            if is_open and words:
                document[-1] = joined(document[-1], words)
            elif words:
                document.append(words)
            is_open = bool(words)
        else:
            is_open = False
    yield document


# --- books, and lines


PARAGRAPH = 200
_SENTENCES = re.compile(r"[^。！？]+[。！？]+[”』」’）]*")


def book(content: bytes, path: str) -> Iterator[Document]:
    """A book without paragraphs: whole sentences of about `PARAGRAPH` characters together."""
    document, paragraph = [], ""
    for sentence in _SENTENCES.findall(re.sub(r"\s+", "", decoded(content))):
        paragraph += sentence
        if len(paragraph) >= PARAGRAPH:
            document.append(paragraph)
            paragraph = ""
    yield [HEADING + PurePosixPath(path).stem, *document, paragraph]


def lines(content: bytes, path: str) -> Iterator[Document]:
    """Sentences that have nothing to do with each other, one a line."""
    yield [line.split("\t")[-1].strip() for line in decoded(content).split("\n")]


def pairs_of_lines(content: bytes, path: str) -> Iterator[Document]:
    """English, a tab, Chinese, and perhaps where it is from."""
    rows = (line.split("\t") for line in decoded(content).split("\n"))
    yield [row[1].strip() for row in rows if len(row) > 1]


# --- JSON


def records(
    documents: Callable[[Any], Iterator[Document]],
) -> Callable[[bytes, str], Iterator[Document]]:
    """A reader of JSON files, of which `documents` are made."""

    def read(content: bytes, path: str) -> Iterator[Document]:
        return documents(json.loads(content))

    return read


def dialogues(content: list[dict]) -> Iterator[Document]:
    """KdConv: what is said, and below it what is known of its topics."""
    for each in content:
        said = [turn["message"] for turn in each["messages"]]
        facts = [
            fact["attrvalue"]
            for turn in each["messages"]
            for fact in turn.get("attrs", [])
            if fact["attrname"] == "Information"
        ]
        yield [*said, *dict.fromkeys(facts)]


def bookings(content: bytes, path: str) -> Iterator[Document]:
    """CrossWOZ: conversations about hotels and sights, as packed JSON."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            for each in json.loads(archive.read(name)).values():
                yield [turn["content"] for turn in each["messages"]]


def stories(content: dict) -> Iterator[Document]:
    """CMRC 2019: stories with gaps, and the sentences for them."""
    for each in content["data"]:
        text = each["context"]
        for i, choice in enumerate(each.get("answers", []), 1):
            text = text.replace(f"[BLANK{i}]", each["choices"][choice])
        yield [] if "BLANK" in text else [text]


def statute(content: dict) -> Iterator[Document]:
    """A law of Taiwan, as github.com/kong0107/mojLawSplitJSON has it."""
    document = [HEADING + content["法規名稱"]]
    for part in content["法規內容"]:
        if "編章節" in part:
            document.append(HEADING + part["編章節"].strip())
        else:
            # Lines are broken where a column ended, too; an item begins with its number.
            text = re.sub(r"\r\n\s*(?![一二三四五六七八九十]+、)", "", part["條文內容"])
            document += text.split("\r\n")
    yield document


def encyclopaedia(content: bytes, path: str) -> Iterator[Document]:
    """Wikipedia as WikiExtractor writes it, an article a line."""
    for line in decoded(content).splitlines():
        record = json.loads(line)
        yield [HEADING + record["title"], *record["text"].split("\n")[1:]]


READERS: dict[str, Callable[[bytes, str], Iterator[Document]]] = {
    "markdown": markdown,
    "markup": markup,
    "translations": translations,
    "messages": messages,
    "manual": manual,
    "book": book,
    "lines": lines,
    "pairs_of_lines": pairs_of_lines,
    "dialogues": records(dialogues),
    "bookings": bookings,
    "stories": records(stories),
    "statute": records(statute),
    "encyclopaedia": encyclopaedia,
}
