"""What counts as padding: around a text where decoders read it, compared with `transformers`."""

import warnings

import keras
import numpy as np
import pytest

from bert4keras import layers
from bert4keras.generation import Generator
from bert4keras.models import build_transformer_model

pytestmark = pytest.mark.backend

PAD = 2
SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
    "pad_token_id": PAD,
}
GPT2 = {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
KINDS = {
    "Llama": SIZES,
    "Qwen3": SIZES | {"head_dim": 8},
    "GPT2": GPT2 | {"initializer_range": 0.5, "pad_token_id": PAD},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Builds a random model of `transformers` and ours of its files."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    built = {}

    def pair(kind, eos):
        if (kind, str(eos)) in built:
            return built[kind, str(eos)]
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**KINDS[kind], eos_token_id=eos)
        end = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
        theirs = getattr(transformers, kind + end)(config).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.save_pretrained(folder)
        ours = build_transformer_model(folder, final_activation="linear", return_keras_model=False)

        def expected(ids, visible):
            with torch.no_grad():
                mask = torch.tensor(np.asarray(visible, "int64"))
                return theirs(torch.tensor(ids), attention_mask=mask).logits.numpy()

        built[kind, str(eos)] = ours, expected
        return built[kind, str(eos)]

    return pair


def compared(ours, expected, ids, visible):
    found = ours.model.predict_on_batch(ids)
    visible = np.asarray(visible, bool)
    difference = np.abs(found - expected(ids, visible))[visible]
    assert difference.max() < 1e-4 and np.ptp(found) > 1


TURNS = np.array([[5, 7, 2, 9, 4, 2, 6, 2], [3, 2, 2, 8, 1, 5, 2, 4]])


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_of_turn_that_pads_as_well_is_seen(kind, models):
    ours, expected = models(kind, PAD)
    compared(ours, expected, TURNS, np.ones_like(TURNS))


@pytest.mark.parametrize("eos", [PAD, [1, PAD], 1])
def test_padding_on_either_side_is_hidden(eos, models):
    ours, expected = models("Llama" if eos != PAD else "Qwen3", eos)
    text, end = [5, 2, 7, 9, 4], [] if eos == 1 else [2]
    rows = [[*text[:n], *end] for n in (5, 4, 3, 1)]
    for left in (True, False):
        missing = [7 - len(row) for row in rows]
        pads = [[PAD] * n for n in missing]
        ids = np.array([p + r if left else r + p for r, p in zip(rows, pads, strict=True)])
        hidden = np.array([[0] * n + [1] * (7 - n) for n in missing])
        visible = hidden if left else hidden[:, ::-1]
        compared(ours, expected, ids, visible)


def test_the_vector_of_the_last_token_under_left_padding(models):
    """As Qwen3-Embedding takes it: texts end in the padding token, and are padded on the left."""
    ours, _ = models("Qwen3", PAD)
    layer = ours.model.get_layer("Output-Norm")
    encoder = keras.Model(ours.model.input, layer.output)
    alone = encoder.predict_on_batch(np.array([[7, 5, 2]]))[:, -1]
    padded = encoder.predict_on_batch(np.array([[2, 7, 5, 2], [4, 7, 5, 2]]))[:1, -1]
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    padded = encoder.predict_on_batch(np.array([[2, 2, 2, 2, 7, 5, 2]]))[:, -1]
    np.testing.assert_allclose(padded, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_generation_sees_the_ends_of_turns(kind, models, uncompiled):
    ours, expected = models(kind, PAD)
    prompts = [[5, 7, 2, 9, 2], [2, 8]]
    generator = Generator(ours, end_id=0, maxlen=4)
    for prompt, output in zip(prompts, generator.generate(prompts), strict=True):
        ids = np.array([prompt])
        for _ in range(len(output)):
            best = expected(ids, np.ones_like(ids))[:, -1].argmax(-1)
            ids = np.concatenate([ids, best[None]], axis=1)
        assert ids[0, len(prompt) :].tolist() == output


@pytest.mark.parametrize(
    ("ids", "anywhere", "everywhere", "around", "with_end"),
    [
        ([5, 2, 6], "101", "101", "111", "111"),
        ([2, 5, 6], "111", "011", "011", "011"),
        ([2, 2, 6], "101", "001", "001", "001"),
        ([5, 2, 2], "100", "100", "100", "110"),
        ([2, 5, 2], "110", "010", "010", "011"),
        ([2, 2, 2], "100", "000", "100", "100"),
        ([2], "1", "0", "1", "1"),
        ([5], "1", "1", "1", "1"),
    ],
)
def test_rules(ids, anywhere, everywhere, around, with_end):
    rules = [{}, {"padding": "everywhere"}, {"padding": "around"}]
    rules.append({"padding": "around", "ends_text": True})
    for rule, expected in zip(rules, (anywhere, everywhere, around, with_end), strict=True):
        layer = layers.Embedding(9, 2, mask_zero=True, mask_id=2, **rule)
        copy = layers.Embedding.from_config(layer.get_config())
        mask = keras.ops.convert_to_numpy(copy.compute_mask(np.array([ids])))
        assert "".join(str(int(x)) for x in mask[0]) == expected, rule


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'anywhere', 'everywhere' or 'around'"):
        layers.Embedding(9, 2, padding="left")
