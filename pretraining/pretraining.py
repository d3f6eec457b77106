"""Pretrain a Transformer on a corpus, and save an official checkpoint.

    python pretraining/pretraining.py --corpus a.jsonl.gz b.jsonl.gz --valid valid.jsonl.gz \
        --output out --steps 20000

The output folder gets `bert_config.json`, `vocab.txt`, `bert_model.ckpt.*` and `log.csv`;
`build_transformer_model(folder)` loads it. A corpus is prepared by `data_utils.py` first, which
says what it may be; `--data` takes what was prepared before.

The same command takes up a run that was interrupted, at the last saved state, and ends in the same
weights as if it had not been. README.md describes tasks and settings.
"""

import argparse
import csv
import difflib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
from data_utils import LAYOUTS, write_json
from events import write_events
from objectives import OBJECTIVES, Objective, start_from_corpus
from records import replacing
from stages import Stage, batch_sizes, stages, tokens_until
from state import State, locked, misfit, newest_state, reasons, save_state
from tasks import MASKED_SHARE, MASKINGS, PAIRS, Batches, Examples

from bert4keras.models import ARCHITECTURES, Transformer
from bert4keras.optimizers import (
    Adam,
    Muon,
    extend_with_piecewise_linear_lr,
    extend_with_weight_decay,
)
from bert4keras.tokenizers import save_vocab
from bert4keras.training import Devices, data_parallel

HERE = Path(__file__).parent
MODELS = {"gpt": "gpt", "electra": "electra"}  # others: bert
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
OPTIMIZERS = {"adamw": Adam, "muon": Muon}
FREE = {
    *("output", "corpus", "valid", "data", "valid_data"),
    *("workers", "verbose", "tensorboard", "saved_precision"),
}
"""Settings that a run may be taken up with other values of; data are compared by their checksum."""


EFFECTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "min_count": lambda args: not (args.data or args.vocab),
    "segmenter": lambda args: not args.data,
    "valid_sources": lambda args: args.valid,
    "masking": lambda args: args.task in ("roberta", "bert", "electra"),
    "masked_share": lambda args: args.task in ("roberta", "bert", "electra"),
    "pairs": lambda args: args.task == "bert",
    "generator_size": lambda args: args.task == "electra",
    "start": lambda args: not args.checkpoint,
}
"""Settings that only some runs have a use for, and which these are."""


