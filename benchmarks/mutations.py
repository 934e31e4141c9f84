"""Damage to files: bytes at random, and changes that keep a format's structure, so that they reach what lies behind."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
TEXTS = (
    "0",
    "-1",
    "1",
    "2",
    "4294967296",
    "9223372036854775807",
    "1e999",
    "NaN",
    "null",
    "true",
    '"x"',
    "[]",
    "{}",
    "",
)
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
NESTED = (
    b"(" * 500,
    b"\x85" * 5000,
    b"]" * 5000,
    b"\x8f" * 5000,
    b"}" * 5000,
    b"2" * 5000,
    b"h\x00" * 5000,
    b"\x94" * 5000,
)

Bytes = bytes
Mutation = Callable[[random.Random, Bytes, Sequence[Bytes]], Bytes]


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a file once, seldom more often; half of the damages know the format.

    Args:
        rng: Source of every choice.
        data: The file.
        others: Files of all formats, from which splices come.
    """
    for _ in range(1 if rng.random() < 0.8 else rng.randrange(2, 5)):
        kinds = structured(data)
        known = kinds and rng.random() < 0.6
        data = (rng.choice(kinds) if known else rng.choice(PLAIN))(rng, data, others)
    return data


def structured(data: bytes) -> list[Mutation]:
    """Mutations that understand a file of these bytes."""
    if data.startswith(b"PK"):
        return [member, member, member, member, zip_fields, repack]
    if data[:1] == b"\x80":
        return [opcodes, opcodes, opcodes, texts]
    if data.startswith(b"\x89HDF"):
        return [words, words, texts]
    if data.startswith(b"\x08"):
        return [protobuf, protobuf, protobuf, texts]
    if data[8:10] == b'{"':
        return [header, header, texts]
    return [texts]


def flip_bits(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flip 1 to 8 bits."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def set_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Set 1 to 8 bytes, often to extreme values."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        if found:
            found[rng.randrange(len(found))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(found)


def truncate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data) + 1)]


