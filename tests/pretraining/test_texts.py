"""Collecting texts: what is read of them, what is left out, and the files that come of it."""

import collections
import gzip
import io
import json
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "pretraining" / "texts"
sys.path.insert(0, str(FOLDER))

import archives  # noqa: E402
import cleaning  # noqa: E402
import collect  # noqa: E402
import pairs  # noqa: E402
import readers  # noqa: E402

ALL = (
    "一二三四五六七八九十百千万甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地玄黄宇宙洪荒日月盈昃"
)


def read(reader, content):
    content = content if isinstance(content, bytes) else content.encode()
    return [
        line for document in readers.READERS[reader](content, "a/题目.txt") for line in document
    ]


# --- readers


def test_markdown():
    text = """---
title: 前言
---
# 标题 {#id}
<!-- 注释
不要 -->
第一行**重点**
第二行[链接](http://x.y "z")和`代码`，![图](a.png)完。

- 甲项
  续行
2. 乙项
> [!NOTE]
> 引文 &amp; more
> text

| 表 | 格 |
|---|---|
```python
代码
```
<div class="x">
末段<br>换行\\*星
"""
    assert read("markdown", text) == [
        "# 标题",
        "第一行重点第二行链接和代码，完。",
        "甲项续行",
        "乙项",
        "引文 & more text",
        "末段\n换行*星",
    ]


def test_markup():
    text = """<html><head><title>题</title><style>x</style></head><body>
<nav>导航</nav><h1>大<b>标题</b></h1><p>第一段
第二行 one
two<code>三</code></p><pre>代码</pre><ul><li>甲</li><li>乙</li></ul>
<table><tr><td>表</td></tr></table>尾&amp;</body></html>"""
    assert read("markup", text) == [
        *("# 题", "# 大标题", "第一段第二行 one two三"),
        *("甲", "乙", "尾&"),
    ]


def test_markup_of_docbook():
    text = """<?xml version="1.0"?><chapter><title>函数</title><para>用 <literal>f</literal>
定义&link.x;。</para><programlisting><![CDATA[<p>代码</p>]]></programlisting></chapter>"""
    assert read("markup", text) == ["# 函数", "用 f定义 。"]


def test_translations():
    text = """msgid "a"
msgstr "见 :ref:`教程 <tut>` 与 ``x``\\n"
"的 *说明*。"

msgid "b"
msgstr ""
"""
    assert read("translations", text) == ["见 教程 与 x的 说明。", ""]


def test_messages():
    texts = [b"", "<color_red>你好</color>\n世界".encode(), "复数\0复数们".encode()]
    n, at = len(texts), 28
    offsets, body = b"", b"".join(text + b"\0" for text in texts)
    start = at + 8 * n
    for text in texts:
        offsets += struct.pack("<2I", len(text), start)
        start += len(text) + 1
    header = struct.pack("<7I", 0x950412DE, 0, n, at, at, 0, 0)
    assert read("messages", header + offsets + body) == ["", "你好", "世界", "复数"]


def test_manual():
    text = '.TH LS 1\n.SH "名称"\nls \\- 列出\\fB目录\\fR\n.PP\n.B 选项\n说明\n.nf\n代码\n.fi\n尾\n'
    assert read("manual", text) == ["# LS 1", "# 名称", "ls - 列出目录", "选项说明", "尾"]


def test_books_and_lines():
    sentence = "天" * 99 + "！”"
    assert read("book", f"{sentence}\n{sentence}{sentence}") == [
        "# 题目",
        sentence + sentence,
        sentence,
    ]
    assert read("lines", "一\n二") == ["一", "二"]
    assert read("pairs_of_lines", "Hi.\t嗨。\tCC\nx") == ["嗨。"]


