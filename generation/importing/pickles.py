"""A reader of pickles that executes nothing: plain containers, tensors and arrays; any other class is a name.

It is a machine of its own for the operations of a pickle, protocols 0 to 5. What a pickle would call is looked up in
BUILDERS by its name alone, and is a Record, with what it would have been given, where it is not there. Nothing is
imported by a pickle's wish. Sizes are compared with the bytes that are there before memory is taken for them.
"""

import math
import struct
from collections.abc import Callable
from typing import Any

from generation.importing.parts import Array, Budget, Kind, Name, Record, Storage, Stored

MAX_LINE = 1000  # bytes of what ends with a line
MAX_DIGITS = 64  # bytes of a whole number
MAX_KEY = 300
MAX_NUMBER = 2**60  # of a key: beyond, numbers can be chosen that all hash alike
MAX_AXES = 8


# -- what may be built -------------------------------------------------------------------------------------------------


def whole_numbers(values: Any, name: str) -> tuple[int, ...]:
    """A tuple of whole numbers of at least 0; ValueError."""
    if not isinstance(values, tuple | list) or len(values) > MAX_AXES:
        raise ValueError(f"{name} that are none")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise ValueError(f"{name} out of range")
    return tuple(values)


def stored(machine: "Machine", args: tuple) -> Stored:
    """torch._utils._rebuild_tensor_v2: storage, offset, size, stride, ..."""
    storage, offset, shape, stride = args[:4]
    (offset,) = whole_numbers((offset,), "offsets")
    shape, stride = whole_numbers(shape, "sizes"), whole_numbers(stride, "strides")
    if not isinstance(storage, Storage) or len(shape) != len(stride):
        raise ValueError("a tensor without a storage")
    n = math.prod(shape)
    steps = sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1)
    expected = 1
    for step, size in steps if n else []:
        if step != expected:
            raise ValueError("a tensor whose elements overlap or leave gaps")
        expected *= size
    if offset + n > storage.n:
        raise ValueError(f"a tensor of {n:,} numbers in a storage of {storage.n:,}")
    return Stored(storage, offset, shape, stride)


def parameter(machine: "Machine", args: tuple) -> Stored:
    """torch._utils._rebuild_parameter: the tensor, ..."""
    if not isinstance(args[0], Stored):
        raise ValueError("a parameter without a tensor")
    return args[0]


def ordered(machine: "Machine", args: tuple) -> dict:
    """collections.OrderedDict, of pairs if given."""
    pairs = args[0] if args else []
    machine.budget.make(100 * len(pairs))
    return {
        key_of(name): value for name, value in (pairs if isinstance(pairs, list | tuple) else pairs.items())
    }


def encoded(machine: "Machine", args: tuple) -> bytes:
    """_codecs.encode: bytes that older protocols write as text."""
    text, how = (*args, "latin1")[:2]
    if not isinstance(text, str) or how not in ("latin1", "latin-1"):
        raise ValueError("an encoding that is not known")
    machine.budget.make(len(text))
    return text.encode("latin1")


def frombuffer(machine: "Machine", args: tuple) -> Array:
    """numpy.core.numeric._frombuffer: data, dtype, shape, order."""
    data, kind, shape, order = args
    return filled(machine, Array(), (1, shape, kind, order == "F", data))


def filled(machine: "Machine", array: Array, state: tuple) -> Array:
    """A numpy array with its state: version, shape, dtype, whether in Fortran's order, data."""
    shape, kind, fortran, data = state[-4:]
    if isinstance(data, str):
        machine.budget.make(len(data))
        data = data.encode("latin1")
    if not isinstance(kind, Kind) or not isinstance(data, bytes | memoryview):
        raise ValueError("an array of objects")
    array.shape, array.kind = whole_numbers(shape, "sizes"), kind.dtype()
    array.fortran, array.data = bool(fortran), data
    if math.prod(array.shape) * array.kind.itemsize != len(data):
        raise ValueError(f"an array of {math.prod(array.shape):,} numbers in {len(data):,} bytes")
    return array


def number(machine: "Machine", args: tuple) -> int | float:
    """numpy.core.multiarray.scalar: dtype, data."""
    kind, data = args
    return filled(machine, Array(), ((), kind, False, data)).tensor().item()


