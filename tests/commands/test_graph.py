import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from metanet.cli import main

CODE = """
import torch
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
    def forward(self, x):
        x = self.a(x)
        return self.b(torch.linalg.matrix_exp(x[:, :, None] * x[:, None])[:, 0])

def bottleneck():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

def number():
    return 3

def leave():
    raise SystemExit(3)

def broken():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a user's module of a name of its own, a checkpoint, and bad files."""
    name = f"users_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "truncated.pt").write_bytes((tmp_path / "net.pt").read_bytes()[:700])
    (tmp_path / "text.pt").write_text("dear diary\n")
    torch.save({"a.weight": torch.zeros(8, 4), "b.weight": torch.zeros(3, 9)}, tmp_path / "unclear.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    yield name
    sys.modules.pop(name, None)


def test_graph_of_a_file(folder, capsys):
    assert main(["graph", "net.pt"]) == 0
    out = capsys.readouterr().out
    assert "4 neurons, 16 connections, 235 parameters, depth 2; inferred from names and shapes, not certified" in out
    assert "0.weight" in out
    assert "3x3" in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--input", "0x4"], "--input 0x4: got a size of 0"),
        (["--input", "9999999999x99999999x4"], "does not fit in memory"),
        (["--input", "99999999999999999999999x4"], "does not fit in memory"),
        (["--input", "1x4", "--activation", "relu"], "a module tells its activations itself"),
    ],
)
def test_options_that_do_not_go_with_a_module(folder, capsys, options, reason):
    assert main(["graph", f"{folder}:mlp", *options]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_a_module_that_ends_the_program(folder, capsys):
    assert main(["graph", f"{folder}:leave", "--input", "1x4"]) == 2
    assert "SystemExit: 3" in capsys.readouterr().err


def test_names_are_whole_on_a_narrow_terminal(folder, capsys, monkeypatch):
    torch.save({"a_rather_long_name.weight": torch.ones(8, 4), "last.weight": torch.ones(3, 8)}, "long.pt")
    monkeypatch.setenv("COLUMNS", "40")
    for command in ("graph", "symmetries"):
        assert main([command, "long.pt"]) == 0
        assert "\u2026" not in capsys.readouterr().out


def test_graph_of_a_module_as_json_and_picture(folder, capsys, tmp_path):
    assert main(["graph", f"{folder}:mlp", "--input", "1x4", "--json", "--plot", "mlp.svg"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["neurons"], found["connections"], found["depth"], found["source"]) == (8, 56, 2, "trace")
    assert [n["kind"] for n in found["node_sets"]] == ["input", "neuron", "output"]
    assert found["node_sets"][1]["activation"] == "relu"
    assert [b["connections"] for b in found["blocks"]] == [32, 24]
    assert (tmp_path / "mlp.svg").read_text().startswith("<?xml")


def test_symmetries_of_a_module_are_certified(folder, capsys):
    assert main(["symmetries", f"{folder}:mlp", "--input", "1x4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certified"]
    assert found["group"] == "S_8"
    assert found["log10_order"] == pytest.approx(4.6055, abs=1e-3)
    assert [a["status"] for a in found["axes"]] == ["certified"]
    assert main(["symmetries", f"{folder}:mlp", "--input", "1x4", "--no-certify"]) == 0
    assert "NOT certified" in capsys.readouterr().out


def test_symmetries_name_matrices_and_count_their_diagonals_once(folder, capsys):
    assert main(["symmetries", f"{folder}:bottleneck", "--input", "1x4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certified"]
    assert found["dimensions"] == {"linear": 9, "scale": 5, "shift": 3}
    assert main(["symmetries", f"{folder}:bottleneck", "--input", "1x4"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "continuous group: of dimension 17 (" in out
    assert "linear gauges: 1 per (0.weight[0]): 0.weight^1, 0.bias^1, 1.weight^-1" in out


def test_symmetries_name_what_is_opaque(folder, capsys):
    assert main(["symmetries", f"{folder}:Opaque", "--input", "1x4", "--no-certify"]) == 0
    out = capsys.readouterr().out
    assert "permutation group: trivial" in out
    assert "not understood: aten.linalg_matrix_exp" in out


def test_symmetries_of_a_file(folder, capsys):
    assert main(["symmetries", "net.pt"]) == 0
    out = capsys.readouterr().out
    assert "NOT certified" in out
    assert "only a module can be certified" in out
    assert "S_4, of order 10^1.4" in out


WRONG = {
    "missing file": (["graph", "nope.pt"], "no such file"),
    "empty file": (["graph", "empty.pt"], "empty"),
    "truncated file": (["graph", "truncated.pt"], "truncated"),
    "text file": (["graph", "text.pt"], "text file"),
    "unclear network": (["graph", "unclear.pt"], "unclear.pt: cannot infer the weight space: tensor 'b.weight' [3, 9]"),
    "unclear symmetries": (["symmetries", "unclear.pt"], "Alternatives:"),
    "input of a file": (["graph", "net.pt", "--input", "1x4"], "got the file 'net.pt'"),
    "module without input": (["graph", "MODULE:mlp"], "--input 1x3x224x224"),
    "no such function": (["graph", "MODULE:nope", "--input", "1x4"], "has no attribute 'nope'"),
    "no such module": (["graph", "no_such_module_here:f", "--input", "1x4"], "No module named"),
    "no network": (["graph", "MODULE:number", "--input", "1x4"], "gives a int"),
    "broken code": (["graph", "MODULE:broken", "--input", "1x4"], "no luck"),
    "no shape": (["graph", "MODULE:mlp", "--input", "4,4"], "--input 4,4: not a shape"),
    "wrong shape": (["graph", "MODULE:mlp", "--input", "1x5"], "could not be traced"),
    "wrong picture": (["graph", "net.pt", "--plot", "net.gif"], "accepted are .svg, .png, .pdf"),
    "no folder": (["graph", "net.pt", "--plot", "nowhere/net.svg"], "does not exist"),
    "certify a file": (["symmetries", "net.pt", "--certify"], "no function to certify"),
    "unknown option": (["graph", "net.pt", "--colour"], "No such option"),
    "unknown command": (["grph", "net.pt"], "No such command"),
    "nothing": (["graph"], "Missing argument"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(case, folder, capsys):
    arguments, message = WRONG[case]
    assert main([a.replace("MODULE", folder) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_an_interrupt_leaves_no_traceback(folder, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("metanet.commands.graph.find_network", interrupted)
    assert main(["graph", "net.pt"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_help_is_quick_and_names_the_commands():
    done = subprocess.run([sys.executable, "-m", "metanet.cli"], capture_output=True, text=True, check=True)
    assert {"graph", "symmetries"} <= set(done.stdout.split())
    code = "import sys, metanet.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