def test_json():
    statute = {
        "法規名稱": "法",
        "法規內容": [
            {"編章節": " 第一章 "},
            {"條文內容": "甲如\r\n  下：\r\n一、乙\r\n    丙。\r\n二、丁。"},
        ],
    }
    assert read("statute", json.dumps(statute)) == [
        *("# 法", "# 第一章", "甲如下：", "一、乙丙。", "二、丁。"),
    ]
    fact = {"attrname": "Information", "attrvalue": "事"}
    talks = [{"messages": [{"message": "问", "attrs": [fact]}, {"message": "答"}]}]
    assert read("dialogues", json.dumps(talks)) == ["问", "答", "事"]
    story = {"context": "甲[BLANK1]丙", "choices": ["丁", "乙"], "answers": [1]}
    assert read("stories", json.dumps({"data": [story]})) == ["甲乙丙"]
    article = json.dumps({"title": "题", "text": "题\n\n文"})
    assert read("encyclopaedia", f"{article}\n{article}") == ["# 题", "", "文"] * 2
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.json", json.dumps({"1": {"messages": [{"content": "问"}]}}))
    assert read("bookings", packed.getvalue()) == ["问"]


# --- cleaning


def test_why_paragraphs_are_left_out():
    held_out = cleaning.HeldOut(["前面" + ALL[:13] + "后面", "不要这一句"])
    judge = cleaning.Judge(held_out)
    for paragraph, reason in {
        "中文 with much more English": "foreign",
        "太短了吧。": "short",
        "这里有一个占位符%s的句子": "markup",
        "公式$x_1$在这里写出来": "markup",
        f"这一段有：{ALL[:6]}，{ALL[6:13]}，与测试相同": "held_out",
        f"这一段只有{ALL[:12]}十二个字相同": "",
        "不要这一句！（不要）这里不同": "",
    }.items():
        assert judge.reason(paragraph) == reason, paragraph
    assert cleaning.HeldOut().holds("短", np.zeros(0, "uint64")) is False
    assert held_out.holds("不要这一句", np.zeros(0, "uint64")) is True


def test_repeats():
    rng = np.random.default_rng(0)
    text = "".join(map(chr, rng.integers(0x4E00, 0x9FFF, 400)))
    judge = cleaning.Judge(cleaning.HeldOut())
    assert judge.reason(text) == ""
    assert judge.reason(f"{text[:200]}，{text[200:]}。") == "repeat"  # the same words
    assert judge.reason(text[:390] + "结尾另有说明") == "near"
    assert judge.reason(text[:150] + text[::-1]) == ""  # little of it is the same


def test_hashes_are_of_all_characters_in_order():
    grams = cleaning.grams(ALL)
    assert len(grams) == len(set(grams.tolist())) == len(ALL) - cleaning.GRAM + 1
    assert grams[3] == cleaning.grams(ALL[3 : 3 + cleaning.GRAM])[0]
    polynomial = 0
    for character in ALL[: cleaning.GRAM]:
        polynomial = (polynomial * 0x9E3779B97F4A7C15 + ord(character)) % 2**64
    assert grams[0] == polynomial ^ (polynomial >> 29)
    assert len(cleaning.grams(ALL[: cleaning.GRAM - 1])) == 0
    assert cleaning.hash_of("甲乙") != cleaning.hash_of("乙甲")


def test_headings_stay_with_their_text():
    document = [
        "# 没有正文的标题",
        "# 标题",
        "这里是第一段的文字。",
        "# Only English",
        "这里是第二段的文字。",
    ]
    judge, counts = cleaning.Judge(cleaning.HeldOut()), collections.Counter()
    assert list(cleaning.cleaned(document, judge, counts)) == [
        ("标题", True),
        ("这里是第一段的文字。", False),
        ("这里是第二段的文字。", False),
    ]
    assert counts == {"paragraphs": 2}
    assert cleaning.tidy(" 「中 文」 and  more ") == "“中文” and more"


def test_texts_of_tasks(tmp_path):
    def packed(name, members):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, text in members.items():
                archive.writestr(member, text)

    packed(
        "a.zip",
        {
            "x.json": '{"a": ["甲", {"b": "乙"}]}\n{"a": "丙"}',
            "y.tsv": "丁\t戊",
            "z.json": "['己']",
        },
    )
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        content = "庚 O\n辛 B\n\n壬 O\n癸 O\n".encode()
        member = tarfile.TarInfo("tags")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress('{"t": "子"}'.encode()))
    (tmp_path / "README.md").write_text("丑")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "d.jsonl.gz").write_bytes(gzip.compress('{"t": "寅"}'.encode()))
    found = cleaning.held_out_texts(tmp_path, lambda text: text)
    assert [cleaning.wording(text) for text in found if text] == [
        *("甲", "乙", "丙", "丁", "戊", "己", "庚辛", "壬癸", "子"),
    ]


