"""Adapters as PEFT writes them: `adapter_config.json` beside `adapter_model.safetensors`."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bert4keras.checkpoints import safetensors
from bert4keras.checkpoints.base import Checkpoint, CheckpointError
from bert4keras.checkpoints.files import open_checkpoint
from bert4keras.checkpoints.names import Place
from bert4keras.checkpoints.writing import replacing
from bert4keras.keras_private import layers_within
from bert4keras.layers.adapters import product_of
from bert4keras.layers.base import Dense
from bert4keras.models import written_configs
from bert4keras.models.config_files import read_json, write_json
from bert4keras.models.masks import LM_Mask
from bert4keras.models.messages import abbreviated
from bert4keras.models.variables import own_weights, to_numpy
from bert4keras.models.weights import mapped_layers
from bert4keras.training.lora import check_names, train_adapters_only

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
FORMER = rf"adapter_config\.json|adapter_model\.bin|{safetensors.stale_file_pattern(TENSORS)}"
"""A regular expression of the files of an earlier adapter."""


class Slot(NamedTuple):
    """A projection of a model, and where the files of Hugging Face have its kernel.

    Attributes:
        part: the layer, with an adapter or without.
        place: of its kernel.
    """

    part: Dense
    place: Place

    @property
    def module(self) -> str:
        """What Hugging Face calls the layer; one that is several of ours side by side, for all."""
        return self.place.name.removesuffix(".weight")


def slots(transformer: "Transformer") -> list[Slot]:
    """The projections of a model whose kernels have names in official checkpoints."""
    found = []
    for layer, names in mapped_layers(transformer):
        parts = {id(part.matrix): part for part in layers_within(layer) if isinstance(part, Dense)}
        for weight, name in zip(own_weights(layer), names, strict=False):
            if id(weight) in parts:
                found.append(Slot(parts[id(weight)], transformer.dialect.place(name)))
    return found


# === Writing ===


def save(transformer: "Transformer", folder: str | Path) -> None:
    """Write the adapters of a model into a folder; see `models.save_adapter`."""
    trained = [
        x.path for x in transformer.model.trainable_weights if not x.name.startswith("lora_")
    ]
    files = adapter_files(transformer)
    if files is None:
        raise ValueError("the model has no adapters to save: see training.add_lora")
    if trained:
        raise ValueError(
            f"{abbreviated(trained)} of the model are trained besides, for which the files of an "
            "adapter have no place: use save_pretrained, which writes all weights, or save_weights"
        )
    with replacing(folder, CONFIG, FORMER, create=True) as place:
        write(files, place)


class AdapterFiles(NamedTuple):
    """What the two files of an adapter hold."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]


def write(files: AdapterFiles, folder: Path) -> None:
    """Write the files where nobody reads meanwhile."""
    safetensors.write_shards(folder / TENSORS, files.tensors)
    write_json(folder / CONFIG, files.config)


def adapter_files(transformer: "Transformer") -> AdapterFiles | None:
    """What PEFT's files of the adapters of a model hold; None if it has none.

    Raises:
        ValueError: a layer has an adapter for which PEFT has no place.
    """
    adapted: dict[int, Any] = {
        id(part): part
        for part in layers_within(transformer.model)
        if getattr(part, "lora_enabled", False)
    }
    if not adapted:
        return None
    groups: dict[str, list[Slot]] = {}
    for slot in slots(transformer):
        groups.setdefault(slot.module, []).append(slot)
        adapted.pop(id(slot.part), None)
    if adapted:
        paths = abbreviated(part.path for part in adapted.values())
        raise ValueError(
            f"{paths} of the model have adapters, for which PEFT has no place: only projections "
            "that official checkpoints know have one. Save by save_weights, or merge_lora first"
        )
    described = written_configs.to_hugging_face(transformer, isinstance(transformer, LM_Mask))
    name = described["architectures"][0]
    start = f"{transformer.dialect.base}."
    bare = name == f"{written_configs.family_of(transformer).name}Model"
    groups = {m.removeprefix(start) if bare else m: group for m, group in groups.items()}
    found = {m: joined(x) for m, x in groups.items() if any(slot.part.lora_enabled for slot in x)}
    tensors = {}
    for module, (a, b, _) in found.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    config = config_of(found, list(groups)) | {
        "base_model_name_or_path": transformer.folder and str(transformer.folder),
        "task_type": task_of(name),
        "fan_in_fan_out": not any(groups[module][0].place.transposed for module in found),
    }
    return AdapterFiles(config, tensors)


