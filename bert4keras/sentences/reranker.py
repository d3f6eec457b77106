"""Scores of text pairs from a pretrained folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.checkpoints.base import CheckpointError
from bert4keras.checkpoints.files import open_checkpoint
from bert4keras.layers.pooling import FirstToken
from bert4keras.models.config_files import read_json
from bert4keras.models.model import Model
from bert4keras.models.pretrained import save_pretrained
from bert4keras.models.variables import to_numpy
from bert4keras.sentences.building import build_transformer
from bert4keras.sentences.folder import ACTIVATIONS, SETTINGS_FILE, check_folder
from bert4keras.sentences.inputs import (
    Inputs,
    Runner,
    TrainingBatches,
    as_list,
    is_pair,
    maximum_length,
)
from bert4keras.text.pretrained import load_tokenizer

LOADING = {
    "bert4keras": "from bert4keras.sentences import CrossEncoder\n\nencoder = CrossEncoder({name})",
    "sentence-transformers": (
        "from sentence_transformers import CrossEncoder\n\nencoder = CrossEncoder({name})"
    ),
}
"""Code that loads what `save` writes, for the model card."""


@dataclass(frozen=True)
class Head:
    """The classification head of a class of `transformers`.

    Attributes:
        pooled: whether its input is the model's pooler output, otherwise the first token's vector.
        layers: names of the Dense layers in files, with activations.
    """

    pooled: bool
    layers: tuple[tuple[str, str], ...]


_ROBERTA = Head(False, (("classifier.dense", "tanh"), ("classifier.out_proj", "linear")))
HEADS: Mapping[str, Head] = {
    "BertForSequenceClassification": Head(True, (("classifier", "linear"),)),
    "RobertaForSequenceClassification": _ROBERTA,
    "XLMRobertaForSequenceClassification": _ROBERTA,
}
"""Heads by the name in `architectures` of `config.json`."""


class CrossEncoder:
    """Scores pairs of texts with a pretrained model (bge-reranker, ms-marco-MiniLM, ...).

    Args:
        folder: the folder of a classification model of `transformers`, such as
            `BertForSequenceClassification`.
        max_length: maximum number of tokens of a pair, beyond which the longer text is truncated.
        **kwargs: arguments of `build_transformer_model`, such as `precision` and `dropout_rate`.

    Attributes:
        model: the model from ids to logits (batch, labels), float32, compiled and trained like any
            other.
        transformer: the `Transformer` of the model.
        tokenizer: the tokenizer.
        activation: the activation that `predict` applies to logits: that of the folder, otherwise
            `sigmoid` for one label and `linear` for several, as in sentence-transformers.
        n_labels: number of scores of a pair.
        max_length: maximum number of tokens of a pair.

    Raises:
        CheckpointError: the folder does not exist, or weights are missing, damaged or of another
            model.
        ValueError: the model is not for classification, or is not implemented.
    """

    def __init__(self, folder: str | Path, max_length: int | None = None, **kwargs: Any) -> None:
        folder = Path(folder)
        check_folder(folder)
        config = read_json(folder / "config.json")
        self._name, self._head = _head(config, folder)
        self.tokenizer = load_tokenizer(folder)
        with_pool = {"with_pool": True} if self._head.pooled else {}
        self.transformer = build_transformer(folder, self.tokenizer, kwargs | with_pool)
        self.max_length = maximum_length(max_length, self.tokenizer, self.transformer)
        self.model = self._with_head(folder)
        self._inputs = Inputs(self.tokenizer, self.transformer, self.max_length)
        self._run = Runner(self._inputs, self.model)
        self.n_labels = self._run.size
        self.activation = _activation(config, folder) or ("sigmoid", "linear")[self.n_labels > 1]

    def _with_head(self, folder: Path) -> Model:
        """Add the classification head to the transformer, with its weights."""
        x = self.transformer.model.output
        x = x if self._head.pooled else FirstToken(name="First-Token")(x)
        self._layers = {}
        with open_checkpoint(folder) as file:
            for name, activation in self._head.layers:
                weights = _weights(file, name)
                layer = keras.layers.Dense(
                    len(weights[1]), activation, name=name.replace(".", "-"), dtype="float32"
                )
                x = layer(x)
                layer.set_weights(weights)
                self._layers[name] = layer
        return Model(self.transformer.model.input, x)

    def predict(
        self,
        pairs: Sequence[str] | Iterable[Sequence[str]],
        batch_size: int = 32,
        activation: str | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Compute the scores of pairs.

        Args:
            pairs: one pair of texts, or several.
            batch_size: pairs in a batch.
            activation: the name of a Keras activation, `linear` for logits; by default that in
                the attribute `activation`.
            verbose: 1 shows a progress bar.

        Returns:
            (pairs,), or (pairs, labels) if there are several labels; without the axis of pairs for
            a single pair.

        Raises:
            TypeError: a value is not a pair of texts.
        """
        found, single = as_list(pairs, is_pair, "a pair of texts (str)")
        logits = self._run([self._inputs.encode(*pair) for pair in found], batch_size, verbose)
        function = keras.activations.get(activation or self.activation)
        scores = to_numpy(function(ops.convert_to_tensor(logits)))
        scores = scores[:, 0] if self.n_labels == 1 else scores
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        texts: Sequence[str],
        top_k: int | None = None,
        batch_size: int = 32,
        verbose: int = 0,
    ) -> list[dict[str, Any]]:
        """Rank texts for a query.

        Args:
            query: the query.
            texts: the candidates.
            top_k: number of texts to return, all by default.
            batch_size: texts in a batch.
            verbose: 1 shows a progress bar.

        Returns:
            For each text, best first, its index as `corpus_id`, its `score` and its `text`.

        Raises:
            ValueError: the model has several labels.
        """
        if self.n_labels != 1:
            raise ValueError(
                f"the model has {self.n_labels} labels, but texts are ranked by one score: use "
                "predict"
            )
        scores = self.predict([(query, text) for text in texts], batch_size, verbose=verbose)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"corpus_id": int(i), "score": float(scores[i]), "text": texts[i]} for i in order]

    def batches(
        self, pairs: Sequence[Sequence[str]], labels: Sequence[Any], batch_size: int = 32
    ) -> TrainingBatches:
        """Return batches of pairs for `model.fit`, shuffled; the loss gets logits.

        Args:
            pairs: pairs of texts.
            labels: a label for each.
            batch_size: pairs in a batch.
        """
        found, _ = as_list(list(pairs), is_pair, "a pair of texts (str)")
        return TrainingBatches(self._inputs, found, labels, batch_size, joined=True)

    def save(self, folder: str | Path, card: Mapping[str, Any] | None = None) -> None:
        """Write a folder that `transformers`, sentence-transformers and this class load.

        Args:
            folder: the folder, created if it does not exist.
            card: what the model card says, see `Transformer.save_pretrained`.

        Raises:
            CheckpointError: the folder cannot be written.
            ValueError: a config of Hugging Face cannot describe the model, or the card has another
                key.
        """
        tensors = {}
        for name, layer in self._layers.items():
            kernel, bias = layer.get_weights()
            tensors |= {f"{name}.weight": np.ascontiguousarray(kernel.T), f"{name}.bias": bias}
        labels = {f"LABEL_{i}": i for i in range(self.n_labels)}
        settings = {
            "architectures": [self._name],
            "id2label": {str(i): label for label, i in labels.items()},
            "label2id": labels,
            "sentence_transformers": {"activation_fn": ACTIVATIONS[self.activation]},
        }
        save_pretrained(self.transformer, folder, self.tokenizer, tensors, settings, card, LOADING)