# --- pairs


def test_titles_and_first_sentences():
    text = (
        "海洋保护区的管理办法由国务院制定。" + "海洋保护区的管理由国务院的部门负责，制定办法。" * 4
    )
    record = {"title": "第三章 海洋保护区管理", "text": f"第三章 海洋保护区管理\n{text}"}
    assert list(pairs.titles(record, collections.Counter())) == [(text, "海洋保护区管理")]
    assert not list(pairs.titles(record, collections.Counter({"海洋保护区管理": 4})))
    assert not list(pairs.titles({"text": text}, collections.Counter()))
    other = {"title": "森林防火条例", "text": f"森林防火条例\n{text}"}
    assert not list(pairs.titles(other, collections.Counter()))  # nothing of it is in the text
    first, rest = text[:17], text[17:]
    assert list(pairs.leads(record)) == [(rest, first)]


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("他在1990年来到这座城市。", "他在什么时候来到这座城市？", "1990年"),
        ("全市共有320个公园对外开放。", "全市共有多少个公园对外开放？", "320"),
        ("他写的小说《海边的房子》出版了。", "他写的小说《什么》出版了？", "海边的房子"),
        ("长江是中国最长的河流，流入东海。", "长江是什么，流入东海？", "中国最长的河流"),
    ],
)
def test_questions(sentence, question, answer):
    text = f"前面的一句话没有什么可问。{sentence}后面的一句话也没有什么可问。"
    ((asked, target),) = pairs.answers({"text": text}, random.Random(0))
    assert asked.split("\n")[0] == question and target == answer
    assert sentence in asked.split("\n")[1]