# --- settings


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--config", type=Path, help="YAML file of these settings")
    data = parser.add_argument_group("data")
    data.add_argument("--corpus", type=Path, nargs="+", help="files to prepare and train on")
    data.add_argument("--valid", type=Path, nargs="+", help="files to validate on")
    data.add_argument("--valid-sources", nargs="+", help="only documents with these `source`s")
    data.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="folder of data_utils.py, in place of --corpus; of several, one after the other",
    )
    data.add_argument(
        "--stages", type=float, nargs="+", help="shares of the steps for the folders of --data"
    )
    data.add_argument("--valid-data", type=Path, help="likewise, in place of --valid")
    data.add_argument("--vocab", type=Path, help="vocabulary file; made from the corpus if none")
    data.add_argument("--min-count", type=int, default=10, help="of a character in the corpus")
    data.add_argument("--segmenter", default="", help="module:function from a text to its words")
    data.add_argument("--length", type=int, help="tokens in a sequence, 128 if none are prepared")
    data.add_argument("--workers", type=int, default=1, help="processes that tokenize")
    task = parser.add_argument_group("task")
    task.add_argument("--task", choices=LAYOUTS, default="roberta")
    task.add_argument("--masking", choices=MASKINGS, default="token", help="what is masked at once")
    task.add_argument(
        "--masked-share", type=float, default=MASKED_SHARE, help="of the tokens, in training"
    )
    task.add_argument("--pairs", choices=PAIRS, default="nsp", help="the second loss of bert")
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="architecture; bert, gpt or electra by the task")
    model.add_argument("--layers", type=int, default=4)
    model.add_argument("--hidden-size", type=int, default=128)
    model.add_argument("--heads", type=int, default=4)
    model.add_argument("--intermediate-size", type=int, default=0, help="4 × hidden size if 0")
    model.add_argument("--positions", type=int, default=512)
    model.add_argument("--dropout", type=float, default=0.0, help="while pretraining")
    model.add_argument(
        "--initializer-range",
        type=float,
        default=0.02,
        help="of kernels; BERT's 0.02 suits 768 units, narrow models learn sooner from more",
    )
    model.add_argument(
        "--generator-size", type=float, default=0.25, help="share of ELECTRA's units, heads"
    )
    model.add_argument(
        "--start",
        choices=["corpus", "random"],
        default="corpus",
        help="token vectors from co-occurrence counts and sinusoidal positions, or all random",
    )
    model.add_argument("--checkpoint", type=Path, help="official checkpoint to start from")
    train = parser.add_argument_group("training")
    train.add_argument("--output", type=Path)
    train.add_argument("--batch-size", type=int, default=64)
    train.add_argument("--steps", type=int, default=10000)
    train.add_argument("--epoch-steps", type=int, default=500, help="between validations")
    train.add_argument("--save-steps", type=int, help="between states, --epoch-steps by default")
    train.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="adamw", help="muon is for matrices of blocks"
    )
    train.add_argument("--learning-rate", type=float, default=1e-3)
    train.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    train.add_argument(
        "--decay",
        type=float,
        help="share of the steps, the last ones, over which the rate falls to 0; all after the "
        "warm-up by default, 0 to train on from the checkpoint later",
    )
    train.add_argument("--weight-decay", type=float, default=0.01)
    train.add_argument("--clip-norm", type=float, help="largest norm of the whole gradient")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument(
        "--precision", choices=PRECISIONS, help="half precision computes faster on many devices"
    )
    train.add_argument(
        "--saved-precision",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of the checkpoint; states are exact",
    )
    train.add_argument(
        "--devices", type=int, help="split batches over so many, 0 for all; one by default"
    )
    train.add_argument(
        "--deterministic", action=flag, default=True, help="bit-equal results; slower on some GPUs"
    )
    train.add_argument("--tensorboard", action=flag, default=False, help="logs for TensorBoard")
    train.add_argument("--verbose", type=int, default=1, help="0 silent, 1 bar, 2 lines")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of the YAML file and the command line, which goes before."""
    argv = sys.argv[1:] if argv is None else list(argv)
    file = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file.add_argument("--config", type=Path)
    config = file.parse_known_args(argv)[0].config
    args = parser().parse_args([*(arguments_in(config) if config else []), *argv])
    args.save_steps = args.save_steps or args.epoch_steps
    if args.corpus and args.length is None:
        args.length = 128
    check(args)
    return args


def arguments_in(path: Path) -> list[str]:
    """The settings of a YAML file as command-line arguments."""
    try:
        import yaml
    except ImportError as error:
        raise SystemExit("--config needs PyYAML: pip install pyyaml") from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise SystemExit(f"{path} is no YAML file of settings: {error}") from error
    known = {action.dest for action in parser()._actions} - {"help", "config"}
    if not isinstance(content, dict):
        raise SystemExit(f"{path} holds no settings: write one `name: value` a line")
    arguments = []
    for name, value in content.items():
        key = str(name).replace("-", "_")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f": there are {sorted(known)}"
            raise SystemExit(f"{path} has the unknown setting {name!r}{hint}")
        option = key.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            arguments += [f"--{option}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{option}={value}")
    return arguments


def check(args: argparse.Namespace) -> None:
    """Refuse settings that do not go together."""
    if args.output is None:
        raise SystemExit("there is no --output: give the folder to write")
    for given, other in (("corpus", "data"), ("valid", "valid_data")):
        if getattr(args, given) and getattr(args, other):
            raise SystemExit(f"--{given} and --{other.replace('_', '-')} are both given: leave one")
    if not args.corpus and not args.data:
        raise SystemExit("there is nothing to train on: give --corpus, or --data")
    if args.data and (args.valid or args.vocab):
        raise SystemExit("with --data, the vocabulary is in it, and validation is --valid-data")
    if min(args.steps, args.epoch_steps, args.save_steps, args.batch_size) < 1:
        raise SystemExit("--steps, --epoch-steps, --save-steps and --batch-size are at least 1")
    if args.epoch_steps % args.save_steps or args.steps % args.save_steps:
        raise SystemExit(
            f"--save-steps {args.save_steps} has to divide --steps {args.steps} and --epoch-steps "
            f"{args.epoch_steps}"
        )
    if not 0 <= args.warmup < 1:
        raise SystemExit(f"--warmup is {args.warmup}: give a share of the steps, less than 1")
    if args.decay is not None and not 0 <= args.decay <= 1 - args.warmup:
        raise SystemExit(
            f"--decay is {args.decay}: give a share of the steps, {1 - args.warmup:g} at most "
            f"beside --warmup {args.warmup:g}"
        )
    if not 0 < args.masked_share < 1:
        raise SystemExit(f"--masked-share is {args.masked_share}: give a share of the tokens")
    if args.stages and not args.data:
        raise SystemExit("--stages divides the steps among folders of --data: give these")
    if args.length is not None:
        check_length(args.length, args)
    check_effects(args)


def check_effects(args: argparse.Namespace) -> None:
    """Refuse settings that change nothing, as whoever gives them expects that they do."""
    defaults = parser()
    for name, has_effect in EFFECTS.items():
        if getattr(args, name) != defaults.get_default(name) and not has_effect(args):
            raise SystemExit(
                f"--{name.replace('_', '-')} {getattr(args, name)} has no effect on this run: "
                "leave it out, or see the README for what it belongs to"
            )


def check_length(length: int, args: argparse.Namespace) -> None:
    """Refuse sequences that the model cannot take, or that are not as they were asked for."""
    if length > args.positions:
        raise SystemExit(
            f"sequences of {length} tokens are longer than --positions {args.positions}"
        )
    if args.length not in (None, length):
        raise SystemExit(
            f"the sequences of --data have {length} tokens, not --length {args.length}: leave it "
            "out, or prepare the data again"
        )


# --- data


def prepared(args: argparse.Namespace) -> tuple[list[Stage], Batches | None]:
    """What is trained on and, if there is any, what is validated on."""
    folders, valid = prepared_folders(args)
    examples = [Examples(folder) for folder in folders]
    held_out = [Examples(valid)] if valid else []
    check_together(args, [*examples, *held_out])
    sizes = batch_sizes(args.batch_size, [each.length for each in examples])
    trained = [
        batches(args, each, size, args.masked_share)
        for each, size in zip(examples, sizes, strict=True)
    ]
    parts = stages(trained, args.stages or [1] * len(trained), args.steps, args.save_steps)
    if not held_out:
        return parts, None
    # Whatever the share in training, so that losses of runs compare.
    return parts, batches(args, held_out[0], args.batch_size, MASKED_SHARE)


def prepared_folders(args: argparse.Namespace) -> tuple[list[Path], Path | None]:
    """The folders of shards to train and to validate on; files are prepared."""
    folders, valid = args.data, args.valid_data
    if args.corpus:
        folders = [args.output / "data"]
        vocabulary = ["--vocab", args.vocab] if args.vocab else ["--min-count", args.min_count]
        prepare(args, args.corpus, folders[0], *vocabulary)
    if args.valid:
        valid = args.output / "valid"
        sources = ["--sources", *args.valid_sources] if args.valid_sources else []
        prepare(args, args.valid, valid, "--vocab", folders[0] / "vocab.txt", *sources)
    return folders, valid


def check_together(args: argparse.Namespace, examples: Sequence[Examples]) -> None:
    """Refuse data of several vocabularies, or of a length that does not fit."""
    for each in examples:
        check_length(each.length, args)
        if each.manifest["vocabulary"] != examples[0].manifest["vocabulary"]:
            raise SystemExit(
                "the data to train and to validate on differ in vocabulary: prepare all with the "
                "same"
            )


def prepare(args: argparse.Namespace, corpus: Sequence[Path], output: Path, *more: Any) -> None:
    """Run `data_utils.py`, in a process of its own as its workers are forked."""
    command = [sys.executable, HERE / "data_utils.py", "--corpus", *corpus, "--output", output]
    command += ["--task", args.task, "--length", args.length, "--workers", args.workers]
    command += ["--segmenter", args.segmenter, *more]
    code = subprocess.run(list(map(str, command))).returncode
    if code:
        raise SystemExit(code)


def batches(args: argparse.Namespace, examples: Examples, size: int, share: float) -> Batches:
    return Batches(examples, args.task, size, args.seed, args.masking, args.pairs, share)


def sample_rows(batches: Batches, n_tokens: int = 2 * 10**7) -> np.ndarray:
    """Token ids of some examples, (n, length), for co-occurrence counts."""
    examples = batches.examples
    n_rows = min(len(examples), n_tokens // examples.length)
    indices = np.linspace(0, len(examples) - 1, n_rows).astype("int64")
    rows = np.zeros((n_rows, batches.body), "int32")
    for i, token_ids in enumerate(examples[indices]["token_ids"]):
        rows[i, : len(token_ids)] = token_ids
    return rows


# --- model


def write_config(args: argparse.Namespace, vocab_size: int) -> Path:
    """Write `bert_config.json`, from which the model is built and by which users load it."""
    model = args.model or MODELS.get(args.task, "bert")
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": args.hidden_size,
        "initializer_range": args.initializer_range,
        "intermediate_size": args.intermediate_size or 4 * args.hidden_size,
        "max_position_embeddings": args.positions,
        "num_attention_heads": args.heads,
        "num_hidden_layers": args.layers,
        "type_vocab_size": 0 if args.task == "gpt" else 2,
        "vocab_size": vocab_size,
    }
    if model != "bert":  # whose configs do not say it
        config |= {"model_type": ARCHITECTURES[model].model_type, "pad_token_id": 0}
    path = args.output / "bert_config.json"
    write_json(path, config)
    return path


def generator_config(args: argparse.Namespace, path: Path) -> Path:
    """The config of ELECTRA's generator: as deep, and less wide, on the same embeddings."""
    config = json.loads(path.read_text(encoding="utf-8"))
    heads = max(1, round(args.heads * args.generator_size))
    config |= {
        "embedding_size": args.hidden_size,
        "hidden_size": args.hidden_size // args.heads * heads,
        "num_attention_heads": heads,
        "intermediate_size": max(1, round(config["intermediate_size"] * args.generator_size)),
    }
    del config["model_type"]
    path = args.output / "generator" / "bert_config.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, config)
    return path


