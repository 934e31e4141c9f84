"""Mutants are Python, differ in one place, and leave out what no test can notice."""

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")

SOURCE = '''"""A module of 1 + 1 lines."""

from functools import lru_cache

Kind = list[int] | None


@lru_cache(maxsize=7)
def total(values: list[int] | None, start: int = 3) -> int | None:
    """Add 2 + 2 values."""
    if not values and start > 0:
        raise ValueError(f"got {len(values) + 1} values")
    values.append(start)
    return sum(values) - start
'''


@pytest.fixture
def mutants(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = importlib.import_module("mutants")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text(SOURCE)
    yield module
    sys.modules.pop("mutants")


def test_every_change_is_in_code_that_counts(mutants):
    module = mutants.Module("a.py")
    found = [module.mutant(change) for place in module.places for change in place]
    after = {m.after for m in found if m is not None}
    assert {"if not values or start > 0:", "if ((start > 0)):", "if  values and start > 0:", "pass"} <= after
    assert {"return sum(values) + start", "return ((sum(values)))", "return ((start))"} <= after
    assert {m.line for m in found if m is not None} <= {9, 11, 13, 14}
    assert all(m.function == 8 for m in found if m is not None)
    for mutant in filter(None, found):
        compile(mutant.source, "a.py", "exec")
        changed = zip(SOURCE.splitlines(), mutant.source.splitlines(), strict=True)
        assert sum(a != b for a, b in changed) == 1


def test_a_larger_sample_begins_with_the_smaller_one(mutants):
    few, many = mutants.sampled(["a.py"], 3, 5), mutants.sampled(["a.py"], 6, 5)
    assert many[:3] == few
    assert len({(m.line, m.after) for m in many}) == 6
    assert mutants.sampled(["a.py"], 6, 6) != many
