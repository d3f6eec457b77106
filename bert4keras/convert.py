"""Convert the weights of a model from one format to another.

    python -m bert4keras.convert IN OUT [--to tf|safetensors|keras|onnx] [--int8] [--model NAME]

IN is the folder of a pretrained model: a config, weights in any container, perhaps a vocabulary.
OUT is a folder too; with `--to keras` or `--to onnx` a file that ends in `.keras` or `.onnx`. What
is written:

* tf: `bert_config.json`, a TensorFlow checkpoint `bert_model.ckpt` with the official names;
* safetensors (the default): `config.json`, `model.safetensors` with the names of Hugging Face;
* keras: the whole model, which `keras.models.load_model` loads;
* onnx: the whole model for onnxruntime, with free batch size and length, after its outputs have
  been compared with those of the model; with `--int8` its kernels and tables in eight bits;

and beside the first two the vocabulary. An adapter of PEFT in IN is merged into the weights.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert4keras.checkpoints.base import CheckpointError
from bert4keras.checkpoints.files import Files, find_files, open_checkpoint
from bert4keras.checkpoints.names import as_official
from bert4keras.checkpoints.report import Report

if TYPE_CHECKING:  # imported where they are used: who asks for help does not wait for Keras
    from bert4keras.models import Transformer

FORMATS = {
    "tf": "bert_config.json and a TensorFlow checkpoint with the official names, bert_model.ckpt",
    "safetensors": "config.json and model.safetensors with the names of Hugging Face",
    "keras": "one file with the whole model, for keras.models.load_model",
    "onnx": "one file with the whole model, for onnxruntime; on TensorFlow, needs the extra onnx",
}
SUFFIXES = {"keras": ".keras", "onnx": ".onnx"}


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "safetensors",
    model: str | None = None,
    int8: bool = False,
) -> tuple["Transformer", Report]:
    """Convert a pretrained model; see the head of this module.

    Args:
        source: folder of the model, or its weights, beside which the config lies.
        target: folder to write, which is created; for 'keras' and 'onnx' the file.
        to: 'tf', 'safetensors', 'keras' or 'onnx'.
        model: name of the architecture; by default what the config says.
        int8: for 'onnx': write kernels and tables in eight bits.

    Returns:
        The model that was converted; and which variables of the source it has, and which not.

    Raises:
        CheckpointError, ValueError, FileNotFoundError: the source cannot be read, or the target
            format cannot hold it.
    """
    import keras

    from bert4keras.export import require_onnx, write_onnx
    from bert4keras.models import peft, pretrained
    from bert4keras.training.lora import merge_lora

    target = Path(target)
    if to not in FORMATS:
        raise ValueError(f"to is one of {', '.join(map(repr, FORMATS))}, not {to!r}")
    if to in SUFFIXES and target.suffix != SUFFIXES[to]:
        raise ValueError(f"{target}: what is written for {to} is a file that ends in .{to}")
    if int8 and to != "onnx":
        raise ValueError(f"int8 goes with --to onnx only, and the format is {to}")
    if to == "onnx":
        require_onnx()
    files = find_files(source, need=("config", "checkpoint"))
    progress = keras.utils.Progbar(3, unit_name="step")
    transformer = build_with_heads(files, model, to)
    progress.update(1)
    report = transformer.load_weights_from_checkpoint(files.checkpoint)
    folder = transformer.folder
    if folder is not None and (folder / peft.CONFIG).is_file():
        peft.load(transformer, folder)
        merge_lora(transformer.model)
    progress.update(2)
    if to == "keras":
        transformer.model.save(target)
    elif to == "onnx":
        write_onnx(transformer.model, target, transformer.model.examples(), int8)
    elif to == "safetensors":
        transformer.save_pretrained(target)
    else:
        pretrained.save_original(transformer, target)
    progress.update(3)
    return transformer, report


def build_with_heads(files: Files, model: str | None, to: str) -> "Transformer":
    """Build the model of a config with the heads whose variables are in its checkpoint."""
    from bert4keras.models import registry
    from bert4keras.models.building import build_transformer_model

    arguments: dict[str, Any] = {"model": model, "return_keras_model": False}
    if to == "safetensors":
        arguments |= arguments_of_hugging_face(files.config, model)
    transformer = build_transformer_model(files.config, **arguments)
    heads: dict[str, Any] = {}
    mapping = transformer.variable_mapping()
    names = [name for group in mapping.values() for name in group]
    with open_checkpoint(files.checkpoint) as file:
        if file.container == "keras":
            raise CheckpointError(
                f"{files.checkpoint} holds the weights of a model whose heads it does not tell. "
                "Build the model, load them with model.load_weights, and save it as you want it"
            )
        view = as_official(file, names, registry.dialects(type(transformer)))
        for start, head in transformer.head_layers.items():
            wanted = [
                n for layer, group in mapping.items() if layer.startswith(start) for n in group
            ]
            if wanted and all(name in view for name in wanted):
                heads |= head
    heads = {k: v for k, v in heads.items() if k not in transformer.refused_arguments}
    if not heads:
        return transformer
    return build_transformer_model(files.config, **arguments, **heads)


def arguments_of_hugging_face(config: Path, model: str | None) -> dict[str, Any]:
    """With which arguments a model is built so that Hugging Face can describe it."""
    from bert4keras.models import configs
    from bert4keras.models.registry import ARCHITECTURES

    name = (model or configs.read_config(config)[1] or "bert").lower()
    return dict(getattr(ARCHITECTURES.get(name), "arguments_of_hugging_face", {}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bert4keras.convert",
        description="Convert the weights of a pretrained model from one format to another.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats:\n" + "\n".join(f"  {name:12} {what}" for name, what in FORMATS.items()),
    )
    parser.add_argument(
        "source",
        metavar="IN",
        help="folder of a pretrained model: a config, weights in any container (TensorFlow, "
        "safetensors, PyTorch, .npz), perhaps a vocabulary",
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        help="folder to write, which is created; with --to keras a FILE.keras, with --to onnx a "
        "FILE.onnx. What it held of an earlier conversion is replaced in one step",
    )
    parser.add_argument(
        "--to", choices=FORMATS, default="safetensors", help="see below; %(default)s by default"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the architecture, as model= of build_transformer_model: bert, albert, roformer, "
        "nezha, t5.1.1, ...; by default what the config says, and bert if it says nothing",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with --to onnx: kernels and tables in eight bits, for a quarter of the size and more "
        "speed on a CPU; the outputs differ by a few percent",
    )
    given = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        transformer, report = convert(given.source, given.target, given.to, given.model, given.int8)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.source} -> {given.target} ({type(transformer).__name__})")
    for name in report.loaded:
        print(f"  {name} -> {report.layers[name]}")
    print(f"{len(report.loaded)} variables converted, {len(report.unused)} left behind")
    for name in report.unused:
        print(f"  left: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
