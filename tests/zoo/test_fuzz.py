"""Damaged files of a zoo: one line each, whatever the damage; weights that changed without a word are found."""

import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from metanet.cli import main
from metanet.errors import MetanetError
from metanet.zoo import build_zoo, load_recipe, open_zoo, verify_zoo
from metanet.zoo.building import read_note
from metanet.zoo.recipe import parse_recipe

VALUES = (None, True, -1, 0, 2, 10**30, 1e999, "", "x", "\ud800", "../../x", [], [[]], {}, {"": None}, "9" * 5000)
JSONS = ("zoo.json", "recipe.json", "space")
SEEDS = range(30)  # of each kind of damage to each file


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A zoo of three nets, and its weights."""
    recipe = load_recipe("digits-cnn").with_(nets=3, shard_size=2, max_steps=1)
    zoo = build_zoo(recipe, tmp_path_factory.mktemp("fuzz") / "small", workers=0)
    return zoo.path, [net.tensors for net in zoo]


def places(data, found=()):
    """Paths of all values in JSON data."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found, *(p for key, value in inner for p in places(value, (*found, key)))]


def changed_json(content, rng):
    """One value of another type, missing, renamed, or nested deep; or a key twice."""
    data = json.loads(content)
    *way, last = rng.choice(places(data)[1:])
    holder = data
    for key in way:
        holder = holder[key]
    kind = rng.choice(["value", "value", "value", "missing", "renamed", "deep", "twice"])
    if kind == "value":
        holder[last] = rng.choice(VALUES)
    elif kind == "missing":
        del holder[last]
    elif kind == "renamed" and isinstance(holder, dict):
        holder[rng.choice(["", "x", "\ud800", "format"])] = holder.pop(last)
    elif kind == "deep":
        holder[last] = "DEEP"
    text = json.dumps(data).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    if kind == "twice" and isinstance(data, dict):
        key = rng.choice(list(data))
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice(VALUES))}}}"
    return text.encode("utf-8", "surrogatepass")


def changed_bytes(content, rng):
    """Bits flipped, cut, doubled, or bytes that are no UTF-8."""
    out = bytearray(content)
    kind = rng.choice(["flip", "flip", "cut", "double", "invalid", "empty"])
    at = rng.randrange(len(out))
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 4])):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == "invalid":
        out[at : at + 1] = b"\xff\xc0\x00"
    return bytes({"cut": out[:at], "double": out + out, "empty": b""}.get(kind, out))


def changed_table(content, rng):
    """A column of another type, missing, named twice, or with missing, huge or broken values."""
    table = pq.read_table(pa.BufferReader(content))
    place = rng.randrange(table.num_columns)
    name = table.column_names[place]
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.arange(4, dtype=np.int32).tobytes()), pa.py_buffer(b"\xff\xc0\x00")]
    )
    column = rng.choice([
        pa.nulls(3), broken, pa.array(["x"] * 3), pa.array([1e300, -1e308, 1.7e308]),
        pa.array([2**63] * 3, pa.uint64()), pa.array([-1] * 3), pa.array([[1], [], None]),
        pa.array([{"a": 1}] * 3), pa.array([b"\xff"] * 3),
        pa.array([2**60] * 3, pa.timestamp("us")), pa.array([True] * 3), pa.array(["x" * 100_000] * 3),
        pa.array([1] * 3, pa.timestamp("ns")), pa.array(["../x"] * 3).dictionary_encode(),
        pa.array([5] * 3, pa.int8()),
    ])  # fmt: skip
    kind = rng.choice(["column", "column", "column", "missing", "twice", "rows", "more"])
    if kind == "column":
        table = table.set_column(place, name, column)
    elif kind == "missing":
        table = table.drop_columns([name])
    elif kind == "twice":
        table = table.append_column(name, table[name])
    elif kind == "rows":
        table = table.take(pa.array([0] * rng.choice([0, 1, 5]), pa.int64()))
    else:
        table = table.append_column(rng.choice(["", "[/b]", "\x1b[2J", "diverged ", "test_accuracy2"]), column)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def files_of(path):
    named = {"zoo.json": path / "zoo.json", "recipe.json": path / "recipe.json", "table": path / "models.parquet"}
    return named | {"space": next(path.glob("spaces/*")), "shard": next(path.glob("weights/*/*"))}


def read(path):
    """Every way in: weights and labels of all nets, or None where something refuses the zoo in one line."""
    try:
        zoo = open_zoo(path)
        [(zoo.column(name), zoo.table.column_names) for name in zoo.table.column_names]
        return [net.tensors for net in zoo]
    except MetanetError:
        return None


def same(found, weights):
    return len(found) == len(weights) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(found, weights, strict=True)
    )


CHANGES = {"values": changed_json, "columns": changed_table, "bytes": changed_bytes}
CASES = [("values", file) for file in JSONS] + [("columns", "table")]
CASES += [("bytes", file) for file in (*JSONS, "table", "shard")]


@pytest.mark.parametrize(("change", "file"), CASES)
def test_damage_is_one_line_or_harmless(small, tmp_path, capsys, change, file):
    path, weights = small
    copy = shutil.copytree(path, tmp_path / "zoo")
    target = files_of(copy)[file]
    content = target.read_bytes()
    silent = 0
    for seed in SEEDS:
        damaged = CHANGES[change](content, random.Random(f"{change} {file} {seed}"))
        target.write_bytes(damaged)
        found, problems = read(copy), verify_zoo(copy)
        assert all("\n" not in problem for problem in problems), seed
        if found is None or not same(found, weights):
            assert problems, f"seed {seed}: verify finds nothing"
        silent += found is not None and not problems
        read_note(
            copy / "zoo.json" if file == "zoo.json" else copy / "recipe.json"
        ) if b'"format"' not in damaged else 0
        for command in ("info", "verify"):
            if seed % 6 == 0:
                code = main(["zoo", command, str(copy)])
                out, error = capsys.readouterr()
                assert code == (2 if error else int(command == "verify" and bool(problems))), (seed, out, error)
                assert error.count("\n") == bool(error), (seed, error)
    assert silent < len(SEEDS) / 2 or file == "zoo.json", "most damage is none: texts of the card alone may be any"


def test_damaged_recipes_and_notes_are_one_line(small, tmp_path):
    path, _ = small
    content, refused = (path / "recipe.json").read_bytes(), 0
    for seed in range(100):
        damaged = changed_json(content, random.Random(f"note {seed}"))
        (tmp_path / "note.json").write_bytes(damaged)
        try:
            parse_recipe(read_note(tmp_path / "note.json").get("recipe"))
        except MetanetError:
            refused += 1
    assert 30 < refused < 100
