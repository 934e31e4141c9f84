"""The document on rules of one's own: its code runs and prints what it says."""

import re
from pathlib import Path

import pytest

from metanet.space.rules import registry

TEXT = (Path(__file__).parents[2] / "docs" / "custom_rules.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def own_rules(monkeypatch):
    """Rules that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


@pytest.mark.usefixtures("own_rules")
def test_the_document_runs_and_prints_what_it_says(capsys):
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "custom_rules.md", "exec"), names)
    wanted = re.findall(r"print\(.*\)  # (.*)", TEXT)
    assert len(wanted) == 3
    assert capsys.readouterr().out.splitlines() == wanted


def test_names_that_the_document_mentions_exist():
    from metanet.space import axes
    from metanet.space.walk import Walk

    for name in re.findall(r"`([a-z_]+)\(", TEXT):
        assert hasattr(axes, name), name
    for name in re.findall(r"`walk\.(\w+)\(", TEXT):
        assert hasattr(Walk, name), name