def cut(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Take a piece out."""
    start, end = span(rng, data)
    return data[:start] + data[end:]


def repeat(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Repeat a piece."""
    start, end = span(rng, data)
    return data[:end] + data[start:end] * rng.randrange(1, 5) + data[end:]


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Put a piece of another file in the place of a piece, or append the whole file."""
    other = rng.choice(others)
    if rng.random() < 0.2:
        return data + other
    start, end = span(rng, data)
    first, last = span(rng, other)
    return data[:start] + other[first:last] + data[end:]


def fill(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Overwrite a piece with one value."""
    start, end = span(rng, data)
    return data[:start] + bytes([rng.choice((0, 0xFF, 0x20, 0x28))]) * (end - start) + data[end:]


def words(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Set 1 to 4 whole numbers of 1, 2, 4 or 8 bytes where small numbers stand: sizes, counts and addresses."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        width = rng.choice((1, 2, 4, 8))
        places = [rng.randrange(max(1, len(data) - width)) for _ in range(40)]
        places = [at for at in places if 0 < int.from_bytes(data[at : at + width], "little") <= max(len(data), 64)]
        for at in places[:1]:
            value = rng.choice((*NUMBERS, rng.randrange(len(data)))) % 256**width
            found[at : at + width] = value.to_bytes(width, "little")
    return bytes(found)


def texts(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Put another value in the place of a number or word that is written as text, as in JSON and array headers."""
    places = list(re.finditer(rb'-?\d+|"[^"\\]{0,40}"', data[: 1 << 16]))
    if not places:
        return flip_bits(rng, data, others)
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(TEXTS).encode() + data[place.end() :]


def header(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change the JSON header of a safetensors file and keep its length right."""
    length = int.from_bytes(data[:8], "little")
    changed = texts(rng, data[8 : 8 + length], others)
    if rng.random() < 0.5:
        try:
            tree = json.loads(data[8 : 8 + length])
            name = rng.choice([name for name in tree if name != "__metadata__"])
            tree[name] = edited(rng, tree[name])
            changed = json.dumps(tree).encode()
        except (ValueError, IndexError, KeyError, RecursionError):
            pass
    return len(changed).to_bytes(8, "little") + changed + data[8 + length :]


def edited(rng: random.Random, entry: Any) -> Any:
    """Another entry of a safetensors header: other shapes, types and offsets."""
    if not isinstance(entry, dict):
        return rng.choice((entry, None, []))
    key = rng.choice(("dtype", "shape", "data_offsets"))
    types = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "X")
    numbers = [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
    return entry | {key: rng.choice(types) if key == "dtype" else numbers}


def opcodes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Remove, repeat, exchange or insert opcodes of a pickle."""
    places = boundaries(data)
    if len(places) < 3:
        return flip_bits(rng, data, others)
    index = rng.randrange(1, len(places) - 1)
    start, end = places[index], places[index + 1]
    far = rng.randrange(1, len(places) - 1)
    piece = data[places[far] : places[min(far + rng.randrange(1, 9), len(places) - 1)]]
    new = rng.choice((b"", data[start:end] * 2, piece, rng.choice(OPCODES), rng.choice(NESTED), number(rng)))
    keep = data[start:end] if rng.random() < 0.5 else b""
    return data[:start] + new + keep + data[end:]


def number(rng: random.Random) -> bytes:
    """A pickle's opcode that pushes an extreme number."""
    return pickle.dumps(rng.choice((*NUMBERS, -1, -(2**63), 2**500, 1e308, None)), 2)[2:-1]


def boundaries(data: bytes) -> list[int]:
    """Where the opcodes of a file's pickles begin, until the first that cannot be read."""
    found: list[int] = []
    file = io.BytesIO(data)
    try:
        while file.tell() < len(data):
            found += [place for _, _, place in pickletools.genops(file) if place is not None]
            if len(found) > 20_000:
                break
    except Exception:  # what follows is no pickle
        pass
    return found


def member(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Damage one member of a zip archive and write the archive anew, so that its checksums are right."""
    members = unpacked(data)
    if not members:
        return flip_bits(rng, data, others)
    name = rng.choice([name for name in members if name.endswith(".pkl")] or list(members)) if rng.random() < 0.6 else (
        rng.choice(list(members))
    )  # fmt: skip
    inner = structured(members[name]) or PLAIN
    members[name] = rng.choice([*inner, *PLAIN])(rng, members[name], others)
    return packed(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def repack(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Drop, rename or swap members, or let one unpack to megabytes of zeros."""
    members = unpacked(data)
    if not members:
        return flip_bits(rng, data, others)
    one, other = rng.choice(list(members)), rng.choice(list(members))
    choice = rng.randrange(4)
    if choice == 0:
        del members[one]
    elif choice == 1:
        members[f"{one}{rng.choice(('x', '/../y', '.npy'))}"] = members.pop(one)
    elif choice == 2:
        members[one], members[other] = members[other], members[one]
    else:
        members[one] = members[one][: rng.randrange(200)] + bytes(rng.choice((2**20, 2**26, 2**28)))
    return packed(members, zipfile.ZIP_DEFLATED)


def unpacked(data: bytes) -> dict[str, bytes]:
    """Members of a zip archive, none if it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > 2**25:
                return {}
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # already damaged, in whatever way
        return {}


def packed(members: dict[str, bytes], method: int) -> bytes:
    """A zip archive of these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def zip_fields(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Set a field of a local header, of a directory entry or of the end record of a zip archive."""
    places = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", data)]
    if not places:
        return flip_bits(rng, data, others)
    found = bytearray(data)
    at = rng.choice(places) + 4 + 2 * rng.randrange(20)
    width = rng.choice((2, 4))
    found[at : at + width] = (rng.choice(NUMBERS) % 256**width).to_bytes(width, "little")
    return bytes(found)


def protobuf(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change one field of a protobuf message at some depth and write all lengths anew."""
    fields = parsed(data)
    if not fields:
        return flip_bits(rng, data, others)
    index = rng.randrange(len(fields))
    key, value = fields[index]
    if isinstance(value, int):
        fields[index] = (key, rng.choice((*NUMBERS, value + 1)))
    elif rng.random() < 0.75 and len(value) > 1 and parsed(value):
        fields[index] = (key, protobuf(rng, value, others))
    else:
        change = rng.randrange(5)
        if change == 0:
            del fields[index]
        elif change == 1:
            fields.insert(rng.randrange(len(fields)), (key, value))
        elif change == 2:
            fields[index] = fields[rng.randrange(len(fields))]
        elif change == 3:
            fields[index] = (key ^ (rng.randrange(1, 16) << 3), value)
        else:
            fields[index] = (key, rng.choice(PLAIN)(rng, value, others))
    return b"".join(varint(key) + written(key, value) for key, value in fields)


def parsed(data: bytes) -> list[tuple[int, Any]]:
    """Keys and values of a message: a number for a varint, bytes for the rest; empty if it is none."""
    found: list[tuple[int, Any]] = []
    at = 0
    try:
        while at < len(data):
            key, at = read_varint(data, at)
            wire = key & 7
            if wire == 0:
                value, at = read_varint(data, at)
                found.append((key, value))
                continue
            size, at = (8, at) if wire == 1 else (4, at) if wire == 5 else read_varint(data, at)
            if wire not in (1, 2, 5) or not key >> 3 or at + size > len(data):
                return []
            found.append((key, data[at : at + size]))
            at += size
    except IndexError:
        return []
    return found


def written(key: int, value: Any) -> bytes:
    """A value with its length if the key asks for one."""
    if isinstance(value, int):
        return varint(value)
    return (varint(len(value)) if key & 7 == 2 else b"") + bytes(value)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            return value, at


def varint(value: int) -> bytes:
    """A number in seven bits a byte."""
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def span(rng: random.Random, data: bytes) -> tuple[int, int]:
    """A random piece, mostly short."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 256, rng.randrange(len(data) + 1))))


PLAIN: list[Mutation] = [flip_bits, flip_bits, set_bytes, truncate, cut, repeat, splice, fill, words, texts]
