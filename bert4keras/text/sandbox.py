"""Templates of Jinja that can neither run code nor go on forever.

Jinja's sandbox refuses attributes with an underscore and changes of what it is given. What it does
not bound is time and memory: a template of a hundred characters can ask for a string of a
gigabyte, for a loop in a loop in a loop, or for the comparison of lists that hold each other a
thousand times. Here every rendering has a budget. Loops, calls, filters, tests, comparisons and
outputs look at the time; strings, lists and whole numbers are paid for by their size, before they
are made where they may be larger than what they come from; and what is compared, looked up or
written out may not be huge. Filters and methods that no chat template uses are not there at all.
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
"""How long a template may compute; those of released models take some milliseconds."""
SIZE = 1 << 26
"""How many characters all strings that a template makes may have together."""
LARGEST = 1 << 24
"""How many characters a value may have that is compared, looked up or written out."""
SOURCE = 1 << 17
"""How many characters a template may have."""
DEPTH = 100
"""How deep lists may lie in lists."""
_PER_ITEM = 16
"""What an item of a list costs, in characters."""
_BITS = 4096
"""How large a whole number may get."""
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
# A width of thousands, one that another value gives, or one in a format within a format.
_WIDTH = re.compile(r"\d{4}|\*|:[^}]*\{")

# === What a rendering may spend ===


class Budget:
    """What is left of a rendering's time and memory."""

    def __init__(self) -> None:
        self.deadline = time.thread_time() + SECONDS
        self.size = SIZE

    def check_time(self) -> None:
        """Refuse to go on after `SECONDS` of computing."""
        if time.thread_time() > self.deadline:
            raise SecurityError(f"it computes for more than {SECONDS:g} seconds")

    def spend(self, size: int) -> None:
        """Pay for something of a size in characters."""
        self.check_time()
        self.size -= size
        if self.size < 0:
            raise SecurityError(f"it makes strings of more than {SIZE} characters")


_budget: ContextVar[Budget] = ContextVar("budget")


def counted(items: Iterable) -> Iterator[Any]:
    """Yield items while there is time."""
    for item in items:
        _budget.get().check_time()
        yield item


def paid(value: Any) -> Any:
    """Return a value after paying for it, but not for what a list holds."""
    size = len(value) * _PER_ITEM if isinstance(value, list | tuple | dict | set) else _size(value)
    _budget.get().spend(size)
    return value


def written(value: Any) -> Any:
    """Return a value that becomes text, after paying for all that it holds."""
    _budget.get().spend(weight(value))
    return value


def weighed(value: Any) -> Any:
    """Return a value that is compared or looked up, and whose size takes time."""
    _budget.get().check_time()
    weight(value)
    return value


def weight(value: Any, depth: int = 0, so_far: int = 0) -> int:
    """Return `so_far` and the size of a value with all that it holds, as often as it holds it.

    Raises:
        SecurityError: it is too much, or too deep.
    """
    so_far += _size(value)
    if isinstance(value, list | tuple | dict | set):
        for item in value:
            so_far = weight(item, depth + 1, so_far + _PER_ITEM)
            if isinstance(value, dict):
                so_far = weight(value[item], depth + 1, so_far)
    if so_far > LARGEST or depth > DEPTH:
        raise SecurityError(f"it handles lists of more than {LARGEST} characters or {DEPTH} levels")
    return so_far


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return value.bit_length() // 8 if isinstance(value, int) else 0


# === Operators, methods and filters that may make much of little ===


def check_product(left: Any, right: Any) -> None:
    """Pay for left * right."""
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() + right.bit_length())
        return
    for items, number in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(number, int):
            each = 1 if isinstance(items, str) else _PER_ITEM
            _budget.get().spend(each * len(items) * max(number, 0))


def check_power(left: Any, right: Any) -> None:
    """Refuse left ** right if it is a huge whole number."""
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * max(right, 1))


def check_bits(bits: int) -> None:
    """Refuse a whole number of too many bits."""
    if bits > _BITS:
        raise SecurityError(f"it makes a number of more than {_BITS} bits")


def check_sum(left: Any, right: Any) -> None:
    """Pay for left + right."""
    for each in (left, right):
        paid(each)


def check_format(text: Any, *values: Any, **named: Any) -> None:
    """Pay for a format and its values, and refuse one that says how wide they get."""
    if isinstance(text, str):
        if _WIDTH.search(text):
            raise SecurityError(f"the format {text!r:.50} may make too wide a string")
        times = 1 + text.count("{") + text.count("%")
        _budget.get().spend(len(text) + times * weight([*values, *named.values()]))


def check_replace(text: Any, old: Any, new: Any, *_: Any) -> None:
    """Pay for text.replace(old, new)."""
    text, old, new = str(written(text)), str(written(old)), str(written(new))
    _budget.get().spend(text.count(old) * len(new))


