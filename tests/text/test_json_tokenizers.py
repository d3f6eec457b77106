"""`JsonTokenizer` and `load_tokenizer` against `transformers`, and for any text and any file."""

import copy
import functools
import itertools
import json
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizer_folders
import unicodedata2 as unicodedata
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4keras.generation.streaming import stream_text
from bert4keras.text import json_file
from bert4keras.text.fairseq import FairseqTokenizer
from bert4keras.text.json import JsonTokenizer
from bert4keras.tokenizers import (
    SpTokenizer,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    save_vocab,
)

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

N_TEXTS = int(os.environ.get("TEXTS", "300"))
KINDS = list(tokenizer_folders.KINDS)
BYTE_LEVEL = ["qwen", "llama3", "gpt2", "modernbert"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind of tokenizer, trained once."""
    return lambda kind: peer(kind)[0]


@functools.cache
def _root() -> Path:
    import atexit
    import tempfile

    root = Path(tempfile.mkdtemp(prefix="bert4keras_tokenizers_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@functools.cache
def peer(kind: str) -> tuple[Path, Any]:
    """The folder of a kind of tokenizer, and the tokenizer of `transformers`."""
    path = _root() / kind
    return path, tokenizer_folders.make(kind, path)


@functools.cache
def ours(kind: str) -> JsonTokenizer:
    tokenizer = load_tokenizer(peer(kind)[0])
    assert type(tokenizer) is JsonTokenizer
    return tokenizer


# What makes trouble, among texts of the kinds that they were trained on, among all of Unicode.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*tokenizer_folders._ODD, "the model ", "语言模型", "import ", "\ud800"]),
        st.characters(exclude_categories=()),
    ),
    max_size=20,
).map("".join)
SPECIAL = ("<|", "<s>", "</s>", "<pad>", "<mask>", "<extra_id", "[MASK]", "[CLS]", "[SEP]", "[PAD]")
PLAIN = TEXTS.filter(lambda text: not any(token in text for token in SPECIAL))


def well_formed(text: str) -> str:
    """What of a text can be written in UTF-8."""
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


# === The judge ===


@pytest.mark.parametrize("kind", KINDS)
def test_ids_offsets_and_decoded_texts_equal_those_of_transformers(kind):
    tokenizer, theirs = ours(kind), peer(kind)[1]
    texts = list(tokenizer_folders.texts(N_TEXTS))
    found = theirs(texts, return_offsets_mapping=True, return_token_type_ids=True)
    segments = "token_type_ids"
    for i, text in enumerate(texts):
        ids, segment_ids = tokenizer.encode(text)
        assert (ids, segment_ids) == (found["input_ids"][i], found[segments][i]), text
        assert tokenizer.offsets(text) == found["offset_mapping"][i], text
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            assert tokenizer.decode(ids, skip_special_tokens=skip) == expected, text


@pytest.mark.parametrize("kind", KINDS)
def test_two_texts_and_maxlen_as_in_transformers(kind):
    tokenizer, theirs = ours(kind), peer(kind)[1]
    first, second = (list(tokenizer_folders.texts(N_TEXTS // 3, seed)) for seed in (1, 2))
    found = theirs(first, second, return_token_type_ids=True)
    short = theirs(first, truncation=True, max_length=9)
    for i, pair in enumerate(zip(first, second, strict=True)):
        assert tokenizer.encode(*pair) == (found["input_ids"][i], found["token_type_ids"][i]), pair
        assert tokenizer.encode(pair[0], maxlen=9)[0] == short["input_ids"][i], pair


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_vocabulary_as_in_transformers(kind):
    tokenizer, theirs = ours(kind), peer(kind)[1]
    assert dict(tokenizer.token_dict) == theirs.get_vocab()
    assert tokenizer._vocab_size == len(theirs)
    for special in ("pad", "mask", "unk"):
        expected = getattr(theirs, f"{special}_token_id")
        if expected is not None:
            assert getattr(tokenizer, f"_token_{special}_id") == expected
    ends = {theirs.eos_token_id, theirs.sep_token_id}
    assert tokenizer._token_end_id in ends
    assert tokenizer.padding_side == theirs.padding_side


# === Any text ===


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@settings(max_examples=150, deadline=None)
@given(text=PLAIN)
def test_decode_restores_the_text(kind, text):
    tokenizer = ours(kind)
    expected = well_formed(text)
    if kind in ("qwen", "modernbert"):
        expected = unicodedata.normalize("NFC", expected)
    ids = tokenizer.encode(text)[0]
    decoded = tokenizer.decode(ids)
    # Versions of Unicode differ in what NFC makes of the newest characters.
    assert unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", expected)
    assert tokenizer.decode(ids, tokens=tokenizer.ids_to_tokens(ids)) == decoded


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_special_tokens_are_restored_when_they_are_wanted(kind, text):
    tokenizer = ours(kind)
    before, behind = tokenizer._prefix_and_suffix()
    ids = tokenizer.encode(text)[0][len(before) :]
    assert not behind
    assert tokenizer.decode(ids, skip_special_tokens=False) == well_formed(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_rematch_finds_the_characters_of_each_token(kind, text):
    tokenizer = ours(kind)
    before, behind = tokenizer._prefix_and_suffix()
    tokens, offsets = tokenizer.tokenize(text), tokenizer.offsets(text)
    spans = tokenizer.rematch(text, tokens)
    assert len(spans) == len(offsets) == len(tokens)
    assert spans[: len(before)] == [[]] * len(before)
    assert spans[len(tokens) - len(behind) :] == [[]] * len(behind)
    flat = [i for span in spans for i in span]
    assert flat == sorted(flat) and all(0 <= i < len(text) for i in flat)
    for span, (start, end) in zip(spans, offsets, strict=True):
        assert set(span) <= set(range(start, end))
        # A space at the edge is no part of a token that has other characters.
        inner = text[start:end].strip("▁" + "".join(c for c in text if c.isspace()))
        assert not inner or not span or not (text[span[0]].isspace() or text[span[-1]].isspace())
    # Back by ids, truncated, padded: each token is still where it was.
    ids = tokenizer.encode(text)[0]
    assert tokenizer.rematch(text, tokenizer.ids_to_tokens(ids)) == spans
    pad = tokenizer._token_pad
    if pad is not None and pad not in tokens:
        assert tokenizer.rematch(text, [*tokens, pad, pad]) == [*spans, [], []]
        assert tokenizer.rematch(text, [pad, *tokens]) == [[], *spans]
    maxlen = len(before) + len(behind) + 2
    short = tokenizer.tokenize(text, maxlen=maxlen)
    if len(short) < len(tokens):
        kept = len(short) - len(behind)
        assert tokenizer.rematch(text, short) == [*spans[:kept], *[[]] * len(behind)]


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2"])
@settings(max_examples=150, deadline=None)
@given(text=PLAIN)
def test_every_character_is_in_a_token(kind, text):
    """Where nothing is normalised, but for spaces."""
    spans = ours(kind).rematch(text, ours(kind).tokenize(text))
    covered = {i for span in spans for i in span}
    missing = [c for i, c in enumerate(text) if i not in covered]
    assert all(char.isspace() or char == "▁" for char in missing)


def test_bytes_of_a_character_all_point_at_it():
    tokenizer = ours("gpt2")
    text = "a 龘 b"
    tokens = tokenizer.tokenize(text)
    spans = tokenizer.rematch(text, tokens)
    assert spans[0] == [0] and spans[-1] == [4]
    bytes_of_it = [token for token, span in zip(tokens, spans, strict=True) if span == [2]]
    assert len(bytes_of_it) >= 3
    assert ours("llama2").rematch("龘", ours("llama2").tokenize("龘")) == [[], [0], [0], [0]]


def test_rematch_of_tokens_by_other_means():
    tokenizer = ours("modernbert")
    tokens = tokenizer.tokenize("the model is good")
    masked = [*tokens[:2], "[MASK]", *tokens[3:]]
    spans = tokenizer.rematch("the model is good", tokens)
    assert tokenizer.rematch("the model is good", masked) == [*spans[:2], [], *spans[3:]]
    with pytest.raises(ValueError, match="rematch: '天' is not in the text after its first 0 tok"):
        tokenizer.rematch("the model", ["[CLS]", "天", "[SEP]"])


# === Several texts, tokens in place of texts ===


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_texts(kind):
    tokenizer = ours(kind)
    before, behind = tokenizer._prefix_and_suffix()
    texts = ("the model", "语言模型", "import keras")
    ids, segment_ids = tokenizer.encode(*texts)
    frame, cut = tokenizer._frame, [tokenizer._tokenize(text) for text in texts]
    between = [*frame.inner_suffix, *frame.inner_prefix]
    tokens = [
        *frame.first_prefix,
        *cut[0],
        *between,
        *cut[1],
        *between,
        *cut[2],
        *frame.last_suffix,
    ]
    assert tokenizer.ids_to_tokens(ids) == [
        token if token in tokenizer else tokenizer._token_unk for token in tokens
    ]
    assert set(segment_ids) <= {0, 1} and len(segment_ids) == len(ids)
    assert tokenizer.encode(list(texts)) == (ids, segment_ids)
    assert tokenizer.encode(*map(tokenizer.tokenize, texts)) == (ids, segment_ids)
    whole = tokenizer.encode(*texts, pattern="S*ES*E")[0]
    assert tokenizer.ids_to_tokens(whole)[: len(before)] == before
    assert len(whole) == sum(len(c) + len(before) + len(behind) for c in cut)
    for maxlen in range(len(ids) - 6, len(ids) + 2):
        for side in ("left", "right"):
            short = tokenizer.encode(*texts, maxlen=maxlen, truncate_from=side)[0]
            assert len(short) == min(maxlen, len(ids))


def test_tokens_in_place_of_texts_become_shorter():
    tokenizer = ours("xlmr")
    tokens = tokenizer.tokenize("the model is trained")
    ids = tokenizer.encode(tokens, maxlen=4)[0]
    assert tokenizer.ids_to_tokens(ids) == tokens == tokenizer.tokenize("the model is", maxlen=4)
    # Without what stands around a text, nothing is put there.
    inner = tokenizer.tokenize("the model")[1:-1]
    assert tokenizer.encode(inner, inner)[0] == tokenizer.tokens_to_ids(inner + inner)


def test_arguments_of_the_base():
    path = peer("gpt2")[0]
    tokenizer = load_tokenizer(path, token_end="<|endoftext|>")
    assert tokenizer.tokenize("a")[-1] == "<|endoftext|>" and len(tokenizer.tokenize("a")) == 2
    assert tokenizer.encode("a", "b")[0].count(tokenizer._token_end_id) == 2
    bare = load_tokenizer(peer("modernbert")[0], token_start=None, token_end=None)
    assert bare.tokenize("") == []
    words = JsonTokenizer(path, pre_tokenize=lambda text: text.split())
    assert words.rematch("ab  cd", words.tokenize("ab  cd"))[-1][-1] == 5
    assert words.decode(words.encode("ab  cd")[0]) == "abcd"
    changed = JsonTokenizer(path, pre_tokenize=lambda text: [text.upper()])
    assert changed.rematch("ab", changed.tokenize("ab")) == [[]] * len(changed.tokenize("ab"))
    other = JsonTokenizer(path, token_translate={"a": "Z"})
    assert other.tokenize("a") == ["Z"] and other.decode(other.encode("a")[0]) == "a"
    assert other.rematch("a", ["Z"]) == [[0]]
    assert other.settled([1], "ab.") == 2


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_work(copied):
    tokenizer = copied(ours("qwen"))
    assert tokenizer.encode("语言 model") == ours("qwen").encode("语言 model")
    assert tokenizer._token_end == "<|im_end|>"


def test_ids_and_tokens_that_are_not_there():
    tokenizer = ours("gpt2")
    with pytest.raises(KeyError, match=r"'天天' is not a token of .*, which has no unknown token"):
        tokenizer.token_to_id("天天")
    for i in (-1, 10**6, 10**12):
        with pytest.raises(KeyError, match=f"no token of .*tokenizer.json has the id {i}"):
            tokenizer.id_to_token(i)
    assert tokenizer.decode([10**6, -1, 10**12, *tokenizer.encode("ab")[0]]) == "ab"
    assert ours("bert").token_to_id("天天天") == ours("bert")._token_unk_id
    with pytest.raises(IndexError, match="maxlen=0 is too small"):
        ours("bert").encode("a", maxlen=0)
    with pytest.raises(AttributeError, match="there is no _token_mask_id: _token_mask is None"):
        print(tokenizer._token_mask_id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["S*E*E", "S*ES*E"])
def test_maxlen_is_kept_or_is_too_small(kind, pattern):
    for maxlen, n_texts in itertools.product(range(8), (1, 2, 3)):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                ids = ours(kind).encode(["the model"] * n_texts, maxlen=maxlen, pattern=pattern)[0]
            except IndexError as error:
                assert "give a larger maxlen" in str(error) and maxlen < 4 * n_texts
                continue
        assert len(ids) <= maxlen and (not warned or n_texts == 1)


# === Streams ===


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_stream_shows_no_part_of_a_character_and_joins_to_the_text(kind, data):
    tokenizer = ours(kind)
    some = st.integers(0, tokenizer._vocab_size - 1)
    ids = data.draw(
        st.one_of(st.lists(some, max_size=14), PLAIN.map(lambda t: tokenizer.encode(t)[0]))
    )
    found = list(stream_text(iter(ids), tokenizer.decode, tokenizer.settled, tokenizer.n_context))
    whole = tokenizer.decode(ids)
    assert "".join(found) == whole and all(found)
    for end in range(len(ids)):
        text = tokenizer.decode(ids[:end])
        assert whole.startswith(text[: tokenizer.settled(ids[:end], text)])


@pytest.mark.parametrize("kind", ["qwen", "llama2"])
def test_each_character_comes_as_soon_as_it_is_whole(kind):
    tokenizer = ours(kind)
    ids = tokenizer.encode("龘! 🙂")[0]
    stream = list(stream_text(iter(ids), tokenizer.decode, tokenizer.settled, tokenizer.n_context))
    assert "".join(stream) == "龘! 🙂"
    assert "龘" in stream if kind == "qwen" else any("龘" in piece for piece in stream)
    assert stream[-1] == "🙂"


def test_settled_where_anything_may_change():
    way = json_file.decoding_kind
    assert way(None) == way({"type": "WordPiece"}) == "tokens"
    assert way({"type": "CTC"}) == "other"
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    steps = [{"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    assert way({"type": "Sequence", "decoders": steps}) == "byte tokens"
    assert way({"type": "Sequence", "decoders": [*steps[:2], strip | {"stop": 1}]}) == "other"
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    assert way({"type": "Sequence", "decoders": [{"type": "Fuse"}, replace]}) == "other"
    tokenizer = copy.copy(ours("bert"))
    tokenizer._decoding = "other"
    assert tokenizer.settled([5], "a") == 0
    tokenizer._clean_up = True
    assert tokenizer.settled([5], "ab .") == 2
    assert tokenizer.decode(tokenizer.encode("ab. c")[0]) == "ab. c"


# === A smaller vocabulary ===


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_kept_tokens_is_cut_as_before(kind):
    tokenizer = ours(kind)
    texts = list(tokenizer_folders.texts(20, 3))
    kept = {i for text in texts for i in tokenizer.encode(text)[0]}
    small, keep_tokens = tokenizer.cut_down(kept)
    assert kept <= set(keep_tokens) and len(keep_tokens) < tokenizer._vocab_size
    assert small._vocab_size == len(keep_tokens)
    for text in texts:
        ids, segment_ids = small.encode(text)
        assert ([keep_tokens[i] for i in ids], segment_ids) == tokenizer.encode(text)
        assert small.decode(ids) == tokenizer.decode(tokenizer.encode(text)[0])
    ids, segment_ids = small.encode(*texts[:3])
    assert ([keep_tokens[i] for i in ids], segment_ids) == tokenizer.encode(*texts[:3])
    # Any other text is cut into kept tokens, of which nothing is lost where there are bytes.
    for text in tokenizer_folders.texts(20, 4):
        ids = small.encode(text)[0]
        if kind in BYTE_LEVEL:
            assert small.decode(ids) == tokenizer.decode(tokenizer.encode(text)[0])
    assert small._token_end == tokenizer._token_end
    assert small.cut_down(small.token_dict)[1] == list(range(len(keep_tokens)))


def test_tokens_to_keep_must_be_there():
    with pytest.raises(KeyError, match="'天天天' is not a token"):
        ours("gpt2").cut_down(["天天天"])
    with pytest.raises(KeyError, match="has the id 99999"):
        ours("gpt2").cut_down([99999])
    with pytest.raises(TokenizerError, match="do not include 1, which is "):
        ours("modernbert").with_tokens([0, 2, 3, 4])
    with pytest.raises(TokenizerError, match="do not include 3, which is the unknown token"):
        ours("xlmr").with_tokens([0, 1, 2, 4])


# === Folders ===


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A folder with a vocabulary of BERT."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "a", "b", "语"]
    tokens.append("<S>")  # as in Google's Chinese vocabulary, which is of lower-case texts
    save_vocab(tmp_path / "vocab.txt", {token: i for i, token in enumerate(tokens)})
    return tmp_path


def config(folder: Path, name: str = "tokenizer_config.json", **content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_a_vocabulary_and_what_its_config_says(words):
    tokenizer = load_tokenizer(words)
    assert type(tokenizer) is Tokenizer and tokenizer._do_lower_case  # for lack of capitals
    config(words, do_lower_case=False, tokenizer_class="BertTokenizer")
    assert not load_tokenizer(words)._do_lower_case
    assert load_tokenizer(words, do_lower_case=True)._do_lower_case
    assert load_tokenizer(words / "vocab.txt")._token_pad == "[PAD]"
    names = {"cls_token": "<s>", "sep_token": {"content": "</s>", "lstrip": False}}
    config(
        words,
        **names,
        mask_token=None,
        pad_token="b",
        added_tokens_decoder={"10": {"content": "X"}},
    )
    tokenizer = load_tokenizer(words, word_maxlen=5)
    assert tokenizer.tokenize("a") == ["<s>", "a", "</s>"]
    assert (tokenizer._token_pad_id, tokenizer._token_mask_id, tokenizer._word_maxlen) == (8, 4, 5)
    assert tokenizer.token_to_id("X") == 10
    assert dict(tokenizer.special_tokens) == {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "b",
    }
    config(words, name="special_tokens_map.json", pad_token="[PAD]")
    assert load_tokenizer(words)._token_pad == "b"  # the newer config says all
    config(words, pad_token="b")
    assert load_tokenizer(words)._token_pad == "[PAD]"
    config(words, padding_side=["left"])
    with pytest.raises(
        TokenizerError, match=r"says padding_side=\['left'\]: expected left or right"
    ):
        load_tokenizer(words)


def test_a_vocabulary_that_is_not_cut_as_bert_does(words, tmp_path):
    for settings_ in (
        {"tokenizer_class": "BertJapaneseTokenizer"},
        {"strip_accents": True, "do_lower_case": False},
        {"tokenize_chinese_chars": False},
    ):
        config(words, **settings_)
        with pytest.raises(
            TokenizerError,
            match=r"do not tokenize by vocab.txt as BERT does: add its tokenizer.json",
        ):
            load_tokenizer(words)
    shutil.copy(peer("bert")[0] / "tokenizer.json", words)
    assert type(load_tokenizer(words)) is JsonTokenizer
    config(words, tokenizer_class="BertTokenizerFast")
    assert type(load_tokenizer(words)) is Tokenizer
    assert type(load_tokenizer(words / "tokenizer.json")) is JsonTokenizer


def test_roformer_cuts_into_words(words):
    pytest.importorskip("jieba")
    config(words, "config.json", model_type="roformer")
    tokenizer = load_tokenizer(words)
    assert tokenizer._pre_tokenize("语言模型") == ["语言", "模型"]
    assert load_tokenizer(words, pre_tokenize=None)._pre_tokenize is None


@pytest.mark.parametrize(
    ("kind", "file", "maker", "edges"),
    [
        ("t5", "spiece.model", SpTokenizer, (None, "</s>")),
        ("xlmr", "sentencepiece.bpe.model", FairseqTokenizer, ("<s>", "</s>")),
        ("llama2", "tokenizer.model", SpTokenizer, ("<s>", None)),
    ],
)
def test_models_of_sentencepiece(kind, file, maker, edges, tmp_path, monkeypatch):
    whole = ours(kind)
    shutil.copy(peer(kind)[0] / file, tmp_path)
    classes = {"t5": "T5Tokenizer", "xlmr": "XLMRobertaTokenizer", "llama2": "LlamaTokenizer"}
    config(tmp_path, tokenizer_class=classes[kind])
    tokenizer = load_tokenizer(tmp_path)
    assert type(tokenizer) is maker
    assert (tokenizer._token_start, tokenizer._token_end) == edges
    assert tokenizer._vocab_size == whole._vocab_size
    start = 1 if kind == "llama2" else 0
    for text in ("the model", "语言 model 龘", "a  b", ""):
        assert tokenizer.encode(text)[0][start:] == whole.encode(text)[0]
    for token, i in list(whole.token_dict.items())[:50]:
        assert tokenizer.token_to_id(token) == i and tokenizer.id_to_token(i) == token
    if kind == "t5":
        assert tokenizer.encode("<extra_id_3> model")[0] == whole.encode("<extra_id_3> model")[0]
        assert tokenizer.decode(tokenizer.encode("a <extra_id_3> model")[0][:-1]) == "a model"
        assert tokenizer.rematch("a <extra_id_3>", tokenizer.tokenize("a <extra_id_3>"))[
            -2
        ] == list(range(2, 14))
        assert tokenizer._is_special(599) and not tokenizer._is_decodable(599)
    if kind == "xlmr":
        assert (tokenizer._token_pad_id, tokenizer._token_mask_id) == (1, whole._token_mask_id)
        assert tokenizer._is_special(0) and not tokenizer._is_special(10)
    # With both files there, the fuller one is taken, if there is something to read it.
    shutil.copy(peer(kind)[0] / "tokenizer.json", tmp_path)
    assert type(load_tokenizer(tmp_path)) is JsonTokenizer
    monkeypatch.setattr("bert4keras.text.pretrained.find_spec", lambda name: None)
    assert type(load_tokenizer(tmp_path)) is maker


def test_a_model_of_sentencepiece_without_a_config(tmp_path):
    shutil.copy(peer("t5")[0] / "spiece.model", tmp_path / "sentencepiece_cn.model")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer._token_start, tokenizer._token_end, tokenizer._token_pad) == (
        None,
        "</s>",
        "<pad>",
    )
    assert load_tokenizer(tmp_path, token_end=None)._token_end is None
    config(tmp_path, tokenizer_class="OddTokenizer")
    with pytest.raises(
        TokenizerError, match="OddTokenizer, whose special tokens around a text are not known"
    ):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, token_start=None, token_end="</s>")._token_end == "</s>"
    config(tmp_path, tokenizer_class="LlamaTokenizer", add_bos_token=False, add_eos_token=True)
    assert load_tokenizer(tmp_path).tokenize("a")[-1] == "</s>"


def test_tokens_that_only_the_config_has(tmp_path):
    shutil.copy(peer("gpt2")[0] / "tokenizer.json", tmp_path)
    size = ours("gpt2")._vocab_size
    added = {str(size): {"content": "<tool>", "special": False, "normalized": False}}
    config(
        tmp_path, added_tokens_decoder=added, pad_token={"content": "<pad>", "__type": "AddedToken"}
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer._token_pad_id == size + 1
    assert tokenizer.tokenize("a<tool>b<pad>") == ["a", "<tool>", "b", "<pad>"]
    assert tokenizer.decode(tokenizer.encode("a<tool>b<pad>")[0]) == "a<tool>b"


def test_truncation_and_padding_in_the_file_do_not_count(tmp_path):
    content = json.loads((peer("bert")[0] / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 3,
        "pad_type_id": 0,
        "pad_token": "[SEP]",
    }
    tokenizer = JsonTokenizer(content)
    assert tokenizer.encode("the model is here") == ours("bert").encode("the model is here")
    assert tokenizer._token_pad == "[SEP]"


def test_chat_templates_and_generation_settings_of_a_folder(tmp_path):
    shutil.copy(peer("gpt2")[0] / "tokenizer.json", tmp_path)
    assert load_tokenizer(tmp_path).chat_template is None
    several = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    config(tmp_path, chat_template=several, padding_side="left")
    config(tmp_path, "config.json", eos_token_id=7, temperature=0.3)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == {"default": "D", "tool_use": "T"}
    assert tokenizer.padding_side == "left"
    assert tokenizer.generation_config == {"eos_token_id": 7, "temperature": 0.3}
    assert tokenizer._token_end_id == 7 and not hasattr(tokenizer, "_token_pad_id")
    config(tmp_path, "config.json", eos_token_id=10**6, pad_token_id=9, temperature=0.3)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer._token_pad_id == 9 and not hasattr(tokenizer, "_token_end_id")
    config(tmp_path, chat_template="C")
    config(tmp_path, "generation_config.json", eos_token_id=[7, 9], top_k=None)
    assert load_tokenizer(tmp_path).chat_template == "C"
    assert load_tokenizer(tmp_path).generation_config == {"eos_token_id": [7, 9]}
    (tmp_path / "chat_template.jinja").write_text("J", encoding="utf-8")
    assert load_tokenizer(tmp_path).chat_template == "J"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R", encoding="utf-8")
    assert load_tokenizer(tmp_path).chat_template == {"default": "J", "rag": "R"}
    for key, value in (("eos_token_id", "x"), ("top_p", "0.9"), ("do_sample", 1), ("top_k", True)):
        config(tmp_path, "generation_config.json", **{key: value})
        with pytest.raises(TokenizerError, match=f"says {key}={value!r}: expected"):
            load_tokenizer(tmp_path)


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*: give the folder of a pretrained"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(
        FileNotFoundError, match=r"contains no tokenizer \(vocab.txt, .*\), but nothing"
    ):
        load_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"transformers creates a tokenizer\.json: AutoTokenizer"
    ):
        load_tokenizer(tmp_path)


def test_without_the_package(monkeypatch, words):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="needs the package tokenizers: pip install tokenizers"):
        load_tokenizer(peer("gpt2")[0])
    assert type(load_tokenizer(words)) is Tokenizer


# === Hostile files ===


@functools.cache
def content(kind: str) -> str:
    return (peer(kind)[0] / "tokenizer.json").read_text(encoding="utf-8")


def changed(kind: str, *path: Any, to: Any) -> str:
    """A `tokenizer.json` with one value exchanged."""
    whole = part = json.loads(content(kind))
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return json.dumps(whole)


def growing(n: int) -> dict:
    return {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * n,
    }


TOKEN = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
HOSTILE = {
    "empty": lambda: "",
    "no object": lambda: "[1]",
    "not JSON": lambda: "{",
    "deep": lambda: "[" * 100_000,
    "deep in it": lambda: changed("qwen", "normalizer", to=0).replace(
        '"normalizer": 0',
        '"normalizer": ' + '{"type":"Sequence","normalizers":[' * 5000 + "]}" * 5000,
    ),
    "a key twice": lambda: content("qwen").replace('"version"', '"model": {}, "version"', 1),
    "no vocabulary": lambda: changed("qwen", "model", to={"type": "BPE"}),
    "model is a list": lambda: changed("qwen", "model", to=[]),
    "unknown model": lambda: changed("qwen", "model", "type", to="Other"),
    "ids are texts": lambda: changed("qwen", "model", "vocab", to={"a": "b"}),
    "negative ids": lambda: changed("qwen", "model", "vocab", to={"a": -1}),
    "merges of nothing": lambda: changed("qwen", "model", "merges", to=[["☃", "☃"]]),
    "merges are numbers": lambda: changed("qwen", "model", "merges", to=[1]),
    "pieces without scores": lambda: changed("xlmr", "model", "vocab", to=["a"]),
    "unknown piece beyond": lambda: changed("xlmr", "model", "unk_id", to=10**6),
    "added token is a number": lambda: changed("qwen", "added_tokens", to=[1]),
    "added tokens are a text": lambda: changed("qwen", "added_tokens", to="a"),
    "bad expression": lambda: changed(
        "qwen", "pre_tokenizer", "pretokenizers", 0, "pattern", to={"Regex": "("}
    ),
    "bad table": lambda: changed(
        "xlmr", "normalizer", to={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "template of unknown tokens": lambda: changed(
        "bert", "post_processor", "special_tokens", to={}
    ),
    "text twice": lambda: changed(
        "bert", "post_processor", "single", to=[{"Sequence": {"id": "A", "type_id": 0}}] * 2
    ),
    "other order": lambda: changed(
        "bert", "post_processor", "pair", to=[{"Sequence": {"id": x, "type_id": 0}} for x in "BA"]
    ),
    "growing texts": lambda: changed("qwen", "normalizer", to=growing(60)),
    "growing decoded texts": lambda: changed(
        "qwen", "decoder", to={"type": "Sequence", "decoders": growing(60)["normalizers"]}
    ),
    "one long replacement": lambda: changed(
        "qwen", "normalizer", to={"type": "Prepend", "prepend": "a" * 10**5}
    ),
    "long added token": lambda: changed(
        "qwen", "added_tokens", to=[{"id": 0, "content": "a" * 2000, **TOKEN}]
    ),
    "many lists": lambda: '{"a": [' + "[]," * 2_200_000 + "[]]}",
    "surrogates": lambda: changed("qwen", "added_tokens", 0, "content", to="\ud800"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_exception(name, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(json_file, "MAX_ADDED_CHARACTERS", 1000)
    (tmp_path / "tokenizer.json").write_text(HOSTILE[name](), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        JsonTokenizer(tmp_path)


def test_files_that_are_none(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(TokenizerError, match=r"is not JSON .*utf-8"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        JsonTokenizer(tmp_path / "other.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(TokenizerError, match="is not a regular file"):
        JsonTokenizer(tmp_path / "pipe.json")
    monkeypatch.setattr(json_file, "MAX_TOKENS", 100)
    with pytest.raises(TokenizerError, match="makes 600 tokens, but only 100 are allowed"):
        load_tokenizer(peer("qwen")[0])
    monkeypatch.setattr(json_file, "LARGE", 10)
    with pytest.raises(TokenizerError, match=r"has \d+ bytes, but at most 10 are allowed"):
        load_tokenizer(peer("qwen")[0])
    for value in (5, {"content": 5}, ["a"]):
        config(tmp_path, eos_token=value)
        with pytest.raises(TokenizerError, match=r"says eos_token=.*: expected a token"):
            load_tokenizer(tmp_path)
    config(tmp_path, added_tokens_decoder={"x": {"content": "a"}})
    with pytest.raises(
        TokenizerError, match="the added tokens are not a mapping from ids to tokens"
    ):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_what_fails_only_when_it_is_used(tmp_path, capfd):
    pattern = {"Regex": "(a+)+$"}  # which tries for ever
    path = tmp_path / "tokenizer.json"
    path.write_text(changed("qwen", "pre_tokenizer", "pretokenizers", 0, "pattern", to=pattern))
    tokenizer = JsonTokenizer(path)
    with pytest.raises(TokenizerError, match="is not a usable tokenizer"):
        tokenizer.encode("a" * 40 + "!")
    assert tokenizer.decode(tokenizer.encode("b")[0]) == "b"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_of_a_file_ends_in_one_exception_or_works(data):
    whole = json.loads(content(data.draw(st.sampled_from(["qwen", "xlmr", "bert"]))))
    values = st.sampled_from(
        [None, True, -1, 0, 2**32, 2**64, 1.5, "", "a", "▁", [], {}, [[]], {"type": "ByteLevel"}]
    )
    part = whole
    for _ in range(data.draw(st.integers(1, 5))):
        keys = list(part) if isinstance(part, dict) else range(len(part))
        key = data.draw(st.sampled_from(list(keys)[:40]))
        if not isinstance(part[key], dict | list) or not part[key]:
            break
        container, part = part, part[key]
    else:
        part, key = container, key
    if data.draw(st.booleans()):
        part[key] = data.draw(values)
    else:
        del part[key]
    try:
        tokenizer = JsonTokenizer(whole)
        tokenizer.decode(tokenizer.encode("a <s> 龘\u0301 model", "b")[0])
        tokenizer.rematch("a b", tokenizer.tokenize("a b"))
    except TokenizerError:
        pass
