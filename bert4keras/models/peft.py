"""Adapters in the format of PEFT: `adapter_config.json` and `adapter_model.safetensors`."""

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
STALE_FILES = rf"adapter_config\.json|adapter_model\.bin|{safetensors.stale_file_pattern(TENSORS)}"
"""A regular expression of the files of an earlier adapter."""


class Projection(NamedTuple):
    """A projection of a model, and the place of its kernel in files of Hugging Face.

    Attributes:
        part: the layer, with or without an adapter.
        place: the place of its kernel.
    """

    part: Dense
    place: Place

    @property
    def module(self) -> str:
        """The name of the layer in Hugging Face, which may be one for several layers of ours."""
        return self.place.name.removesuffix(".weight")


def projections(transformer: "Transformer") -> list[Projection]:
    """Return the projections of a model whose kernels have names in official checkpoints."""
    found = []
    for layer, names in mapped_layers(transformer):
        parts = {id(part.matrix): part for part in layers_within(layer) if isinstance(part, Dense)}
        for weight, name in zip(own_weights(layer), names, strict=False):
            if id(weight) in parts:
                found.append(Projection(parts[id(weight)], transformer.dialect.place(name)))
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
            f"{abbreviated(trained)} of the model are trainable, too, but the files of an adapter "
            "cannot store them: use save_pretrained, which writes all weights, or save_weights"
        )
    with replacing(folder, CONFIG, STALE_FILES, create=True) as place:
        write(files, place)


class AdapterFiles(NamedTuple):
    """The contents of the two files of an adapter."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]


def write(files: AdapterFiles, folder: Path) -> None:
    """Write the files into a folder that no other process reads yet."""
    safetensors.write_shards(folder / TENSORS, files.tensors)
    write_json(folder / CONFIG, files.config)


def adapter_files(transformer: "Transformer") -> AdapterFiles | None:
    """Return the contents of PEFT's files for the adapters of a model; None without adapters.

    Raises:
        ValueError: a layer has an adapter that PEFT's files cannot store.
    """
    adapted: dict[int, Any] = {
        id(part): part
        for part in layers_within(transformer.model)
        if getattr(part, "lora_enabled", False)
    }
    if not adapted:
        return None
    groups: dict[str, list[Projection]] = {}
    for x in projections(transformer):
        groups.setdefault(x.module, []).append(x)
        adapted.pop(id(x.part), None)
    if adapted:
        paths = abbreviated(part.path for part in adapted.values())
        raise ValueError(
            f"{paths} of the model have adapters that PEFT's files cannot store, which is possible "
            "for projections in official checkpoints only: use save_weights, or merge_lora first"
        )
    described = written_configs.to_hugging_face(transformer, isinstance(transformer, LM_Mask))
    name = described["architectures"][0]
    start = f"{transformer.dialect.base}."
    bare = name == f"{written_configs.family_of(transformer).name}Model"
    groups = {m.removeprefix(start) if bare else m: group for m, group in groups.items()}
    found = {
        module: fuse_adapters(group)
        for module, group in groups.items()
        if any(x.part.lora_enabled for x in group)
    }
    tensors = {}
    for module, (a, b, _) in found.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    config = config_of(found, list(groups)) | {
        "base_model_name_or_path": transformer.folder and str(transformer.folder),
        "task_type": task_type_of(name),
        "fan_in_fan_out": not any(groups[module][0].place.transposed for module in found),
    }
    return AdapterFiles(config, tensors)


Matrices = tuple[np.ndarray, np.ndarray, float]
"""A (rank, n) and B (m, rank) of PEFT, and the scale of B·A."""


def fuse_adapters(group: Sequence[Projection]) -> Matrices:
    """Combine the adapters of layers that are one layer in Hugging Face into one adapter.

    Each has its rows of B. If their matrices A differ, these are stacked.
    """
    found = [(x.place.part, product_of(x.part)) for x in group if x.part.lora_enabled]
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
    """Return the `adapter_config.json` for adapters by module, among all modules of a model."""
    sizes = {module: (len(a), as_number(scale * len(a))) for module, (a, _, scale) in found.items()}
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    others = {module: pair for module, pair in sizes.items() if pair != (rank, alpha)}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: pair[0] for module, pair in others.items()},
        "alpha_pattern": {module: pair[1] for module, pair in others.items()},
        "target_modules": target_modules(list(found), modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "inference_mode": True,
    }


def as_number(x: float) -> float:
    """Return a whole number as an integer, as PEFT writes it."""
    return int(x) if float(x).is_integer() else x


def target_modules(adapted: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Return the modules by their names within blocks, if these match no others, else in full."""
    ends = sorted({re.split(r"\.\d+\.", module)[-1] for module in adapted})
    meant = {m for m in modules if any(m == end or m.endswith(f".{end}") for end in ends)}
    return ends if meant == set(adapted) else sorted(adapted)


