"""What the README says works: its Python runs, its commands parse, its pictures and files exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from metanet.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [c.strip() for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for c in re.split(r"&&|\n", block)]
COMMANDS += re.findall(r"`((?:python|metanet|pytest) [^`]+)`", TEXT)


def test_is_short():
    assert len(TEXT.splitlines()) <= 120


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    last = capsys.readouterr().out.split()[-1]
    assert float(last) < 1e-12


@pytest.mark.parametrize("command", [c for c in COMMANDS if c])
def test_command_parses(command):
    program, *arguments = shlex.split(command)
    PARSERS[program](arguments)


def _metanet(arguments):
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"No such command '{name}'"
        command = command.commands[name]
    command.callback = lambda **_: None
    command.main(arguments, standalone_mode=False)


def _python(arguments):
    script, *rest = arguments
    assert (ROOT / script).is_file()
    if script == "train.py":
        from metanet.training import main

        with pytest.raises(SystemExit) as stop:  # after parsing and before training
            main([*rest, *([] if "--print_config" in rest else ["--print_config"])])
        assert not stop.value.code
    else:
        unknown = {a for a in rest if a.startswith("--")} - {"--quick", "--json"}
        assert not unknown


def _pip(arguments):
    assert arguments[0] == "install"
    assert (ROOT / arguments[arguments.index("-c") + 1]).is_file()
    extra = re.fullmatch(r"\.(?:\[(\w+)\])?", arguments[arguments.index("-e") + 1])[1]
    assert (
        extra is None
        or extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )


def _pytest(arguments):
    assert not arguments


PARSERS = {"metanet": _metanet, "python": _python, "pip": _pip, "pytest": _pytest}


def test_commands_that_do_not_exist_are_noticed():
    with pytest.raises(AssertionError, match="No such command"):
        _metanet(["fly"])
    with pytest.raises(Exception, match="No such option"):
        _metanet(["graph", "a.pt", "--plott", "x.svg"])
    with pytest.raises(AssertionError):
        _python(["train.py", "fit", "--config", "configs/digits_accuracy.yaml", "--trainer.max_epoch", "2"])


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", TEXT))
def test_linked_files_exist(path):
    assert (ROOT / path).is_file()
