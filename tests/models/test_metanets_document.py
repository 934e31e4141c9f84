"""The document on metanets: its code runs and prints what it says, and it lists the models there are."""

import re
import shlex
from pathlib import Path

import metanet.models
import metanet.testing
from metanet.models import Metanet, PooledMetanet

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "metanets.md").read_text()
ROWS = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| `")]


def test_its_python_prints_what_it_says(capsys):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "metanets.md", "exec"), names)
    wanted = re.findall(r"print\(.*\)  # (.*)", TEXT)
    assert len(wanted) == TEXT.count("print(")
    assert capsys.readouterr().out.splitlines() == wanted


def test_it_lists_every_model_with_what_it_claims():
    listed = {re.search(r"`(\w+)", cells[0])[1] for cells in ROWS}
    models = {name for name in metanet.models.__all__ if issubclass(getattr(metanet.models, name), Metanet)}
    assert listed == models - {Metanet.__name__, PooledMetanet.__name__}
    for cells in ROWS:
        found = getattr(metanet.models, re.search(r"`(\w+)", cells[0])[1])
        claims = found.claims - ({"scale"} if "raw" in cells[0] else set())
        said = {kind for kind in ("permutation", "scale", "sign") if kind in cells[3]}
        assert said == claims or (not said and found.__name__ in ("FlatMetanet", "ProbeGenMetanet"))


def test_it_names_the_configurations_there_are():
    listed = {name for cells in ROWS for name in re.findall(r"`(\w+)`", cells[1])}
    assert listed == {path.stem for path in (ROOT / "configs" / "metanets").glob("*.yaml")}
    for command in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)[0].splitlines():
        assert all((ROOT / word).is_file() for word in shlex.split(command) if word.endswith((".py", ".yaml")))
