"""Jinja templates in a sandbox with limits on time and memory.

Jinja's sandbox forbids attributes with an underscore and mutation of the arguments. It does not
limit time and memory: a template of a hundred characters can produce a string of a gigabyte, nested
loops, or comparisons of lists that contain each other a thousand times. Here every rendering has a
budget. Loops, calls, filters, tests, comparisons and outputs check the time. Strings, lists and
integers are charged by their size, before they are created if they may be larger than their
operands. Values that are compared, looked up or output must not be huge. Filters and methods that
no chat template uses are removed.
"""

import datetime
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from bert4keras.text.files import TokenizerError

SECONDS = 2.0
"""Maximal computing time of a template; those of released models take some milliseconds."""
SIZE = 1 << 26
"""Maximal number of characters of all strings that a template creates."""
LARGEST = 1 << 24
"""Maximal number of characters of a value that is compared, looked up or output."""
SOURCE = 1 << 17
"""Maximal number of characters of a template."""
DEPTH = 100
"""Maximal depth of nested lists."""
_PER_ITEM = 16
"""Cost of an item of a list, in characters."""
_BITS = 4096
"""Maximal number of bits of an integer."""
_SORTED = ("sort", "dictsort", "unique", "min", "max")
_COMPARING = {"==", "!=", "<", "<=", ">", ">=", "in"} | set(
    re.findall(r"\w+", "eq equalto ne lt lessthan le gt greaterthan ge")
)

_FILTERS = re.findall(
    r"\w+",
    """
    abs capitalize count d default dictsort e escape first float format indent int items join last
    length list lower map max min reject rejectattr replace reverse round safe select selectattr
    sort string title trim unique upper
    """,
)
_METHODS = re.findall(
    r"\w+",
    """
    capitalize casefold copy count endswith find format get index isalnum isalpha isascii isdecimal
    isdigit islower isnumeric isspace istitle isupper items join keys lower lstrip partition
    removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines
    startswith strip swapcase title upper values
    """,
)
_PLAIN = (str, bytes, int, float, complex, list, tuple, dict, set, frozenset, range)
# A width of thousands, one given by another value, or one in a nested format.
_WIDTH = re.compile(r"\d{4}|\*|:[^}]*\{")

# === The budget of a rendering ===


class Budget:
    """Remaining time and memory of a rendering."""

    def __init__(self) -> None:
        self.deadline = time.thread_time() + SECONDS
        self.size = SIZE

    def check_time(self) -> None:
        """Raise a SecurityError after `SECONDS` of computing."""
        if time.thread_time() > self.deadline:
            raise SecurityError(f"it computes for more than {SECONDS:g} seconds")

    def charge(self, size: int) -> None:
        """Charge a size in characters."""
        self.check_time()
        self.size -= size
        if self.size < 0:
            raise SecurityError(f"it creates strings of more than {SIZE} characters")


_budget: ContextVar[Budget] = ContextVar("budget")


def time_checked(items: Iterable) -> Iterator[Any]:
    """Yield items, checking the time before each."""
    for item in items:
        _budget.get().check_time()
        yield item


def charged(value: Any) -> Any:
    """Charge the size of a value, but not of the items of a list, and return it."""
    size = len(value) * _PER_ITEM if isinstance(value, list | tuple | dict | set) else _size(value)
    _budget.get().charge(size)
    return value


def charged_deeply(value: Any) -> Any:
    """Charge the size of a value with all items, which becomes text, and return it."""
    _budget.get().charge(deep_size(value))
    return value


def size_checked(value: Any) -> Any:
    """Check the size of a value that is compared or looked up, which takes time, and return it."""
    _budget.get().check_time()
    deep_size(value)
    return value


def deep_size(value: Any, depth: int = 0, total: int = 0) -> int:
    """Add the size of a value with all its items, counted each time they occur, to a total.

    Raises:
        SecurityError: it is too large, or nested too deeply.
    """
    total += _size(value)
    if isinstance(value, list | tuple | dict | set):
        for item in value:
            total = deep_size(item, depth + 1, total + _PER_ITEM)
            if isinstance(value, dict):
                total = deep_size(value[item], depth + 1, total)
    if total > LARGEST or depth > DEPTH:
        raise SecurityError(f"it handles lists of more than {LARGEST} characters or {DEPTH} levels")
    return total


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return value.bit_length() // 8 if isinstance(value, int) else 0