def built(args: argparse.Namespace, config: Path) -> Objective:
    """The model of a task, compiled with an optimizer, warm-up and decay of its rate."""
    options = {"dropout_rate": args.dropout, "attention_dropout_rate": args.dropout}
    options["precision"] = args.precision
    if args.task == "electra":
        options["generator_config"] = generator_config(args, config)
    objective = OBJECTIVES[args.task](config, **options)
    optimizer = extend_with_weight_decay(OPTIMIZERS[args.optimizer])
    objective.model.compile(
        optimizer=extend_with_piecewise_linear_lr(optimizer)(
            learning_rate=args.learning_rate,
            weight_decay_rate=args.weight_decay,
            exclude_from_weight_decay=["Norm", "bias", "beta"],
            global_clipnorm=args.clip_norm,
            lr_schedule=schedule(args),
        ),
        loss=objective.loss,
        loss_weights=objective.loss_weights,
        weighted_metrics=objective.metrics,
    )
    objective.model.optimizer.build(objective.model.trainable_variables)
    return objective


def schedule(args: argparse.Namespace) -> dict[int, float]:
    """Factors of the learning rate by step, with straight lines between them."""
    factors = {round(args.warmup * args.steps): 1.0}
    if args.decay is not None:
        factors[round((1 - args.decay) * args.steps)] = 1.0
    if args.decay != 0:
        factors[args.steps] = 0.0
    return factors


