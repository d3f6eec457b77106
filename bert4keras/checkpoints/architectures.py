"""Which architecture a weight file is of, told from the names of its variables."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bert4keras.checkpoints.base import ARCHITECTURE


@dataclass(frozen=True)
class Signature:
    """What tells an architecture: regular expressions of names that a file has, and that it lacks.

    The names are those that `_comparable` makes, of official ones and of Hugging Face's alike.
    """

    model: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()


_QUERY = "encoder/layer/0/attention/self/query"
_POSITIONS = "embeddings/position_embeddings(/kernel)?"
_TASKS = "embeddings/task_type_embeddings(/kernel)?"
_GROUP = "(bert|albert)/encoder/(transformer/group|albert_layer_groups)"
_GPT = "(.*/)?gpt/transformer/layer/0/attention/self/query/bias"
_GPT_NORM = "(.*/)?gpt/output/LayerNorm/.*"
_HF_GPT = ".*h/0/attn/c_attn/kernel"
_LLAMA = ".*layers/0/self_attn"
_T5 = "(.*/)?(encoder|decoder)/block/0/layer/[12]/DenseReluDense"
_T5_NORM = "(.*/)?(encoder|decoder)/block/0/layer/0"
# NEZHA and RoFormer have the same names but in files of Hugging Face. A bare model of Hugging Face
# has no name in front, whatever it is of.
_SIGNATURES = (
    Signature("bert", (f"(bert/)?{_QUERY}/bias", f"(bert/)?{_POSITIONS}"), (f".*{_TASKS}",)),
    Signature("ernie", (f"(ernie/)?{_QUERY}/bias", f"(ernie/)?{_TASKS}")),
    Signature("ernie", (f"ernie/{_QUERY}/bias",)),
    Signature("electra", (f"electra/{_QUERY}/bias",)),
    Signature("electra", (f"{_QUERY}/bias", "embeddings_project/kernel", _POSITIONS)),
    Signature("nezha", (f"nezha/{_QUERY}/bias",)),
    Signature("nezha", (f"(bert/)?{_QUERY}/bias",), (f".*{_POSITIONS}",)),
    Signature("roformer", (f"roformer/{_QUERY}/bias",)),
    Signature("roformer", (f"(bert/)?{_QUERY}/bias",), (f".*{_POSITIONS}",)),
    Signature("roformer_v2", (f"((bert|roformer)/)?{_QUERY}/kernel",), (f".*{_QUERY}/bias",)),
    Signature("gau_alpha", ("GAU_alpha/encoder/layer/0/gau/i_dense/kernel",)),
    Signature("albert", (f"{_GROUP}/0/.*",), (f"{_GROUP}/1/.*",)),
    Signature("albert_unshared", (f"{_GROUP}/1/.*",)),
    Signature("deberta_v2", (f".*{_QUERY}_proj/kernel",)),
    Signature("modernbert", (".*layers/0/attn/Wqkv/.*",)),
    Signature("gpt", (_GPT,), (_GPT_NORM,)),
    Signature("gpt", (_HF_GPT, ".*tokens_embed/kernel")),
    Signature("gpt2", (_GPT, _GPT_NORM)),
    Signature("gpt2", (_HF_GPT,), (".*tokens_embed/kernel",)),
    Signature("gpt2_ml", ("(.*/)?newslm/layer/0/query_layer/kernel",)),
    Signature("llama", (f"{_LLAMA}/q_proj/kernel",), (f"{_LLAMA}/(q_proj/bias|q_norm/.*)",)),
    Signature("qwen2", (f"{_LLAMA}/q_proj/bias",)),
    Signature("qwen3", (f"{_LLAMA}/q_norm/.*",)),
    Signature("t5.1.0", (f"{_T5}/wi/kernel",)),
    Signature("t5.1.1", (f"{_T5}/wi_0/kernel", f"{_T5_NORM}/layer_norm/.*")),
    Signature("mt5.1.1", (f"{_T5}/wi_0/kernel", f"{_T5_NORM}/rms_norm/.*")),
    Signature("mt5.1.1", (f"{_T5}/wi_0/kernel", f"{_T5_NORM}/layer_norm/kernel")),
)
_NUMBERED = r"(layers?|h|group|block|albert_layer_groups|albert_layers)[_/]?0*(\d+)(?=/)"
_BASES = "bert|albert|electra|ernie|nezha|roformer|roberta|deberta|GAU_alpha"


def architectures(names: Iterable[str], metadata: Mapping[str, str] | None = None) -> list[str]:
    """Return which architectures a weight file may be of, as `model=` calls them.

    Args:
        names: of its variables, official ones or those of Hugging Face.
        metadata: what the file says of itself.

    Returns:
        None if the names are of nothing known; several where names do not tell them apart.
    """
    text = _comparable(names)
    found = dict.fromkeys(s.model for s in _SIGNATURES if _matches(text, s))
    said = (metadata or {}).get(ARCHITECTURE, "").removeprefix("openai-").replace("-", "_")
    if said in found:
        found = {said: None}
    part = "" if re.search(r"^(.*/)?decoder/", text, re.MULTILINE) else "_encoder"
    return [model + part if "t5" in model else model for model in found]


def _comparable(names: Iterable[str]) -> str:
    """Spell names alike, one a line, without what wrappers of models put before all of them."""
    lines = (name.replace(".", "/") for name in names)
    text = "\n".join(re.sub(_NUMBERED, r"\1/\2", line) for line in lines)
    text = re.sub(r"/weight$", "/kernel", text, flags=re.MULTILINE)
    block = rf"^(.*?)((?:{_BASES})/)?encoder/(?:layer/0|transformer|albert_layer_groups)/"
    start = re.search(block, text, re.MULTILINE)
    return re.sub(f"^{re.escape(start[1])}", "", text, flags=re.MULTILINE) if start else text


def _matches(text: str, signature: Signature) -> bool:
    def has(pattern: str) -> bool:
        return re.search(f"^{pattern}$", text, re.MULTILINE) is not None

    return all(map(has, signature.has)) and not any(map(has, signature.lacks))
