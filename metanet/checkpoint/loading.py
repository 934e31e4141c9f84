"""``load``: choose a reader by content, and say clearly what a file is when there is none."""

import os
from pathlib import Path

from metanet.checkpoint.archive import open_zip
from metanet.checkpoint.budget import budget
from metanet.checkpoint.checkpoint import Checkpoint
from metanet.checkpoint.number_types import readable
from metanet.checkpoint.parts import refuse_flat, refuse_part
from metanet.checkpoint.registry import HEAD_BYTES, Probe, by_content, by_name, formats
from metanet.errors import CheckpointError

MAX_MESSAGE = 1000
FOREIGN = {
    b"GGUF": "a GGUF file: its weights are quantised in blocks. Load the float checkpoint that it was made from",
    b"TFL3": "a TensorFlow Lite file, usually quantised. Load the Keras or ONNX file that it was made from",
    b"\x1f\x8b": "a gzip archive. Unpack it first",
    b"BZh": "a bzip2 archive. Unpack it first",
    b"\xfd7zXZ": "an xz archive. Unpack it first",
    b"7z\xbc\xaf": "a 7z archive. Unpack it first",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"MZ": "a Windows program",
    b"\x7fELF": "a program or shared library",
}


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read named tensors and metadata from a checkpoint file. Nothing that the file holds is executed.

    Content decides what the file is, its name only when the content does not say. Optimiser states and other training
    state are left out; ``metadata["left_out"]`` names them.

    Args:
        path: PyTorch ``.pt/.pth/.ckpt`` (zip or legacy; state dicts, whole modules, TorchScript), safetensors, ONNX,
            Keras ``.h5/.keras``, ``.npz/.npy``, a Stable-Baselines3 zip, or the ``.index.json`` of a sharded model.

    Returns:
        Tensors in file order, in PyTorch's layouts (``[out, in, *taps]``), on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, quantised, or in an unknown format.
    """
    return load_file(Path(path))


def load_file(path: Path, shard: bool = False) -> Checkpoint:
    """``load``; ``shard`` says that the file is one of several that are read together."""
    probe = inspect(path)
    with budget(probe.size):
        chosen = by_content(probe)
        if chosen is None:
            known = diagnose(probe)
            chosen = by_name(probe) if known is None else None
            if chosen is None:
                unknown = (
                    f"got unknown content (first bytes {probe.head[:8].hex(' ')}), so the file is damaged or foreign."
                )
                raise CheckpointError(f"Cannot read {path}: {known or unknown} Accepted: {accepted()}.")
        try:
            if not shard:
                refuse_part(path)
            tensors, metadata = chosen.read(path)
            refuse_flat(tensors)
            tensors = tensors if shard else readable(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"Cannot read {path} as {chosen.format}: {one_line(error)}") from None
        except (
            Exception
        ) as error:  # parsers of h5py and protobuf raise anything on damaged bytes; the cause stays attached
            raise CheckpointError(
                f"Cannot read {path} as {chosen.format}: the content is damaged (got {type(error).__name__}: "
                f"{one_line(error)}). Save or download it again."
            ) from error
    if not any(tensor.numel() for tensor in tensors.values()):
        raise CheckpointError(f"Cannot read {path} as {chosen.format}: the file holds no weights (got 0 values).")
    return Checkpoint(tensors, metadata, path, chosen.format)


def one_line(error: BaseException) -> str:
    """The text of an error on one line of bounded length; names that a file made up may hold anything."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 20]} ... {text[-10:]}"


def inspect(path: Path) -> Probe:
    """Look at a file from outside.

    Raises:
        CheckpointError: It is missing, a directory, a pipe, empty or not readable.
    """
    if path.is_dir():
        raise CheckpointError(
            f"Cannot read {path}: got a directory, a checkpoint is one file. Name a file in it "
            "(for a sharded model its *.index.json)."
        )
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("a pipe or device, a checkpoint is a file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            size = path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"Cannot read {path}: there is no such file. Check the path.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: got {error}.") from None
    if not head:
        raise CheckpointError(f"Cannot read {path}: the file is empty (got 0 bytes). Download or save it again.")
    return Probe(path, size, head)


def diagnose(probe: Probe) -> str | None:
    """What a file that no reader recognises is, and what to do about it; None if the bytes do not tell."""
    head = probe.head
    if head.startswith(b"version https://git-lfs"):
        return "got a Git LFS pointer, not the file itself. Fetch the content with `git lfs pull`."
    if head.lstrip()[:200].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "got an HTML page, so the download answered with a web page. Download the raw file."
    for magic, name in FOREIGN.items():
        if head.startswith(magic) or (magic == b"TFL3" and head[4:8] == magic):
            return f"got {name}."
    if head[257:262] == b"ustar":
        return "got a tar archive. Unpack it first and load the files in it."
    if head.startswith(b"PK"):
        return diagnose_zip(probe)
    if b"\0" not in head and is_text(head):
        return f"got a text file (it starts with {head[:30].decode('utf-8', 'replace')!r}). Check what was saved."
    return None


def diagnose_zip(probe: Probe) -> str:
    """What is wrong with a zip archive that is no checkpoint."""
    if not probe.members:
        try:
            open_zip(probe.path).close()
        except CheckpointError as error:
            return f"got a zip archive without a readable directory: {error}"
        return "got a zip archive without a readable directory: the file is truncated or damaged. Download it again."
    if any(name.endswith(("model.json", "serialized_exported_program.json")) for name in probe.members):
        return "got a torch.export program. Save its state_dict with torch.save and load that file."
    return f"got a zip archive with other content (it holds {', '.join(probe.members[:3])}, ...)."


def is_text(head: bytes) -> bool:
    """Whether bytes read as UTF-8 text; a character cut at the end is forgiven."""
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def accepted() -> str:
    """One line that lists the formats with their endings."""
    return ", ".join(f"{name} ({'/'.join(endings)})" for name, endings in formats().items())