def initialize(args: argparse.Namespace, objective: Objective, batches: Batches) -> None:
    """Give a model its first weights."""
    if args.checkpoint:
        load_checkpoint(objective.official, args.checkpoint)
    elif args.start == "corpus":
        rows = sample_rows(batches)
        start_from_corpus(objective.official, rows, args.initializer_range, args.seed)


HEADS = ("Pooler-Dense", "NSP-Proba", "MLM-Dense", "MLM-Norm", "MLM-Bias")
"""Layers that a checkpoint of another task need not have."""


def load_checkpoint(official: Transformer, path: Path) -> None:
    """Load an official checkpoint; heads that it lacks stay at their initial values.

    Raises:
        CheckpointError: it lacks anything else, or does not fit.
    """
    official.ignore_invalid_weights = True
    report = official.load_weights_from_checkpoint(path)
    heads = {official.prefixed(name) for name in HEADS}
    absent = sorted({report.layers[name] for name in report.missing} & heads)
    if report.mismatched or any(report.layers[name] not in heads for name in report.missing):
        report.raise_for_errors(path)
    if absent:
        print(f"{path} has no {', '.join(absent)}: at random to begin with")


def be_deterministic() -> None:
    """Ask the backend for results that do not depend on the order of threads."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it for that
        torch.use_deterministic_algorithms(True)
    else:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"


def generator_states() -> list[np.ndarray]:
    """The states of the generators that PyTorch draws dropout from; others keep it in variables."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.numpy() for state in states]