def test_pairs_are_written(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    sentence = "他在1990年来到这座城市。这里的城市很大。"
    collect.write(path, [{"text": sentence}, {"text": sentence}])
    for name in ("b.gz", "c.gz"):
        pairs.main(["--texts", str(path), "--output", str(tmp_path / name)])
    assert (tmp_path / "b.gz").read_bytes() == (tmp_path / "c.gz").read_bytes()
    found = rows(tmp_path / "b.gz")
    assert [(row["target"], row["source"]) for row in found] == [("1990年", "answer")] * 2


# --- sources and files


def source(**kwargs):
    chosen = {"name": "a", "what": "", "licence": "", "kind": "git", "files": ["*.md"]}
    chosen |= {"at": "https://example.org/owner/name", "version": "1", "reader": "markdown"}
    return archives.Source(**chosen | kwargs)


def git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True
    )
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with documents, as a source that is fetched from its folder."""
    folder = tmp_path_factory.mktemp("origin") / "owner" / "name"
    (folder / "子").mkdir(parents=True)
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    rng = np.random.default_rng(0)
    for i in range(40):
        words = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 400))) for _ in range(4)]
        text = f"# 第{ALL[i]}题目\n\n" + "。\n\n".join(words)
        (folder / "子" / f"{i}.md").write_text(text, encoding="utf-8")
    (folder / "other.txt").write_text("不读")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    version = git(folder, "rev-parse", "HEAD")
    (folder / "子" / "0.md").write_text("后来的文字不在那个版本里面")
    git(folder, "commit", "--quiet", "-am", "second")
    return source(at=str(folder), version=version)


def test_a_commit_is_fetched_once(repository, tmp_path, monkeypatch):
    path = archives.fetched(repository, tmp_path)
    files = dict(archives.read_files(repository, path))
    assert len(files) == 40 and "后来" not in files["子/0.md"].decode()
    monkeypatch.setattr(archives, "LARGEST", 10)
    assert not list(archives.read_files(repository, path))
    gone = source(at=str(tmp_path / "gone" / "x"), version=repository.version)
    with pytest.raises(archives.FetchError, match=r"git .*fetch.* fails: "):
        archives.fetched(gone, tmp_path / "b")
    at = source(at="https://example.org/owner/name", version=repository.version)
    clones = Path(repository.at).parents[1]
    assert archives.fetched(at, tmp_path / "c", clones) == clones / "owner" / "name"
    monkeypatch.setattr(archives, "run", lambda command, folder=None: b"")
    assert archives.fetched(repository, tmp_path) == path


def test_a_package_is_downloaded_and_read(tmp_path, monkeypatch):
    def download(command, folder=None):
        assert command == ["apt-get", "download", "doc-zh=1-2"]
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:xz") as archive:
            for name, text in (("./b.md", "乙"), ("./a.md.gz", "甲"), ("./c.png", "丙")):
                content = text.encode()
                content = gzip.compress(content) if name.endswith("gz") else content
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        package = b"!<arch>\n"
        for name, content in ((b"debian-binary", b"2.0\n "), (b"data.tar.xz", data.getvalue())):
            package += name.ljust(48) + str(len(content)).encode().ljust(10) + b"`\n"
            package += content + b"\n" * (len(content) % 2)
        (folder / "doc-zh_1-2_all.deb").write_bytes(package)

    monkeypatch.setattr(archives, "run", download)
    package = source(kind="debian", at="doc-zh", version="1-2", files=["*.md", "*.gz"])
    path = archives.fetched(package, tmp_path)
    assert list(archives.read_files(package, path)) == [
        ("a.md.gz", "甲".encode()),
        ("b.md", "乙".encode()),
    ]
    assert archives.fetched(package, tmp_path) == path
    path.write_bytes(b"!<arch>\n")
    with pytest.raises(archives.FetchError, match="is no Debian package: delete it"):
        list(archives.read_files(package, path))


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_collecting(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "VALID", 5)
    monkeypatch.setattr(collect, "read_sources", lambda: [repository])
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        collect.main(["--output", str(folder)])
        names = ("a.jsonl.gz", "valid.jsonl.gz", "stats.json")
        written.append([(folder / name).read_bytes() for name in names])
    assert written[0] == written[1]
    train, valid = rows(folder / "a.jsonl.gz"), rows(folder / "valid.jsonl.gz")
    assert len(train) + len(valid) == 80 and 5 < len(valid) < 40
    assert {row["source"] for row in train + valid} == {"a"}
    assert not {row["text"] for row in train} & {row["text"] for row in valid}
    titled = [row for row in train + valid if "title" in row]
    assert len(titled) == 40 and all(row["text"].startswith(row["title"] + "\n") for row in titled)
    stats = json.loads((folder / "stats.json").read_text())["a"]
    assert stats["paragraphs"] == 160 and stats["pieces"] == 80
    assert stats["characters"] == sum(len(row["text"]) for row in train + valid)


def test_collecting_leaves_out_what_is_held_out(repository, tmp_path, capsys):
    path = archives.fetched(repository, tmp_path)
    known = list(archives.read_files(repository, path))[3][1].decode()
    held_out = cleaning.HeldOut(known.split("\n"))
    stats = collect.collect([repository], tmp_path, held_out)["a"]
    assert stats["held_out"] == 4 and stats["paragraphs"] == 156
    assert "| a | 78 | " in collect.table({"a": stats})
    limited = source(at=repository.at, version=repository.version, at_most=3000, name="b")
    stats = collect.collect([limited], tmp_path, cleaning.HeldOut())["b"]
    assert 3000 <= stats["characters"] < 5000


def test_lines_without_and_conversion(tmp_path, monkeypatch):
    pytest.importorskip("opencc")
    monkeypatch.setattr(collect, "read_files", lambda source, path: [("a.md", content)])
    content = "### 發言人：\n這裡說話".encode()
    chosen = source(convert="t2s", without="^### ")
    assert list(collect.documents(chosen, tmp_path)) == [["这里说话"]]


def test_the_table_of_sources_and_the_page_of_them(tmp_path):
    sources = collect.read_sources()
    names = [source.name for source in sources]
    assert len(names) == len(set(names))
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for each in sources:
        assert each.kind in archives.FILES and each.reader in readers.READERS
        assert each.version and each.licence and each.files
        assert f"| `{each.name}` |" in page and each.licence in page
    (tmp_path / "a.toml").write_text("[[source]]\nnam = 'x'")
    with pytest.raises(SystemExit, match=r"is no table of sources: .*nam"):
        collect.read_sources(tmp_path / "a.toml")
    with pytest.raises(SystemExit, match="there are no sources nobody"):
        collect.main(["--output", str(tmp_path), "--only", "nobody"])
