"""Rendering of chats, by the template of a model, as the text on which it was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from bert4keras.text.files import TokenizerError

_MARK = "END-OF-WHAT-IS-TO-BE-CONTINUED "
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Keys under which messages contain reasoning; templates read the first two."""
_DEPTH = 64

Template = str | Mapping[str, str]
"""The chat template of a tokenizer, or several by name."""


def is_chat(given: Any) -> bool:
    """Tell whether an object is a list of messages, each with a role."""
    listed = isinstance(given, list | tuple) and len(given) > 0
    return listed and all(isinstance(m, Mapping) and "role" in m for m in given)


def chat_text(
    template: Template | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    name: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Render a chat as text; the arguments are those of `TokenizerBase.apply_chat_template`.

    Args:
        template: the template of a tokenizer, or several by name.
        messages: the chat.
        name: the name of one of several templates, or a template to use instead.
        tools: functions that the model may call.
        documents: documents that it may use.
        add_generation_prompt: whether to end with the start of an answer of the assistant.
        continue_final_message: whether to leave the last message open.
        variables: further variables of the template, such as the special tokens.
    """
    source = selected_template(template, name, tools)
    if not is_chat(messages):
        raise ValueError(
            f"apply_chat_template got {messages!r:.100}: give a list of messages, each a dict with "
            "role and content"
        )
    if continue_final_message and add_generation_prompt:
        raise ValueError(
            "continue_final_message and add_generation_prompt exclude each other: give one of them"
        )
    chat = [_message(m, f"messages[{i}]") for i, m in enumerate(messages)]
    if continue_final_message:
        _mark(chat[-1])
    arguments = {"messages": chat, "add_generation_prompt": add_generation_prompt}
    for key, value in (("tools", tools), ("documents", documents)):
        arguments[key] = None if value is None else _plain(list(value), key)
    text = _rendered(source, {**_plain(dict(variables or {}), "the variables"), **arguments})
    return _before_mark(text, messages[-1]) if continue_final_message else text


def selected_template(template: Template | None, name: str | None, tools: Any) -> str:
    """Select one of the templates by name, or by whether there are tools.

    Raises:
        ValueError: there is none, or no default among several.
    """
    several = template if isinstance(template, Mapping) else {"default": template}
    if name is not None:
        return several.get(name) or name
    source = several.get("tool_use") if tools is not None else None
    source = source or several.get("default")
    if source is None:
        raise ValueError(
            "the tokenizer has no chat template: load it with load_tokenizer from a folder with "
            "chat_template.jinja or one in tokenizer_config.json, or give chat_template="
            + (f" as one of {sorted(several)}" if isinstance(template, Mapping) else "")
        )
    return source


def _rendered(source: str, variables: Mapping[str, Any]) -> str:
    try:
        from bert4keras.text.sandbox import rendered
    except ImportError as error:
        raise ImportError("chat templates need Jinja: pip install 'jinja2>=3.1.6'") from error
    return rendered(source, variables)


def _message(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Copy a message without values that are None, and with its reasoning under both keys."""
    plain = {k: v for k, v in _plain(dict(message), name).items() if v is not None}
    reasoning = next((plain[key] for key in _REASONING_KEYS if key in plain), None)
    if reasoning is None:
        return plain
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """Copy a value for a template; only JSON types are allowed, since methods could do anything.

    Raises:
        TypeError: it has another type.
        ValueError: it is nested too deeply.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > _DEPTH:
        raise ValueError(f"{name:.100} is nested more than {_DEPTH} levels deep")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(k): _plain(v, f"{name}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}[{i}]", depth + 1) for i, v in enumerate(value)]
    for kind, plain in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if isinstance(value, kind):  # a subclass, which may have methods of its own
            return plain(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}: give dicts, lists, strings, numbers, bool or None"
    )


def _mark(message: dict[str, Any]) -> None:
    """Append a mark to the text of a message."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _MARK
        return
    texts = [block for block in content or [] if isinstance(block, dict) and "text" in block]
    if not texts:
        raise ValueError("continue_final_message: the last message has no text to continue")
    texts[-1]["text"] += _MARK


def _before_mark(text: str, message: Mapping[str, Any]) -> str:
    """Return the text before the mark, whose trailing space templates may have stripped."""
    at = text.rfind(_MARK.strip())
    if at < 0:
        raise TokenizerError(
            f"continue_final_message: the chat template drops the end of {message!r:.100}"
        )
    return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()
