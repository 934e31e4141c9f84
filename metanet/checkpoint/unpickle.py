"""Read pickles without running them.

A pickle is a program: it names any Python function and calls it. Here every global outside a short fixed list becomes
an inert ``Stub``, which keeps what it was called with and does nothing, and the listed ones are reimplemented, so that
no code outside this package and the plain containers of Python is ever reached.
"""

import io
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, ClassVar

from metanet.checkpoint.arrays import NUMPY
from metanet.checkpoint.pickle_machine import Machine, check_key
from metanet.checkpoint.storage import DTYPES, REBUILD, STORAGES, Call, Refused, Storage, StorageType, refusal
from metanet.errors import CheckpointError


class Stub:
    """An object of a class that is never imported: what a pickle gave it, and nothing else.

    Attributes:
        origin: Dotted name of the class or function in the pickle.
        args: Arguments it was called with.
        state: State that the pickle set, usually the ``__dict__`` of the original.
        entries: Items set on it, if the original was a mapping.
        elements: Items appended to it, if the original was a list or set.
    """

    __slots__ = ("args", "elements", "entries", "state")
    origin: ClassVar[str] = "unknown"
    args: tuple[object, ...]
    state: object
    entries: dict[Any, object]
    elements: list[object]

    def __new__(cls, *args: object, **kwargs: object) -> "Stub":
        """Keep the arguments; pickles also make objects without calling ``__init__``."""
        stub = super().__new__(cls)
        stub.args, stub.state, stub.entries, stub.elements = args, None, {}, []
        return stub

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> "Stub":
        """Calling the result of a call gives another stub."""
        return type(self)(*args)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.entries[key] = value

    def append(self, item: object) -> None:
        """Keep a list item or a set member."""
        self.elements.append(item)

    add = append

    def extend(self, items: list[object]) -> None:
        """Keep several list items."""
        self.elements.extend(items)


class Dictionary(dict[Any, Any]):
    """Stand in for ``OrderedDict`` and ``defaultdict``: a dict whose attributes a pickle cannot set."""

    def __init__(self, items: Any = (), *_: object) -> None:
        super().__init__()
        for key, value in items.items() if isinstance(items, dict) else items:
            check_key(key)
            self[key] = value

    def __setstate__(self, state: object) -> None:
        """Ignore the attributes, such as the ``_metadata`` of a state dict."""


def as_bytes(value: object = b"", *_: object) -> bytes:
    """Stand in for ``_codecs.encode``, ``bytes`` and ``bytearray``; a number does not reserve memory."""
    if isinstance(value, str):
        return value.encode("latin1")
    return bytes(value) if isinstance(value, (bytes, bytearray, list, tuple)) else b""


def first(value: object = None, *_: object) -> object:
    """Stand in for functions that tag a value with a type."""
    return value


def as_set(kind: type[set[Any]] | type[frozenset[Any]], members: Any = (), *_: object) -> Any:
    """Stand in for ``set`` and ``frozenset``."""
    for member in members:
        check_key(member)
    return kind(members)


def as_list(kind: type[list[Any]] | type[tuple[Any, ...]], items: Any = (), *_: object) -> Any:
    """Stand in for ``list`` and ``torch.Size``; text would become eight times as large."""
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise CheckpointError(f"a {kind.__name__} of a {type(items).__name__}; the pickle is damaged or hostile.")
    return kind(items)


def reconstructor(kind: Any, *_: object) -> object:
    """Stand in for ``copyreg._reconstructor``, which makes an empty object of a class."""
    return kind() if isinstance(kind, type) and issubclass(kind, (Stub, Dictionary)) else Stub()


def known_globals() -> dict[tuple[str, str], Any]:
    """The only names of a pickle that become something else than a stub."""
    table: dict[tuple[str, str], Any] = {**NUMPY, **REBUILD}
    for module in ("torch", "torch.cuda", "torch.storage"):
        table |= {(module, name): StorageType(dtype) for name, dtype in STORAGES.items()}
        for name in ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"):
            table[module, name] = Refused("a quantised storage")
    table |= {("torch", name): dtype for name, dtype in DTYPES.items()}
    table |= {("torch.jit._pickle", f"build_{kind}list"): Call(first) for kind in ("int", "tensor", "double", "bool")}
    table |= {("torch.jit._pickle", "restore_type_tag"): Call(first), ("torch", "Size"): Call(partial(as_list, tuple))}
    table |= {("collections", "OrderedDict"): Dictionary, ("collections", "defaultdict"): Call(lambda *_: Dictionary())}
    for module in ("builtins", "__builtin__"):
        table |= {(module, kind.__name__): Call(partial(as_set, kind)) for kind in (set, frozenset)}
        table |= {(module, "list"): Call(partial(as_list, list)), (module, "complex"): complex}
        table |= {
            (module, "dict"): Dictionary,
            (module, "bytes"): Call(as_bytes),
            (module, "bytearray"): Call(as_bytes),
        }
    for module in ("copyreg", "copy_reg"):
        table[module, "_reconstructor"] = Call(reconstructor)
    table["_codecs", "encode"] = Call(as_bytes)
    return table


