"""Sentence embeddings from a pretrained folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras.backend.tensors import Tensor
from bert4keras.layers.merging import Concatenate
from bert4keras.layers.pooling import (
    FirstToken,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    GlobalSquareRootPooling1D,
    LastVisibleToken,
    PositionWeightedPooling1D,
)
from bert4keras.models.model import Model
from bert4keras.models.pretrained import save_pretrained
from bert4keras.sentences.building import build_transformer
from bert4keras.sentences.folder import (
    MODULES_FILE,
    Layout,
    Projection,
    check_folder,
    check_pooling,
    read_layout,
    write_layout,
)
from bert4keras.sentences.inputs import (
    Inputs,
    Runner,
    TrainingBatches,
    as_list,
    maximum_length,
)
from bert4keras.sentences.vectors import (
    SIMILARITIES,
    check_precision,
    quantize_embeddings,
    unit_vectors,
)
from bert4keras.text.pretrained import load_tokenizer
from bert4keras.text.strings import is_string

_POOLINGS = {
    "cls": FirstToken,
    "max": GlobalMaxPooling1D,
    "mean": GlobalAveragePooling1D,
    "mean_sqrt_len_tokens": GlobalSquareRootPooling1D,
    "weightedmean": PositionWeightedPooling1D,
    "lasttoken": LastVisibleToken,
}

LOADING = {
    "bert4keras": (
        "from bert4keras.sentences import SentenceEncoder\n\nencoder = SentenceEncoder({name})"
    ),
    "sentence-transformers": (
        "from sentence_transformers import SentenceTransformer\n\n"
        "encoder = SentenceTransformer({name})"
    ),
}
"""Code that loads what `save` writes, for the model card."""


class SentenceEncoder:
    """Computes embeddings of texts with a pretrained model (BGE, GTE, M3E, text2vec, E5, ...).

    Args:
        folder: a folder of sentence-transformers, whose `modules.json` specifies pooling; or that
            of any transformer, then with `pooling`.
        pooling: for a folder without `modules.json`: `cls`, `mean`, `max`, `weightedmean`,
            `lasttoken` or `mean_sqrt_len_tokens`, or several, whose vectors are concatenated.
        normalize: for a folder without `modules.json`: whether to normalize vectors to length 1.
        max_length: maximum number of tokens, beyond which texts are truncated; by default that of
            the folder.
        **kwargs: arguments of `build_transformer_model`, such as `precision` and `dropout_rate`.

    Attributes:
        model: the model from ids to vectors (batch, size), compiled and trained like any other;
            `encode` uses its current weights.
        transformer: the `Transformer` of the model.
        tokenizer: the tokenizer.
        prompts: prefixes of texts, by name; may be changed.
        default_prompt: the name of the prompt that is used by default, or None.
        similarity_name: `cosine`, `dot`, `euclidean` or `manhattan`.
        max_length: maximum number of tokens.

    Raises:
        CheckpointError: the folder does not exist, or weights are missing, damaged or of another
            model.
        ValueError: the folder requires what is not implemented; or `pooling` is missing, or given
            although there is a `modules.json`.
    """

    def __init__(
        self,
        folder: str | Path,
        pooling: str | Sequence[str] | None = None,
        normalize: bool = False,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        layout = _layout(Path(folder), pooling, normalize)
        self.tokenizer = load_tokenizer(layout.transformer)
        self.transformer = build_transformer(layout.transformer, self.tokenizer, kwargs)
        self.max_length = maximum_length(
            max_length or layout.max_length, self.tokenizer, self.transformer
        )
        self.prompts = dict(layout.prompts)
        self.default_prompt = layout.default_prompt
        self.similarity_name = layout.similarity
        self._layout = layout
        self._projections: list[keras.Layer | None] = []
        hidden = self.transformer.model
        self.model = Model(hidden.input, self._pool(hidden.output))
        self._inputs = Inputs(self.tokenizer, self.transformer, self.max_length, layout.lower_case)
        self._run = Runner(self._inputs, self.model)

    # --- Building

    def _pool(self, x: Tensor) -> Tensor:
        """Pool hidden states (batch, length, hidden_size), and apply the following steps."""
        pooled = [_POOLINGS[mode](name=f"Pooling-{mode}")(x) for mode in self._layout.pooling]
        x = pooled[0] if len(pooled) == 1 else Concatenate(name="Pooling")(pooled)
        return reduce(self._apply_step, enumerate(self._layout.steps), x)

    def _apply_step(self, x: Tensor, step: tuple[int, Projection | None]) -> Tensor:
        index, projection = step
        if projection is None:
            self._projections.append(None)
            return keras.layers.UnitNormalization(name=f"Normalize-{index}", dtype="float32")(x)
        bias = projection.bias
        layer = keras.layers.Dense(
            projection.kernel.shape[1],
            activation=projection.activation,
            use_bias=bias is not None,
            name=f"Projection-{index}",
        )
        x = layer(x)
        layer.set_weights([projection.kernel] if bias is None else [projection.kernel, bias])
        self._projections.append(layer)
        return x

    # --- Encoding

    def encode(
        self,
        texts: str | Iterable[str],
        batch_size: int = 32,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool = False,
        size: int | None = None,
        precision: str = "float32",
        verbose: int = 0,
    ) -> np.ndarray:
        """Compute the embeddings of texts.

        Args:
            texts: one or several texts. They are sorted by length, so that there is little padding;
                embeddings are in the given order.
            batch_size: texts in a batch.
            prompt_name: the name of a prompt in `prompts`; by default that in `default_prompt`.
            prompt: a prefix of each text; takes precedence over `prompt_name`.
            normalize: normalize vectors to length 1, which the model may do anyway.
            size: truncate vectors to this size; for models trained for it, see `Matryoshka`.
            precision: see `quantize_embeddings`.
            verbose: 1 shows a progress bar.

        Returns:
            (texts, size), or (size,) for a single text.

        Raises:
            TypeError: a value is not a text.
            ValueError: the prompt or precision is unknown, or the size is invalid.
        """
        check_precision(precision)
        size = size or self._layout.size or self.size
        if not 0 < size <= self.size:
            raise ValueError(f"size is {size}: give 1 to {self.size}, the size of the vectors")
        found, single = as_list(texts, is_string, "a text (str)")
        prefix = self._prompt(prompt_name, prompt)
        rows = [self._inputs.encode(prefix + text) for text in found]
        vectors = self._run(rows, batch_size, verbose)[:, :size]
        vectors = unit_vectors(vectors) if normalize else vectors
        vectors = quantize_embeddings(vectors, precision) if len(vectors) else vectors
        return vectors[0] if single else vectors

    @property
    def size(self) -> int:
        """The size of the vectors of the model."""
        return self._run.size

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        name = self.default_prompt if name is None else name
        if prompt is None and name is not None and name not in self.prompts:
            raise ValueError(f"there is no prompt {name!r}: give one of {sorted(self.prompts)}")
        text = self.prompts[name] if prompt is None and name is not None else prompt or ""
        if text and not self._layout.include_prompt:
            raise ValueError(
                "the folder has include_prompt=false, pooling without the tokens of the prompt, "
                "which is not implemented: encode without a prompt"
            )
        return text

    def similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Compute the similarities of vectors by the function in `similarity_name`.

        Args:
            first: (n, size) or (size,).
            second: (m, size) or (size,).

        Returns:
            (n, m), cosines or dot products, or negative distances.
        """
        first, second = (np.atleast_2d(np.asarray(x, "float32")) for x in (first, second))
        return SIMILARITIES[self.similarity_name](first, second)

    # --- Training

    def batches(
        self,
        groups: Sequence[str | Sequence[str]],
        labels: Sequence[float] | None = None,
        batch_size: int = 32,
        prompts: Sequence[str] | None = None,
    ) -> TrainingBatches:
        """Return batches for `model.fit`, shuffled by group, with consecutive rows of a group.

        Args:
            groups: the texts that the losses of `bert4keras.training` compare: pairs for `CoSENT`;
                query, positive and hard negatives for `InfoNCE`; for `SimCSE` single texts, which
                are repeated, or groups of two or three.
            labels: the similarity of each pair, for `CoSENT`.
            batch_size: groups in a batch.
            prompts: prefixes of the first, second, … text of each group, such as
                `("query: ", "passage: ")`.

        Raises:
            ValueError: the groups have different sizes, or the number of labels or prompts differs.
        """
        rows = [(x, x) if isinstance(x, str) else tuple(x) for x in groups]
        sizes = {len(row) for row in rows}
        if len(sizes) > 1 or (prompts is not None and sizes != {len(prompts)}):
            raise ValueError(
                f"the groups have {sorted(sizes)} texts, and there are "
                f"{'no' if prompts is None else len(prompts)} prompts: give groups of one size, "
                "and a prompt for each text or none"
            )
        if prompts is not None:
            rows = [tuple(map("".join, zip(prompts, row, strict=True))) for row in rows]
        return TrainingBatches(self._inputs, rows, labels, batch_size)

    # --- Saving

    def save(self, folder: str | Path, card: Mapping[str, Any] | None = None) -> None:
        """Write a folder from which this class and sentence-transformers compute the same vectors.

        The files of the transformer are replaced in one step, those of pooling and projections in
        others, and `modules.json` last.

        Args:
            folder: the folder, created if it does not exist.
            card: what the model card says, see `Transformer.save_pretrained`.

        Raises:
            CheckpointError: the folder cannot be written.
            ValueError: a config of Hugging Face cannot describe the model, or the card has another
                key.
        """
        save_pretrained(self.transformer, folder, self.tokenizer, card=card, loading=LOADING)
        layout = replace(
            self._layout,
            steps=tuple(map(_projection, self._projections)),
            max_length=self.max_length,
            prompts=self.prompts,
            default_prompt=self.default_prompt,
            similarity=self.similarity_name,
        )
        write_layout(Path(folder), layout, self.transformer.hidden_size)


def _layout(folder: Path, pooling: str | Sequence[str] | None, normalize: bool) -> Layout:
    """Read the layout of a folder, or make one from the arguments."""
    check_folder(folder)
    given = pooling is not None or normalize
    if (folder / MODULES_FILE).is_file():
        if given:
            raise ValueError(
                f"{folder} has a {MODULES_FILE}, which specifies pooling and normalization: "
                "leave out pooling= and normalize="
            )
        return read_layout(folder)
    if pooling is None:
        raise ValueError(
            f"{folder} has no {MODULES_FILE}, which would specify pooling: give pooling='cls' or "
            "'mean', as the model was trained"
        )
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    check_pooling(modes, "pooling=")
    return Layout(folder, modes, steps=(None,) if normalize else ())


def _projection(layer: Any) -> Projection | None:
    """Return the projection of a layer after pooling, as it is saved; None for normalization."""
    if layer is None:
        return None
    kernel, *bias = layer.get_weights()
    activation = str(keras.activations.serialize(layer.activation))
    return Projection(kernel, bias[0] if bias else None, activation)