def kind_of(machine: "Machine", args: tuple) -> Kind:
    """numpy.dtype: its code, ..."""
    if not isinstance(args[0], str):
        raise ValueError("a type of numbers without a name")
    return Kind(args[0].lstrip("<>|="), ">" if args[0].startswith(">") else "<")


def reconstructed(machine: "Machine", args: tuple) -> Record:
    """copyreg._reconstructor: a class, its base, ..."""
    return machine.record(args[0], ())


_NUMPY = {"_reconstruct": lambda machine, args: Array(), "scalar": number}
BUILDERS: dict[str, Callable[["Machine", tuple], Any]] = {
    "torch._utils._rebuild_tensor": stored,
    "torch._utils._rebuild_tensor_v2": stored,
    "torch._utils._rebuild_parameter": parameter,
    "torch.Size": lambda machine, args: whole_numbers(args[0], "sizes"),
    "torch.storage._load_from_bytes": lambda machine, args: machine.nested(args[0]),
    "collections.OrderedDict": ordered,
    **{f"{module}.set": lambda machine, args: args[0] for module in ("builtins", "__builtin__")},
    "_codecs.encode": encoded,
    "numpy.dtype": kind_of,
    **{f"numpy.{core}.multiarray.{name}": fn for core in ("core", "_core") for name, fn in _NUMPY.items()},
    **{f"numpy.{core}.numeric._frombuffer": frombuffer for core in ("core", "_core")},
    **{f"{module}._reconstructor": reconstructed for module in ("copyreg", "copy_reg")},
}  # fmt: skip
# Names of the layouts that are read, of which nothing need be said.
EXPECTED = (
    "torch.nn.",
    "torch_utils.persistence.",
    "dnnlib.",
    "tfutil.",
    "collections.",
    "argparse.Namespace",
)


