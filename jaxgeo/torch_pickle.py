"""Pickles of PyTorch read as data: a small interpreter that imports nothing and calls nothing that a file names.

A pickle is a program, and `pickle.load` imports and calls what it names. Here `pickletools.genops` only splits it into
opcodes, and `interpret` moves plain data: numbers, text, bytes, tuples, lists, pairs. A name in the file stays a piece
of text. The few names that PyTorch uses for tensors, storages and ordered dicts are compared with the strings below and
make records of this module; every other name, and whatever is made from it, filled or given a state, becomes an inert
`Foreign` without the file's arguments. No attribute is looked up; nothing of the file is hashed or compared but text
and the numbers of the memo; data that are shared, deeply nested or cyclic are never walked, copied or printed. Opcodes
and stack are limited, so that memory stays within a multiple of the file's own size.

References:
    Python documentation, `pickletools`; PEP 307 and PEP 3154 (pickle protocols 2 and 4).
    PyTorch documentation, "Serialization semantics"; `torch.load`, argument `weights_only`.
"""

import dataclasses
import io
import pickletools
from typing import Any

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "UntypedStorage": "uint8", "_UntypedStorage": "uint8",
    # Quantised tensors are not read, but what lies behind them in an old file is.
    "QInt8Storage": "int8", "QUInt8Storage": "uint8", "QInt32Storage": "int32", "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8",
}  # fmt: skip
# These younger element types have no storage of their own and lie in an untyped one.
_ELEMENTS = {*_STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"}
_PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")

# Each tensor of a state dict takes some 45 opcodes; a long tuple lies on the stack as a whole.
MOST_OPCODES, DEEPEST_STACK = 10_000_000, 1_000_000
_LONGEST_NAME, _LONGEST_CALL, _MOST_AXES = 1000, 8, 64
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Foreign:
    """Stands for a class or function that the file names, or for an object of it; there is nothing behind it."""

    name: str
    made: bool = False  # an object, and not what makes one


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A run of elements that lies elsewhere in the file."""

    key: str
    dtype: str
    total: int  # elements under this key
    start: int  # first element of this view, and its length: 0 and `total` but in files of the oldest versions
    length: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A tensor as the file describes it; nothing here is checked against the storage."""

    storage: Storage
    dtype: str
    offset: int  # in elements of `dtype`, as are the strides
    size: tuple[int, ...]
    stride: tuple[int, ...]
    flags: frozenset[str] = frozenset()  # "conj", "neg": views that PyTorch put off computing


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """A dict of the file: a foreign key can be anything, so that it is not hashed. Not checked to hold pairs."""

    items: list[Any]


class _Stack:
    """Values, and the marks that no operation but its own may take values from under."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.marks: list[int] = []

    def depth(self) -> int:
        return len(self.values) + len(self.marks)

    def push(self, value: Any) -> None:
        self.values.append(value)

    def top(self) -> Any:
        if len(self.values) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes a value where none was put")
        return self.values[-1]

    def pop(self) -> Any:
        self.top()
        return self.values.pop()

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("its pickle ends a group that was not begun")
        start = self.marks.pop()
        values = self.values[start:]
        del self.values[start:]
        return values


def interpret(stream: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """The value of the pickle at the stream's position, which is left behind it.

    Args:
        stream: the file's bytes.
        storages: is filled with the storages that the pickle refers to, the first of each key.

    Returns:
        Plain data, with `Pairs` for dicts, `Tensor` and `Storage`, and `Foreign` for all else. It can be cyclic and of
        any depth: compare, print and walk no more of it than is known.

    Raises:
        ValueError: what no pickler writes, more opcodes or a deeper stack than the limits.
    """
    stack, memo = _Stack(), {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= MOST_OPCODES or stack.depth() >= DEEPEST_STACK:
            raise ValueError(f"its pickle has over {MOST_OPCODES} opcodes or {DEEPEST_STACK} values on its stack")
        if opcode.name == "STOP":
            return stack.pop()
        if opcode.name in _LITERALS:
            stack.push(argument)
        elif opcode.name in _CONSTANTS:
            stack.push(_CONSTANTS[opcode.name])
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack.top()
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            if argument not in memo:
                raise ValueError(f"its pickle has no memo {argument}")
            stack.push(memo[argument])
        elif opcode.name in ("PERSID", "BINPERSID"):
            stack.push(_refer(stack.pop() if argument is None else argument, storages))
        elif not (_arrange(opcode.name, stack) or _make(opcode.name, argument, stack)):
            raise ValueError(f"its pickle has the opcode {opcode.name}, which PyTorch does not use")
    raise ValueError("its pickle has no end")


def _arrange(opcode: str, stack: _Stack) -> bool:  # noqa: PLR0912  (one for each kind of opcode)
    """Do what an opcode of containers says; False where it is another."""
    match opcode:
        case "PROTO" | "FRAME":
            pass
        case "MARK":
            stack.marks.append(len(stack.values))
        case "POP" if stack.marks and stack.marks[-1] == len(stack.values):
            stack.marks.pop()
        case "POP":
            stack.pop()
        case "POP_MARK":
            stack.pop_to_mark()
        case "DUP":
            stack.push(stack.top())
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.push(tuple(stack.pop_many(int(opcode[-1]))))
        case "TUPLE":
            stack.push(tuple(stack.pop_to_mark()))
        case "EMPTY_LIST":
            stack.push([])
        case "LIST":
            stack.push(stack.pop_to_mark())
        case "EMPTY_DICT":
            stack.push(Pairs([]))
        case "DICT":
            values = stack.pop_to_mark()
            stack.push(Pairs([]))
            _fill(stack.top(), values, in_pairs=True)
        case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS":
            values = stack.pop_to_mark() if opcode.endswith("S") else stack.pop_many(1 + (opcode == "SETITEM"))
            _fill(stack.top(), values, in_pairs=opcode.startswith("SETITEM"))
        case _:
            return False
    return True


def _fill(target: Any, values: list[Any], *, in_pairs: bool) -> None:
    if isinstance(target, Pairs) and in_pairs:
        target.items.extend(zip(values[::2], values[1::2], strict=True))
    elif isinstance(target, list) and not in_pairs:
        target.extend(values)
    elif not isinstance(target, Foreign):
        raise ValueError(f"its pickle puts items into a {type(target).__name__}")


def _make(opcode: str, argument: Any, stack: _Stack) -> bool:
    """Do what an opcode of classes and objects says, with records and stand-ins; False where it is another."""
    match opcode:
        case "GLOBAL":
            stack.push(_named(argument.replace(" ", ".", 1)))
        case "STACK_GLOBAL":
            stack.push(_named(*stack.pop_many(2)))
        case "EXT1" | "EXT2" | "EXT4":
            stack.push(Foreign(f"extension {argument}"))
        case "REDUCE" | "NEWOBJ":
            stack.push(_built(*stack.pop_many(2)))
        case "NEWOBJ_EX":
            maker, arguments, _ = stack.pop_many(3)
            stack.push(_built(maker, arguments))
        case "INST":
            stack.push(_built(_named(argument.replace(" ", ".", 1)), tuple(stack.pop_to_mark())))
        case "OBJ":
            maker, *arguments = stack.pop_to_mark() or [None]
            stack.push(_built(maker, tuple(arguments)))
        case "BUILD":
            # Attributes of an object, e.g. `_metadata` of a state dict: not data of a tensor.
            stack.pop()
            stack.top()
        case "EMPTY_SET":
            stack.push(Foreign("builtins.set", made=True))
        case "FROZENSET":
            stack.pop_to_mark()
            stack.push(Foreign("builtins.frozenset", made=True))
        case _:
            return False
    return True


def _named(*parts: Any) -> Foreign:
    # Bounded, because a stored text can be named again and again at the cost of one opcode.
    if not all(isinstance(part, str) for part in parts) or sum(map(len, parts)) > _LONGEST_NAME:
        raise ValueError(f"its pickle has a class whose name is no text or over {_LONGEST_NAME} letters long")
    return Foreign(".".join(parts))


def _refer(identity: Any, storages: dict[str, Storage]) -> Any:
    """What stands for a persistent id: in PyTorch's files a storage, or a class with its source."""
    if not isinstance(identity, tuple) or len(identity) > _LONGEST_CALL:
        identity = ()
    match identity:
        case ("storage", Foreign(name=name, made=False), str(key), _, total, *view) if name.startswith("torch."):
            dtype = _STORAGES.get(name.rpartition(".")[2])
            # Files of the oldest versions say here that the storage is part of another.
            start, length = view[0][1:] if view and isinstance(view[0], tuple) and len(view[0]) == 3 else (0, total)
            if dtype is not None and _are_numbers((total, start, length)):
                storage = Storage(key, dtype, total, start, length)
                storages.setdefault(key, storage)
                return storage
        case ("module", Foreign(made=False) as module, *_):
            return module
    return Foreign("persistent id", made=True)


def _built(maker: Any, arguments: Any) -> Any:
    """What stands for the result of a call: a tensor or dict by PyTorch's few names for them, or else a `Foreign`."""
    name = maker.name if isinstance(maker, Foreign) and not maker.made else "unnamed"
    made = None
    # No call below is longer, and to look at a long one again and again would take long.
    match name, arguments if isinstance(arguments, tuple) and len(arguments) <= _LONGEST_CALL else None:
        case "collections.OrderedDict", ():
            made = Pairs([])
        case "collections.OrderedDict", (list() as pairs,):  # by Python 2
            made = Pairs(pairs)
        case "torch.Size", (tuple() as size,):
            made = size
        case (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            (Storage(dtype=dtype) as storage, offset, size, stride, *rest),
        ):
            made = _tensor(storage, dtype, offset, size, stride, rest[2:])
        case (
            "torch._utils._rebuild_tensor_v3",
            (Storage() as storage, offset, size, stride, _, _, Foreign(name=dtype), *rest),
        ):
            made = _tensor(storage, dtype.removeprefix("torch."), offset, size, stride, rest)
        case (
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
            (Tensor() as tensor, *_),
        ):
            made = tensor
        case (
            "torch._tensor._rebuild_from_type_v2",
            (Foreign(name=function, made=False) as inner, Foreign(name=kind, made=False), tuple() as its_arguments, *_),
        ) if kind in _PLAIN_TENSORS and function.startswith("torch._utils."):
            made = _built(inner, its_arguments)
    return Foreign(name, made=True) if made is None else made


def _tensor(storage: Storage, dtype: str, offset: Any, size: Any, stride: Any, metadata: list[Any]) -> Tensor | None:
    if dtype not in _ELEMENTS or not isinstance(size, tuple) or not isinstance(stride, tuple):
        return None
    if max(len(size), len(stride)) > _MOST_AXES or not _are_numbers((offset, *size, *stride)):
        return None
    flags = metadata[0].items if metadata and isinstance(metadata[0], Pairs) else []
    known = {flag for flag in ("conj", "neg") for pair in flags[:_LONGEST_CALL] if _says(pair, flag)}
    return Tensor(storage, dtype, offset, size, stride, frozenset(known))


def _says(pair: Any, flag: str) -> bool:
    return (
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[0] == flag and pair[1] is True
    )


def _are_numbers(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int and abs(value) < 2**63 for value in values)
