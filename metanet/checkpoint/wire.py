"""Protobuf's wire format, as far as it tells how many messages a file will become before they take memory."""

from __future__ import annotations

from metanet.checkpoint.budget import charge
from metanet.errors import CheckpointError

FIELD_COST = 160
"""Bytes of memory that a field of a message may take beyond its own: an empty node takes two bytes in the file."""

GRAPH = 7
NESTED = {
    "model": {7: "graph", 8: "entry", 14: "entry", 20: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "entry", 12: "entry", 13: "entry", 14: "entry", 15: "entry"},
    "node": {5: "attribute", 9: "entry"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "function": {7: "node", 9: "entry", 11: "attribute", 12: "entry"},
    "tensor": {13: "entry"},
    "entry": {},
}
"""Field numbers of ONNX messages that hold messages, and of what kind."""


def check_messages(data: bytes) -> None:
    """Walk the messages of an ONNX file, charge their memory, and check that it is one model.

    Raises:
        CheckpointError: There are too many for the size of the file, or two models follow each other.
    """
    pending = [(0, len(data), "model")]
    graphs = paid = fields = 0
    while pending:
        at, end, kind = pending.pop()
        nested = NESTED[kind]
        while at < end:
            fields += 1
            if fields - paid >= 1000:
                charge(FIELD_COST * (fields - paid), "the messages of the ONNX file")
                paid = fields
            key, at = varint(data, at, end)
            wire, number = key & 7, key >> 3
            if wire == 0:
                _, at = varint(data, at, end)
                continue
            size, at = (
                (8, at) if wire == 1 else (4, at) if wire == 5 else varint(data, at, end) if wire == 2 else (0, end)
            )
            if wire == 2 and number in nested:
                pending.append((at, min(at + size, end), nested[number]))
                graphs += kind == "model" and number == GRAPH
            at += size
    if graphs > 1:
        raise CheckpointError(
            f"it holds {graphs} graphs one after the other: several models in one file, which would become one. Save "
            "each in a file of its own."
        )


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; the end of the data ends it too."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            break
    return value, at