def key_of(value: Any, depth: int = 2) -> Any:
    """A key of a dictionary: a word or a number, or a few of them, as text; ValueError."""
    if isinstance(value, tuple) and len(value) <= MAX_AXES and depth:
        # hashes of texts cannot be foreseen, those of tuples can
        inside = [str(key_of(part, depth - 1)) for part in value]
        if sum(map(len, inside)) <= MAX_KEY:
            return f"({', '.join(inside)})"
    if isinstance(value, Name):
        return value.full
    if isinstance(value, memoryview) and len(value) <= MAX_KEY:
        return bytes(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and -MAX_NUMBER < value < MAX_NUMBER:
        return value
    if isinstance(value, bytes) and len(value) <= MAX_KEY:
        return value
    raise ValueError("a key that is neither a word nor a number")


# -- the machine -------------------------------------------------------------------------------------------------------


class Machine:
    """One pickle: data from `at` on. persistent(id): what a persistent id stands for; nested(bytes): a storage that is
    a file of torch in itself. All that is wrong raises an exception of some kind."""

    def __init__(
        self,
        data: memoryview,
        budget: Budget,
        at: int = 0,
        persistent: Callable[[Any], Any] | None = None,
        nested: Callable[[Any], Storage] | None = None,
    ) -> None:
        self.data, self.budget, self.at = data, budget, at
        self.persistent, self._nested = persistent, nested
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object of the pickle; `at` is then behind it."""
        while self.at < len(self.data):
            op = self.data[self.at]
            self.at += 1
            self.budget.operate()
            if op == 0x2E:
                return self.pop()
            handle = OPERATIONS.get(op)
            if handle is None:
                raise ValueError(f"an operation {bytes([op])!r} that weights do not need")
            handle(self)
        raise ValueError("the file is cut off")

    # reading

    def take(self, n: int) -> memoryview:
        """The next n bytes."""
        if n > len(self.data) - self.at:
            raise ValueError(f"the file is cut off, or {n:,} bytes are promised that it does not have")
        self.at += n
        return self.data[self.at - n : self.at]

    def count(self, n: int) -> int:
        """A whole number of n bytes, least first."""
        return int.from_bytes(self.take(n), "little")

    def line(self) -> str:
        """Up to the end of a line."""
        found = bytes(self.data[self.at : self.at + MAX_LINE]).find(b"\n")
        if found < 0:
            raise ValueError("a line without an end")
        text = bytes(self.take(found + 1))[:-1].rstrip(b"\r")
        return text.decode()

    def text(self, n: int) -> str:
        """A text of n bytes."""
        self.budget.read_text(n)
        return bytes(self.take(n)).decode("utf-8", "surrogatepass")

    def raw(self, n: int) -> str | memoryview:
        """A string of Python 2: a word, or what numbers are made of."""
        data = self.take(n)
        return data if n > MAX_LINE else bytes(data).decode("latin1")

    def pop(self) -> Any:
        """The top of the stack."""
        if not self.stack:
            raise ValueError("an empty stack")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        """The top of the stack, which stays there and is of one of these types."""
        if not self.stack or not isinstance(self.stack[-1], kinds):
            raise ValueError("an operation on what it is not for")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        """Put on top of the stack."""
        self.stack.append(value)

    def mark(self) -> None:
        """Begin a group."""
        self.marks.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """The items since the last mark."""
        if not self.marks:
            raise ValueError("a group without a beginning")
        items, self.stack = self.stack, self.marks.pop()
        return items

    # containers

    def append(self, items: list[Any]) -> None:
        """Add to a list on top, of a record too."""
        target = self.top(list, Record)
        if isinstance(target, Record):
            target.items = target.items if isinstance(target.items, list) else []
            target = target.items
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Keys and values in turn, into a dictionary on top, of a record too."""
        target = self.top(dict, Record)
        if isinstance(target, Record):
            target.items = target.items if isinstance(target.items, dict) else {}
            target = target.items
        for name, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(name)] = value

    def build(self) -> None:
        """State for what is on top: arrays and records take it, dictionaries have none that matters."""
        state = self.pop()
        target = self.top(object)
        if isinstance(target, Array):
            filled(self, target, state)
        elif isinstance(target, Kind):
            target.order = state[1] if isinstance(state[1], str) else "<"
        elif isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):
            raise ValueError("state for what has none")

    def remember(self, index: int) -> None:
        """Keep the top of the stack under a number."""
        if not 0 <= index < 2**32:
            raise ValueError("a number out of range")
        self.memo[index] = self.top(object)

    def recall(self, index: int) -> None:
        """What was kept under a number."""
        if index not in self.memo:
            raise ValueError("a number under which nothing was kept")
        self.push(self.memo[index])

    # classes and calls

    def record(self, name: Any, args: Any) -> Record:
        """The record of a class or function that nothing is known of."""
        if not isinstance(name, Name):
            raise ValueError("a call of what is no name")
        if not name.full.startswith(EXPECTED):
            self.budget.inert.setdefault(name.full)
        return Record(name.full, args if isinstance(args, tuple) else ())

    def call(self, name: Any, args: Any) -> None:
        """What would be called: built where it is known, a record where it is not."""
        build = BUILDERS.get(name.full) if isinstance(name, Name) else None
        self.push(self.record(name, args) if build is None else build(self, args))

    def nested(self, data: Any) -> Storage:
        """A storage that is a file in itself."""
        if self._nested is None or not isinstance(data, memoryview | bytes):
            raise ValueError("a file within a file")
        return self._nested(data)

    def refer(self, number: Any) -> None:
        """What a persistent id stands for."""
        if self.persistent is None:
            raise ValueError("a reference to what is not in the file")
        self.push(self.persistent(number))


def _integer(text: str) -> int | bool:
    if text in ("00", "01"):
        return text == "01"
    if len(text) > MAX_DIGITS:
        raise ValueError("a number of many digits")
    return int(text.rstrip("L"))


def _signed(machine: Machine, n: int) -> int:
    if n > MAX_DIGITS:
        raise ValueError("a number of many digits")
    return int.from_bytes(machine.take(n), "little", signed=True)


def _quoted(text: str) -> str:
    if len(text) < 2 or text[0] not in "'\"" or text[0] != text[-1] or "\\" in text:
        raise ValueError("a text with escapes")
    return text[1:-1]


def _few(n: int) -> Callable[[Machine], None]:
    """The operation that makes a tuple of the last n items."""
    return lambda m: m.push(tuple([m.pop() for _ in range(n)][::-1]))


def _made(m: Machine, name: Any, args: Any) -> None:
    """NEWOBJ and its like: never more than a record, but for dictionaries that keep an order."""
    m.push({} if name == Name("collections.OrderedDict") else m.record(name, args))


