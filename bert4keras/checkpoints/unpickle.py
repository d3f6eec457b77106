"""A restricted unpickler for PyTorch files that can only create state dicts.

A pickle is a program for a stack machine (https://github.com/python/cpython, Lib/pickletools.py,
describes its opcodes). That of the standard library may call anything that can be imported. This
one knows only the opcodes that `torch.save` writes and, of all functions and classes, those in
`_GLOBALS`, which are replaced by functions of this module. Anything else in a pickle is rejected
before it is used. Time and memory are limited by `_MAX_STEPS`: copying the items of a list and
inspecting a value are counted like pushing them.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bert4keras.checkpoints.base import BOUNDED, Damage
from bert4keras.checkpoints.tensors import DTYPES, ByteRange, Tensor

MAX_SIZE = 8 << 20  # bytes of a pickle; one tensor takes about two hundred
_MAX_STEPS = 1 << 19  # instructions; one tensor takes about twenty-five


@dataclass(frozen=True)
class Storage:
    """Block of bytes of tensors, and the type of its elements if it has one."""

    dtype: str | None
    source: ByteRange


# === Replacements of functions and classes ===


@dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]


@dataclass(frozen=True)
class _Dtype:
    """A `torch.dtype`."""

    name: str


@dataclass(frozen=True)
class _StorageType:
    """The class of a storage, which says the type of its elements; None for bytes of any type."""

    name: str | None


def _ordered_dict(pairs: Any = ()) -> dict:
    state: dict = {}
    for pair in _checked(pairs, list | tuple):  # Python 2 gave the items as lists of two
        key, value = _checked(pair, list | tuple)
        state[_checked_key(key)] = value
    return state


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    return _tensor(storage, offset, shape, strides, _checked(storage, Storage).dtype)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    _, _, dtype, *_ = rest  # requires_grad, backward_hooks, dtype, metadata
    name, stored = _checked(dtype, _Dtype).name, _checked(storage, Storage).dtype
    if stored not in (None, name):
        raise Damage(f"its pickle uses a storage of {stored} for a tensor of {name}")
    return _tensor(storage, offset, shape, strides, name)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None) -> Tensor:
    numbers = [offset, *_checked(shape, tuple), *_checked(strides, tuple)]
    # Numbers of more than 63 bits are wrong, and must not be multiplied.
    if len(shape) != len(strides) or any(_number(n) >> 62 for n in numbers):
        raise Damage(f"a tensor of {len(shape)} axes has impossible offset, shape or strides")
    source = _checked(storage, Storage).source
    if dtype not in DTYPES:
        return Tensor(str(dtype), shape, source)
    return Tensor(dtype, shape, source, offset * DTYPES[dtype].itemsize, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    return _checked(tensor, Tensor)


_STORAGES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    # These cannot be read, but other tensors of the file can.
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
}
_Global = _Function | _Dtype | _StorageType
_GLOBALS: dict[tuple[str, str], _Global] = {
    ("collections", "OrderedDict"): _Function(_ordered_dict),
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_rebuild_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("torch", "Size"): _Function(lambda sizes: tuple(_checked(sizes, list | tuple))),
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    **{("torch", f"{start}Storage"): _StorageType(name) for start, name in _STORAGES.items()},
    **{("torch", name): _Dtype(name) for name in DTYPES},
}


def _global(module: Any, name: Any) -> _Global:
    found = _GLOBALS.get((_checked(module, str), _checked(name, str)))
    if found is None:
        raise Damage(
            f"its pickle refers to {module[:80]}.{name[:80]}, which is not part of a dict of "
            "tensors and is forbidden, since a pickle can run any code",
            "If you trust the file, load it with PyTorch and save model.state_dict() alone.",
        )
    return found


# === Checks ===


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise Damage(f"its pickle has a {type(value).__name__.strip('_')} in the wrong place")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:  # bool is an int to Python
        raise Damage(f"its pickle has a {type(value).__name__} in the wrong place")
    return value


def _checked_key(key: Any) -> str | int:
    # The hash of a nested tuple takes time exponential in its depth.
    return _checked(key, str | int)


# === The stack machine ===

_MAX_LONG = 64  # bytes of a number


class _Machine:
    """Runs one pickle.

    Args:
        data: bytes that begin with the pickle.
        find_storage: creates a storage from a persistent id.
    """

    def __init__(self, data: bytes, find_storage: Callable[[tuple], Storage]):
        self.data = data
        self.find_storage = find_storage
        self.at = 0
        self.frame = len(data)  # the end of the current frame
        self.steps = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            self.spend(1)
            if self.at == self.frame:  # followed by another frame, or by plain opcodes
                self.frame = len(self.data)
            op = chr(self.take(1)[0])
            if op == ".":
                return self.pop()
            if op not in _INSTRUCTIONS:
                raise Damage(f"its pickle has the opcode {op!r}, which no state dict needs")
            _INSTRUCTIONS[op](self)

    def spend(self, steps: int) -> None:
        """Count steps, and raise a `Damage` if they exceed the limit."""
        self.steps += steps
        if self.steps > _MAX_STEPS:
            raise Damage(f"its pickle has more than {_MAX_STEPS} instructions", BOUNDED)

    # --- bytes of the pickle

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > self.frame:
            raise Damage(f"its pickle, or a frame of it, ends before {end} bytes")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def size(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            raise Damage("its pickle has a name without an end")
        return _text(self.take(end + 1 - self.at)[:-1])

    def begin_frame(self) -> None:
        """Begin a frame of opcodes; frames are not nested."""
        size = self.size(8)
        if self.frame < len(self.data) or self.at + size > len(self.data):
            raise Damage("its pickle has a nested frame, or one that is too long")
        self.frame = self.at + size

    # --- the stack and the memo

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Damage("its pickle takes a value from an empty stack")
        return self.stack.pop()

    def top(self, kind: Any) -> Any:
        value = self.pop()
        self.push(value)
        return _checked(value, kind)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Return the values above the last mark."""
        if not self.marked:
            raise Damage("its pickle goes back to a mark that it has not set")
        values, self.stack = self.stack, self.marked.pop()
        return values

    def put(self, index: int) -> None:
        self.memo[index] = self.top(object)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Damage(f"its pickle recalls value {index}, which it has not stored")
        self.push(self.memo[index])

    # --- values

    def push_number(self, code: str) -> None:
        self.push(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def push_long(self, width: int) -> None:
        """Push a number of many bytes, with a limit, since hashing it as a key takes time."""
        size = self.size(width)
        if size > _MAX_LONG and self.at + size <= len(self.data):
            raise Damage(f"its pickle has a number of {size} bytes", BOUNDED)
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def push_text(self, width: int) -> None:
        self.push(_text(self.take(self.size(width))))

    def make_tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(values)))

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def extend(self) -> None:
        values = self.pop_mark()
        self.top(list).extend(values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[_checked_key(key)] = value

    def set_items(self) -> None:
        values = self.pop_mark()
        if len(values) % 2:
            raise Damage("its pickle gives a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.top(dict)[_checked_key(key)] = value

    def push_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(_global(module, name))

    def push_storage(self) -> None:
        described = _checked(self.pop(), tuple)
        self.spend(len(described))
        self.push(self.find_storage(described))

    def set_state(self) -> None:
        """Drop the state of a state dict of PyTorch: the versions of its modules."""
        self.pop()
        self.top(dict)

    def call(self) -> None:
        arguments, function = _checked(self.pop(), tuple), _checked(self.pop(), _Function)
        self.spend(sum(len(a) for a in arguments if isinstance(a, list | tuple | dict)))
        try:
            self.push(function.call(*arguments))
        except (TypeError, ValueError):
            raise Damage(f"its pickle calls a function with {len(arguments)} arguments") from None


# Opcodes, with comments by their names in pickletools.
_INSTRUCTIONS: dict[str, Callable[[_Machine], None]] = {
    "N": lambda m: m.push(None),
    "\x88": lambda m: m.push(True),  # NEWTRUE
    "\x89": lambda m: m.push(False),
    "}": lambda m: m.push({}),
    "]": lambda m: m.push([]),
    ")": lambda m: m.push(()),
    "K": lambda m: m.push_number("<B"),  # BININT1
    "M": lambda m: m.push_number("<H"),
    "J": lambda m: m.push_number("<i"),
    "G": lambda m: m.push_number(">d"),
    "\x8a": lambda m: m.push_long(1),
    "\x8b": lambda m: m.push_long(4),
    "U": lambda m: m.push_text(1),
    "T": lambda m: m.push_text(4),
    "X": lambda m: m.push_text(4),
    "\x8c": lambda m: m.push_text(1),
    "\x8d": lambda m: m.push_text(8),
    "q": lambda m: m.put(m.size(1)),
    "r": lambda m: m.put(m.size(4)),
    "\x94": lambda m: m.put(len(m.memo)),  # MEMOIZE
    "h": lambda m: m.get(m.size(1)),
    "j": lambda m: m.get(m.size(4)),
    "\x80": lambda m: m.take(1),  # PROTO
    "\x95": _Machine.begin_frame,
    "(": _Machine.mark,
    "t": lambda m: m.push(tuple(m.pop_mark())),
    "\x85": lambda m: m.make_tuple(1),
    "\x86": lambda m: m.make_tuple(2),
    "\x87": lambda m: m.make_tuple(3),
    "a": _Machine.append,
    "e": _Machine.extend,
    "s": _Machine.set_item,
    "u": _Machine.set_items,
    "c": lambda m: m.push(_global(m.line(), m.line())),
    "\x93": _Machine.push_global,
    "Q": _Machine.push_storage,
    "R": _Machine.call,
    "b": _Machine.set_state,
}


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Damage(f"its pickle has the string {raw[:40]!r}, which is not UTF-8") from None


def unpickle(data: bytes, find_storage: Callable[[tuple], Storage]) -> tuple[Any, int]:
    """Read a pickle of dicts, lists, numbers, strings and tensors.

    Args:
        data: bytes that begin with the pickle.
        find_storage: creates a storage from a persistent id.

    Returns:
        The value, in which each tensor is a `Tensor`, and the size of the pickle in bytes.

    Raises:
        Damage: the pickle is damaged, too large, or refers to anything else.
    """
    machine = _Machine(data, find_storage)
    return machine.run(), machine.at


def storage_type(value: Any) -> str | None:
    """Return the type of the elements of a storage, from its class in a persistent id."""
    return _checked(value, _StorageType).name