def _head(config: Mapping[str, Any], folder: Path) -> tuple[str, Head]:
    """Return the name of the class of a model, and its classification head."""
    names = config.get("architectures") or ["no architecture"]
    if names[0] not in HEADS:
        raise ValueError(f"{folder} has a {names[0]}: give a folder of one of {', '.join(HEADS)}")
    return names[0], HEADS[names[0]]


def _weights(file: Any, name: str) -> list[np.ndarray]:
    """Return kernel and bias of a Dense layer in a file."""
    missing = [x for x in (f"{name}.weight", f"{name}.bias") if x not in file]
    if missing:
        raise CheckpointError(
            f"{file.path} lacks {missing[0]} of the classification head: give a model that was "
            "trained for classification"
        )
    return [file[f"{name}.weight"].astype("float32").T, file[f"{name}.bias"].astype("float32")]


def _activation(config: Mapping[str, Any], folder: Path) -> str | None:
    """Return the activation that a folder specifies in one of three places, or None."""
    settings = folder / SETTINGS_FILE
    said = [
        (config.get("sentence_transformers") or {}).get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
        read_json(settings).get("activation_fn") if settings.is_file() else None,
    ]
    path = next(filter(None, said), None)
    names = {path: name for name, path in ACTIVATIONS.items()}
    if path is not None and path not in names:
        raise ValueError(
            f"{folder} has the activation {path!r}, but only {', '.join(names)} are implemented"
        )
    return None if path is None else names[path]
