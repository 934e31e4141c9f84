import json

import pytest
import torch
from torch import nn

import metanet
from metanet import WeightSpace
from metanet.errors import SpaceError


def test_json_round_trip(traced):
    _, _, space = traced
    again = WeightSpace.from_json(space.to_json())
    assert again == space
    assert again.digest == space.digest
    assert hash(again) == hash(space)
    assert again.to_json() == space.to_json()


def test_certified_is_kept_and_is_no_part_of_the_identity(traced_network):
    module, x, space = traced_network("mlp")
    certified = metanet.certify(module, space, x).space
    assert (space.certified, certified.certified) == (False, True)
    assert certified == space
    assert certified.digest == space.digest
    assert WeightSpace.from_json(certified.to_json()).certified


def test_digest_tells_architectures_apart(traced_network):
    digests = {traced_network(name)[2].digest for name in ("mlp", "cnn", "residual", "grouped")}
    assert len(digests) == 4
    module = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    assert metanet.trace(module, torch.randn(2, 4)).digest not in digests  # another activation


def test_weights_do_not_matter(traced_network):
    _, x, space = traced_network("mlp")
    other = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    assert metanet.trace(other, x) == space


def test_the_meta_device_gives_the_same_space(traced_network):
    _, x, space = traced_network("mlp")
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    assert metanet.trace(module, x) == space
    with pytest.raises(SpaceError, match="meta device"):
        metanet.certify(module, space, x)


def test_keyword_inputs_and_nested_outputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x, *, scale=None):
            h = self.a(x).relu()
            return {"out": self.b(h if scale is None else h * scale), "extra": (h.sum(-1), None)}

    module, x = Net(), torch.randn(2, 3)
    space = metanet.trace(module, {"x": x, "scale": torch.rand(2, 1)})
    assert space.neurons == 5
    assert metanet.certify(module, space, {"x": x, "scale": torch.rand(2, 1)}).ok
    with pytest.raises(SpaceError, match="got str"):
        metanet.trace(module, "x")


def test_a_module_that_cannot_be_traced_says_why():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.raises(SpaceError, match="Branch could not be traced"):
        metanet.trace(Branch(), torch.randn(3))


def test_tracing_leaves_the_module_as_it_was():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.cache = nn.Linear(3, 2), {}

        def forward(self, x):
            return self.cache.setdefault("doubled", self.a.weight * 2) @ x

    module = Caching().train()
    module.a.eval()
    space = metanet.trace(module, torch.randn(3))
    assert module.cache == {}
    assert (module.training, module.a.training) == (True, False)
    assert metanet.certify(module, space, torch.randn(3)).ok
    assert module.cache == {}


def test_tied_tensors_are_one():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    space = metanet.trace(module, torch.randn(2, 4))
    assert space.tensor["0.weight"].aliases == ("2.weight",)
    assert "2.weight" not in space.tensor
    assert space.neurons == 0  # its rows are the outputs, its columns the inputs


def test_printing_shows_the_numbers(traced_network):
    space = traced_network("mlp")[2]
    assert "12 neurons on 2 free axes, 0 opaque operations, not certified" in str(space)
    assert space.parameters == 4 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3


def test_kinds_of_axes(traced_network):
    space = traced_network("mlp")[2]
    first, last = space.tensor["0.weight"], space.tensor["4.weight"]
    kinds = [space.axis[label.axis].kind for label in (first.labels[1], first.labels[0], last.labels[0])]
    assert kinds == ["input", "neuron", "output"]
    assert space.links[0].activation == "relu"
    assert [link.depth for link in space.links] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: "no json",
        lambda d: "[]",
        lambda d: json.dumps({k: v for k, v in d.items() if k != "axes"}),
        lambda d: json.dumps({**d, "format": 99}),
        lambda d: json.dumps({**d, "tensors": [{"name": "a"}]}),
        lambda d: json.dumps({**d, "axes": []}),
        lambda d: json.dumps({**d, "links": [{**d["links"][0], "unheard": 1}]}),
    ],
)
def test_bad_json_is_refused(traced_network, change):
    data = json.loads(traced_network("mlp")[2].to_json())
    with pytest.raises(SpaceError):
        WeightSpace.from_json(change(data))


class Blur(nn.Module):
    """A depthwise blur between two layers, its filter a constant that is the same for every channel or is not."""

    def __init__(self, persistent, alike=True):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 2, 1)
        blur = torch.ones(6, 1, 3, 3) if alike else torch.arange(54.0).reshape(6, 1, 3, 3)
        self.register_buffer("blur", blur, persistent=persistent)

    def forward(self, x):
        return self.b(nn.functional.conv2d(self.a(x), self.blur, groups=6).relu())


@pytest.mark.parametrize(
    ("persistent", "alike", "neurons"), [(False, True, 6), (False, False, 0), (True, True, 0), (True, False, 0)]
)
def test_constants_that_are_alike_for_every_neuron_do_not_order_them(persistent, alike, neurons):
    """A buffer in the state dict may hold anything in another net of the space, so it always orders them."""
    module, x = Blur(persistent, alike), torch.randn(1, 2, 5, 5)
    space = metanet.trace(module, x)
    assert space.neurons == neurons
    assert metanet.certify(module, space, x).ok
