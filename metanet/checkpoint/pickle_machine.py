"""The machine that runs a pickle's opcodes: Python's own, with memory counted and with nothing that recurses in C.

The C machine of Python crashes on keys of dicts and members of sets that are tuples in tuples in tuples: their hash
recurses once a level, without a limit. This one is written in Python, so that every opcode can be given a price and
every key is looked at before it is hashed.
"""

import io
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar

from metanet.checkpoint.budget import charge
from metanet.errors import CheckpointError

MAX_KEY_PARTS = 1000
MAX_KEY_DEPTH = 20
SLICE = 2**20
PRICES = [56] * 256
"""Bytes of memory that an opcode may take, beyond those of its argument."""
for price, opcodes in {
    72: (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_DICT, pickle.EMPTY_LIST),
    128: (pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.PUT, pickle.SETITEM),
    240: (pickle.EMPTY_SET, pickle.FROZENSET, pickle.MARK, pickle.DICT, pickle.TUPLE),
    400: (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ),
}.items():
    for opcode in opcodes:
        PRICES[opcode[0]] = price

Step = Callable[[Any], None]


class Stream:
    """A file of which no more is read than there is, whatever length a pickle promises."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        here = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, count: int) -> bytes:
        """Read bytes.

        Raises:
            EOFError: There are fewer.
        """
        if count > 64 and count > (left := self._end - self._file.tell()):
            raise EOFError(f"{count:,} bytes promised, {left:,} left")
        return self._file.read(count)

    def readline(self) -> bytes:
        """Read to the end of a line."""
        return self._file.readline()


class Machine(pickle._Unpickler):
    """Python's unpickler, whose containers are plain and whose memory is charged to the file's budget."""

    dispatch: ClassVar[dict[int, Step]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO) -> None:
        source: Any = file if isinstance(file, io.BytesIO) else Stream(file)
        super().__init__(source, encoding="latin1")
        self.read, self.readline = source.read, source.readline
        self._left = 0

    def load(self) -> Any:
        """Run the pickle and return what it made.

        Raises:
            CheckpointError: It would take more memory than its file may.
            Exception: Of any other kind, as damage leads to.
        """
        self.metastack: list[list[Any]] = []
        self.stack = []
        self.append = self.stack.append
        read, dispatch = self.read, self.dispatch
        while True:
            code = read(1)
            if not code:
                raise EOFError("it ends early")
            if code == pickle.STOP:
                return self.stack.pop()
            opcode = code[0]
            self._left -= PRICES[opcode]
            if self._left < 0:
                self.pay(0)
            dispatch[opcode](self)

    def pay(self, price: int) -> None:
        """Charge bytes to the file's budget, a slice at a time."""
        self._left -= price
        if self._left < 0:
            part = max(SLICE, -self._left)
            charge(part, "the pickle")
            self._left += part


def step(opcode: bytes) -> Callable[[Step], Step]:
    """Register the decorated function as what an opcode does."""

    def register(function: Step) -> Step:
        Machine.dispatch[opcode[0]] = function
        return function

    return register


def check_key(key: Any) -> None:
    """Check that hashing a key ends soon: tuples nest a few levels and have few parts.

    Raises:
        CheckpointError: They nest deeper, or too often.
    """
    level, parts = [key], 0
    for _ in range(MAX_KEY_DEPTH):
        level = [part for one in level if isinstance(one, tuple) for part in one]
        parts += len(level)
        if not level:
            return
        if parts > MAX_KEY_PARTS:
            break
    raise CheckpointError(
        f"a key or member is a tuple that nests over {MAX_KEY_DEPTH} deep or has over {MAX_KEY_PARTS:,} parts; the "
        "pickle is damaged or hostile."
    )


def put(target: Any, items: list[Any]) -> None:
    """Set keys and values, one after the other in ``items``, in a dict or stub."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, tuple):
            check_key(key)
        target[key] = value


def members(items: Iterable[Any]) -> None:
    """Check the members of a set."""
    for item in items:
        check_key(item)


@step(pickle.SETITEM)
def set_item(machine: Machine) -> None:
    """Set one key of the container below."""
    value, key = machine.stack.pop(), machine.stack.pop()
    put(machine.stack[-1], [key, value])


@step(pickle.SETITEMS)
def set_items(machine: Machine) -> None:
    """Set the keys that follow the mark."""
    items = machine.pop_mark()
    machine.pay(64 * len(items))
    put(machine.stack[-1], items)


@step(pickle.DICT)
def make_dict(machine: Machine) -> None:
    """Make a dict of what follows the mark."""
    items = machine.pop_mark()
    machine.pay(64 * len(items))
    made: dict[Any, Any] = {}
    put(made, items)
    machine.append(made)


@step(pickle.ADDITEMS)
def add_items(machine: Machine) -> None:
    """Add what follows the mark to a set."""
    items = machine.pop_mark()
    machine.pay(64 * len(items))
    members(items)
    for item in items:
        machine.stack[-1].add(item)


@step(pickle.FROZENSET)
def make_frozenset(machine: Machine) -> None:
    """Make a frozenset of what follows the mark."""
    items = machine.pop_mark()
    machine.pay(64 * len(items))
    members(items)
    machine.append(frozenset(items))


@step(pickle.REDUCE)
def reduce(machine: Machine) -> None:
    """Call a stand-in, and charge what it made."""
    arguments = machine.stack.pop()
    made = machine.stack[-1](*arguments)
    machine.pay(sys.getsizeof(made))
    machine.stack[-1] = made


@step(pickle.NEWOBJ)
def new_object(machine: Machine) -> None:
    """Make an object of a class; a stand-in that is a function is called."""
    arguments, kind = machine.stack.pop(), machine.stack.pop()
    made = kind.__new__(kind, *arguments) if isinstance(kind, type) else kind(*arguments)
    machine.pay(sys.getsizeof(made))
    machine.append(made)


@step(pickle.NEWOBJ_EX)
def new_object_with_keywords(machine: Machine) -> None:
    """Make an object of a class; keywords are passed on to stubs, which drop them."""
    keywords, arguments, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    made = kind.__new__(kind, *arguments, **keywords) if isinstance(kind, type) else kind(*arguments)
    machine.pay(sys.getsizeof(made))
    machine.append(made)


@step(pickle.BUILD)
def build(machine: Machine) -> None:
    """Give an object its state, if it is a stand-in that takes one; nothing else has attributes that a pickle sets."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, type) or not hasattr(target, "__setstate__"):
        raise CheckpointError(f"the pickle sets the state of a {type(target).__name__}; it is damaged or hostile.")
    target.__setstate__(state)


@step(pickle.BYTEARRAY8)
def read_bytes(machine: Machine) -> None:
    """Read bytes before memory is reserved for them; the inherited step does it in the other order."""
    machine.append(bytearray(machine.read(int.from_bytes(machine.read(8), "little"))))


@step(pickle.FRAME)
def skip_frame(machine: Machine) -> None:
    """Pass over the length of a frame, which only says how much to read at once."""
    machine.read(8)


def refuse_extension(machine: Machine) -> None:
    """Refuse codes of the extension registry, which name classes of the program that reads."""
    raise CheckpointError("the pickle uses an extension code, which has no meaning outside the program that wrote it.")


for extension in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
    Machine.dispatch[extension[0]] = refuse_extension
