"""Loading of the tokenizer in the folder of a published model."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bert4keras.text.base import TokenizerBase
from bert4keras.text.fairseq import FairseqTokenizer
from bert4keras.text.files import TokenizerError, read_object, read_text
from bert4keras.text.generation_config import listed, read_generation_config
from bert4keras.text.json import JsonTokenizer
from bert4keras.text.json_file import TOKENIZER_FILE
from bert4keras.text.sentencepiece import SpTokenizer
from bert4keras.text.vocabulary import VOCAB_FILE, load_vocab
from bert4keras.text.wordpiece import Tokenizer

CONFIG_FILE = "tokenizer_config.json"
_MODEL_FILE = "config.json"
MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
CHAT_FILE = "chat_template.jinja"
CHAT_FOLDER = "additional_chat_templates"
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

_LIKE_BERT = {"", "Bert", "DistilBert", "Electra", "Ernie", "MobileBert", "MPNet", "RoFormer"}
"""Tokenizer classes, without 'Tokenizer' in their names, whose `vocab.txt` `Tokenizer` reads."""
_EDGES: Mapping[str, tuple[str | None, str | None]] = {
    "T5": (None, "eos_token"),
    "MT5": (None, "eos_token"),
    "UMT5": (None, "eos_token"),
    "Albert": ("cls_token", "sep_token"),
    "DebertaV2": ("cls_token", "sep_token"),
    "XLMRoberta": ("bos_token", "eos_token"),
    "Llama": ("bos_token", None),
}
"""The special tokens that SentencePiece tokenizers of Hugging Face add before and after a text."""
_CLASSES = {
    "t5": "T5",
    "mt5": "MT5",
    "albert": "Albert",
    "deberta-v2": "DebertaV2",
    "xlm-roberta": "XLMRoberta",
    "llama": "Llama",
    "roformer": "RoFormer",
}
"""Tokenizer classes by `model_type`, used if a folder names none."""
_BRACKETS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
_USUAL: Mapping[str, Mapping[str, str]] = {"Albert": _BRACKETS, "DebertaV2": _BRACKETS}
"""Special tokens by tokenizer class, used if a folder does not define them."""


# === Loading ===


def load_tokenizer(path: str | Path, **kwargs: Any) -> TokenizerBase:
    """Load the tokenizer of a pretrained model from its folder.

    These files are used:

    * `vocab.txt` for a `Tokenizer`, unless the folder names one that tokenizes differently;
    * `tokenizer.json` for a `JsonTokenizer`, which needs the package `tokenizers`;
    * `spiece.model`, `sentencepiece.bpe.model`, `tokenizer.model` or another `*.model` for an
      `SpTokenizer`, which needs the package `sentencepiece`.

    `tokenizer_config.json` and `special_tokens_map.json` define whether to lower-case and the
    special tokens, `chat_template.jinja` or the config the chat template, and
    `generation_config.json` and `config.json` the tokens that end a text.

    Args:
        path: the folder, or one of these files.
        **kwargs: arguments of the class, which override the settings in files.

    Returns:
        The tokenizer, with `special_tokens`, `chat_template`, `generation_config`, `padding_side`.

    Raises:
        ImportError: the package that reads the file is not installed.
        FileNotFoundError: there is no such folder, or no tokenizer in it.
        TokenizerError: a file is damaged, or the kind of tokenizer is not implemented.
    """
    settings = Settings(Path(path))
    tokenizer = settings.tokenizer(kwargs)
    tokenizer.settings = settings.config
    tokenizer.chat_template = settings.chat_template()
    tokenizer.padding_side = settings.padding_side
    tokenizer.special_tokens = settings.special_tokens()
    tokenizer.generation_config = settings.generation_config()
    _name_by_id(tokenizer, {**settings.model, **tokenizer.generation_config})
    return tokenizer


class Settings:
    """Settings of a tokenizer in the files next to its vocabulary.

    Args:
        path: the folder, or a file in it.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: give the folder of a pretrained model")
        self.path, self.folder = path, path if path.is_dir() else path.parent
        self.model = self._read(_MODEL_FILE)
        self.config = self._read(CONFIG_FILE)
        if "added_tokens_decoder" not in self.config:
            self.config |= self._read(MAP_FILE)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_object(path) if path.exists() else {}

    @property
    def kind(self) -> str:
        """The class of the tokenizer in `transformers`, without 'Tokenizer'; empty if unknown."""
        named = self.config.get("tokenizer_class") or self.model.get("tokenizer_class")
        if named is None:
            return _CLASSES.get(str(self.model.get("model_type")), "")
        return str(named).removesuffix("Fast").removesuffix("Tokenizer")

    @property
    def padding_side(self) -> str:
        """The side on which the model expects padding."""
        side = self.config.get("padding_side", "left" if self.kind == "Llama" else "right")
        if side not in ("left", "right"):
            raise TokenizerError(
                f"{self.folder} says padding_side={side!r:.50}: expected left or right"
            )
        return side

    def special_tokens(self) -> dict[str, str]:
        """Return special tokens as strings, by their names in the config."""
        return {name: token["content"] for name, token in self.named_tokens().items()}

    def named_tokens(self) -> dict[str, dict[str, Any]]:
        """Return special tokens by name, each with `content` and how it is matched in texts."""
        named = {name: self.config.get(name) for name in NAMED}
        named = {k: {"content": v} if isinstance(v, str) else v for k, v in named.items() if v}
        wrong = [k for k, v in named.items() if not _is_token(v)]
        if wrong:
            raise TokenizerError(
                f"{self.folder} says {wrong[0]}={named[wrong[0]]!r:.50}: expected a token"
            )
        return named

    def added_tokens(self) -> dict[int, dict[str, Any]]:
        """Return tokens beyond the vocabulary by id, each with `content`."""
        decoder = self.config.get("added_tokens_decoder")
        if decoder is None:
            added = self._read(ADDED_FILE)
            decoder = {i: {"content": token} for token, i in added.items()}
        valid = isinstance(decoder, Mapping) and all(map(_is_token, decoder.values()))
        if not valid or not all(str(i).isdecimal() for i in decoder):
            raise TokenizerError(
                f"{self.folder}: the added tokens are not a mapping from ids to tokens"
            )
        return {int(i): decoder[i] for i in sorted(decoder, key=int)}

    def chat_template(self) -> str | dict[str, str] | None:
        """Return the chat template, or several by name. Files override the config."""
        given = self.config.get("chat_template")
        found = {"default": given} if isinstance(given, str) else {}
        if isinstance(given, list) and all(map(_is_template, given)):
            found = {str(t["name"]): str(t["template"]) for t in given}
        found |= chat_files(self.folder)
        return found["default"] if list(found) == ["default"] else found or None

    def generation_config(self) -> dict[str, Any]:
        """Return the generation settings of the folder, including `config.json`."""
        return read_generation_config(self.folder, self.model)

    # --- Creating the tokenizer

    def tokenizer(self, kwargs: dict[str, Any]) -> TokenizerBase:
        """Create the tokenizer of the folder."""
        if self.path.is_file():
            makers = {".json": self.from_json, ".txt": self.from_vocab}
            maker = makers.get(self.path.suffix, self.from_sentencepiece)
            return maker(self.path, kwargs)
        vocab, whole = (self.folder / name for name in (VOCAB_FILE, TOKENIZER_FILE))
        names = (*SENTENCEPIECE, "*.model")
        pieces = next((file for n in names for file in sorted(self.folder.glob(n))), None)
        if vocab.is_file() and (self.is_like_bert() or not whole.is_file()):
            return self.from_vocab(vocab, kwargs)
        if whole.is_file() and (pieces is None or find_spec("tokenizers")):
            return self.from_json(whole, kwargs)
        if pieces is not None:
            return self.from_sentencepiece(pieces, kwargs)
        raise FileNotFoundError(self._missing())

    def _missing(self) -> str:
        names = sorted(file.name for file in self.folder.iterdir())
        hint = ""
        if "merges.txt" in names:
            hint = (
                ". From vocab.json and merges.txt, transformers creates a tokenizer.json: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        return (
            f"{self.folder} contains no tokenizer ({VOCAB_FILE}, {TOKENIZER_FILE} or *.model), but "
            f"{', '.join(names)[:200] or 'nothing'}{hint}"
        )

    def is_like_bert(self) -> bool:
        """Tell whether `Tokenizer` tokenizes texts as the config requires."""
        config = self.config
        strips = config.get("strip_accents")
        return (
            self.kind in _LIKE_BERT
            and config.get("tokenize_chinese_chars", True)
            and strips in (None, config.get("do_lower_case", strips))
        )

    def from_vocab(self, file: Path, kwargs: dict[str, Any]) -> Tokenizer:
        """Create a `Tokenizer` from a `vocab.txt`."""
        if not self.is_like_bert():
            raise TokenizerError(
                f"{self.folder} names {self.kind}Tokenizer or settings that do not tokenize by "
                f"{file.name} as BERT does: add its {TOKENIZER_FILE}, which is missing"
            )
        vocab = load_vocab(file)
        named = self.special_tokens()
        options = {"do_lower_case": self.config.get("do_lower_case", not _has_capitals(vocab))}
        for ours, theirs in (("token_start", "cls_token"), ("token_end", "sep_token")):
            if theirs in named:
                options[ours] = named[theirs]
        if self.kind == "RoFormer":
            options["pre_tokenize"] = _jieba()
        added = {token["content"]: i for i, token in self.added_tokens().items()}
        tokenizer = Tokenizer(added | vocab, **options | kwargs)
        return _named(tokenizer, {"pad": named.get("pad_token"), "mask": named.get("mask_token")})

    def from_json(self, file: Path, kwargs: dict[str, Any]) -> JsonTokenizer:
        """Create a `JsonTokenizer` from a `tokenizer.json`."""
        return JsonTokenizer(
            file,
            special_tokens=self.named_tokens(),
            added_tokens=list(self.added_tokens().values()),
            clean_up=bool(self.config.get("clean_up_tokenization_spaces")),
            **kwargs,
        )

    def from_sentencepiece(self, file: Path, kwargs: dict[str, Any]) -> SpTokenizer:
        """Create an `SpTokenizer` from a SentencePiece model."""
        kind = self.kind or ("XLMRoberta" if "bpe" in file.name else "")
        maker = FairseqTokenizer if kind == "XLMRoberta" else SpTokenizer
        edges = {"token_start": None, "token_end": None} | kwargs
        tokenizer = maker(file, **edges)
        tokenizer.add_tokens(self.added_pieces(kind, tokenizer._vocab_size))
        named = tokenizer.own_specials() | _USUAL.get(kind, {}) | self.special_tokens()
        names = {"pad": "pad_token", "unk": "unk_token", "mask": "mask_token"}
        for ours, theirs in zip(("start", "end"), self.edges(kind, kwargs), strict=True):
            if f"token_{ours}" not in kwargs and theirs is not None:
                names[ours] = theirs
        return _named(tokenizer, {ours: named.get(theirs) for ours, theirs in names.items()})

    def edges(self, kind: str, kwargs: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """Return the special tokens that a SentencePiece tokenizer adds before and after a text.

        Raises:
            TokenizerError: they are neither known for this kind of tokenizer nor given.
        """
        if kind == "":
            return "bos_token", "eos_token"
        if kind == "Llama":
            starts, ends = (
                self.config.get(f"add_{name}_token", default)
                for name, default in (("bos", True), ("eos", False))
            )
            return "bos_token" if starts else None, "eos_token" if ends else None
        if kind not in _EDGES and not {"token_start", "token_end"} <= kwargs.keys():
            raise TokenizerError(
                f"{self.folder} names {kind}Tokenizer, whose special tokens around a text are not "
                "known: give token_start= and token_end=, None for none"
            )
        return _EDGES.get(kind, (None, None))

    def added_pieces(self, kind: str, size: int) -> dict[str, int]:
        """Return the tokens of a SentencePiece tokenizer beyond its `size` pieces, with ids."""
        added = {token["content"]: i for i, token in self.added_tokens().items()}
        if kind == "XLMRoberta" and not added:
            return {"<mask>": size}
        number = self.config.get("extra_ids", 100 if kind == "T5" else 0)
        if added or not isinstance(number, int) or not 0 < number <= 1000:
            return added
        return {f"<extra_id_{i}>": size + number - 1 - i for i in range(number)}


def chat_files(folder: Path) -> dict[str, str]:
    """Return the chat templates in separate files, by name."""
    files = {"default": folder / CHAT_FILE} | {
        file.stem: file for file in sorted(folder.glob(f"{CHAT_FOLDER}/*.jinja"))
    }
    return {name: read_text(file) for name, file in files.items() if file.is_file()}


def _is_template(value: Any) -> bool:
    return isinstance(value, Mapping) and {"name", "template"} <= value.keys()


def _is_token(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("content"), str)


def _named(tokenizer: TokenizerBase, tokens: Mapping[str, str | None]) -> Any:
    """Set special tokens of a tokenizer (pad, mask, ...) and return it."""
    for special, token in tokens.items():
        if token is not None:
            tokenizer._name_special(special, token)
    return tokenizer


def _name_by_id(tokenizer: TokenizerBase, config: Mapping[str, Any]) -> None:
    """Set the padding token, for JSON also the end token, by id in the config if it is not set."""
    keys = {"pad": "pad_token_id"}
    if isinstance(tokenizer, JsonTokenizer):
        keys["end"] = "eos_token_id"
    for special, key in keys.items():
        i = next(iter(listed(config.get(key))), None)
        if not hasattr(tokenizer, f"_token_{special}_id") and isinstance(i, int):
            try:
                tokenizer._name_special(special, tokenizer.id_to_token(i) if i >= 0 else None)
            except KeyError:
                continue  # an id of another vocabulary


def _has_capitals(words: Iterable[str]) -> bool:
    """Tell whether a vocabulary has words with capitals, so that texts must not be lower-cased.

    Special tokens are ignored, such as `<S>` in Google's Chinese vocabulary.
    """
    letters = (word for word in words if word.removeprefix("##").isalpha())
    return any(c.isascii() and c.isupper() for word in letters for c in word)


def _jieba() -> Callable[[str], list[str]]:
    """Return the word segmentation of RoFormer."""
    try:
        import jieba
    except ImportError as error:
        raise ImportError(
            "the tokenizer of RoFormer segments texts into words by jieba: pip install jieba, or "
            "give pre_tokenize="
        ) from error
    return partial(jieba.lcut, HMM=False)
