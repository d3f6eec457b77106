"""Reduction of the vocabulary of a `tokenizer.json` to some of its tokens.

Most tokens of a model for a hundred languages never occur in texts of one. `required_ids` adds the
tokens on which the kept ones depend, `cut_down` removes all others and renumbers.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bert4keras.text.alphabet import BYTE_OF, is_byte_token
from bert4keras.text.files import TokenizerError

Content = Mapping[str, Any]
"""The content of a `tokenizer.json`."""


def required_ids(content: Content, ids: Collection[int]) -> list[int]:
    """Return the given ids and those that a tokenizer needs for them, in order.

    These are the added tokens, the unknown token, the tokens of single bytes, for BPE the tokens
    from which kept ones are merged, and for Unigram the least probable piece, from which the score
    of unknown characters is derived. A text of kept tokens is then tokenized as before.
    """
    kept = set(ids) | {token["id"] for token in content["added_tokens"]}
    model = content["model"]
    vocabulary = token_ids(model)
    byte_level = "ByteLevel" in str(content.get("decoder"))
    kept |= {i for token, i in vocabulary.items() if is_byte_token(token)}
    if byte_level:
        kept |= {vocabulary[char] for char in BYTE_OF if char in vocabulary}
    if model.get("unk_token") in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    if isinstance(model["vocab"], list):
        kept.add(min(range(len(model["vocab"])), key=lambda i: model["vocab"][i][1]))
        kept |= set() if model.get("unk_id") is None else {model["unk_id"]}
    return sorted(_with_parts(model, vocabulary, kept))


def token_ids(model: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens of a model with their ids, which for Unigram are indices of a list."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        return {token: i for i, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[Any, str, str, str]]:
    """Yield each merge of BPE as in the file, its two tokens, and the merged token."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges", ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield merge, left, right, left + right.removeprefix(prefix)


def _with_parts(
    model: Mapping[str, Any], vocabulary: Mapping[str, int], ids: Iterable[int]
) -> set[int]:
    """Return ids and those of all tokens from which theirs are merged, recursively."""
    parts: dict[int, set[int]] = {}
    for _, left, right, merged in _merges(model):
        if {left, right, merged} <= vocabulary.keys():
            parts.setdefault(vocabulary[merged], set()).update(
                (vocabulary[left], vocabulary[right])
            )
    kept, new = set(ids), list(ids)
    while new:
        further = parts.get(new.pop(), set()) - kept
        kept |= further
        new += further
    return kept


def cut_down(content: Content, keep: Sequence[int]) -> dict[str, Any]:
    """Return the content of a `tokenizer.json` with some of the tokens, renumbered.

    Args:
        content: the complete content.
        keep: the old ids in the order of the new ones.

    Raises:
        TokenizerError: the unknown token, or special tokens added around texts, are left out.
    """
    new = {old: i for i, old in enumerate(keep)}
    added = [{**t, "id": new[t["id"]]} for t in content["added_tokens"] if t["id"] in new]
    return {
        **content,
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": _renumbered(content.get("post_processor"), new),
        "model": _model(content, keep, new),
    }


def _model(content: Content, keep: Sequence[int], new: Mapping[int, int]) -> dict[str, Any]:
    model = dict(content["model"])
    vocabulary = token_ids(model)
    if isinstance(model["vocab"], list):
        return _unigram(content, model, keep, new)
    model["vocab"] = {token: new[i] for token, i in vocabulary.items() if i in new}
    if "merges" in model:
        model["merges"] = [
            merge for merge, *tokens in _merges(model) if set(tokens) <= model["vocab"].keys()
        ]
    return model


def _unigram(
    content: Content, model: dict[str, Any], keep: Sequence[int], new: Mapping[int, int]
) -> dict[str, Any]:
    """List the pieces of the new ids; added tokens that are not pieces get the lowest score."""
    pieces = model["vocab"]
    lowest = min(score for _, score in pieces)
    added = {token["id"]: [token["content"], lowest] for token in content["added_tokens"]}
    model["vocab"] = [pieces[i] if i < len(pieces) else added[i] for i in keep]
    if model.get("unk_id") is not None:
        model["unk_id"] = _new_id(model["unk_id"], new, "the unknown token")
    return model


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with the new ids of the special tokens that it adds."""
    if processor is None:
        return None
    if "processors" in processor:
        return {**processor, "processors": [_renumbered(p, new) for p in processor["processors"]]}
    changed = dict(processor)
    for name in ("sep", "cls"):
        if name in processor:
            token, i = processor[name]
            changed[name] = [token, _new_id(i, new, token)]
    if "special_tokens" in processor:
        changed["special_tokens"] = {
            name: {**token, "ids": [_new_id(i, new, name) for i in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    return changed


def _new_id(i: int, new: Mapping[int, int], name: str) -> int:
    if i not in new:
        raise TokenizerError(f"the tokens to keep do not include {i}, which is {name}: keep it")
    return new[i]
