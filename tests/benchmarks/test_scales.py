"""What trees read of the sizes of neurons: fixed weights do not see a rescaling, scales see nothing else."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from metanet import testing
from metanet.symmetry.move import sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scales(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("scales")
    for name in ("scales", "accuracy", "common"):  # no package: gone with the path
        sys.modules.pop(name, None)


def test_rescaled_nets_differ_in_their_scales_alone(scales, traced_network):
    graph = testing.randomised_graph(traced_network("cnn")[2], nets=4)
    moved = graph.permute(sample(graph.space, seed=1, kinds=["scale"]))
    one, other = (scales.tables([g]) for g in (graph, moved))
    np.testing.assert_allclose(other["weights, scales fixed"], one["weights, scales fixed"], rtol=1e-9, atol=1e-9)
    for kind in ("weights", "scales"):
        assert np.abs(other[kind] - one[kind]).max() > 0.01


def test_wrong_filters_are_said(scales, tiny_zoo, capsys):
    for wrong, said in (("foo", "COLUMN=VALUE"), ("foo=1", "no column 'foo'")):
        with pytest.raises(SystemExit, match="2"):
            scales.main(["--zoo", str(tiny_zoo.path), "--filter", wrong])
        assert said in capsys.readouterr().err