def _instance(m: Machine, items: list[Any]) -> None:
    if not items:
        raise ValueError("an empty group")
    _made(m, items[0], tuple(items[1:]))


def _global(m: Machine, module: Any, name: Any) -> None:
    if not (isinstance(module, str) and isinstance(name, str)) or len(module) + len(name) > MAX_KEY:
        raise ValueError("a name that is none")
    m.push(Name(f"{module}.{name}"))


def _dict(m: Machine, items: list[Any]) -> None:
    m.push({})
    m.set_items(items)


def _last(m: Machine, n: int) -> list[Any]:
    """The last n items, in their order."""
    return [m.pop() for _ in range(n)][::-1]


# Operation -> what it does; those that are absent are refused: numbered extensions, buffers from outside.
OPERATIONS: dict[int, Callable[[Machine], object]] = {
    op[0]: handle
    for op, handle in {
        b"\x80": lambda m: m.count(1),
        b"\x95": lambda m: m.count(8),
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"I": lambda m: m.push(_integer(m.line())),
        b"L": lambda m: m.push(_integer(m.line())),
        b"J": lambda m: m.push(_signed(m, 4)),
        b"K": lambda m: m.push(m.count(1)),
        b"M": lambda m: m.push(m.count(2)),
        b"\x8a": lambda m: m.push(_signed(m, m.count(1))),
        b"\x8b": lambda m: m.push(_signed(m, m.count(4))),
        b"F": lambda m: m.push(float(m.line())),
        b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        b"S": lambda m: m.push(_quoted(m.line())),
        b"T": lambda m: m.push(m.raw(m.count(4))),
        b"U": lambda m: m.push(m.raw(m.count(1))),
        b"B": lambda m: m.push(m.take(m.count(4))),
        b"C": lambda m: m.push(m.take(m.count(1))),
        b"\x8e": lambda m: m.push(m.take(m.count(8))),
        b"\x96": lambda m: m.push(m.take(m.count(8))),
        b"V": lambda m: m.push(m.line()),
        b"X": lambda m: m.push(m.text(m.count(4))),
        b"\x8c": lambda m: m.push(m.text(m.count(1))),
        b"\x8d": lambda m: m.push(m.text(m.count(8))),
        b"]": lambda m: m.push([]),
        b"}": lambda m: m.push({}),
        b")": lambda m: m.push(()),
        b"\x8f": lambda m: m.push([]),  # sets are read as lists
        b"l": lambda m: m.push(m.group()),
        b"d": lambda m: _dict(m, m.group()),
        b"t": lambda m: m.push(tuple(m.group())),
        b"\x85": _few(1),
        b"\x86": _few(2),
        b"\x87": _few(3),
        b"\x91": lambda m: m.push(m.group()),
        b"a": lambda m: m.append(_last(m, 1)),
        b"e": lambda m: m.append(m.group()),
        b"\x90": lambda m: m.append(m.group()),
        b"s": lambda m: m.set_items(_last(m, 2)),
        b"u": lambda m: m.set_items(m.group()),
        b"(": lambda m: m.mark(),
        b"0": lambda m: m.pop(),
        b"1": lambda m: m.group(),
        b"2": lambda m: m.push(m.top(object)),
        b"g": lambda m: m.recall(_integer(m.line())),
        b"h": lambda m: m.recall(m.count(1)),
        b"j": lambda m: m.recall(m.count(4)),
        b"p": lambda m: m.remember(_integer(m.line())),
        b"q": lambda m: m.remember(m.count(1)),
        b"r": lambda m: m.remember(m.count(4)),
        b"\x94": lambda m: m.remember(len(m.memo)),
        b"c": lambda m: _global(m, m.line(), m.line()),
        b"\x93": lambda m: _global(m, *_last(m, 2)),
        b"i": lambda m: (_global(m, m.line(), m.line()), _made(m, m.pop(), tuple(m.group()))),
        b"o": lambda m: _instance(m, m.group()),
        b"\x81": lambda m: _made(m, *_last(m, 2)),
        b"\x92": lambda m: _made(m, *_last(m, 3)[:2]),
        b"R": lambda m: m.call(*_last(m, 2)),
        b"b": lambda m: m.build(),
        b"P": lambda m: m.refer(m.line()),
        b"Q": lambda m: m.refer(m.pop()),
    }.items()
}
