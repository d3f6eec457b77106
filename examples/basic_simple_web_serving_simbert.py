"""A web server for sentence vectors: how similar texts are, and which are the most similar.

    python examples/basic_simple_web_serving_simbert.py                      # the small checkpoint
    python examples/basic_simple_web_serving_simbert.py --pooling cls \
        --checkpoint chinese_simbert_L-12_H-768_A-12 --sentences questions.txt

Then open http://127.0.0.1:8000/ or ask by

    curl http://127.0.0.1:8000/similarity -d a=今天天气很好 -d b=今天是晴天
    curl -G http://127.0.0.1:8000/search --data-urlencode text=多久能送到 -d n=3

Requests that come at the same time are answered in one pass through the model. The checkpoint is a
folder with an official checkpoint, its config and its vocabulary. The vector of a sentence is the
mean of those of its tokens, or, as SimBERT was trained, that of [CLS]. The small checkpoint has
learnt to fill in tokens only: its scores follow shared words more than the meaning.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from common import TINY, outputs

from bert4keras.checkpoints import CheckpointError, find_files
from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import WebServing
from bert4keras.tokenizers import Tokenizer

BATCH_SIZE = 16
MAXLEN = 128  # tokens of a sentence at most
SENTENCES = [
    "什么时候发货？",
    "多久可以送到？",
    "怎么申请退款？",
    "商品坏了可以换吗？",
    "这本书适合几岁的孩子？",
    "房间里有没有无线网络？",
    "早餐几点开始？",
    "从机场到酒店怎么走？",
]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=TINY, help="folder of a checkpoint")
    parser.add_argument("--sentences", type=Path, help="UTF-8 file, what to search in, one a line")
    parser.add_argument("--pooling", choices=("mean", "cls"), default="mean")
    parser.add_argument("--host", default="127.0.0.1", help="there is no authentication")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    return parser.parse_args(argv)


def read_sentences(path: Path | None) -> list[str]:
    if path is None:
        return SENTENCES
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--sentences {path} cannot be read as UTF-8 text: {error}") from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise SystemExit(f"--sentences {path} holds no sentence")
    return sentences


def sentence_encoder(checkpoint: Path, pooling: str) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to vectors of length 1, one row each."""
    try:
        files = find_files(checkpoint)
    except CheckpointError as error:
        raise SystemExit(f"--checkpoint {checkpoint}: {error}") from error
    tokenizer = Tokenizer(files.vocabulary, do_lower_case=True)
    bert = build_transformer_model(files.config, files.checkpoint)
    mean = keras.layers.GlobalAveragePooling1D()
    model = Model(bert.inputs, bert.output[:, 0] if pooling == "cls" else mean(bert.output))

    def encode(texts: Sequence[str]) -> np.ndarray:
        samples = [tokenizer.encode(text, maxlen=MAXLEN) for text in texts]
        vectors = np.array([vector for (vector,) in outputs(model, samples, batch_size=BATCH_SIZE)])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    sentences = read_sentences(args.sentences)
    encode = sentence_encoder(args.checkpoint, args.pooling)
    known = encode(sentences)

    def similarity(a: list[str], b: list[str]) -> np.ndarray:
        """两句话的余弦相似度 / Cosine of the vectors of two texts."""
        vectors = encode(a + b)
        return (vectors[: len(a)] * vectors[len(a) :]).sum(axis=1)

    def search(text: list[str], n: list[int] | None = None) -> list[list[dict]]:
        """最相似的句子 / The most similar sentences, 5 of them or n."""
        scores = encode(text) @ known.T
        return [
            [{"text": sentences[i], "similarity": row[i]} for i in np.argsort(-row)[: max(0, size)]]
            for row, size in zip(scores, n or [5] * len(text), strict=True)
        ]

    web = WebServing(args.host, args.port)
    pair = {"a": (None, True), "b": (None, True)}
    web.route("/similarity", similarity, pair, method="POST", batch_size=BATCH_SIZE)
    web.route("/search", search, {"text": (None, True), "n": (int, False)}, batch_size=BATCH_SIZE)
    web.start()


if __name__ == "__main__":
    main()