def check_split(text: str, separator: Any = None, *_: Any, **__: Any) -> None:
    """Pay for the parts of a split."""
    given = isinstance(separator, str) and separator
    _budget.get().spend(len(text) + _PER_ITEM * (text.count(separator) if given else len(text)))


def check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    """Pay for the filter indent."""
    size = width if isinstance(width, int) else len(str(width))
    _budget.get().spend(str(written(text)).count("\n") * max(size, 0))


def check_round(number: Any, precision: Any = 0, *_: Any, **__: Any) -> None:
    """Refuse to count with a power of ten of thousands of digits."""
    if not isinstance(precision, int) or abs(precision) > 300:
        raise SecurityError(f"it rounds to {precision!r:.50} digits")


def check_json(value: Any, *_: Any, indent: Any = None, **__: Any) -> None:
    """Pay for the filter tojson."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise SecurityError(f"tojson(indent={indent!r:.50}): from 0 to 16")
    written(value)


def paid_items(items: Iterable, separator: Any) -> list:
    """Return the items of a join, paid for."""
    listed = list(counted(items))
    _budget.get().spend(weight(listed) + len(listed) * len(str(separator)))
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
    "string": written,
    "tojson": check_json,
}


def within_budget(function: Callable, name: str) -> Callable:
    """Return a filter or a test that keeps to the budget.

    Args:
        function: the original, which may ask for the context or the environment first.
        name: what it is called.
    """
    first = int(hasattr(function, "jinja_pass_arg"))
    check = _CHECKS.get(name)
    looks_through = name in _SORTED or name in _COMPARING

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        if name == "join":
            given[first] = paid_items(given[first], [*args[first + 1 :], *kwargs.values()])
        elif name in _SORTED and not isinstance(given[first], dict):
            given[first] = list(counted(given[first]))
        # What is only passed on need not be looked through.
        weighed([*given[first + (not looks_through) :], *kwargs.values()])
        if check is not None:
            check(*given[first:], **kwargs)
        return paid(function(*given, **kwargs))

    return paying


# === The environment ===


class Generation(jinja2.ext.Extension):
    """The tag that marks what the assistant says, which changes nothing in the text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        """Return what is between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, within a budget."""

    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, jinja2.ext.loopcontrols],
            finalize=written,
        )
        kept = {name: self.filters[name] for name in _FILTERS} | {"tojson": to_json}
        self.filters = {name: within_budget(function, name) for name, function in kept.items()}
        self.filters |= {function.__name__: function for function in (counted, weighed, written)}
        self.tests = {name: within_budget(f, name) for name, f in self.tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may see an attribute: of plain values, some methods."""
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
            args = (paid_items(*args, separator=owner),)
        if not isinstance(called, Macro):  # which only passes them on
            weighed([*args, *kwargs.values()])
        if isinstance(owner, list | tuple):
            weighed(owner)  # which is searched
        elif isinstance(owner, str) and name in _CHECKS:
            _CHECKS[name](owner, *args, **kwargs)
        return paid(super().call(__context, __obj, *args, **kwargs))


def to_json(value: Any, **options: Any) -> str:
    """Return a value as JSON that stays readable: other than Jinja's, without escapes for HTML."""
    known = {"ensure_ascii", "indent", "separators", "sort_keys"}
    if unknown := options.keys() - known:
        raise jinja2.TemplateError(f"tojson has no argument {min(unknown)!r}")
    return json.dumps(value, **{"ensure_ascii": False, **options})


def raise_exception(message: Any) -> None:
    """Let a template refuse what it is given."""
    raise jinja2.TemplateError(str(message))


def strftime_now(form: str) -> str:
    """Return the time in a form, as templates ask for the date of today."""
    check_format(form)
    return datetime.datetime.now().strftime(form)


def guarded(tree: nodes.Template) -> nodes.Template:
    """Let those parts of a template look at the budget that call nothing."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered(loop.iter, "counted")
    for comparison in tree.find_all(nodes.Compare):
        comparison.expr = _filtered(comparison.expr, "weighed")
        for operand in comparison.ops:
            operand.expr = _filtered(operand.expr, "weighed")
    for text in tree.find_all(nodes.Concat):
        text.nodes = [_filtered(node, "written") for node in text.nodes]
    for pair in tree.find_all(nodes.Pair):
        pair.key = _filtered(pair.key, "weighed")
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Slice):
            item.node = _filtered(item.node, "written")
        elif not isinstance(item.arg, nodes.Const):
            item.arg = _filtered(item.arg, "weighed")
    return tree


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


# === What the rest of the library calls ===


@lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """Compile a template, once."""
    environment = Environment()
    return environment.from_string(guarded(environment.parse(source)))


def rendered(source: str, variables: Mapping[str, Any]) -> str:
    """Return the text that a template makes of plain values.

    Raises:
        TokenizerError: it is no template, refuses the values, or does what it may not do.
    """
    if len(source) > SOURCE:
        raise TokenizerError(f"the chat template has {len(source)} characters, above {SOURCE}")
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
