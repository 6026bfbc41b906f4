"""Read numbers out of pickle files without running them: plain containers and numpy arrays, nothing else.

The file's instructions are interpreted here one by one; no class or function that it names is ever imported or called.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Name = tuple[str, str]  # module, name

# what files may name, under the modules' names of Python 2 and 3 and of numpy 1 and 2
_MODULES: Final = {"numpy._core.multiarray": "numpy.core.multiarray", "numpy._core.numeric": "numpy.core.numeric"} | {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
}
_PLAIN_DTYPES: Final = "biufcSUO"


@dataclass
class Opaque:
    """An object of a class that was let through by name: its kind and the state it was saved with, never the class."""

    kind: Name
    state: Any = None


@dataclass
class _Dtype:
    """A numpy dtype that a later instruction may still give its byte order."""

    name: str
    order: str = "="

    def resolve(self) -> np.dtype[Any]:
        dtype = np.dtype(self.name)
        if dtype.kind not in _PLAIN_DTYPES:
            raise ValueError(f"expected an array of numbers, text or objects, got dtype {self.name!r}")
        return dtype if self.order == "|" else dtype.newbyteorder(self.order)  # type: ignore[arg-type]


def parse_plain_pickle(data: bytes, name: str, opaque: Collection[Name] = ()) -> Any:
    """The content of a pickle; text of Python 2 is read as latin-1.

    opaque: classes, as (module, name), whose objects become `Opaque`; any other class is refused by name.
    Raises ValueError that names the file, `name`.
    """
    try:
        return _Machine(frozenset(opaque)).run(data)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, AssertionError) as error:
        raise ValueError(f"{name}: expected a pickle of plain containers and numpy arrays, got {error}") from error


def _instructions(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """A pickle's instructions; ValueError for one that is cut short, or is none."""
    stream = io.BytesIO(data)
    try:
        yield from pickletools.genops(stream)
    except ValueError:
        if stream.tell() == len(data):
            raise ValueError("one that is cut short") from None
        raise


@dataclass
class _Machine:
    """The pickle stack machine, without the instructions and names that could run code."""

    opaque: frozenset[Name]
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in _instructions(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise ValueError(f"the instruction {opcode.name}, which is not allowed")
        raise ValueError("one that is cut short")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        _expect(self.stack[-1], list).append(value)

    def appends(self, _: Any) -> None:
        items = self.since_mark()
        _expect(self.stack[-1], list).extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _expect(self.stack[-1], dict)[key] = value

    def set_items(self, _: Any) -> None:
        items = self.since_mark()
        _expect(self.stack[-1], dict).update(_pairs(items))

    def add_items(self, _: Any) -> None:
        items = self.since_mark()
        _expect(self.stack[-1], set).update(items)

    def tuple_of(self, num: int) -> None:
        items = tuple(self.stack[len(self.stack) - num :])
        del self.stack[len(self.stack) - num :]
        self.stack.append(items)

    def put(self, key: Any) -> None:
        self.memo[int(key)] = self.stack[-1]

    def get(self, key: Any) -> None:
        self.stack.append(self.memo[int(key)])

    def name(self, full: Any) -> None:
        self.push_name(*str(full).split(" ", 1))

    def stack_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_name(module, name)

    def push_name(self, module: str, name: str) -> None:
        known = (_MODULES.get(module, module), name)
        if known not in _CALLS and known not in _MARKERS and (module, name) not in self.opaque:
            raise ValueError(f"{module}.{name}, which is refused: it could run code")
        self.stack.append(_Named(known if known in _CALLS or known in _MARKERS else (module, name)))

    def call(self, _: Any) -> None:
        arguments, function = _expect(self.stack.pop(), tuple), _expect(self.stack.pop(), _Named)
        if function.name not in _CALLS:
            raise ValueError(f"a call of {'.'.join(function.name)}, which is refused")
        self.stack.append(_CALLS[function.name](*arguments))

    def new_object(self, _: Any) -> None:
        self.stack.pop()  # arguments of the constructor, which never runs
        self.stack.append(_opaque(self.stack.pop()))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, _Dtype):
            target.order = _dtype_order(state)
        elif isinstance(target, np.ndarray):
            _fill(target, state)
        else:
            raise ValueError(f"a state for a {type(target).__name__}, which is refused")