GLOBALS = known_globals()
SHARDED = ("ShardedTensor", "DTensor", "ShardMetadata", "Shard")


STUB_COST = 2048
MAX_NESTED = 8


class InertUnpickler(Machine):
    """Unpickler that imports nothing.

    Args:
        file: The pickle stream.
        storage: Makes a storage from the fields of a persistent id after ``"storage"``: type, key, device, size, ...
        depth: How many pickles this one lies in.
    """

    def __init__(self, file: BinaryIO, storage: Callable[..., Storage] | None = None, depth: int = 0) -> None:
        super().__init__(file)
        self._storage, self._depth = storage, depth
        self._stubs: dict[tuple[str, str], type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up in the fixed list; anything else becomes a stub class."""
        key = (module, name)
        if key == ("torch.storage", "_load_from_bytes"):
            return Call(partial(load_nested, depth=self._depth + 1))
        if key in GLOBALS:
            return GLOBALS[key]
        if name.endswith("PackedParams") or "PackedParamsBase" in name or ".quantized." in f"{module}.":
            return refusal(f"a quantised layer ({module}.{name}). Load the float checkpoint that it was made from")
        if module.startswith("torch.distributed") and name in SHARDED:
            return refusal(f"the part of a tensor that one process of several held ({name}). Save the gathered model")
        if key not in self._stubs:
            self.pay(STUB_COST)
            self._stubs[key] = type("Stub", (Stub,), {"__slots__": (), "origin": f"{module}.{name}"})
        return self._stubs[key]

    def persistent_load(self, pid: Any) -> Any:
        """Describe the storage that a persistent id names; nothing is read yet."""
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":
            return pid[1]  # before PyTorch 1.0, whole modules carried the source of their class
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage") or self._storage is None:
            raise CheckpointError("the pickle refers to data outside it, which this format does not have")
        kind = pid[1]
        if isinstance(kind, Refused):
            return kind
        if not isinstance(kind, StorageType) or not isinstance(pid[4], int):
            raise CheckpointError(f"a storage of unknown type (got {getattr(kind, 'origin', type(kind).__name__)})")
        if not isinstance(pid[2], str):  # anything else could be a key that takes for ever to hash or to print
            raise CheckpointError(f"a storage whose key is no text (got {type(pid[2]).__name__})")
        return self._storage(kind.dtype, *pid[2:])


def unpickle(file: BinaryIO, storage: Callable[..., Storage] | None = None, depth: int = 0) -> Any:
    """Read one pickle from a stream, which is left behind its end.

    Raises:
        CheckpointError: The pickle is truncated or damaged, or would take more memory than its file may.
    """
    try:
        return InertUnpickler(file, storage, depth).load()
    except CheckpointError:
        raise
    except MemoryError:
        raise CheckpointError("the pickle asks for more memory than there is; it is damaged or hostile.") from None
    except Exception as error:  # a damaged pickle can fail in any way; all of them mean the same to the reader
        raise CheckpointError(
            f"the pickle is truncated or damaged (got {type(error).__name__}: {error}). Save or download it again."
        ) from None


def load_nested(data: object, depth: int) -> Any:
    """Stand in for ``torch.storage._load_from_bytes``: a legacy stream inside a pickle.

    Raises:
        CheckpointError: It is no bytes, or streams lie in streams too deep.
    """
    from metanet.checkpoint.pytorch import read_stream  # the two call each other

    if not isinstance(data, bytes):
        raise CheckpointError(f"a nested storage that is no bytes (got {type(data).__name__})")
    if depth > MAX_NESTED:
        raise CheckpointError(f"pickles lie in pickles over {MAX_NESTED} deep; the file is damaged or hostile.")
    return read_stream(io.BytesIO(data), depth)
