"""Chats: from messages to the one text that a model was trained on, by its template."""

from collections.abc import Mapping, Sequence
from typing import Any

from bert4keras.text.files import TokenizerError

_MARK = "END-OF-WHAT-IS-TO-BE-CONTINUED "
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Names under which messages hold what the assistant has thought; templates read the first two."""
_DEPTH = 64

Template = str | Mapping[str, str]
"""The template of a tokenizer, or several by name."""


def is_chat(given: Any) -> bool:
    """Tell whether something is a list of messages, each with a role."""
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
    """Return the text of a chat; what the arguments mean says `apply_chat_template`.

    Args:
        template: the template of a tokenizer, or several by name.
        messages: the chat.
        name: a name among several templates, or a template to use instead.
        tools: see there.
        documents: see there.
        add_generation_prompt: see there.
        continue_final_message: see there.
        variables: what else the template may ask for, the special tokens above all.
    """
    source = chosen(template, name, tools)
    if not is_chat(messages):
        raise ValueError(
            f"apply_chat_template got {messages!r:.100}: give a list of messages, each a dict with "
            "role and content"
        )
    if continue_final_message and add_generation_prompt:
        raise ValueError("continue_final_message and add_generation_prompt exclude each other")
    chat = [_message(m, f"messages[{i}]") for i, m in enumerate(messages)]
    if continue_final_message:
        _mark(chat[-1])
    given = {"messages": chat, "add_generation_prompt": add_generation_prompt}
    for key, value in (("tools", tools), ("documents", documents)):
        given[key] = None if value is None else _plain(list(value), key)
    text = _rendered(source, {**_plain(dict(variables or {}), "the variables"), **given})
    return _before_mark(text, messages[-1]) if continue_final_message else text


def chosen(template: Template | None, name: str | None, tools: Any) -> str:
    """Return the template that is meant.

    Raises:
        ValueError: there is none, or it is not clear which.
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
    """A copy of a message without what is None, its thoughts under both names."""
    plain = {k: v for k, v in _plain(dict(message), name).items() if v is not None}
    thoughts = next((plain[key] for key in _THOUGHTS if key in plain), None)
    if thoughts is None:
        return plain
    return {"thinking": thoughts, **plain, "reasoning_content": thoughts}


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy of what a template gets: it must be as JSON has it, since methods could do anything.

    Raises:
        TypeError: it is not.
        ValueError: it lies too deep.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > _DEPTH:
        raise ValueError(f"{name:.100} lies more than {_DEPTH} levels deep")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(k): _plain(v, f"{name}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}[{i}]", depth + 1) for i, v in enumerate(value)]
    for kind, plain in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if isinstance(value, kind):  # of a subclass, which may have methods of its own
            return plain(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}: give dicts, lists, texts, numbers, True, False, None"
    )


def _mark(message: dict[str, Any]) -> None:
    """Mark where the text of a message ends."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _MARK
        return
    texts = [block for block in content or [] if isinstance(block, dict) and "text" in block]
    if not texts:
        raise ValueError("continue_final_message: the last message has no text to go on from")
    texts[-1]["text"] += _MARK


def _before_mark(text: str, message: Mapping[str, Any]) -> str:
    """Return what stands before the mark; a template that strips messages strips it, too."""
    at = text.rfind(_MARK.strip())
    if at < 0:
        raise TokenizerError(
            f"continue_final_message: the chat template leaves out the end of {message!r:.100}"
        )
    return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()
