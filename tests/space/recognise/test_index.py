"""The index of known architectures and what is said where a library is not installed; no library is needed."""

import pytest
import torch
from torch import nn

import metanet
from metanet.errors import SpaceError
from metanet.space.recognise import recognise, recognition
from metanet.space.recognise.fingerprint import common_prefixes, names_key, shapes_key, skeleton_key
from metanet.space.recognise.index import FILE, Known, OpenDim, load_index


def mobilenet():
    """The entry of an architecture that inference alone does not understand."""
    index = load_index()
    for rows in index.entries.values():
        for row in rows:
            if row[1] == "mobilenet_v2":
                return row
    raise AssertionError("the index lacks mobilenet_v2")


def test_the_index_is_small_and_names_versions():
    assert FILE.stat().st_size < 1_000_000
    index = load_index()
    assert {"torchvision", "timm", "transformers"} <= index.versions.keys()
    assert "torchvision:resnet18" in index.all_names()
    assert mobilenet()[0] == "torchvision"


def test_fingerprints_ignore_order_and_see_every_name_and_size():
    shapes = {"a.weight": (2, 3), "a.bias": (2,)}
    assert shapes_key(shapes) == shapes_key(dict(reversed(shapes.items())))
    assert shapes_key(shapes) != shapes_key(shapes | {"a.weight": (3, 2)})
    assert shapes_key(shapes, {("a.weight", 0)}) == shapes_key(shapes | {"a.weight": (9, 3)}, {("a.weight", 0)})
    assert names_key(shapes) != names_key(["a.weight"])
    assert skeleton_key(["layer.0.w", "layer.1.w"]) == skeleton_key(["layer.7.w"]) != skeleton_key(["layer.w"])
    assert list(common_prefixes(["module.net.a", "module.net.b.c"])) == ["", "module.", "module.net."]


def test_open_dimensions_give_the_arguments_of_the_constructor():
    open_dims = (OpenDim("fc.weight", 0, "num_classes", 1, 0), OpenDim("aux.weight", 0, "num_classes", 2, 1))
    shapes = {"fc.weight": (7, 5), "aux.weight": (15, 5)}
    known = Known("timm", "net", shapes_key(shapes, {("fc.weight", 0), ("aux.weight", 0)}), open_dims)
    assert known.fit(shapes) == {"num_classes": 7}
    assert known.fit(shapes | {"aux.weight": (14, 5)}) is None  # half a class
    assert known.fit(shapes | {"aux.weight": (17, 5)}) is None  # two numbers of classes
    assert known.fit(shapes | {"fc.weight": (7, 6)}) is None


def test_a_missing_library_is_named(monkeypatch):
    state = {"fc.weight": torch.zeros(3, 5), "odd.weight": torch.zeros(5, 2, 7)}
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    row = ["timm", "made_up", shapes_key(shapes), [], {}]
    entries = {names_key(shapes): [row]}
    index = recognition.Index({"timm": "1.2.3"}, entries, {}, frozenset(), {}, frozenset(), {})
    monkeypatch.setattr(recognition, "load_index", lambda: index)
    monkeypatch.setattr(recognition, "is_installed", lambda library: False)
    with pytest.raises(SpaceError, match=r"timm:made_up.*pip install timm.*1\.2\.3"):
        metanet.infer(state)
    assert recognise({"fc.weight": torch.zeros(3, 5)}) is None


def test_a_plain_network_is_inferred_as_before():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert recognise(net.state_dict()) is None
    assert metanet.infer(net.state_dict()).source == "infer"


def test_an_unknown_architecture_is_refused_with_close_names():
    with pytest.raises(SpaceError, match="torchvision:resnet18"):
        metanet.infer({"fc.weight": torch.zeros(3, 5)}, architecture="torchvision:resnet81")
