"""The pickles in PyTorch files, read by a machine that can build state dicts and nothing else.

A pickle is a program for a stack machine (https://github.com/python/cpython, Lib/pickletools.py,
describes its instructions). That of the standard library may call anything that can be imported.
This one knows only the instructions that `torch.save` writes and, of all functions and classes,
those in `_GLOBALS`, in whose place stand functions of this module. Whatever else a pickle names is
refused before anything is done with it. Work and memory are bounded by `_MAX_STEPS`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bert4keras.checkpoints.base import Damage
from bert4keras.checkpoints.tensors import DTYPES, Stretch, Tensor

MAX_SIZE = 8 << 20  # bytes of a pickle; one tensor takes about two hundred
_MAX_STEPS = 1 << 20  # instructions; one tensor takes about twenty-five


@dataclass(frozen=True)
class Storage:
    """A block of bytes that tensors lie in, and the type of its elements if it has one."""

    dtype: str | None
    source: Stretch


# === What stands in the place of functions and classes ===


@dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]


@dataclass(frozen=True)
class _Dtype:
    """A `torch.dtype`, or the type of a storage; None for bytes of any type."""

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
    return _tensor(storage, offset, shape, strides, _checked(dtype, _Dtype).name)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None) -> Tensor:
    numbers = [_checked(offset, int), *_checked(shape, tuple), *_checked(strides, tuple)]
    # Whatever is larger than 63 bits is wrong, and is not multiplied with.
    if len(shape) != len(strides) or any(_checked(n, int) >> 62 for n in numbers):
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
    # Read by nobody here, but another tensor of the file can be.
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
}
_GLOBALS: dict[tuple[str, str], _Function | _Dtype] = {
    ("collections", "OrderedDict"): _Function(_ordered_dict),
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_rebuild_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("torch", "Size"): _Function(lambda sizes: tuple(_checked(sizes, list | tuple))),
    ("torch.storage", "UntypedStorage"): _Dtype(None),
    **{("torch", f"{start}Storage"): _Dtype(name) for start, name in _STORAGES.items()},
    **{("torch", name): _Dtype(name) for name in DTYPES},
}


def _global(module: Any, name: Any) -> _Function | _Dtype:
    found = _GLOBALS.get((_checked(module, str), _checked(name, str)))
    if found is None:
        raise Damage(
            f"its pickle asks for {module[:80]}.{name[:80]}, which is no part of a dict of tensors "
            "and is forbidden, since a pickle can run any code",
            "If you trust the file, load it with PyTorch and save model.state_dict() alone.",
        )
    return found


# === Checks ===


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise Damage(f"its pickle has a {type(value).__name__} in the wrong place")
    return value


def _checked_key(key: Any) -> str | int:
    # The hash of a nested tuple takes time exponential in its depth.
    return _checked(key, str | int)


# === The machine ===

_CONSTANTS = {"N": None, "\x88": True, "\x89": False}
_EMPTY = {"}": dict, "]": list, ")": tuple}
_NUMBERS = {"K": "<B", "M": "<H", "J": "<i", "G": ">d"}
_LONGS = {"\x8a": 1, "\x8b": 4}  # size of the number of bytes that follows it
_TEXTS = {"U": 1, "T": 4, "X": 4, "\x8c": 1, "\x8d": 8}
_TUPLES = {"\x85": 1, "\x86": 2, "\x87": 3}
_PUT = {"q": 1, "r": 4}
_GET = {"h": 1, "j": 4}
_SKIPPED = {"\x80": 1, "\x95": 8}  # the version of the protocol, the size of a frame


class _Machine:
    """Runs one pickle.

    Args:
        data: bytes that begin with the pickle.
        find_storage: makes a storage of a persistent id.
    """

    def __init__(self, data: bytes, find_storage: Callable[[tuple], Storage]):
        self.data = data
        self.find_storage = find_storage
        self.at = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_STEPS):
            op = chr(self.take(1)[0])
            if op == ".":
                return self.pop()
            if not (self.push_plain(op) or self.remember(op)):
                self.build(op)
        raise Damage(f"its pickle has more than {_MAX_STEPS} instructions")

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise Damage(f"its pickle ends before {end} bytes")
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

    def pop_mark(self) -> list[Any]:
        """Return the values above the last mark."""
        if not self.marked:
            raise Damage("its pickle goes back to a mark that it has not set")
        values, self.stack = self.stack, self.marked.pop()
        return values

    def push_plain(self, op: str) -> bool:
        """Do an instruction that pushes a number, a string or an empty collection."""
        if op in _CONSTANTS:
            self.push(_CONSTANTS[op])
        elif op in _EMPTY:
            self.push(_EMPTY[op]())
        elif op in _NUMBERS:
            self.push(struct.unpack(_NUMBERS[op], self.take(struct.calcsize(_NUMBERS[op])))[0])
        elif op in _LONGS:
            self.push(int.from_bytes(self.take(self.size(_LONGS[op])), "little", signed=True))
        elif op in _TEXTS:
            self.push(_text(self.take(self.size(_TEXTS[op]))))
        else:
            return False
        return True

    def remember(self, op: str) -> bool:
        """Do an instruction of the memo, or one that means nothing here."""
        if op in _PUT:
            self.memo[self.size(_PUT[op])] = self.top(object)
        elif op == "\x94":
            self.memo[len(self.memo)] = self.top(object)
        elif op in _GET:
            index = self.size(_GET[op])
            if index not in self.memo:
                raise Damage(f"its pickle recalls value {index}, which it has not stored")
            self.push(self.memo[index])
        elif op in _SKIPPED:
            self.take(_SKIPPED[op])
        else:
            return False
        return True

    def build(self, op: str) -> None:
        """Do an instruction that puts values together."""
        match op:
            case "(":
                self.marked.append(self.stack)
                self.stack = []
            case "t":
                self.push(tuple(self.pop_mark()))
            case "\x85" | "\x86" | "\x87":
                values = [self.pop() for _ in range(_TUPLES[op])]
                self.push(tuple(reversed(values)))
            case "a":
                value = self.pop()
                self.top(list).append(value)
            case "e":
                values = self.pop_mark()
                self.top(list).extend(values)
            case "s":
                value, key = self.pop(), self.pop()
                self.top(dict)[_checked_key(key)] = value
            case "u":
                values = self.pop_mark()
                if len(values) % 2:
                    raise Damage("its pickle gives a key without a value")
                for key, value in zip(values[::2], values[1::2], strict=True):
                    self.top(dict)[_checked_key(key)] = value
            case "c":
                self.push(_global(self.line(), self.line()))
            case "\x93":
                name, module = self.pop(), self.pop()
                self.push(_global(module, name))
            case "Q":
                self.push(self.find_storage(_checked(self.pop(), tuple)))
            case "R":
                self.call()
            case "b":
                # A state dict of PyTorch carries the versions of its modules, which nobody needs.
                self.pop()
                self.top(dict)
            case _:
                raise Damage(f"its pickle has the instruction {op!r}, which no state dict needs")

    def call(self) -> None:
        arguments, function = _checked(self.pop(), tuple), _checked(self.pop(), _Function)
        try:
            self.push(function.call(*arguments))
        except (TypeError, ValueError):
            raise Damage(f"its pickle calls a function with {len(arguments)} arguments") from None


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Damage(f"its pickle has the string {raw[:40]!r}, which is not UTF-8") from None


def unpickle(data: bytes, find_storage: Callable[[tuple], Storage]) -> tuple[Any, int]:
    """Read a pickle that holds dicts, lists, numbers, strings and tensors.

    Args:
        data: bytes that begin with the pickle.
        find_storage: makes a storage of a persistent id.

    Returns:
        The value, in which each tensor is a `Tensor`, and the number of bytes the pickle takes.

    Raises:
        Damage: the pickle is damaged, too large, or asks for anything else.
    """
    machine = _Machine(data, find_storage)
    return machine.run(), machine.at


def storage_type(value: Any) -> str | None:
    """Return the type of the elements of a storage, from what a persistent id says."""
    return _checked(value, _Dtype).name