def task_type_of(architecture: str) -> str | None:
    """Return the task type in PEFT for a class of `transformers`; None if it has none."""
    tasks = {"(ForCausalLM|LMHeadModel)$": "CAUSAL_LM", "ForConditionalGeneration$": "SEQ_2_SEQ_LM"}
    return next((task for end, task in tasks.items() if re.search(end, architecture)), None)


# === Reading ===

UNSUPPORTED = (
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
"""Settings of PEFT for adapters other than two matrices for each kernel."""


def load(
    transformer: "Transformer", folder: str | Path, trainable: str | Sequence[str] = ()
) -> list[str]:
    """Load the adapters in a folder into a model; see `models.load_adapter`."""
    folder, names = Path(folder), check_names(transformer.model, trainable)
    config = read_config(folder / CONFIG)
    path = folder / TENSORS
    with open_checkpoint(path if path.exists() else folder / "adapter_model.bin") as file:
        found: list[Any] = list(read_adapters(transformer, config, file))
    for part, a, b, scale in found:
        part.enable_lora(a.shape[1], lora_alpha=as_number(scale * a.shape[1]))
        for matrix, value in zip(part.adapter, (a, b), strict=True):
            matrix.assign(value)
    train_adapters_only(transformer.model, names)
    return [part.path for part, *_ in found]


def read_config(path: Path) -> dict[str, Any]:
    """Read an `adapter_config.json`; raise a CheckpointError if it is not of plain LoRA."""
    config = read_json(path)
    asked = [key for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        asked = ["peft_type"]
    elif config.get("bias") not in (None, "none"):
        asked = ["bias"]
    if asked:
        raise CheckpointError(
            f"{path} has {asked[0]}={config.get(asked[0])!r}, but only plain LoRA is implemented: "
            "merge the adapter by PEFT's merge_and_unload, and load the whole model"
        )
    return config


def read_adapters(
    transformer: "Transformer", config: Mapping[str, Any], file: Checkpoint
) -> Iterator[tuple[Dense, np.ndarray, np.ndarray, float]]:
    """Yield each layer with an adapter in a file, with its A (n, rank), B (rank, m) and scale.

    Raises:
        CheckpointError: the file has an adapter of another model.
    """
    matrices = matrices_by_module(file)
    kernels = projections(transformer)
    owners = {module: layers_of_module(transformer, module, kernels) for module in matrices}
    unknown = [module for module, group in owners.items() if not group]
    if unknown:
        raise CheckpointError(
            f"{file.path} has an adapter for {abbreviated(unknown)}, which is not a projection of "
            "the model: build the model that the adapter was trained with"
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
                    f"but the model needs {shapes}: build the model that it was trained with"
                )
            if part.lora_enabled:
                raise CheckpointError(
                    f"{part.path} already has an adapter: call training.merge_lora first"
                )
            yield part, a.T, b[place.part * size : (place.part + 1) * size].T, scale


def matrices_by_module(file: Checkpoint) -> dict[str, tuple[str, str]]:
    """Return the names of the two tensors of each module with an adapter in a file."""
    names = {}
    for name in file:
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise CheckpointError(
                f"{file.path} has {name}, which is not a matrix of LoRA for a projection: merge "
                "the adapter by PEFT's merge_and_unload, and load the whole model"
            )
        names.setdefault(match[1], {})[match[2]] = name
    incomplete = [module for module, pair in names.items() if len(pair) < 2]
    if incomplete or not names:
        raise CheckpointError(
            f"{file.path} lacks matrices of {abbreviated(incomplete or ['all modules'])}: get the "
            "complete file"
        )
    return {module: (pair["A"], pair["B"]) for module, pair in names.items()}


def layers_of_module(
    transformer: "Transformer", module: str, kernels: Sequence[Projection]
) -> list[Projection]:
    """Return the layers of ours that form a module of Hugging Face, by any of its names."""
    found: dict[bool, list[Projection]] = {True: [], False: []}
    for x in kernels:
        names = transformer.dialect.spellings(x.place.name)
        spellings = [name.removesuffix(".weight") for name in names]
        if module in spellings:
            found[True].append(x)
        elif any(module.endswith(f".{spelling}") for spelling in spellings):
            found[False].append(x)
    return found[True] or found[False]


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return the factor of B·A of a module in PEFT."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