BUDGET_FILTERS = (time_checked, size_checked, charged_deeply)
"""Filters that `guarded` inserts into templates, by their names."""


# === Operators, methods and filters whose results may be much larger than their operands ===


def check_product(left: Any, right: Any) -> None:
    """Charge left * right."""
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() + right.bit_length())
        return
    for items, number in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(number, int):
            each = 1 if isinstance(items, str) else _PER_ITEM
            _budget.get().charge(each * len(items) * max(number, 0))


def check_power(left: Any, right: Any) -> None:
    """Raise a SecurityError if left ** right is a huge integer."""
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * max(right, 1))


def check_bits(bits: int) -> None:
    """Raise a SecurityError for an integer of too many bits."""
    if bits > _BITS:
        raise SecurityError(f"it creates a number of more than {_BITS} bits")


def check_sum(left: Any, right: Any) -> None:
    """Charge left + right."""
    for each in (left, right):
        charged(each)


def check_format(text: Any, *values: Any, **named: Any) -> None:
    """Charge a format and its values; raise a SecurityError if it has large widths."""
    if isinstance(text, str):
        if _WIDTH.search(text):
            raise SecurityError(f"the format {text!r:.50} may create too wide a string")
        times = 1 + text.count("{") + text.count("%")
        _budget.get().charge(len(text) + times * deep_size([*values, *named.values()]))


def check_replace(text: Any, old: Any, new: Any, *_: Any) -> None:
    """Charge text.replace(old, new)."""
    text, old, new = str(charged_deeply(text)), str(charged_deeply(old)), str(charged_deeply(new))
    _budget.get().charge(text.count(old) * len(new))


def check_split(text: str, separator: Any = None, *_: Any, **__: Any) -> None:
    """Charge the parts of a split."""
    has_separator = isinstance(separator, str) and separator
    n_parts = text.count(separator) if has_separator else len(text)
    _budget.get().charge(len(text) + _PER_ITEM * n_parts)


def check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    """Charge the filter indent."""
    size = width if isinstance(width, int) else len(str(width))
    _budget.get().charge(str(charged_deeply(text)).count("\n") * max(size, 0))


def check_round(number: Any, precision: Any = 0, *_: Any, **__: Any) -> None:
    """Raise a SecurityError for rounding with a power of ten of thousands of digits."""
    if not isinstance(precision, int) or abs(precision) > 300:
        raise SecurityError(f"it rounds to {precision!r:.50} digits")


