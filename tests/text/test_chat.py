"""Chat templates: the texts of `transformers`, and what a template may not do."""

# ruff: noqa: E501 - in templates, the end of a line is a character

import enum
import sys

import pytest
import tokenizer_folders

from bert4keras.text import sandbox
from bert4keras.text.chat import chat_text, is_chat
from bert4keras.tokenizers import Tokenizer, TokenizerError

jinja2 = pytest.importorskip("jinja2")

CHAT = [
    {"role": "system", "content": "  You are helpful.\n"},
    {"role": "user", "content": "你好 <b>&amp;</b> 🙂"},
    {"role": "assistant", "content": "Hi!  ", "reasoning_content": None},
    {"role": "user", "content": "What is 2 + 2?"},
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
CALLS = [*CHAT, {"role": "assistant", "content": None, "tool_calls": [CALL], "thinking": "hm"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}

# What templates of released models do, each a part of it.
TEMPLATES = {
    "plain": tokenizer_folders.CHAT,
    "system in the first message": """{{ bos_token }}{% if messages[0].role == 'system' %}
        {%- set system = messages[0]['content'] | trim + '\\n\\n' %}{% set rest = messages[1:] %}
    {%- else %}{% set system, rest = '', messages %}{% endif %}
    {%- for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}{% endif %}
        {%- if m['role'] == 'user' %}[INST] {{ (system if loop.first else '') ~ m.content | trim }} [/INST]
        {%- else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}""",
    "macros and namespaces": """{%- macro block(message) -%}
        {%- if message.content is string %}{{ message.content }}
        {%- elif message.content is mapping or message.content is iterable %}
            {%- for part in message.content %}{{ part.text }}{% endfor %}
        {%- endif %}{%- endmacro -%}
    {%- set ns = namespace(last=-1, names=[]) %}
    {%- for m in messages[::-1] %}{% set i = messages | length - 1 - loop.index0 %}
        {%- if m.role == 'user' and ns.last < 0 %}{% set ns.last = i %}{% endif %}{% endfor %}
    {%- for m in messages %}{{ '<' + m.role | upper + '>' }}{{ block(m) }}
        {%- if loop.index0 == ns.last %}*{% endif %}
        {%- if not loop.last %}{{ '\\n' }}{% else %}{{ loop.length }}{% endif %}{% endfor %}""",
    "tools": """{%- if tools is not none and tools %}# Tools
        {%- for tool in tools %}{{ '\\n' ~ (tool | tojson(indent=2)) }}{% endfor %}{% endif %}
    {%- for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}
        {%- for call in m.tool_calls %}{% set call = call.function %}
            {%- for name, value in call.arguments | items %}{{ name }}={{ value }};{% endfor %}
            {{- call | tojson }}{{ call.arguments.items() | list | length }}{% endfor %}
        {%- else %}{{ m.content | default('', true) | replace('\\n', ' ') }}{% endif %}{% endfor %}
    {%- if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<none>{% endif %}""",
    "strings and loops": """{%- for m in messages %}{% if m.role not in ['user', 'system'] %}{% continue %}{% endif %}
        {{- m.content.split('i')[-1].lstrip('\\n').rstrip() }}{{ '%s:%d' % (m.role, loop.index) }}
        {{- '{}-{role}'.format(loop.index0, role=m.role) }}{{ m.content[:4] }}{{ ['a', m.role] | join('+') }}
        {%- generation %}{{ m.role.startswith('us') }}{% endgeneration %}
        {%- if loop.index > 3 %}{% break %}{% endif %}{% endfor %}
        {{- range(3) | list }}{{ messages | map(attribute='role') | unique | join(',') }}
        {{- (messages | selectattr('role', 'equalto', 'user') | list)[0].content | length }}""",
    "thoughts": """{% for m in messages %}{{ m.reasoning_content or '-' }}|{{ m.thinking or '-' }};{% endfor %}""",
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Our tokenizer with a template, and that of `transformers`."""
    pytest.importorskip("transformers")
    from bert4keras.tokenizers import load_tokenizer

    folder = tmp_path_factory.mktemp("chat")
    theirs = tokenizer_folders.make("qwen", folder)
    theirs.bos_token = "<|im_start|>"
    theirs.save_pretrained(folder)
    return load_tokenizer(folder), theirs


@pytest.mark.parametrize("chat", [CHAT, CALLS], ids=["texts", "calls"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_ids_equal_those_of_transformers(peers, name, chat):
    ours, theirs = peers
    given = {"tools": [TOOL], "enable_thinking": False, "chat_template": TEMPLATES[name]}
    for prompt in (False, True):
        given["add_generation_prompt"] = prompt
        try:
            expected = theirs.apply_chat_template(chat, tokenize=False, **given)
        except (TypeError, jinja2.TemplateError):  # a message without content
            assert chat is CALLS
            with pytest.raises(TokenizerError, match="the chat template fails"):
                ours.apply_chat_template(chat, **given)
            continue
        text = ours.apply_chat_template(chat, tokenize=False, **given)
        assert text == expected and text
        ids = ours.apply_chat_template(chat, **given)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]


def test_the_template_of_the_folder(peers):
    ours, theirs = peers
    ids = ours.apply_chat_template(CHAT, add_generation_prompt=True)
    assert ids == theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert ours.decode(ids, skip_special_tokens=False).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("content", ["Sure, ", "Sure,", [{"type": "text", "text": "Well "}]])
@pytest.mark.parametrize("name", ["plain", "macros and namespaces", "system in the first message"])
def test_the_last_message_goes_on(peers, name, content):
    ours, theirs = peers
    if name != "macros and namespaces" and isinstance(content, list):
        return
    chat = [*CHAT, {"role": "assistant", "content": content}]
    given = {"continue_final_message": True, "tokenize": False, "chat_template": TEMPLATES[name]}
    text = ours.apply_chat_template(chat, **given)
    assert text == theirs.apply_chat_template(chat, **given)
    assert text.rstrip().endswith((content if isinstance(content, str) else "Well ").strip())
    assert chat[-1]["content"] == content  # which belongs to the caller


# === What is refused ===


def test_what_is_no_chat(peers):
    ours, _ = peers
    assert is_chat(CHAT) and not any(
        map(is_chat, ([], "a", ["a"], [{"content": "a"}], {"role": 1}))
    )
    for wrong in ([], "hello", [{"content": "a"}], [CHAT]):
        with pytest.raises(ValueError, match="give a list of messages, each a dict with role"):
            ours.apply_chat_template(wrong)
    with pytest.raises(TypeError, match=r"messages\[0\]\['content'\] is a set: give dicts"):
        ours.apply_chat_template([{"role": "user", "content": {"a"}}])
    with pytest.raises(TypeError, match=r"tools\[0\] is a function"):
        ours.apply_chat_template(CHAT, tools=[lambda x: x])
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="is nested more than 64 levels deep"):
        ours.apply_chat_template([{"role": "user", "content": deep}])
    with pytest.raises(ValueError, match="exclude each other"):
        ours.apply_chat_template(CHAT, add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(ValueError, match="the last message has no text to continue"):
        ours.apply_chat_template([{"role": "user", "content": []}], continue_final_message=True)
    with pytest.raises(TokenizerError, match="drops the end of"):
        ours.apply_chat_template(CHAT, chat_template="x", continue_final_message=True)
    with pytest.raises(TypeError, match="no argument 'return_tensors': it returns a list of ids"):
        ours.apply_chat_template(CHAT, return_tensors="np")
    role = enum.Enum("Role", {"USER": "user"}, type=str)
    plain = ours.apply_chat_template([{"role": "user", "content": "a"}])
    assert ours.apply_chat_template(({"role": role.USER, "content": "a"},)) == plain


def test_which_template_is_meant():
    several = {"default": "D", "tool_use": "T", "rag": "R"}
    assert chat_text(several, CHAT) == "D"
    assert chat_text(several, CHAT, tools=[TOOL]) == "T"
    assert chat_text(several, CHAT, name="rag") == "R"
    assert chat_text(several, CHAT, name="{{ 1 }}") == "1"
    for none in (None, {"rag": "R"}):
        with pytest.raises(ValueError, match="the tokenizer has no chat template: load it"):
            chat_text(none, CHAT)
    tokenizer = Tokenizer({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3})
    assert tokenizer.apply_chat_template(CHAT, chat_template="a b") == [3, 0]
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        tokenizer.apply_chat_template(CHAT)


def test_without_jinja(monkeypatch):
    monkeypatch.delitem(sys.modules, "bert4keras.text.sandbox")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ImportError, match=r"chat templates need Jinja: pip install 'jinja2>=3\.1\.6'"
    ):
        chat_text("a", CHAT)


LISTS = "{% set l = [x, x, x, x, x, x, x, x, x, x] %}{% set x = l %}"
TUPLES = "{% set x = (1,) %}" + LISTS.replace("[", "(").replace("]", ")") * 20
OTHERS = LISTS.replace("l =", "k =").replace("x", "y").replace("= l", "= k")
BIG = "{% set big = 'a' * 1000000 %}{% set as_big = big[1:] ~ 'a' %}"
HOSTILE = {
    "code": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "code by attr": "{{ ''|attr('__class__') }}",
    "code by format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "code by map": "{{ ['a']|map(attribute='__class__')|map(attribute='__mro__')|list }}",
    "globals": "{{ cycler.__init__.__globals__.os }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__globals__['x'] }}",
    "file": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "change": "{{ messages.append(1) }}",
    "change by method": "{{ messages[0].update({'role': 1}) }}",
    "encode": "{{ 'a'.encode('utf-16') }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{{ range(10 ** 9)|list }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "many calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "product": "{{ 'a' * 10 ** 9 }}",
    "product of lists": "{{ ([0] * 10 ** 8)|length }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "squares": "{% set x = 9 %}" + "{% set x = x * x %}" * 40,
    "doubling": "{% set x = 'aaaa' %}" + "{% set x = x ~ x %}" * 40,
    "doubling sums": "{% set x = 'aaaa' %}" + "{% set x = x + x %}" * 40,
    "doubling blocks": "{% set x = 'aaaa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "many parts": "{% set x = 'a' * 100000 %}{% set y = " + "~".join(["x"] * 5000) + " %}",
    "slices": BIG + "".join(f"{{% set y{i} = big[1:] %}}" for i in range(500)),
    "wide": "{{ '%1000000000d' % 1 }}",
    "wide by a value": "{{ '%*d' % (10 ** 9, 1) }}",
    "wide format": "{{ '{:>1000000000}'.format(1) }}",
    "wide format by a value": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "wide filter": "{{ '%1000000000d'|format(1) }}",
    "long precision": "{{ 1.5|round(10 ** 9, 'floor') }}",
    "wide date": "{{ strftime_now('%1000000000Y') }}",
    "wide JSON": "{{ [1]|tojson(indent=10 ** 9) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "center": "{{ 'a'|center(10 ** 9) }}",
    "lipsum": "{{ lipsum(n=10 ** 6) }}",
    "join": "{{ (['a'] * 60000)|join('b' * 100000) }}",
    "join by a method": "{{ ('b' * 100000).join(['a'] * 60000) }}",
    "replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace nothing": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "indent": "{{ ('\n' * 100000)|indent(1000000) }}",
    "split": "{{ ('a ' * 8000000).split() }}",
    "a list of long texts": BIG + "{{ [big] * 60000 }}",
    "the same as JSON": BIG + "{{ ([big] * 60000)|tojson|length }}",
    "lists of lists": "{% set x = 1 %}" + LISTS * 20 + "{{ x }}",
    "their comparison": "{% set x = 1 %}{% set y = 1 %}" + (LISTS + OTHERS) * 20 + "{{ x == y }}",
    "their hash": TUPLES + "{{ {x: 1} }}",
    "their hash in get": TUPLES + "{{ {}.get(x) }}",
    "their hash in a filter": TUPLES + "{{ [x, x]|unique|list }}",
    "a deep tuple": "{% set ns = namespace(t=()) %}{% for i in range(90000) %}{% set ns.t = (ns.t,) %}{% endfor %}{{ {ns.t: 1} }}",
    "sorting long texts": BIG + "{{ ([big, as_big] * 30000)|sort|length }}",
    "searching long texts": BIG + "{{ as_big in [big] * 60000 }}",
    "tests of long texts": BIG + "{{ ([big] * 60000)|select('equalto', as_big)|list }}",
    "deep source": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "deep blocks": "{% if a %}" * 1000 + "{% endif %}" * 1000,
    "long source": "{% if a %}{% endif %}" * 10000,
    "no template": "{% for %}",
    "unknown filter": "{{ 'a'|wordwrap }}",
    "division": "{{ 1 / 0 }}",
    "undefined": "{{ a.b.c }}",
    "no function": "{{ none() }}",
    "its own words": "{{ raise_exception('no system message') }}",
    "JSON of what is none": "{{ range(3)|tojson }}",
    "unknown option": "{{ [1]|tojson(default=1) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_can_neither_run_code_nor_go_on_for_ever(name, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    monkeypatch.setattr(sandbox, "SIZE", 1 << 23)
    monkeypatch.setattr(sandbox, "LARGEST", 1 << 20)
    with pytest.raises(TokenizerError, match="the chat template"):
        chat_text(HOSTILE[name], CHAT)


def test_messages_say_what_is_wrong(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.1)
    for name, words in (
        ("its own words", "no system message"),
        ("loops", "computes for more than 0.1 seconds"),
        ("product", f"creates strings of more than {sandbox.SIZE} characters"),
        ("change", "access to attribute 'append' of 'list' object is unsafe"),
        ("long source", "has 210000 characters, but at most 131072"),
    ):
        with pytest.raises(TokenizerError, match=words):
            chat_text(HOSTILE[name], CHAT)


def test_a_long_chat_is_within_the_bounds():
    chat = [{"role": "user", "content": "x" * 1000}] * 500
    text = chat_text(TEMPLATES["macros and namespaces"], chat)
    assert len(text) > 500_000
