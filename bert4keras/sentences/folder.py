"""Reading and writing of folders in the format of sentence-transformers, without Keras.

`modules.json` lists the modules: the transformer, in the folder itself, pooling, and any number of
projections and normalizations, in folders of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bert4keras.checkpoints.base import CheckpointError
from bert4keras.checkpoints.files import open_checkpoint
from bert4keras.checkpoints.safetensors import write_safetensors
from bert4keras.checkpoints.writing import replacing
from bert4keras.sentences.vectors import SIMILARITIES
from bert4keras.text.files import read_object, read_text

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
LENGTH_FILE = "sentence_bert_config.json"
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Names of pooling modes, in the order in which several are concatenated."""
_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
ACTIVATIONS = {
    "linear": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
}
"""Names of activations in Keras, and their names in files."""
_PACKAGE = "sentence_transformers"


@dataclass(frozen=True)
class Projection:
    """A Dense layer after pooling.

    Attributes:
        kernel: (inputs, outputs).
        bias: (outputs,), or None.
        activation: the name of the activation in Keras.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    activation: str = "tanh"


@dataclass(frozen=True)
class Layout:
    """The settings of an encoder in a folder.

    Attributes:
        transformer: the folder of the transformer and its tokenizer.
        pooling: names in `POOLINGS`, whose vectors are concatenated.
        include_prompt: whether pooling includes the tokens of a prompt.
        steps: the modules after pooling: projections, and None for normalization.
        max_length: maximum number of tokens of a text, None if the folder does not specify it.
        lower_case: whether texts are lower-cased first.
        prompts: prefixes of texts, by name.
        default_prompt: the name of the prompt that is used by default.
        similarity: the name of a function in `SIMILARITIES`.
        size: the size to which vectors are truncated, None for all.
    """

    transformer: Path
    pooling: tuple[str, ...]
    include_prompt: bool = True
    steps: tuple[Projection | None, ...] = ()
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    size: int | None = None


# === Reading ===


def read_layout(folder: Path) -> Layout:
    """Read the layout of a folder with `modules.json`.

    Raises:
        CheckpointError: the weights of a projection are missing or damaged.
        ValueError: a file is damaged, or a setting is not implemented.
    """
    modules = _modules(folder / MODULES_FILE)
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize"}:
        raise ValueError(
            f"{folder / MODULES_FILE} lists {', '.join(kinds)}, but only Transformer, Pooling and "
            "then any number of Dense and Normalize are implemented"
        )
    (_, transformer), (_, pooling), *rest = modules
    modes, include_prompt = _pooling(pooling / "config.json")
    return Layout(
        transformer=transformer,
        pooling=modes,
        include_prompt=include_prompt,
        steps=tuple(_projection(path) if kind == "Dense" else None for kind, path in rest),
        **_length_settings(transformer),
        **_settings(folder / SETTINGS_FILE),
    )


def _modules(path: Path) -> list[tuple[str, Path]]:
    """Return the kinds of the modules in order, and their folders."""
    try:
        found = json.loads(read_text(path))
        pairs = [(str(module["type"]), str(module.get("path", ""))) for module in found]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: expected a list of modules with types") from error
    foreign = [kind for kind, _ in pairs if not kind.startswith(f"{_PACKAGE}.")]
    if foreign:
        raise ValueError(f"{path} requires the custom code {foreign[0]}, which is not supported")
    outside = [name for _, name in pairs if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise ValueError(f"{path} names the folder {outside[0]}, which is outside its own folder")
    return [(kind.rpartition(".")[2], path.parent / name) for kind, name in pairs]


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    """Return the pooling modes of a config, and whether pooling includes prompts."""
    config = read_object(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for mode, flag in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    check_pooling(modes, path)
    return modes, bool(config.get("include_prompt", True))


def check_pooling(modes: Sequence[str], source: Any) -> None:
    """Raise a ValueError if a pooling mode is unknown or there is none."""
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown or not modes:
        raise ValueError(
            f"{source} has the pooling modes {list(modes)}: give some of {', '.join(POOLINGS)}"
        )


def _projection(folder: Path) -> Projection:
    """Read a Dense module."""
    config = read_object(folder / "config.json")
    names = {path: name for name, path in ACTIVATIONS.items()}
    activation = config.get("activation_function", ACTIVATIONS["tanh"])
    if activation not in names:
        raise ValueError(
            f"{folder} has the activation {activation!r}, but only {', '.join(names)} are "
            "implemented"
        )
    if config.get("use_residual"):
        raise ValueError(f"{folder} has use_residual, which is not implemented")
    with open_checkpoint(folder) as file:
        bias = file["linear.bias"].astype("float32") if "linear.bias" in file else None
        return Projection(file["linear.weight"].astype("float32").T, bias, names[activation])


def _length_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the length and case of texts in the folder of a transformer."""
    path = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    config = {} if path is None else read_object(path)
    length = config.get("max_seq_length")
    return {"max_length": length, "lower_case": bool(config.get("do_lower_case"))}


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings of prompts, similarity and size."""
    config = read_object(path) if path.is_file() else {}
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITIES:
        raise ValueError(
            f"{path} has similarity_fn_name={similarity!r}, but only {', '.join(SIMILARITIES)} are "
            "implemented"
        )
    prompts = {name: text or "" for name, text in (config.get("prompts") or {}).items()}
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ValueError(f"{path} has default_prompt_name={default!r}, but no such prompt")
    return {
        "prompts": prompts,
        "default_prompt": default,
        "similarity": similarity,
        "size": config.get("truncate_dim"),
    }


# === Writing ===


def write_layout(folder: Path, layout: Layout, hidden_size: int) -> None:
    """Write the files that `read_layout` and sentence-transformers read, except the transformer.

    `modules.json` and the settings in the same folder are replaced last, in a single step.

    Args:
        folder: the folder of the transformer.
        layout: the layout to write, of which `transformer` is ignored.
        hidden_size: size of the token vectors.
    """
    kinds = ["Transformer", "Pooling"]
    kinds += ["Normalize" if step is None else "Dense" for step in layout.steps]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    with replacing(folder / paths[1], "config.json", create=True) as place:
        _write_json(place / "config.json", pooling_config(layout, hidden_size))
    for path, step in zip(paths[2:], layout.steps, strict=True):
        (folder / path).mkdir(parents=True, exist_ok=True)
        if step is not None:
            _write_projection(folder / path, step)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{_PACKAGE}.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    length = {"max_seq_length": layout.max_length, "do_lower_case": layout.lower_case}
    files = {MODULES_FILE: modules, SETTINGS_FILE: settings(layout), LENGTH_FILE: length}
    with replacing(folder, MODULES_FILE) as place:
        for name, content in files.items():
            _write_json(place / name, content)


def pooling_config(layout: Layout, hidden_size: int) -> dict[str, Any]:
    """Return the config of pooling, in the form that all versions of sentence-transformers read.

    Raises:
        ValueError: the order of the modes differs from that in `POOLINGS`.
    """
    modes = layout.pooling
    if list(modes) != [mode for mode in POOLINGS if mode in modes]:
        raise ValueError(
            f"the pooling {list(modes)} cannot be saved, since files have the order "
            f"{', '.join(POOLINGS)}: build the model with that order"
        )
    flags = {flag: mode in modes for mode, flag in _FLAGS.items()}
    config = {"word_embedding_dimension": hidden_size, **flags}
    return config | {"include_prompt": layout.include_prompt}


def settings(layout: Layout) -> dict[str, Any]:
    """Return the contents of `config_sentence_transformers.json`."""
    config = {
        "prompts": dict(layout.prompts),
        "default_prompt_name": layout.default_prompt,
        "similarity_fn_name": layout.similarity,
    }
    return config if layout.size is None else config | {"truncate_dim": layout.size}


def _write_projection(folder: Path, step: Projection) -> None:
    tensors = {"linear.weight": np.ascontiguousarray(step.kernel.T)}
    if step.bias is not None:
        tensors["linear.bias"] = step.bias
    write_safetensors(folder / "model.safetensors", tensors)
    inputs, outputs = step.kernel.shape
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": step.bias is not None,
        "activation_function": ACTIVATIONS[step.activation],
    }
    with replacing(folder, "config.json") as place:
        _write_json(place / "config.json", config)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Raise a CheckpointError if a folder does not exist."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}: give that of a pretrained model")
