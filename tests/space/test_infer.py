import contextlib
from collections import OrderedDict

import pytest
import torch
from torch import nn

import metanet
from metanet.checkpoint import Checkpoint, load, save
from metanet.errors import SpaceError


class Named(nn.Module):
    """Any chain of layers under the names given; those in ``spatial`` come before a flatten."""

    def __init__(self, flatten_before=None, **layers):
        super().__init__()
        self.flatten_before, self.order = flatten_before, list(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        for name in self.order:
            if name == self.flatten_before:
                x = x.flatten(1)
            x = torch.tanh(getattr(self, name)(x))
        return x


class Wrapped(nn.Module):
    """Sub-modules ``net.i.linear`` as in the SIRENs of NFN, a last plain layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.ModuleList(
            [nn.ModuleDict({"linear": nn.Linear(2, 8)}), nn.ModuleDict({"linear": nn.Linear(8, 8)})]
        )
        self.net.append(nn.Linear(8, 1))

    def forward(self, x):
        return self.net[2](torch.sin(self.net[1]["linear"](torch.sin(self.net[0]["linear"](x)))))


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
        self.classifier = nn.Sequential(nn.Linear(4 * 16, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 6, 2), Block(6, 6, 1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


def conv(*args, **kwargs):
    return nn.Conv2d(*args, **kwargs)


S = nn.Sequential
NETS = {
    "sequential": (S(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 1)), (2, 4)),
    "seq.i": (Named(seq=S(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))), (2, 2)),
    "net.i.linear": (Wrapped(), (2, 2)),
    "norm first": (S(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Linear(8, 3)), (2, 4)),
    "statistics only": (S(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 3)), (2, 4)),
    "conv1 bn1 fc": (
        Named(
            conv1=conv(3, 6, 3), bn1=nn.BatchNorm2d(6), conv2=conv(6, 4, 3), fc=nn.Linear(64, 3), flatten_before="fc",
        ),
        (2, 3, 8, 8),
    ),
    "keras names": (
        Named(
            conv2d=conv(1, 6, 3), conv2d_1=conv(6, 6, 3), dense=nn.Linear(96, 8), dense_1=nn.Linear(8, 3),
            flatten_before="dense",
        ),
        (2, 1, 8, 8),
    ),
    "features classifier": (Features(), (2, 3, 8, 8)),
    "depthwise": (S(conv(3, 8, 3), conv(8, 8, 3, groups=8), conv(8, 6, 1), conv(6, 4, 3)), (2, 3, 8, 8)),
    "grouped": (S(conv(3, 8, 3), conv(8, 12, 3, groups=4, bias=False), conv(12, 2, 1)), (2, 3, 8, 8)),
    "flat norm": (S(conv(3, 8, 3), nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 4)), (2, 3, 4, 4)),
    "one dimension": (S(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(8, 3)), (2, 3, 6)),
    "three dimensions": (S(nn.Conv3d(1, 4, 2), nn.Flatten(), nn.Linear(32, 3)), (2, 1, 3, 3, 3)),
    "one layer": (nn.Linear(3, 2), (2, 3)),
    "residual": (SmallResNet(), (2, 3, 8, 8)),
}  # fmt: skip


OPTIONS = {  # what those networks do not tell by themselves
    "depthwise": {"grouped": True},
    "grouped": {"grouped": True},
    "flat norm": {"channels_last": False},
    "one dimension": {"channels_last": False},
    "conv1 bn1 fc": {"channels_last": False},
    "keras names": {"channels_last": False},
}


def infer(name):
    return metanet.infer(NETS[name][0].state_dict(), **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_option_is_asked_for(name):
    with pytest.raises(SpaceError, match=next(iter(OPTIONS[name]))):
        metanet.infer(NETS[name][0].state_dict())


def canonical(space):
    """What a space says, with the fixed positions of one dimension merged (their split is not in a state dict)."""

    def plain(label):
        if label.op == "product":
            parts, run = [], 1
            for part in label.parts:
                if part.op == "axis" and space.axis[part.axis].kind == "fixed":
                    run *= part.size
                    continue
                parts += [("fixed", run)] if run > 1 else []
                parts.append(plain(part))
                run = 1
            return ("product", *parts, *([("fixed", run)] if run > 1 else []))
        if label.op != "axis":
            return (label.op, *map(plain, label.parts))
        axis = space.axis[label.axis]
        return ("fixed", axis.size) if axis.kind == "fixed" else (axis.name, axis.kind, axis.size)

    tensors = [(t.name, t.shape, tuple(map(plain, t.labels))) for t in space.tensors]
    links = [
        (k.tensor, k.kind, k.source and plain(k.source), plain(k.target), k.source_dims, k.target_dims, k.depth)
        for k in space.links
    ]
    return {"axes": [(a.name, a.size) for a in space.free_axes], "tensors": tensors, "links": links}


@pytest.mark.parametrize("name", NETS)
def test_the_inferred_space_is_the_traced_one(name):
    module, shape = NETS[name]
    inferred = infer(name)
    assert canonical(inferred) == canonical(metanet.trace(module, torch.zeros(*shape)))
    assert (inferred.source, inferred.certified) == ("infer", False)


@pytest.mark.parametrize("name", NETS)
def test_an_inferred_space_certifies(name):
    module, shape = NETS[name]
    certificate = metanet.certify(module, infer(name), torch.zeros(*shape))
    assert certificate.ok
    assert name == "one layer" or certificate.axes


@pytest.mark.parametrize("name", ["sequential", "net.i.linear", "features classifier", "depthwise", "residual"])
@pytest.mark.parametrize(
    "arrange",
    [sorted, lambda names: sorted(names, reverse=True), lambda names: sorted(names, key=lambda n: n[::-1])],
    ids=["sorted", "reversed", "mixed"],
)
def test_the_order_of_the_file_does_not_matter_where_names_tell_it(name, arrange):
    module, _ = NETS[name]
    state = module.state_dict()
    shuffled = metanet.infer({n: state[n] for n in arrange(state)}, **OPTIONS.get(name, {}))
    expected = infer(name)
    assert {a.size for a in shuffled.free_axes} == {a.size for a in expected.free_axes}
    assert {(k.tensor, k.kind, k.depth) for k in shuffled.links} == {
        (k.tensor, k.kind, k.depth) for k in expected.links
    }


def test_more_than_ten_layers_are_sorted_as_numbers():
    net = S(*(nn.Linear(4 + i, 5 + i) for i in range(12)))
    state = net.state_dict()
    space = metanet.infer({name: state[name] for name in sorted(state)})
    assert [k.tensor for k in space.links if k.kind == "linear"] == [f"{i}.weight" for i in range(12)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "vgg11_bn"])
def test_torchvision(name, torchvision):
    with torch.device("meta"):
        module = getattr(torchvision.models, name)()
    shape = (1, 3, 64, 64)
    with torch.device("meta"):
        traced = metanet.trace(module, torch.zeros(*shape))
    assert canonical(metanet.infer(module.state_dict())) == canonical(traced)


@pytest.fixture(scope="module")
def torchvision():
    library = torch.library.Library("torchvision", "DEF")  # a CPU build without compiled operators imports with these
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # it is there already
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield pytest.importorskip("torchvision")  # noqa: PT022 (the library must live as long)


def test_norm_groups_are_asked_for_and_used():
    net = S(conv(3, 8, 3), nn.GroupNorm(2, 8), conv(8, 2, 1))
    with pytest.raises(SpaceError, match=r"'1\.weight' \[8\].*norm_groups=1.*number of groups"):
        metanet.infer(net.state_dict())
    traced = metanet.trace(net, torch.zeros(1, 3, 6, 6))
    assert canonical(metanet.infer(net.state_dict(), norm_groups=2)) == canonical(traced)
    plain = S(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    traced = metanet.trace(plain, torch.zeros(1, 4))
    assert canonical(metanet.infer(plain.state_dict(), norm_groups=1)) == canonical(traced)
    with pytest.raises(SpaceError, match="3 equal groups"):
        metanet.infer(net.state_dict(), norm_groups=3)


def test_activations_are_known_only_if_given():
    state = NETS["sequential"][0].state_dict()
    assert {k.activation for k in metanet.infer(state).links} == {None}
    assert [k.activation for k in metanet.infer(state, "relu").links] == ["relu", "relu", "relu", None, None]


def test_keras_kernels_and_flattened_order():
    state = {
        "sequential/conv2d/bias:0": torch.zeros(6), "sequential/conv2d/kernel:0": torch.zeros(3, 3, 1, 6),
        "sequential/dense/bias:0": torch.zeros(10), "sequential/dense/kernel:0": torch.zeros(54, 10),
    }  # fmt: skip
    space = metanet.infer(state)
    kernel = space.tensor["sequential/dense/kernel:0"].labels[0]
    assert [p.size for p in kernel.parts] == [9, 6]  # positions outside, channels inside
    assert space.axis[kernel.parts[1].axis].free
    assert [a.size for a in space.free_axes] == [6]


def test_a_file_from_keras_lists_channels_inside(tmp_path):
    net = S(conv(1, 6, 3), nn.Flatten(), nn.Linear(54, 10)).state_dict()
    keras = metanet.infer(Checkpoint(net, {}, tmp_path, "keras")).tensor["2.weight"].labels[1]
    torch_like = metanet.infer(Checkpoint(net, {}, tmp_path, "pytorch")).tensor["2.weight"].labels[1]
    assert metanet.infer(net, channels_last=True) == metanet.infer(Checkpoint(net, {}, tmp_path, "keras-h5"))
    assert ([p.size for p in keras.parts], [p.size for p in torch_like.parts]) == ([9, 6], [6, 9])


def test_counters_prefixes_and_lone_numbers_are_no_obstacle():
    state = {f"module.model.{n}": t for n, t in NETS["norm first"][0].state_dict().items()}
    space = metanet.infer({**state, "module.omega": torch.tensor(30.0), "label": torch.tensor(3)})
    assert {a.size for a in space.free_axes} == {8}
    assert space.shapes["module.omega"] == ()
    assert "label" not in space.tensor


def test_it_reads_what_load_gives(tmp_path):
    state = NETS["residual"][0].state_dict()
    for name in ("net.pt", "net.safetensors"):
        save(tmp_path / name, state)
        assert metanet.infer(load(tmp_path / name)) == metanet.infer(state)


def zeros(**shapes):
    return OrderedDict((name.replace("__", "."), torch.zeros(*shape)) for name, shape in shapes.items())


REFUSED = {
    "sizes do not chain": (zeros(a__weight=(8, 4), b__weight=(3, 9)), r"'b\.weight' \[3, 9\] reads 9 values.*gives 8"),
    "parallel heads": (zeros(body__weight=(8, 4), p__weight=(2, 8), q__weight=(1, 8)), r"second head.*reads.*of 8"),
    "numbered heads": (
        zeros(body__weight=(8, 4), heads__0__weight=(8, 8), heads__1__weight=(8, 8)),
        "one of 2 heads.*parallel layers",
    ),
    "actor and critic": (zeros(actor__0__weight=(8, 4), critic__0__weight=(1, 8)), r"parallel.*select\('prefix'\)"),
    "unlisted names": (zeros(a__weight=(8, 8), b__weight=(8, 8)), r"'a\.weight' \[8, 8\] lies in 'a'.*chain=True"),
    "bias or slope": (
        zeros(**{"0__weight": (8, 4), "1__weight": (8,)}),
        r"'1\.weight' \[8\].*lone vector.*a bias.*PReLU",
    ),
    "recurrent": (zeros(rnn__weight_ih_l0=(8, 4), rnn__weight_hh_l0=(8, 8)), "recurrent"),
    "attention": (zeros(attn__qkv__weight=(24, 8)), "attention"),
    "embedding": (zeros(embedding__weight=(24, 8), fc__weight=(2, 8)), "embedding"),
    "shortcut": (zeros(**{"0__weight": (8, 4), "shortcut__weight": (8, 8)}), "shortcut"),
    "blocks": (zeros(blocks__0__weight=(8, 8), blocks__1__weight=(8, 8)), "residual blocks"),
    "transposed by bias": (zeros(**{"0__weight": (8, 4, 3, 3), "0__bias": (4,)}), r"'0\.bias' \[4\].*transposed"),
    "transposed by size": (zeros(**{"0__weight": (8, 3, 3, 3), "1__weight": (8, 3, 3, 3)}), "transposed"),
    "reshape": (zeros(**{"0__weight": (8, 4), "1__weight": (8, 8, 3, 3)}), "reshape"),
    "grouped or parallel": (
        zeros(stem__weight=(4, 2, 3, 3), mid__weight=(8, 4, 3, 3), side__weight=(8, 4, 3, 3)),
        r"2 groups.*earlier value",
    ),
    "weight norm": (zeros(**{"0__weight_g": (8, 1), "0__weight_v": (8, 4)}), "remove weight norm"),
    "half statistics": (zeros(**{"0__weight": (8, 4), "1__running_mean": (8,)}), "only part"),
    "unknown name": (zeros(**{"0__weight": (8, 4), "1__alpha": (8,)}), r"'1\.alpha'.*no known meaning"),
    "two norms' bias": (zeros(**{"0__weight": (8, 4), "0__bias": (7,)}), "does not fit"),
    "indices": ({"0.weight": torch.zeros(8, 4), "index": torch.arange(4)}, "table of indices"),
    "nothing": ({}, "no weight among 0"),
    "widening block": (
        zeros(conv1__weight=(4, 3, 3, 3), layer1__0__conv1__weight=(6, 4, 3, 3), layer1__0__conv2__weight=(6, 6, 3, 3)),
        "no downsample",
    ),
    "gate in a block": (
        zeros(conv1__weight=(4, 3, 3, 3), layer1__0__conv1__weight=(4, 4, 3, 3), layer1__0__fc__weight=(4, 4)),
        "lies in a residual block",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused(name):
    state, message = REFUSED[name]
    with pytest.raises(SpaceError, match=message) as caught:
        metanet.infer(state)
    assert name == "nothing" or "metanet.trace" in str(caught.value)


def test_preactivation_residual_networks_are_refused():
    state = SmallResNet().state_dict()
    moved = {n: t for n, t in state.items() if not n.startswith("bn1")}
    with pytest.raises(SpaceError, match="pre-activation"):
        metanet.infer(moved)
    first = "layer1.0.bn1."
    swapped = {n: t for n, t in state.items() if n.startswith(first)} | state
    with pytest.raises(SpaceError, match="pre-activation"):
        metanet.infer(swapped)


def test_tied_weights_are_refused():
    weight = torch.zeros(4, 4)
    with pytest.raises(SpaceError, match=r"'1\.weight'.*shares its memory with '0\.weight'"):
        metanet.infer({"0.weight": weight, "1.weight": weight})
