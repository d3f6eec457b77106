"""What the basic scripts share: a command line of scripts that train nothing.

python experiments/NAME.py --quick                            # the small checkpoint
python experiments/NAME.py --checkpoint FOLDER                # an official base model
python experiments/NAME.py predict TEXT [TEXT …] --quick      # with texts of your own
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from common import TINY, files_of

from bert4keras.models import Model
from bert4keras.snippets import bucket_length, sequence_padding
from bert4keras.tokenizers import Tokenizer


def arguments(
    script: str,
    doc: str,
    argv: Sequence[str] | None = None,
    small: Callable[[argparse.Namespace], Path] = lambda args: TINY,
) -> argparse.Namespace:
    """Read the command line of a script that trains nothing.

    Args:
        script: `__file__` of the script.
        doc: `__doc__` of the script.
        argv: the arguments; those of the process by default.
        small: the folder of the checkpoint of `--quick`.

    Returns:
        The arguments, and: `texts`, those behind `predict`, None for the script's own; `files`,
        those of the checkpoint; `tokenizer`, if its vocabulary is a text file.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = Path(script).stem
    parser.add_argument("texts", nargs="*", metavar="predict TEXT", help="texts of your own")
    parser.add_argument("--checkpoint", type=Path, help="folder of an official checkpoint")
    parser.add_argument("--output", type=Path, default=Path("runs") / name)
    parser.add_argument("--quick", action="store_true", help="the small checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    command, *args.texts = args.texts or ["predict"]
    if command != "predict":
        parser.error(f"{command!r}: expected options only, or predict TEXT [TEXT …]")
    if not args.quick and args.checkpoint is None:
        parser.error("give --checkpoint, the folder of an official base model, or --quick")
    args.texts = args.texts or None
    args.name, args.started, args.data = name, time.time(), None
    args.sample = False
    args.argv = list(sys.argv[1:] if argv is None else argv)
    keras.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    args.checkpoint = args.checkpoint or small(args)
    args.files = files_of(args.checkpoint)
    if args.files.vocabulary.suffix == ".txt":
        args.tokenizer = Tokenizer(args.files.vocabulary, do_lower_case=True)
    return args


def encode_gaps(text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a text in which `[MASK]` may stand."""
    pieces = [tokenizer.tokenize(piece)[1:-1] for piece in text.split("[MASK]")]
    tokens = ["[CLS]", *pieces[0]]
    for piece in pieces[1:]:
        tokens += ["[MASK]", *piece]
    return tokenizer.tokens_to_ids([*tokens, "[SEP]"])


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Token ids of several texts, padded to one of a few lengths."""
    return sequence_padding(rows, bucket_length(max(map(len, rows))))


def probabilities_at(model: Model, token_ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What a masked language model expects at one place of each text.

    Args:
        model: from token and segment ids to the probabilities of tokens.
        token_ids: (texts, length).
        places: (texts,).

    Returns:
        (texts, vocabulary).
    """
    found = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])
    return found[np.arange(len(found)), places]