Matrices = tuple[np.ndarray, np.ndarray, float]
"""A (rank, n) and B (m, rank) of PEFT, and the scale of B·A."""


def joined(group: Sequence[Slot]) -> Matrices:
    """The adapters of layers that are one in files of Hugging Face, as the adapter of that one.

    Each has some of the rows of B. If their A differ, they stand below each other.
    """
    found = [(slot.place.part, product_of(slot.part)) for slot in group if slot.part.lora_enabled]
    first, size = found[0][1], group[0].part.units
    shared = all(
        x.a.shape == first.a.shape and (to_numpy(x.a) == to_numpy(first.a)).all() for _, x in found
    )
    ranks = [product.a.shape[1] for _, product in found]
    starts = [0 if shared else sum(ranks[:i]) for i in range(len(ranks))]
    rank = ranks[0] if shared else sum(ranks)
    a = np.zeros((rank, first.a.shape[0]), "float32")
    b = np.zeros((group[0].place.parts * size, rank), "float32")
    for (i, product), start, width in zip(found, starts, ranks, strict=True):
        ours = product.scale / first.scale * to_numpy(product.b).T
        a[start : start + width] = to_numpy(product.a).T
        b[i * size : (i + 1) * size, start : start + width] = ours
    return a, b, first.scale


def config_of(found: Mapping[str, Matrices], modules: Sequence[str]) -> dict[str, Any]:
    """The `adapter_config.json` of adapters by module, of all the modules that a model has."""
    sizes = {module: (len(a), number(scale * len(a))) for module, (a, _, scale) in found.items()}
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    others = {module: pair for module, pair in sizes.items() if pair != (rank, alpha)}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: pair[0] for module, pair in others.items()},
        "alpha_pattern": {module: pair[1] for module, pair in others.items()},
        "target_modules": targets(list(found), modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "inference_mode": True,
    }


def number(x: float) -> float:
    """A whole number as such, as PEFT writes it."""
    return int(x) if float(x).is_integer() else x


def targets(adapted: Sequence[str], modules: Sequence[str]) -> list[str]:
    """How PEFT names modules: by what stands behind their block, where this means them all."""
    ends = sorted({re.split(r"\.\d+\.", module)[-1] for module in adapted})
    meant = {m for m in modules if any(m == end or m.endswith(f".{end}") for end in ends)}
    return ends if meant == set(adapted) else sorted(adapted)


def task_of(architecture: str) -> str | None:
    """What PEFT calls the task of a class of `transformers`; None for no class of its own."""
    tasks = {"(ForCausalLM|LMHeadModel)$": "CAUSAL_LM", "ForConditionalGeneration$": "SEQ_2_SEQ_LM"}
    return next((task for end, task in tasks.items() if re.search(end, architecture)), None)


# === Reading ===

UNKNOWN = (
    "use_dora",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "lora_bias",
    "use_qalora",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
)
"""Settings of PEFT that say of an adapter that it is more than two matrices for a kernel."""