def set_generator_states(states: Sequence[np.ndarray]) -> None:
    """Go on drawing where the states were."""
    if not states:
        return
    import torch

    first, *others = map(torch.from_numpy, states)
    torch.set_rng_state(first)
    if others:
        torch.cuda.set_rng_state_all(others)


# --- the run


class Run(keras.callbacks.Callback):
    """What is on the disk of a run: its states, `log.csv`, the official checkpoint.

    Args:
        args: the settings.
        official: the Transformer that is saved.
        stages: of the run.
        identity: what a run must have in common with the one it takes up.
        writes: whether this process writes files; of several, one does.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        official: Transformer,
        stages: Sequence[Stage],
        identity: dict,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.args, self.official, self.stages = args, official, stages
        self.identity, self.writes = identity, writes
        self.step, self.seconds, self.rows = 0, 0.0, []
        self.started = time.time()

    @property
    def variables(self) -> list:
        """Weights, seeds, and what the optimizer keeps."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def values(self) -> dict[str, np.ndarray]:
        """The arrays of a state: of all variables, and of PyTorch's generators."""
        # Without the numbers by which Keras tells what a process has made before.
        names = [re.sub(r"_[0-9]+(?=/|$)", "", variable.path) for variable in self.variables]
        arrays = {
            f"{i} {name}": keras.ops.convert_to_numpy(variable)
            for i, (name, variable) in enumerate(zip(names, self.variables, strict=True))
        }
        return arrays | {f"generator {i}": each for i, each in enumerate(generator_states())}

    def misfit(self, state: State) -> str:
        """Why a state cannot be one of this run, although it is whole; "" if it can."""
        arrays = self.values()
        iterations = self.model.optimizer.iterations
        place = [variable is iterations for variable in self.variables].index(True)
        skips = self.args.precision == "mixed_float16"  # steps whose gradients overflow
        return misfit(state, arrays, list(arrays)[place], skips)

    def take_up(self, state: State, passed_over: dict[str, str]) -> None:
        """Go on from a state."""
        arrays = list(state.arrays.values())
        for variable, value in zip(self.variables, arrays, strict=False):
            variable.assign(value)
        set_generator_states(arrays[len(self.variables) :])
        self.started, self.step = state.started, state.step
        self.seconds, self.rows = state.seconds, list(state.rows)
        without = f", without {reasons(passed_over)}" if passed_over else ""
        print(f"taking up the run at step {self.step}{without}", file=sys.stderr)
        if self.writes:
            self.publish()

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_test_begin(self, logs=None):
        self.trained = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        self.step += self.args.save_steps
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.check(logs)
        training = (self.trained if "val_loss" in logs else now) - self.began
        self.seconds += now - self.began
        tokens = tokens_until(self.stages, self.step)
        seen = tokens - tokens_until(self.stages, self.step - self.args.save_steps)
        self.rows.append(
            {
                "step": self.step,
                "tokens": tokens,
                "seconds": round(self.seconds, 1),
                "tokens_per_second": round(seen / training),
                "learning_rate": self.learning_rate(),
                **{name: round(value, 5) for name, value in logs.items()},
            }
        )
        if not self.writes:
            return
        self.save()
        self.publish()
        if self.args.tensorboard:
            self.write_events(self.rows[-1:], append=True)

    def check(self, numbers: dict[str, Any]) -> None:
        """Stop where training has run away, before it is saved."""
        for name, value in numbers.items():
            if not np.isfinite(value).all():
                raise SystemExit(
                    f"there is NaN or infinity in {name} at step {self.step}: begin anew, in "
                    "another --output, with a lower --learning-rate or with --clip-norm 1"
                )

    def on_train_begin(self, logs=None):
        if self.args.tensorboard and self.writes:
            self.write_events(self.rows, append=False)

    def learning_rate(self) -> float:
        """That of the last step."""
        points = {0: 0} | schedule(self.args)
        factor = np.interp(self.step - 1, list(points), list(points.values()))
        return round(self.args.learning_rate * float(factor), 10)

    def save(self) -> None:
        arrays = self.values()
        self.check(arrays)
        kept = {key: getattr(self, key) for key in ("identity", "started", "seconds", "rows")}
        save_state(self.args.output / "states", State(self.step, arrays, **kept))

    def publish(self) -> None:
        """Write what follows from the state."""
        self.official.save_weights_as_checkpoint(
            self.args.output / "bert_model.ckpt", dtype=self.args.saved_precision
        )
        columns = {name: None for row in self.rows for name in row}
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with replacing(self.args.output / "log.csv") as file:
            file.write(text.getvalue().encode())

    def write_events(self, rows: list[dict], append: bool) -> None:
        """Write rows of the log for TensorBoard, which reads on in a file that grows."""
        events = [
            (self.started + row["seconds"], row["step"], {k: row[k] for k in list(row)[3:]})
            for row in rows
        ]
        write_events(self.args.output / "tensorboard", events, append)


