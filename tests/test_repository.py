"""The layout of the repository: what may be imported, what ships."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("metanet", "benchmarks", "tests", "docs") for p in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("folder", ["datasets", "configs"])
def test_folders_of_files_are_no_packages(folder):
    # a package named datasets would shadow Hugging Face's for everything that runs from the root
    assert (ROOT / folder).is_dir()
    assert not list((ROOT / folder).rglob("*.py"))


def test_nothing_imports_the_datasets_folder():
    assert len(SOURCES) > 50
    wrong = [p for p in SOURCES if re.search(r"^\s*(import|from) datasets\b", p.read_text(), re.MULTILINE)]
    assert not wrong


@pytest.mark.parametrize(
    ("part", "later"),
    [
        ("checkpoint", "space|symmetry|graph|nn|models|zoo|tasks"),
        ("space", "graph|nn|models|zoo|tasks"),
        ("symmetry", "graph|nn|models|zoo|tasks"),
        ("graph", "nn|models|zoo|tasks"),
        ("nn", "models|zoo|tasks"),
        ("models", "zoo|tasks"),
        ("zoo", "models|tasks"),
    ],
)
def test_parts_import_only_parts_to_their_left(part, later):
    pattern = re.compile(rf"^\s*(?:from|import) metanet\.(?:{later})\b.*$", re.MULTILINE)
    found = {f"{p.relative_to(ROOT)}: {line}" for p in (ROOT / "metanet" / part).rglob("*.py")
             for line in pattern.findall(p.read_text())}  # fmt: skip
    assert not found


def test_lightning_is_imported_by_tasks_the_data_module_and_the_training_command_only():
    pattern = re.compile(r"^\s*(?:from|import) lightning\b", re.MULTILINE)
    found = {
        str(p.relative_to(ROOT / "metanet")) for p in (ROOT / "metanet").rglob("*.py") if pattern.search(p.read_text())
    }
    assert {p for p in found if not p.startswith("tasks/")} <= {"zoo/data.py", "training.py"}
    assert "training.py" in found
