"""Recognition on libraries made by hand: prefixes, copies, adapters, tied names, heads, and what is constructed."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import nn

import metanet
from metanet.checkpoint import save
from metanet.commands.graph import graph
from metanet.errors import SpaceError
from metanet.space.recognise import libraries, recognise, recognition
from metanet.space.recognise.assumed import assumed
from metanet.space.recognise.construct import prefixed
from metanet.space.recognise.fingerprint import names_key, shapes_key, shapes_of
from metanet.space.recognise.index import Group, Index

CLASSES = [["head.weight", 0, "num_classes", 1, 0], ["head.bias", 0, "num_classes", 1, 0]]


class Attention(nn.Module):
    """Attention whose number of heads no shape tells; the head may be tied to the embedding."""

    def __init__(self, num_heads=2, num_classes=5):
        super().__init__()
        self.num_heads = num_heads
        self.stem, self.qkv, self.proj = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.stem(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head((x + self.proj(mixed.transpose(1, 2).flatten(2))).mean(1))


class Tied(nn.Module):
    """An embedding whose matrix is that of the head, too."""

    def __init__(self, num_classes=7):
        super().__init__()
        self.embed, self.fc = nn.Embedding(num_classes, 4), nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, num_classes, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, words):
        return self.lm_head(self.fc(self.embed(words)).relu())


@pytest.fixture
def made(monkeypatch):
    """A library ``timm`` of one architecture, the index that lists it, and what its constructor was called with."""
    calls = []

    def create_model(name, pretrained, **arguments):
        assert (name, pretrained) == ("tiny_attention", False)
        calls.append(arguments)
        return Attention(**arguments)

    package = types.ModuleType("timm")
    package.create_model = create_model
    package.models = types.SimpleNamespace(get_pretrained_cfg=lambda name: None)
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setattr(libraries, "_timm", with_words)
    shapes = shapes_of(Attention().state_dict())
    key = shapes_key(shapes, {(d[0], d[1]) for d in CLASSES})
    entries = {names_key(shapes): [["timm", "tiny_attention", key, CLASSES, {}]]}
    index = Index({"timm": "0"}, entries, {}, frozenset(), {}, frozenset(), {})
    monkeypatch.setattr(recognition, "load_index", lambda: index)
    monkeypatch.setattr(recognition, "_spaces", {})
    return calls


def with_words(package, name, arguments, presets):
    """Construct a model, with inputs that are no image."""
    return package.create_model(name, pretrained=False, **arguments).eval(), (torch.zeros(1, 3, 6),)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "state.model.backbone."])
@pytest.mark.parametrize("num_classes", [5, 11])
def test_names_with_any_prefix_are_recognised_and_the_space_is_true(made, prefix, num_classes):
    net = Attention(num_classes=num_classes)
    space = metanet.infer({prefix + name: tensor for name, tensor in net.state_dict().items()})
    assert space.source.startswith("timm:tiny_attention")
    assert made[-1] == {"num_classes": num_classes}
    assert set(space.tensor) == {prefix + name for name in net.state_dict()}
    certificate = metanet.certify(prefixed(net, prefix), space, torch.zeros(1, 3, 6))
    assert certificate.ok
    assert certificate.axes


def test_the_number_of_heads_that_no_shape_tells_is_named_unless_it_was_said(made):
    state = Attention(num_heads=4).state_dict()  # as many names and shapes as with the published 2 heads
    space = metanet.infer(state)
    assert space.source.startswith("timm:tiny_attention, with its published number of heads")
    assert metanet.infer(state, architecture="timm:tiny_attention").source == "timm:tiny_attention"


def test_group_norm_is_named_too(made):
    nets = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(4, 8)), nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(1, 8))
    spaces = [metanet.trace(net, torch.zeros(2, 3)) for net in nets]
    assert "groups of norm layers" in assumed(nets[0], spaces[0])
    assert "groups" not in assumed(nets[1], spaces[1])


def test_a_moving_average_beside_the_net_is_left_out(made):
    own = Attention().state_dict()
    state = {f"model.{n}": t for n, t in own.items()} | {f"model_ema.{n}": t for n, t in own.items()}
    assert set(recognise(state).space.tensor) == {f"model.{n}" for n in own}


def test_a_moving_average_in_a_file_is_left_out(made, tmp_path):
    own = Attention().state_dict()
    torch.save({"state_dict": own, "state_dict_ema": own, "epoch": 3}, tmp_path / "net.pt")
    assert metanet.infer(metanet.load(tmp_path / "net.pt")).source.startswith("timm:tiny_attention")


@pytest.mark.parametrize("base", ["qkv.weight", "qkv.base_layer.weight"])
def test_adapters_beside_the_weights_are_refused_with_the_net_named(made, base):
    state = Attention().state_dict()
    state[base] = state.pop("qkv.weight")
    if "base_layer" in base:
        state["qkv.base_layer.bias"] = state.pop("qkv.bias")
    state |= {"qkv.lora_A.default.weight": torch.zeros(2, 8), "qkv.lora_B.default.weight": torch.zeros(24, 2)}
    with pytest.raises(SpaceError, match=r"low-rank adapters.*timm:tiny_attention.*[Mm]erge"):
        metanet.infer(state)


def test_a_known_net_beside_other_tensors_is_refused_with_the_way_to_choose_it(made):
    state = {f"encoder.{n}": t for n, t in Attention().state_dict().items()} | {"other.weight": torch.zeros(3, 3)}
    with pytest.raises(SpaceError, match=r"'encoder\.' are timm:tiny_attention.*select\('encoder'\)"):
        metanet.infer(state)


def test_other_sizes_are_not_recognised(made):
    state = Attention().state_dict() | {"proj.weight": torch.zeros(8, 9)}
    assert recognise(state) is None
    with pytest.raises(SpaceError, match="are not timm:tiny_attention"):
        recognise(state, "timm:tiny_attention")
    assert made == []


def test_a_library_that_makes_other_tensors_is_not_believed(made, monkeypatch):
    monkeypatch.setattr(sys.modules["timm"], "create_model", lambda name, pretrained, **_: nn.Linear(6, 8))
    with pytest.raises(SpaceError, match=r"installed timm .* makes other tensors.*timm==0"):
        metanet.infer(Attention().state_dict())


def test_a_broken_constructor_is_one_error(made, monkeypatch):
    def broken(name, pretrained, **arguments):
        raise KeyError("no such thing")

    monkeypatch.setattr(sys.modules["timm"], "create_model", broken)
    with pytest.raises(SpaceError, match="cannot be constructed with the installed timm"):
        metanet.infer(Attention().state_dict())


@pytest.mark.parametrize("stored", ["both", "embedding"])
def test_tied_tensors_are_recognised_whether_stored_once_or_twice(made, monkeypatch, tmp_path, stored):
    monkeypatch.setattr(sys.modules["timm"], "create_model", lambda name, pretrained, **_: Tied())
    monkeypatch.setattr(
        libraries, "_timm", lambda package, name, *_: (Tied().eval(), (torch.zeros(1, 3, dtype=torch.long),))
    )
    once = {n: t for n, t in shapes_of(Tied().state_dict()).items() if n != "lm_head.weight"}
    entries = {names_key(once): [["timm", "tied", shapes_key(once), [], {}]]}
    index = Index({"timm": "0"}, entries, {}, frozenset(), {}, frozenset(), {})
    monkeypatch.setattr(recognition, "load_index", lambda: index)
    state = Tied().state_dict()
    if stored == "embedding":
        del state["lm_head.weight"]
    space = metanet.infer(metanet.load(save(tmp_path / "net.pt", state)))
    assert space.source.startswith("timm:tied")
    assert "embed.weight" in space.tensor


def twins(index, library):
    """The index with a second architecture of the same names and shapes."""
    ((key, (row,)),) = index.entries.items()
    return replace(index, entries={key: [row, [library, "other_attention", *row[2:]]]})


@pytest.mark.parametrize("heads", [2, 4])
def test_architectures_of_equal_shapes_are_compared_and_asked_for_if_they_differ(made, monkeypatch, heads):
    both = twins(recognition.load_index(), "timm")
    monkeypatch.setattr(recognition, "load_index", lambda: both)
    monkeypatch.setattr(recognition, "_distinct", {})
    known = {"tiny_attention": 2, "other_attention": heads}
    monkeypatch.setattr(
        sys.modules["timm"], "create_model", lambda name, pretrained, **more: Attention(known[name], **more)
    )
    state = Attention().state_dict()
    if heads == 2:
        assert metanet.infer(state).source.startswith("timm:tiny_attention")
    else:
        with pytest.raises(SpaceError, match=r"tiny_attention and timm:other_attention.*architecture='timm:tiny_atten"):
            metanet.infer(state)
    assert metanet.infer(state, architecture="timm:other_attention").source == "timm:other_attention"


@pytest.mark.parametrize("compared", [True, False])
def test_an_architecture_of_a_missing_library_is_taken_for_equal_only_if_it_was_compared(made, monkeypatch, compared):
    both = twins(recognition.load_index(), "torchvision")
    ids = ("timm:tiny_attention", "torchvision:other_attention")
    both = replace(both, groups=dict.fromkeys(ids, Group((ids,), ())) if compared else {})
    monkeypatch.setattr(recognition, "load_index", lambda: both)
    monkeypatch.setattr(recognition, "is_installed", lambda library: library == "timm")
    if compared:
        assert metanet.infer(Attention().state_dict()).source.startswith("timm:tiny_attention")
    else:
        with pytest.raises(SpaceError, match=r"timm:tiny_attention and torchvision:other_attention"):
            metanet.infer(Attention().state_dict())


def test_the_graph_command_says_what_it_took_as_published(made, tmp_path, capsys):
    graph(str(save(tmp_path / "net.pt", Attention().state_dict())))
    said = " ".join(capsys.readouterr().out.split())
    assert "recognised as timm:tiny_attention, with its published number of heads" in said