def load(
    transformer: "Transformer", folder: str | Path, trainable: str | Sequence[str] = ()
) -> list[str]:
    """Give a model the adapters in a folder; see `models.load_adapter`."""
    folder, names = Path(folder), check_names(transformer.model, trainable)
    config = read_config(folder / CONFIG)
    path = folder / TENSORS
    with open_checkpoint(path if path.exists() else folder / "adapter_model.bin") as file:
        found: list[Any] = list(read_adapters(transformer, config, file))
    for part, a, b, scale in found:
        part.enable_lora(a.shape[1], lora_alpha=number(scale * a.shape[1]))
        for matrix, value in zip(part.adapter, (a, b), strict=True):
            matrix.assign(value)
    train_adapters_only(transformer.model, names)
    return [part.path for part, *_ in found]


def read_config(path: Path) -> dict[str, Any]:
    """Read an `adapter_config.json`, and refuse what is no plain LoRA."""
    config = read_json(path)
    asked = [key for key in UNKNOWN if config.get(key)]
    if config.get("peft_type") != "LORA":
        asked = ["peft_type"]
    elif config.get("bias") not in (None, "none"):
        asked = ["bias"]
    if asked:
        raise CheckpointError(
            f"{path} says {asked[0]}={config.get(asked[0])!r}, which is not implemented here: only "
            "plain LoRA is. Merge the adapter by PEFT's merge_and_unload, and load the whole model"
        )
    return config


def read_adapters(
    transformer: "Transformer", config: Mapping[str, Any], file: Checkpoint
) -> Iterator[tuple[Dense, np.ndarray, np.ndarray, float]]:
    """Each layer that has an adapter in a file, with its A (n, rank), B (rank, m) and scale.

    Raises:
        CheckpointError: the file holds an adapter of another model.
    """
    matrices = matrices_by_module(file)
    every = slots(transformer)
    owners = {module: owners_of(transformer, module, every) for module in matrices}
    foreign = [module for module, group in owners.items() if not group]
    if foreign:
        raise CheckpointError(
            f"{file.path} has an adapter for {abbreviated(foreign)}, which is no projection of the "
            "model: build the model that the adapter was trained with"
        )
    for module, pair in matrices.items():
        a, b = (np.array(file[name], "float32") for name in pair)
        scale = scale_of(config, module, len(a))
        for part, place in owners[module]:
            size, inputs = part.units, part.matrix.shape[0]
            shapes = (len(a), inputs), (place.parts * size, len(a))
            if (a.shape, b.shape) != shapes:
                raise CheckpointError(
                    f"{file.path} has matrices of the shapes {a.shape} and {b.shape} for {module}, "
                    f"and the model needs {shapes}: build the model that it was trained with"
                )
            if part.lora_enabled:
                raise CheckpointError(
                    f"{part.path} has an adapter already: call training.merge_lora first"
                )
            yield part, a.T, b[place.part * size : (place.part + 1) * size].T, scale


def matrices_by_module(file: Checkpoint) -> dict[str, tuple[str, str]]:
    """The names of the two tensors of each module that has an adapter in a file."""
    names = {}
    for name in file:
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise CheckpointError(
                f"{file.path} holds {name}, which is no matrix of LoRA for a projection: merge the "
                "adapter by PEFT's merge_and_unload, and load the whole model"
            )
        names.setdefault(match[1], {})[match[2]] = name
    halves = [module for module, pair in names.items() if len(pair) < 2]
    if halves or not names:
        raise CheckpointError(
            f"{file.path} lacks matrices of {abbreviated(halves or ['all modules'])}"
        )
    return {module: (pair["A"], pair["B"]) for module, pair in names.items()}


def owners_of(transformer: "Transformer", module: str, every: Sequence[Slot]) -> list[Slot]:
    """The layers of ours that a module of Hugging Face is, by any of its names."""
    found: dict[bool, list[Slot]] = {True: [], False: []}
    for slot in every:
        names = transformer.dialect.spellings(slot.place.name)
        spellings = [name.removesuffix(".weight") for name in names]
        if module in spellings:
            found[True].append(slot)
        elif any(module.endswith(f".{spelling}") for spelling in spellings):
            found[False].append(slot)
    return found[True] or found[False]


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B·A of a module by."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
