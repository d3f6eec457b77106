"""From the folder of a language model to an answer: chats, settings, files, vectors."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tokenizer_folders

from bert4keras.checkpoints import CheckpointError
from bert4keras.generation import Generator
from bert4keras.generation.defaults import Defaults, options_from_config
from bert4keras.generation.options import Options
from bert4keras.models import build_transformer_model
from bert4keras.text.saving import files_of
from bert4keras.tokenizers import (
    JsonTokenizer,
    SpTokenizer,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    save_vocab,
)

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")
pytest.importorskip("jinja2")

SIZES = {
    "vocab_size": 600,  # as many as the tokenizer has
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
BERT_SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "max_position": 64,
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
    chat, text = (writer.prompts.make_prompt(given, "it") for given in (CHAT, "the model"))
    assert chat.token_ids == encode(CHAT, add_generation_prompt=True)
    assert text.token_ids == writer.tokenizer.encode("the model")[0]
    # An answer that is begun goes on.
    begun = [*CHAT, {"role": "assistant", "content": "the "}]
    assert writer.prompts.make_prompt(begun, "it").token_ids == encode(
        begun, continue_final_message=True
    )
    given = {"chat_template": "{{ words }}{{ messages[0].content }}", "words": "import "}
    expected = writer.tokenizer.encode("import 你好, model")[0]
    assert writer.prompts.make_prompt(CHAT, "it", given).token_ids == expected


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
    before, behind = tokenizer._prefix_and_suffix()
    # What stands behind a text is left off, but not what the text itself ends with.
    text = f"the model{tokenizer._token_end}"
    ids = prompts.make_prompt(text, "it").token_ids
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

    def completed(defaults, **given):
        return {name: getattr(defaults.fill_in(Options(**given)), name) for name in plain}

    assert completed(Defaults((), 0, 64, 1, {})) == plain
    sampling = options_from_config({**SAMPLING, "min_p": 0.1, "num_beams": 1}, 10)
    assert sampling == {"sample": True, "topk": 10, "topp": 0.8, "min_p": 0.1, "temperature": 0.7}
    defaults = Defaults((), 0, 64, 1, sampling)
    assert completed(defaults) == plain | sampling
    hotter = completed(defaults, temperature=2.0)
    assert hotter == plain | sampling | {"temperature": 2.0}
    for name, value in (("sample", False), ("topk", 4), ("groups", 1), ("length_penalty", 1.0)):
        assert completed(defaults, **{name: value}) == plain | {name: value}
    assert options_from_config({"top_k": 50, "temperature": 0.5, "num_beams": 1}, 10) == {}
    assert options_from_config({"do_sample": True, "top_k": 0, "top_p": 1.0}, 10) == {
        "sample": True
    }
    assert options_from_config({"num_beams": 4}, 10) == {"topk": 4, "length_penalty": 1.0}


def test_settings_of_the_wrong_kind(folder):
    with pytest.raises(TokenizerError, match="says temperature='hot': expected a real"):
        built(folder({"temperature": "hot"}))
    with pytest.raises(TokenizerError, match=r"says eos_token_id=\[-5\]: expected ids"):
        built(folder({"eos_token_id": [-5]}))
    (path := folder()).joinpath("generation_config.json").write_text("[1]")
    with pytest.raises(TokenizerError, match="contains a list, not a JSON object"):
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
    with pytest.warns(
        UserWarning, match=r"tokenizer\.json does not name compound_tokens; give the"
    ):
        built(path, compound_tokens=[[3, 4]]).save_pretrained(tmp_path / "compound")
    files = {file.name for file in (tmp_path / "compound").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "generation_config.json"}


def names(path):
    return {file.name for file in path.iterdir()}


def theirs_of(path):
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(path)


def test_end_tokens_of_a_config_are_renumbered_once(folder, tmp_path):
    path, kept = folder(eos_token_id=[2, 300, 9], bos_token_id=300), [0, 1, 2, 9, 400]
    transformer = built(path, keep_tokens=kept)
    for name in ("a", "b"):
        transformer.save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["eos_token_id"], config["bos_token_id"]) == ([2, 3], None)
        transformer = built(tmp_path / name)
        assert transformer.generation_config == {"eos_token_id": [2, 3]}


def test_settings_of_generation_come_from_the_model_or_else_the_tokenizer(folder, tmp_path):
    tokenizer = load_tokenizer(folder(SAMPLING | {"eos_token_id": [7]}))
    saved = {}
    for name, path in (("other", folder({"max_new_tokens": 9})), ("none", folder())):
        built(path).save_pretrained(tmp_path / name, tokenizer)
        saved[name] = json.loads((tmp_path / name / "generation_config.json").read_text())
    assert saved == {"other": {"max_new_tokens": 9}, "none": SAMPLING | {"eos_token_id": [7]}}
    # That of a former model is no other's.
    built(folder()).save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none" / "generation_config.json").exists()


def test_files_of_a_former_tokenizer_disappear(folder, whole, tmp_path):
    path = folder({"max_new_tokens": 9})
    kept = {"config.json", "model.safetensors", "README.md", "word2vec.model"}
    for name in ("README.md", "word2vec.model", "merges.txt", "vocab.json", "spiece.model"):
        (path / name).write_text("of another")
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    bert = build_transformer_model(**BERT_SIZES, vocab_size=4, model="bert")
    bert.save_pretrained(path)  # a model that knows nothing of a vocabulary leaves it alone
    assert {"tokenizer.json", "generation_config.json", "merges.txt"} <= names(path)
    bert.save_pretrained(path, Tokenizer(words))
    assert names(path) == kept | {"vocab.txt", "tokenizer_config.json"}
    built(whole).save_pretrained(path)
    jsons = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert names(path) == kept | jsons
    same_tokenizer(load_tokenizer(path), load_tokenizer(whole))


def test_a_tokenizer_that_cannot_be_written_changes_nothing(folder, whole, monkeypatch):
    path = folder({"max_new_tokens": 9})
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    write = Path.write_bytes

    def failing(self, content):
        if self.name == "tokenizer_config.json":
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(CheckpointError, match="No space left"):
        built(whole).save_pretrained(path, load_tokenizer(whole))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_words_and_tokenizer_json_are_cut_down_alike(tmp_path):
    theirs = tokenizer_folders.make("bert", tmp_path)
    words = load_tokenizer(tmp_path)
    save_vocab(tmp_path / "vocab.txt", words.token_dict)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["code.py", None]}, "name_or_path": "somewhere/else"}
    config |= {"additional_special_tokens": ["[MASK]", "[SEP]"], "do_lower_case": True}
    config |= {"tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": "[MASK]"}))
    model = build_transformer_model(**BERT_SIZES, vocab_size=len(theirs), model="bert")
    model.save_pretrained(tmp_path / "bert", load_tokenizer(tmp_path))
    for file in tmp_path.glob("*.[jt][sx]*"):
        (tmp_path / "bert" / file.name).write_bytes(file.read_bytes())
    text = "the model, the tokenizer 语言模型"
    kept = sorted({0, 1, *words.encode(text)[0]})  # [PAD], [UNK] and the rest, without [MASK]
    build_transformer_model(tmp_path / "bert", keep_tokens=kept).save_pretrained(tmp_path / "cut")
    cut = tmp_path / "cut"
    a, b, theirs = load_tokenizer(cut), load_tokenizer(cut / "tokenizer.json"), theirs_of(cut)
    assert type(a) is Tokenizer and type(b) is JsonTokenizer
    expected = [kept.index(i) for i in words.encode(text)[0]]
    assert a.encode(text)[0] == b.encode(text)[0] == theirs(text)["input_ids"] == expected
    assert a._vocab_size == b._vocab_size == len(theirs) == len(kept)
    config = json.loads((cut / "tokenizer_config.json").read_text())
    assert config["mask_token"] is None and config["additional_special_tokens"] == ["[SEP]"]
    assert not {"auto_map", "name_or_path"} & config.keys()
    assert json.loads((cut / "special_tokens_map.json").read_text()) == {"mask_token": None}


def test_templates_in_a_folder_of_their_own(folder, tmp_path):
    path = folder()
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "rag.jinja").write_text("R")
    tokenizer = load_tokenizer(path)
    assert tokenizer.chat_template.keys() == {"default", "rag"}
    built(path).save_pretrained(tmp_path / "a")
    built(path).save_pretrained(tmp_path / "b", tokenizer)
    built(path).save_pretrained(path)
    for saved in (tmp_path / "a", tmp_path / "b", path):
        assert load_tokenizer(saved).chat_template == tokenizer.chat_template
        assert theirs_of(saved).chat_template["rag"] == "R"


def test_a_damaged_tokenizer_is_left_out(folder, tmp_path):
    path = folder()
    (path / "tokenizer_config.json").write_text("{")
    with pytest.warns(UserWarning, match=r"not saved with the model: .*config.json cannot be used"):
        built(path).save_pretrained(tmp_path / "saved")
    assert "tokenizer_config.json" not in names(tmp_path / "saved")


def written(files, path):
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["t5", "modernbert", "bert"])
def test_files_of_tokenizers(kind, tmp_path):
    tokenizer_folders.make(kind, tmp_path / "a")
    tokenizer = load_tokenizer(tmp_path / "a" / "tokenizer.json")
    same_tokenizer(load_tokenizer(written(files_of(tokenizer), tmp_path / "b")), tokenizer)
    # What the caller wants around texts is in the file, too.
    tokenizer = JsonTokenizer(tmp_path / "a", token_start=tokenizer._token_unk, token_end=None)
    saved = JsonTokenizer(written(files_of(tokenizer), tmp_path / "c"))
    for text in tokenizer_folders.texts(20, 6):
        assert saved.encode(text, text) == tokenizer.encode(text, text)
        assert saved.offsets(text) == tokenizer.offsets(text)


def test_files_of_sentencepiece(tmp_path):
    tokenizer_folders.sentencepiece(tmp_path / "m.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = SpTokenizer(tmp_path / "m.model", token_start=None, token_end="</s>")
    tokenizer.chat_template = {"default": "D", "rag": "R"}
    tokenizer.padding_side = "left"
    saved = load_tokenizer(written(files_of(tokenizer), tmp_path / "saved"))
    assert names(tmp_path / "saved") == {"spiece.model", "tokenizer_config.json"}
    assert type(saved) is SpTokenizer and saved.encode("the model") == tokenizer.encode("the model")
    assert saved.chat_template == tokenizer.chat_template and saved.padding_side == "left"
    assert json.loads(files_of(tokenizer)["tokenizer_config.json"])["mask_token"] is None


def test_files_of_words(tmp_path):
    words = Tokenizer({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}, do_lower_case=True)
    config = json.loads(files_of(words, 99)["tokenizer_config.json"])
    assert config == {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 99,
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": None,  # which transformers would add
        "mask_token": None,
    }
    path = written(files_of(words), tmp_path / "a")
    # What the caller changes is what is written.
    cased = load_tokenizer(path, do_lower_case=False)
    assert not load_tokenizer(written(files_of(cased), tmp_path / "b"))._do_lower_case
    # A function is nothing that a file can say.
    assert files_of(load_tokenizer(path, pre_tokenize=list)).keys() == {"vocab.txt"}


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
    # Equal weights in another layout in memory, which rounds otherwise.
    np.testing.assert_allclose(again.predict_on_batch(ids), vectors, rtol=1e-5, atol=1e-6)
    if name == "qwen3":  # the vector of the last token, with padding on the left
        padded = build_transformer_model(tmp_path, with_lm=False, pad_token_id=0)
        found = padded.predict_on_batch(np.pad(ids, ((0, 0), (3, 0))))[:, -1]
        np.testing.assert_allclose(found, vectors[:, -1], atol=1e-5)
    # With a head, the scores come from these vectors.
    scored = built(tmp_path, final_activation="linear")
    table = scored.layers["Embedding-Token"].get_weights()[0]
    scores = scored.model.predict_on_batch(ids)
    np.testing.assert_allclose(scores, vectors @ table.T, atol=1e-4)
    with pytest.raises(TypeError, match="Generator got a model with with_lm=False: build it with"):
        Generator(transformer, end_id=2)
