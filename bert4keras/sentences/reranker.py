"""Scores of pairs of texts from a pretrained folder."""

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
    is_pair,
    listed_texts,
    longest_text,
)
from bert4keras.text.pretrained import load_tokenizer


@dataclass(frozen=True)
class Head:
    """How `transformers` scores a text.

    Attributes:
        pooled: whether the model's own pooler comes first; otherwise the first token's vector.
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
"""By what `architectures` of `config.json` says."""


class CrossEncoder:
    """Scores pairs of texts with a pretrained model (bge-reranker, ms-marco-MiniLM, ...).

    Args:
        folder: as `transformers` writes a model for classifying, such as
            `BertForSequenceClassification`.
        max_length: tokens of a pair; of longer ones the longer text loses its end.
        **kwargs: arguments of `build_transformer_model`, such as `precision` and `dropout_rate`.

    Attributes:
        model: from ids to logits (batch, labels), float32, to be compiled and trained as any other.
        transformer: the `Transformer` in it.
        tokenizer: the tokenizer.
        activation: what `predict` applies to the logits: what the folder says, otherwise `sigmoid`
            for one label and `linear` for several, as sentence-transformers does.
        n_labels: how many scores a pair has.
        max_length: see above.

    Raises:
        CheckpointError: no such folder, or weights are missing, damaged or of another model.
        ValueError: the model is none for classifying, or of a kind that is not implemented.
    """

    def __init__(self, folder: str | Path, max_length: int | None = None, **kwargs: Any) -> None:
        folder = Path(folder)
        check_folder(folder)
        config = read_json(folder / "config.json")
        self._name, self._head = _head(config, folder)
        self.tokenizer = load_tokenizer(folder)
        with_pool = {"with_pool": True} if self._head.pooled else {}
        self.transformer = build_transformer(folder, self.tokenizer, kwargs | with_pool)
        self.max_length = longest_text(max_length, self.tokenizer, self.transformer)
        self.model = self._with_head(folder)
        self._inputs = Inputs(self.tokenizer, self.transformer, self.max_length)
        self._run = Runner(self._inputs, self.model)
        self.n_labels = self._run.size
        self.activation = _activation(config, folder) or ("sigmoid", "linear")[self.n_labels > 1]

    def _with_head(self, folder: Path) -> Model:
        """Put the layers that score behind the transformer, with their weights."""
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
        """Return the scores of pairs.

        Args:
            pairs: one pair of texts, or several.
            batch_size: pairs that are computed together.
            activation: the name of a Keras activation, `linear` for logits; by default that in
                the attribute `activation`.
            verbose: 1 shows a bar.

        Returns:
            (pairs,), or (pairs, labels) if there are several labels; without the axis of pairs for
            a single one.

        Raises:
            TypeError: something is no pair of texts.
        """
        found, single = listed_texts(pairs, is_pair, "a pair of texts (str)")
        logits = self._run([self._inputs.row(*pair) for pair in found], batch_size, verbose)
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
            texts: what may answer it.
            top_k: how many of the best to return, all by default.
            batch_size: texts that are computed together.
            verbose: 1 shows a bar.

        Returns:
            For each text, best first, its index as `corpus_id`, its `score` and its `text`.

        Raises:
            ValueError: the model gives several scores.
        """
        if self.n_labels != 1:
            raise ValueError(
                f"the model gives {self.n_labels} scores, and texts are ranked by one: use predict"
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
        found, _ = listed_texts(list(pairs), is_pair, "a pair of texts (str)")
        return TrainingBatches(self._inputs, found, labels, batch_size, joined=True)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `transformers`, sentence-transformers and this class load.

        Args:
            folder: is made if it is not there.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: Hugging Face cannot say what the model is.
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
        save_pretrained(self.transformer, folder, self.tokenizer, tensors, settings)


def _head(config: Mapping[str, Any], folder: Path) -> tuple[str, Head]:
    """How the model of a folder scores, with the name of its class."""
    names = config.get("architectures") or ["no architecture"]
    if names[0] not in HEADS:
        raise ValueError(
            f"{folder} holds {names[0]}, and pairs are scored by one of {', '.join(HEADS)}"
        )
    return names[0], HEADS[names[0]]


def _weights(file: Any, name: str) -> list[np.ndarray]:
    """Kernel and bias of a Dense layer in a file."""
    missing = [x for x in (f"{name}.weight", f"{name}.bias") if x not in file]
    if missing:
        raise CheckpointError(
            f"{file.path} lacks {missing[0]}, with which pairs are scored: give a model that was "
            "trained for it"
        )
    return [file[f"{name}.weight"].astype("float32").T, file[f"{name}.bias"].astype("float32")]


def _activation(config: Mapping[str, Any], folder: Path) -> str | None:
    """The activation that a folder names, in one of three places, None if it names none."""
    settings = folder / SETTINGS_FILE
    said = [
        (config.get("sentence_transformers") or {}).get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
        read_json(settings).get("activation_fn") if settings.is_file() else None,
    ]
    path = next(filter(None, said), None)
    names = {path: name for name, path in ACTIVATIONS.items()}
    if path is not None and path not in names:
        raise ValueError(f"{folder} has the activation {path!r}; there are {', '.join(names)}")
    return None if path is None else names[path]
