"""Vectors of sentences from a pretrained folder."""

from collections.abc import Iterable, Sequence
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
    listed_texts,
    longest_text,
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


class SentenceEncoder:
    """Makes vectors of texts with a pretrained model (BGE, GTE, M3E, text2vec, E5, ...).

    Args:
        folder: as sentence-transformers writes it, with `modules.json`, which says how token
            vectors become one vector; or of any transformer, then with `pooling`.
        pooling: for a folder without `modules.json`: `cls`, `mean`, `max`, `weightedmean`,
            `lasttoken` or `mean_sqrt_len_tokens`, or several, whose vectors are joined.
        normalize: likewise: whether vectors are divided by their length.
        max_length: tokens of a text, longer ones lose their end; by default what the folder says.
        **kwargs: arguments of `build_transformer_model`, such as `precision` and `dropout_rate`.

    Attributes:
        model: from ids to vectors (batch, size), to be compiled and trained as any other; `encode`
            goes on with its weights.
        transformer: the `Transformer` in it.
        tokenizer: the tokenizer.
        prompts: texts to be put before others, by name; may be changed.
        default_prompt: the name of the one for texts that come without.
        similarity_name: `cosine`, `dot`, `euclidean` or `manhattan`.
        max_length: see above.

    Raises:
        CheckpointError: no such folder, or weights are missing, damaged or of another model.
        ValueError: the folder asks for what is not implemented; `pooling` is missing, or given
            beside `modules.json`.
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
        self.max_length = longest_text(
            max_length or layout.max_length, self.tokenizer, self.transformer
        )
        self.prompts = dict(layout.prompts)
        self.default_prompt = layout.default_prompt
        self.similarity_name = layout.similarity
        self._layout = layout
        self._projections: list[keras.Layer | None] = []
        hidden = self.transformer.model
        self.model = Model(hidden.input, self._vectors(hidden.output))
        self._inputs = Inputs(self.tokenizer, self.transformer, self.max_length, layout.lower_case)
        self._run = Runner(self._inputs, self.model)

    # --- Building

    def _vectors(self, x: Tensor) -> Tensor:
        """Pool hidden states (batch, length, hidden_size), and take the steps that follow."""
        pooled = [_POOLINGS[mode](name=f"Pooling-{mode}")(x) for mode in self._layout.pooling]
        x = pooled[0] if len(pooled) == 1 else Concatenate(name="Pooling")(pooled)
        return reduce(self._after, enumerate(self._layout.steps), x)

    def _after(self, x: Tensor, step: tuple[int, Projection | None]) -> Tensor:
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
        """Return the vectors of texts.

        Args:
            texts: one or several. They are computed in the order of their lengths, so that there is
                little padding, and returned in the order given.
            batch_size: texts that are computed together.
            prompt_name: the name of a prompt in `prompts`; by default that in `default_prompt`.
            prompt: what to put before each text; goes before `prompt_name`.
            normalize: divide vectors by their length, which the model may do anyway.
            size: keep the first numbers only; for models that were trained so, see `Matryoshka`.
            precision: see `quantize_embeddings`.
            verbose: 1 shows a bar.

        Returns:
            (texts, size), or (size,) for a single text.

        Raises:
            TypeError: something is no text.
            ValueError: no such prompt, precision or size.
        """
        check_precision(precision)
        size = size or self._layout.size or self.size
        if not 0 < size <= self.size:
            raise ValueError(f"size is {size}, and the vectors have {self.size} numbers")
        found, single = listed_texts(texts, is_string, "a text (str)")
        before = self._prompt(prompt_name, prompt)
        rows = [self._inputs.row(before + text) for text in found]
        vectors = self._run(rows, batch_size, verbose)[:, :size]
        vectors = unit_vectors(vectors) if normalize else vectors
        vectors = quantize_embeddings(vectors, precision) if len(vectors) else vectors
        return vectors[0] if single else vectors

    @property
    def size(self) -> int:
        """How many numbers the model's vectors have."""
        return self._run.size

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        name = self.default_prompt if name is None else name
        if prompt is None and name is not None and name not in self.prompts:
            raise ValueError(f"there is no prompt {name!r}; there are {sorted(self.prompts)}")
        text = self.prompts[name] if prompt is None and name is not None else prompt or ""
        if text and not self._layout.include_prompt:
            raise ValueError(
                "the folder says include_prompt=false, pooling without the tokens of the prompt, "
                "which is not implemented: encode without a prompt"
            )
        return text

    def similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """How near vectors are by the function of the model, the larger the nearer.

        Args:
            first: (n, size) or (size,).
            second: (m, size) or (size,).

        Returns:
            (n, m), cosines or products; distances with a minus.
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
        """Return batches for `model.fit`, which shuffles groups and keeps the rows of one together.

        Args:
            groups: what the losses of `bert4keras.training` compare: pairs for `CoSENT`; for
                `InfoNCE` query, answer and hard negatives; for `SimCSE` texts alone, which are
                given twice, or two or three of them.
            labels: for `CoSENT`, how near the texts of each pair are.
            batch_size: groups in a batch.
            prompts: what to put before the first, second, … text of each group, such as
                `("query: ", "passage: ")`.

        Raises:
            ValueError: groups of different sizes, or other numbers of labels or prompts.
        """
        rows = [(x, x) if isinstance(x, str) else tuple(x) for x in groups]
        sizes = {len(row) for row in rows}
        if len(sizes) > 1 or (prompts is not None and sizes != {len(prompts)}):
            raise ValueError(
                f"the groups have {sorted(sizes)} texts, and there are "
                f"{'no' if prompts is None else len(prompts)} prompts: let all have the same "
                "number, with a prompt for each or none"
            )
        if prompts is not None:
            rows = [tuple(map("".join, zip(prompts, row, strict=True))) for row in rows]
        return TrainingBatches(self._inputs, rows, labels, batch_size)

    # --- Saving

    def save(self, folder: str | Path) -> None:
        """Write a folder from which this class and sentence-transformers make the same vectors.

        The transformer takes its place in one step, pooling and projections in others, and
        `modules.json` comes last.

        Args:
            folder: is made if it is not there.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: Hugging Face cannot say what the model is.
        """
        self.transformer.save_pretrained(folder, self.tokenizer)
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
    """What a folder says, or what was given in its place."""
    check_folder(folder)
    given = pooling is not None or normalize
    if (folder / MODULES_FILE).is_file():
        if given:
            raise ValueError(
                f"{folder} has a {MODULES_FILE}, which says how to pool and whether to normalize: "
                "leave pooling= and normalize= out"
            )
        return read_layout(folder)
    if pooling is None:
        raise ValueError(
            f"{folder} has no {MODULES_FILE}, which would say how token vectors become one vector: "
            "give pooling='cls' or 'mean', as the model was trained"
        )
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    check_pooling(modes, "pooling=")
    return Layout(folder, modes, steps=(None,) if normalize else ())


def _projection(layer: Any) -> Projection | None:
    """What is saved of a layer behind pooling."""
    if layer is None:
        return None
    kernel, *bias = layer.get_weights()
    activation = str(keras.activations.serialize(layer.activation))
    return Projection(kernel, bias[0] if bias else None, activation)