def check_json(value: Any, *_: Any, indent: Any = None, **__: Any) -> None:
    """Charge the filter tojson."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise SecurityError(f"tojson(indent={indent!r:.50}): it must be from 0 to 16")
    charged_deeply(value)


def charged_items(items: Iterable, separator: Any) -> list:
    """Charge the items of a join, and return them."""
    listed = list(time_checked(items))
    _budget.get().charge(deep_size(listed) + len(listed) * len(str(separator)))
    return listed


_OPERATORS: Mapping[str, Callable] = {
    "+": check_sum,
    "*": check_product,
    "**": check_power,
    "%": check_format,
}
_CHECKS: Mapping[str, Callable] = {
    "format": check_format,
    "replace": check_replace,
    "split": check_split,
    "rsplit": check_split,
    "splitlines": lambda text, *_, **__: check_split(text, "\n"),
    "indent": check_indent,
    "round": check_round,
    "string": charged_deeply,
    "tojson": check_json,
}


def within_budget(function: Callable, name: str) -> Callable:
    """Wrap a filter or a test so that it keeps to the budget.

    Args:
        function: the original, whose first argument may be the context or the environment.
        name: its name.
    """
    first = int(hasattr(function, "jinja_pass_arg"))
    check = _CHECKS.get(name)
    traverses = name in _SORTED or name in _COMPARING

    @wraps(function)
    def charging(*args: Any, **kwargs: Any) -> Any:
        arguments = list(args)
        if name == "join":
            separator = [*args[first + 1 :], *kwargs.values()]
            arguments[first] = charged_items(arguments[first], separator)
        elif name in _SORTED and not isinstance(arguments[first], dict):
            arguments[first] = list(time_checked(arguments[first]))
        # A value that is only passed on need not be traversed.
        size_checked([*arguments[first + (not traverses) :], *kwargs.values()])
        if check is not None:
            check(*arguments[first:], **kwargs)
        return charged(function(*arguments, **kwargs))

    return charging


# === The environment ===


class Generation(jinja2.ext.Extension):
    """Tag that marks the answers of the assistant, and does not change the text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        """Return the content between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a budget."""

    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, jinja2.ext.loopcontrols],
            finalize=charged_deeply,
        )
        kept = {name: self.filters[name] for name in _FILTERS} | {"tojson": to_json}
        self.filters = {name: within_budget(function, name) for name, function in kept.items()}
        self.filters |= {function.__name__: function for function in BUDGET_FILTERS}
        self.tests = {name: within_budget(f, name) for name, f in self.tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may access an attribute: of plain values only some methods."""
        if isinstance(obj, _PLAIN) and callable(value) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be large."""
        _OPERATORS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a method or a function."""
        called = getattr(__obj, "__wrapped__", __obj)  # str.format comes in a wrapper of Jinja
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(owner, str) and name == "join":
            args = (charged_items(*args, separator=owner),)
        if not isinstance(called, Macro):  # which only passes them on
            size_checked([*args, *kwargs.values()])
        if isinstance(owner, list | tuple):
            size_checked(owner)  # which is searched
        elif isinstance(owner, str) and name in _CHECKS:
            _CHECKS[name](owner, *args, **kwargs)
        return charged(super().call(__context, __obj, *args, **kwargs))


def to_json(value: Any, **options: Any) -> str:
    """Return a value as JSON, unlike Jinja without escapes for HTML and non-ASCII characters."""
    known = {"ensure_ascii", "indent", "separators", "sort_keys"}
    if unknown := options.keys() - known:
        raise jinja2.TemplateError(f"tojson has no argument {min(unknown)!r}")
    return json.dumps(value, **{"ensure_ascii": False, **options})


def raise_exception(message: Any) -> None:
    """Raise an error that a template reports about its arguments."""
    raise jinja2.TemplateError(str(message))


def strftime_now(form: str) -> str:
    """Return the current time in a format; templates use it for the date of today."""
    check_format(form)
    return datetime.datetime.now().strftime(form)


def guarded(tree: nodes.Template) -> nodes.Template:
    """Insert checks of the budget into parts of a template that call no functions."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered(loop.iter, "time_checked")
    for comparison in tree.find_all(nodes.Compare):
        comparison.expr = _filtered(comparison.expr, "size_checked")
        for operand in comparison.ops:
            operand.expr = _filtered(operand.expr, "size_checked")
    for text in tree.find_all(nodes.Concat):
        text.nodes = [_filtered(node, "charged_deeply") for node in text.nodes]
    for pair in tree.find_all(nodes.Pair):
        pair.key = _filtered(pair.key, "size_checked")
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Slice):
            item.node = _filtered(item.node, "charged_deeply")
        elif not isinstance(item.arg, nodes.Const):
            item.arg = _filtered(item.arg, "size_checked")
    return tree


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


# === Rendering ===


@lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """Compile a template; the result is cached."""
    environment = Environment()
    return environment.from_string(guarded(environment.parse(source)))


def rendered(source: str, variables: Mapping[str, Any]) -> str:
    """Render a template with plain values.

    Raises:
        TokenizerError: it is not a template, rejects the values, or does what is not allowed.
    """
    if len(source) > SOURCE:
        raise TokenizerError(
            f"the chat template has {len(source)} characters, but at most {SOURCE} are allowed"
        )
    token = _budget.set(Budget())
    try:
        return compiled(source).render(variables)
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        raise TokenizerError(f"the chat template fails: {kind}{error}") from error
    finally:
        _budget.reset(token)
