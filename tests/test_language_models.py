"""From the folder of a language model to an answer: chats, settings, files, vectors."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tokenizer_folders

from bert4keras.generation import Generator
from bert4keras.generation.defaults import Defaults, options_of
from bert4keras.models import build_transformer_model
from bert4keras.text.saving import files_of
from bert4keras.tokenizers import SpTokenizer, Tokenizer, TokenizerError, load_tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")
pytest.importorskip("jinja2")

SIZES = {
    "vocab_size": 640,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "attention_head_size": 4,
    "intermediate_size": 8,
    "hidden_act": "silu",
    "max_position": 128,
    "initializer_range": 0.5,
    "tie_word_embeddings": True,
    "final_activation": "linear",
}
CHAT = [{"role": "user", "content": "你好, model"}]
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The folder of a Qwen 3 of random weights, with its tokenizer."""
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer_folders.make("qwen", folder / "tokenizer")
    transformer = build_transformer_model(
        **SIZES, model="qwen3", application="lm", return_keras_model=False
    )
    transformer.save_pretrained(folder, load_tokenizer(folder / "tokenizer"))
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A function that copies the folder, with settings of generation and of the config."""

    def copied(generation=None, **changes):
        target = tmp_path / f"copy_{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        for file in whole.iterdir():
            if file.is_file():
                (target / file.name).write_bytes(file.read_bytes())
        if generation is not None:
            (target / "generation_config.json").write_text(json.dumps(generation))
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | changes))
        return target

    return copied


def built(path, **kwargs):
    given = {"application": "lm", "return_keras_model": False, **kwargs}
    return build_transformer_model(path, **given)


def generator(path, **kwargs):
    return Generator(built(path), load_tokenizer(path), **kwargs)


# === Chats ===


@pytest.mark.backend
def test_an_answer_in_a_chat(folder, uncompiled):
    writer = generator(folder({"max_new_tokens": 3}))
    ids = writer.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)
    answer = writer.generate(CHAT)
    assert isinstance(answer, str) and answer == writer.generate([ids])[0]
    assert "".join(writer.generate(CHAT, stream=True)) == answer


def test_prompts_of_chats(folder):
    writer = generator(folder())
    encode = writer.tokenizer.apply_chat_template
    chat, text = (writer.prompts.prompt(given, "it") for given in (CHAT, "the model"))
    assert chat.token_ids == encode(CHAT, add_generation_prompt=True)
    assert text.token_ids == writer.tokenizer.encode("the model")[0]
    # An answer that is begun goes on.
    begun = [*CHAT, {"role": "assistant", "content": "the "}]
    assert writer.prompts.prompt(begun, "it").token_ids == encode(
        begun, continue_final_message=True
    )
    given = {"chat_template": "{{ words }}{{ messages[0].content }}", "words": "import "}
    expected = writer.tokenizer.encode("import 你好, model")[0]
    assert writer.prompts.prompt(CHAT, "it", given).token_ids == expected


def test_an_answer_equals_that_of_transformers(folder, uncompiled):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = folder({"eos_token_id": [2, 0], "max_new_tokens": 6})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, theirs = (x.from_pretrained(path) for x in (AutoModelForCausalLM, AutoTokenizer))
        prompt = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            ids = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
    expected = theirs.decode(ids[0, len(prompt) :], skip_special_tokens=True)
    assert generator(path).generate(CHAT) == expected


def test_chats_that_cannot_be_encoded(folder):
    path = folder()
    for tokenizer in (None, object()):
        with pytest.raises(
            ValueError, match="prompt 0 is a chat: pass a tokenizer of load_tokeniz"
        ):
            Generator(built(path), tokenizer, end_id=2).generate(CHAT)
    with pytest.raises(
        ValueError, match=r"prompt 0 is {'role'.*: give a text, a pair of texts, the"
    ):
        generator(path).generate([{"role": "user", "content": "a"}, "b"])
    with pytest.raises(TokenizerError, match="the chat template fails: no"):
        arguments = {"chat_template": "{{ raise_exception('no') }}"}
        generator(path).generate(CHAT, chat_arguments=arguments)


@pytest.mark.parametrize("kind", ["gpt2", "modernbert", "llama3"])
def test_a_text_that_goes_on_is_left_open(kind, tmp_path, whole):
    tokenizer_folders.make(kind, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    prompts = Generator(built(whole), tokenizer, end_id=2).prompts
    before, behind = tokenizer._around()
    # What stands behind a text is left off, but not what the text itself ends with.
    text = f"the model{tokenizer._token_end}"
    ids = prompts.prompt(text, "it").token_ids
    assert tokenizer.ids_to_tokens(ids) == [*before, *tokenizer._tokenize(text)]
    assert len(tokenizer.encode(text)[0]) == len(ids) + len(behind)


# === Settings ===


def test_tokens_that_end_a_text(folder):
    assert generator(folder()).end_ids == (2,)  # of the tokenizer
    assert generator(folder(eos_token_id=5)).end_ids == (5, 2)
    path = folder({"eos_token_id": [7, 9]}, eos_token_id=5)
    assert generator(path).end_ids == (7, 9, 2)
    assert generator(path, end_id="<|endoftext|>").end_ids == (0,)
    assert generator(path, end_id=[3, 4]).end_ids == (3, 4)
    with pytest.raises(ValueError, match="the end token '天天' is unknown"):
        generator(path, end_id="天天")
    # Configs name tokens that are not in the vocabulary; a model by itself has none.
    assert generator(folder(eos_token_id=50256)).end_ids == (2,)
    with pytest.raises(ValueError, match="the end token None is unknown"):
        Generator(built(folder()))
    kept = [0, 1, 2, 9, *range(300, 400)]
    transformer = built(path, keep_tokens=kept)
    assert Generator(transformer, load_tokenizer(path).with_tokens(kept)).end_ids == (3, 2)


def test_settings_of_a_tokenizer_for_a_model_without_a_folder(folder, whole):
    path = folder({"eos_token_id": [7], "max_new_tokens": 9, "min_new_tokens": 2})
    transformer = build_transformer_model(
        **SIZES, model="qwen3", application="lm", return_keras_model=False
    )
    writer = Generator(transformer, load_tokenizer(path))
    assert (writer.end_ids, writer.maxlen, writer.minlen) == ((7, 2), 9, 2)
    assert Generator(transformer, load_tokenizer(whole)).maxlen == 64
    assert Generator(transformer, load_tokenizer(path), maxlen=3, minlen=1).maxlen == 3


def test_a_folder_says_how_tokens_are_chosen(folder, uncompiled):
    sampled = generator(folder(SAMPLING), maxlen=3)
    given = {"sample": True, "topk": 20, "topp": 0.8, "temperature": 0.7}
    drawn = sampled.generate("the", seed=3)
    plain = generator(folder(), maxlen=3)
    assert drawn == plain.generate("the", seed=3, **given)
    assert len(sampled.generate("the", n=2, seed=3)) == 2
    greedy = plain.generate("the")
    assert sampled.generate("the", sample=False) == greedy != drawn
    # Options of beam search say that nothing is drawn.
    assert sampled.generate("the", topk=3) == plain.generate("the", topk=3)
    beams = generator(folder({"num_beams": 3, "length_penalty": 0.5}), maxlen=3)
    assert beams.generate("the") == plain.generate("the", topk=3, length_penalty=0.5)
    assert beams.generate("the", topk=1) == "".join(beams.generate("the", stream=True)) == greedy
    drawn = beams.generate("the", sample=True, seed=3)
    assert drawn == plain.generate("the", sample=True, seed=3)


def test_options_are_completed():
    plain = {"topk": None, "sample": False, "topp": None, "min_p": None, "temperature": 1.0}
    plain |= {"groups": 1, "diversity": 0.0, "length_penalty": 0.0}
    none = dict.fromkeys(plain)
    assert Defaults((), 0, 64, 1, {}).completed(none) == plain
    sampling = options_of({**SAMPLING, "min_p": 0.1, "num_beams": 1}, 10)
    assert sampling == {"sample": True, "topk": 10, "topp": 0.8, "min_p": 0.1, "temperature": 0.7}
    defaults = Defaults((), 0, 64, 1, sampling)
    assert defaults.completed(none) == plain | sampling
    assert defaults.completed(none | {"temperature": 2.0}) == plain | sampling | {
        "temperature": 2.0
    }
    for name, value in (("sample", False), ("topk", 4), ("groups", 1), ("length_penalty", 1.0)):
        assert defaults.completed(none | {name: value}) == plain | {name: value}
    assert options_of({"top_k": 50, "temperature": 0.5, "num_beams": 1}, 10) == {}
    assert options_of({"do_sample": True, "top_k": 0, "top_p": 1.0}, 10) == {"sample": True}
    assert options_of({"num_beams": 4}, 10) == {"topk": 4, "length_penalty": 1.0}


def test_settings_of_the_wrong_kind(folder):
    with pytest.raises(TokenizerError, match="says temperature='hot': expected a real"):
        built(folder({"temperature": "hot"}))
    with pytest.raises(TokenizerError, match=r"says eos_token_id=\[-5\]: expected ids"):
        built(folder({"eos_token_id": [-5]}))
    (path := folder()).joinpath("generation_config.json").write_text("[1]")
    with pytest.raises(TokenizerError, match="holds a list, not a JSON object"):
        built(path)
    assert built(folder(top_k=50, num_beams=None)).generation_config == {"top_k": 50}


# === Files ===


def same_tokenizer(a, b):
    texts = list(tokenizer_folders.texts(20, 5))
    assert [a.encode(text) for text in texts] == [b.encode(text) for text in texts]
    assert a.special_tokens == b.special_tokens and a.chat_template == b.chat_template
    assert (a._token_end, a._token_pad) == (b._token_end, b._token_pad)


def test_tokenizer_and_settings_are_saved_with_the_model(folder, tmp_path):
    path = folder(SAMPLING | {"eos_token_id": [2, 0]})
    transformer, tokenizer = built(path), load_tokenizer(path)
    transformer.save_pretrained(tmp_path / "by itself")
    transformer.save_pretrained(tmp_path / "with tokenizer", tokenizer)
    for name in ("by itself", "with tokenizer"):
        saved = load_tokenizer(tmp_path / name)
        same_tokenizer(saved, tokenizer)
        assert saved.generation_config == tokenizer.generation_config
        assert generator(tmp_path / name).defaults == generator(path).defaults
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers import AutoTokenizer

            theirs = AutoTokenizer.from_pretrained(tmp_path / name)
        ids = theirs.apply_chat_template(CHAT, return_dict=False)
        assert ids == saved.apply_chat_template(CHAT)


def test_a_vocabulary_that_was_cut_down_is_saved_so(folder, tmp_path):
    path = folder({"eos_token_id": [2, 300]})
    tokenizer = load_tokenizer(path)
    small, keep_tokens = tokenizer.cut_down(tokenizer.encode("the model 你好")[0])
    transformer = built(path, keep_tokens=keep_tokens)
    assert transformer.generation_config["eos_token_id"] == [keep_tokens.index(2)]
    transformer.save_pretrained(tmp_path / "a")
    transformer.save_pretrained(tmp_path / "b", small)
    for name in "ab":
        saved = load_tokenizer(tmp_path / name)
        assert saved.token_dict == small.token_dict
        same_tokenizer(saved, small)
        again = built(tmp_path / name)
        assert again.vocab_size == len(keep_tokens)
        assert Generator(again, saved).end_ids == Generator(transformer, small).end_ids
    again.save_pretrained(tmp_path / "c")  # it is not cut down a second time
    assert load_tokenizer(tmp_path / "c").token_dict == small.token_dict
    with pytest.raises(ValueError, match="the vocabulary has 600 tokens and the model"):
        transformer.save_pretrained(tmp_path / "d", tokenizer)


def test_what_cannot_be_cut_down_is_left_out(folder, tmp_path):
    path = folder({"eos_token_id": 2})
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "!", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": x, "type_id": 0}} for x in "AB"],
        "special_tokens": {"!": {"id": "!", "ids": [3], "tokens": ["!"]}},
    }
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    transformer = built(path, keep_tokens=[0, 1, 2, 9])
    with pytest.warns(
        UserWarning, match="the tokenizer is not saved with the model: the tokens to"
    ):
        transformer.save_pretrained(tmp_path / "cut")
    assert not (tmp_path / "cut" / "tokenizer.json").exists()
    built(path, compound_tokens=[[3, 4]]).save_pretrained(tmp_path / "compound")
    files = {file.name for file in (tmp_path / "compound").iterdir()}
    assert files == {"config.json", "model.safetensors", "generation_config.json"}


def test_files_of_tokenizers(tmp_path):
    for kind in ("t5", "modernbert", "bert"):
        tokenizer_folders.make(kind, tmp_path / kind)
        tokenizer = load_tokenizer(tmp_path / kind / "tokenizer.json")
        (tmp_path / f"{kind}_2").mkdir()
        for name, content in files_of(tokenizer).items():
            (tmp_path / f"{kind}_2" / name).write_bytes(content)
        same_tokenizer(load_tokenizer(tmp_path / f"{kind}_2"), tokenizer)
    pieces = load_tokenizer(tmp_path / "t5" / "spiece.model")
    pieces.chat_template = {"default": "D", "rag": "R"}
    pieces.padding_side = "left"
    (tmp_path / "pieces").mkdir()
    for name, content in files_of(pieces).items():
        (tmp_path / "pieces" / name).write_bytes(content)
    saved = load_tokenizer(tmp_path / "pieces")
    assert type(saved) is SpTokenizer and saved.encode("the model") == pieces.encode("the model")
    assert saved.chat_template == pieces.chat_template and saved.padding_side == "left"
    words = Tokenizer({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, do_lower_case=True)
    config = json.loads(files_of(words)["tokenizer_config.json"])
    assert config == {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": None,  # which transformers would add
        "mask_token": None,
    }


# === Vectors in place of scores ===


@pytest.mark.backend
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_decoder_without_its_head(name, tmp_path, whole):
    torch = pytest.importorskip("torch")
    from transformers import AutoModel

    sizes = {k: v for k, v in SIZES.items() if name == "qwen3" or "key" not in k}
    if name == "gpt2":
        sizes |= {"intermediate_size": 32, "hidden_act": "gelu_new"}
        sizes.pop("tie_word_embeddings")
    transformer = build_transformer_model(
        **sizes, model=name, with_lm=False, return_keras_model=False
    )
    ids = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
    vectors = transformer.model.predict_on_batch(ids)
    assert vectors.shape == (2, 4, 8)
    transformer.save_pretrained(tmp_path)
    named = json.loads((tmp_path / "config.json").read_text())["architectures"]
    assert named == [{"gpt2": "GPT2Model", "qwen3": "Qwen3Model"}[name]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            expected = model(torch.tensor(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    again = build_transformer_model(tmp_path, with_lm=False)
    np.testing.assert_array_equal(again.predict_on_batch(ids), vectors)
    # With a head, the scores come from these vectors.
    scored = built(tmp_path, final_activation="linear")
    table = scored.layers["Embedding-Token"].get_weights()[0]
    scores = scored.model.predict_on_batch(ids)
    np.testing.assert_allclose(scores, vectors @ table.T, atol=1e-4)
    with pytest.raises(TypeError, match="Generator got a model with with_lm=False: build it with"):
        Generator(transformer, end_id=2)