@dataclass(frozen=True)
class _Named:
    name: Name


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _opaque(named: Any) -> Opaque:
    name = _expect(named, _Named).name
    if name in _CALLS or name in _MARKERS:
        raise ValueError(f"an object of {'.'.join(name)}, which is refused")
    return Opaque(name)


def _empty_array(kind: Any, *_: Any) -> NDArray[Any]:
    if kind != _Named(("numpy", "ndarray")):
        raise ValueError("an array of another class than numpy.ndarray")
    return np.ndarray((0,), "b")


def _dtype(name: str, *_: Any) -> _Dtype:
    return _Dtype(_expect(name, str))


def _dtype_order(state: Any) -> str:
    _, order, *rest = _expect(state, tuple)
    if order not in ("<", ">", "=", "|") or any(part is not None for part in rest[:3]):
        raise ValueError("a structured dtype, which is not supported")
    return str(order)


def _raw(data: Any) -> bytes:
    """Bytes, which Python 2 wrote as text."""
    return data.encode("latin-1") if isinstance(data, str) else bytes(data)


def _fill(array: NDArray[Any], state: Any) -> None:
    *_, shape, dtype, is_fortran, data = _expect(state, tuple)
    resolved = _expect(dtype, _Dtype).resolve()
    num = int(np.prod([int(length) for length in _expect(shape, tuple)], dtype=np.int64))
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    content: Any = _expect(data, list) if resolved.hasobject else _raw(data)
    if len(content) != num * (1 if resolved.hasobject else resolved.itemsize):
        raise ValueError(f"an array of shape {shape} with {len(content)} bytes of data")
    restored: Any = array  # numpy's own types for this method are narrower than what it takes
    restored.__setstate__((1, shape, resolved, bool(is_fortran), content))


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    order_of_axes: Any = "F" if order == "F" else "C"
    resolved = _expect(dtype, _Dtype).resolve()
    if resolved.hasobject:
        raise ValueError("objects in a plain buffer")
    return np.frombuffer(_raw(data), resolved).reshape(shape, order=order_of_axes).copy()


def _scalar(dtype: Any, data: Any) -> Any:
    resolved = _expect(dtype, _Dtype).resolve()
    return data if resolved.hasobject else np.frombuffer(_raw(data), resolved, count=1)[0]


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"the text encoding {encoding!r}")
    return _raw(text)


def _reconstructor(named: Any, base: Any, _: Any) -> Opaque:
    if base != _Named(("builtins", "object")):
        raise ValueError("an object with a base class of its own")
    return _opaque(named)


# names that may be called, and what is done instead of calling them
_CALLS: Final[dict[Name, Callable[..., Any]]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",  # how the older protocols write empty bytes
    ("builtins", "set"): lambda items=(): set(_expect(items, list)) if items else set(),
    ("builtins", "frozenset"): lambda items=(): frozenset(_expect(items, list)) if items else frozenset(),
    ("collections", "OrderedDict"): lambda items=(): dict(items),
    ("copyreg", "_reconstructor"): _reconstructor,
}
_MARKERS: Final = frozenset({("numpy", "ndarray"), ("builtins", "object")})
# instructions whose argument is the value
_VALUES: Final = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
    + ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
    + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
)
_ACTIONS: Final[dict[str, Callable[[_Machine, Any], Any]]] = {
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.stack.pop() if m.stack else m.since_mark(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "DICT": lambda m, _: m.push(_pairs(m.since_mark())),
    "FROZENSET": lambda m, _: m.push(frozenset(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
}
