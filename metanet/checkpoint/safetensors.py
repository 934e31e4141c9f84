"""safetensors files: a JSON header, then plain numbers."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from metanet.checkpoint.budget import charge, parse_json
from metanet.checkpoint.registry import Contents, Probe, reader
from metanet.errors import CheckpointError

MAX_HEADER = 100_000_000


def recognises(probe: Probe) -> bool:
    """A length of eight bytes, then a JSON object."""
    length = int.from_bytes(probe.head[:8], "little")
    return 2 <= length <= MAX_HEADER and probe.head[8:].lstrip(b" ")[:2] in (b'{"', b"{}")


@reader("safetensors", extensions=(".safetensors",), recognises=recognises)
def read(path: Path) -> Contents:
    """Read all tensors in the order of the header."""
    header = read_header(path)
    metadata = header.pop("__metadata__", None) or {}  # the format allows null
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("the header is damaged (got an '__metadata__' that maps no texts to texts).")
    charge(path.stat().st_size, "the tensors")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in header}, metadata
    except (SafetensorError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the file is damaged or has a type that PyTorch lacks (got {error}).") from None


def read_header(path: Path) -> dict[str, Any]:
    """Read the header and compare what it promises with the size of the file.

    Raises:
        CheckpointError: The file is truncated or damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER):
            raise CheckpointError(
                f"the header is truncated (got {size - 8:,} bytes, {length:,} promised). Download it again."
            )
        try:
            header = parse_json(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            promised = 8 + length + max(ends, default=0)
            if not isinstance(promised, int):
                raise TypeError(f"an offset of type {type(promised).__name__}")
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise CheckpointError(
                f"the header is damaged (got {type(error).__name__}: {error}). Download it again."
            ) from None
    if promised != size:
        fault = "truncated" if size < promised else "damaged"
        raise CheckpointError(f"the file is {fault} (got {size:,} bytes, {promised:,} promised). Download it again.")
    return dict(header)