def identity(
    args: argparse.Namespace, parts: Sequence[Stage], valid: Batches | None
) -> dict[str, Any]:
    """All that the final weights depend on."""
    chosen = {key: value for key, value in vars(args).items() if key not in {*FREE, "config"}}
    chosen |= {
        "backend": keras.backend.backend(),
        "length": parts[0].batches.length,
        "data": " ".join(part.batches.examples.fingerprint for part in parts),
        "validation data": valid.examples.fingerprint if valid else None,
    }
    return json.loads(json.dumps(chosen, default=str))


def main(argv: Sequence[str] | None = None) -> None:
    args = settings(argv)
    if args.deterministic:
        be_deterministic()
    keras.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.devices is None:
        train_alone(args, Devices())
        return
    with data_parallel(args.devices or None) as devices:
        train_alone(args, devices)


def train_alone(args: argparse.Namespace, devices: Devices) -> None:
    """Train while no other run writes into the same folder."""
    states = args.output / "states"
    states.mkdir(exist_ok=True)
    # Not of `output`, whose own lock whatever writes a checkpoint into it takes.
    with nullcontext() if devices.process else locked(states):
        train(args, devices)


def train(args: argparse.Namespace, devices: Devices) -> None:
    """Train from the last saved state, or from the beginning, to the end."""
    if args.corpus and devices.processes > 1:
        raise SystemExit(
            "several processes train on what is prepared: run data_utils.py, give --data"
        )
    parts, valid = prepared(args)
    wanted = identity(args, parts, valid)
    states, passed_over = args.output / "states", {}
    state = newest_state(states, wanted, passed_over)
    token_dict = parts[0].batches.examples.token_dict
    save_vocab(args.output / "vocab.txt", token_dict)
    objective = built(args, write_config(args, len(token_dict)))
    run = Run(args, objective.official, parts, wanted, writes=devices.process == 0)
    run.set_model(objective.model)
    while state and (reason := run.misfit(state)):
        passed_over[state.name] = reason
        state = newest_state(states, wanted, passed_over)
    if state:
        run.take_up(state, passed_over)
    else:
        initialize(args, objective, parts[0].batches)
    lengths = " and ".join(f"{len(p.batches.examples):,} of {p.batches.length}" for p in parts)
    print(
        f"{len(token_dict):,} tokens in the vocabulary, sequences to train on: {lengths}, to "
        f"validate: {len(valid.examples) if valid else 0:,}",
        file=sys.stderr,
    )
    if run.step == args.steps:
        print(f"all {args.steps} steps have been taken", file=sys.stderr)
        return
    held_out = valid.all_once() if valid else None
    for part in parts:
        if run.step < part.end:
            fit(args, objective.model, part, run, held_out)


def fit(
    args: argparse.Namespace, model: keras.Model, part: Stage, run: Run, held_out: tuple | None
) -> None:
    """Train to the end of a stage."""
    model.fit(
        part.batches.start_at(run.step - part.begin),
        validation_data=held_out,
        validation_batch_size=args.batch_size,
        validation_freq=args.epoch_steps // args.save_steps,
        steps_per_epoch=args.save_steps,
        initial_epoch=run.step // args.save_steps,
        epochs=part.end // args.save_steps,
        callbacks=[run],
        verbose=args.verbose,
    )


if __name__ == "__main__":
    main()
