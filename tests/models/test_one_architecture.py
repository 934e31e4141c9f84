"""Metanets that are made for one architecture: built before training, refused for others, reloaded from checkpoints."""

import pytest
import torch
from torch import nn

import metanet
from metanet import testing
from metanet.errors import ConfigError, SpaceError
from metanet.models import FlatMetanet, NFNMetanet, ProbeGenMetanet, ScaleGMNMetanet
from metanet.models.one_architecture import ACTIVATION_FEATURES, activation_features
from metanet.models.probegen import Layers
from metanet.prediction import load_run, predict
from metanet.training import main


def mlp(activation=nn.ReLU, hidden=5, bias=True):
    return nn.Sequential(
        nn.Linear(3, hidden, bias=bias), activation(), nn.Linear(hidden, 4), activation(), nn.Linear(4, 2)
    )


def graph_of(net, nets=4, example=None):
    return testing.randomised_graph(metanet.trace(net, torch.randn(2, 3) if example is None else example), nets=nets)


@pytest.mark.parametrize("make", [FlatMetanet, NFNMetanet, lambda: NFNMetanet(kind="HNP")], ids=["flat", "NP", "HNP"])
def test_activations_are_an_input_but_other_shapes_are_refused(make):
    relu, tanh = graph_of(mlp()), graph_of(mlp(nn.Tanh))
    model = make()
    model.build([relu.space, tanh.space])
    model = testing.randomised_module(model)
    assert (model(relu) - model(type(relu)(tanh.space, relu.tensors))).abs().min() > 1e-6
    with pytest.raises(SpaceError, match=r"'0.weight' is \[5, 3\] in the one that it was built for, got \[6, 3\]"):
        model(graph_of(mlp(hidden=6)))
    with pytest.raises(SpaceError, match=r"'0.bias' is \[5\] .* got missing"):
        model(graph_of(mlp(bias=False)))


@pytest.mark.parametrize("make", [FlatMetanet, NFNMetanet])
def test_a_metanet_that_was_not_built_is_built_for_its_first_graph(make):
    graph = graph_of(mlp())
    model = make()
    assert model(graph).shape == (4, 1)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.equal(model(graph), model(graph))


def test_nfn_reads_what_published_layers_do_not():
    example = torch.randn(2, 2, 6)
    convolution = [nn.Conv1d(2, 6, 3, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*convolution, nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3))
    graph = graph_of(net, example=example)
    for kind in ("NP", "HNP"):
        model = NFNMetanet(kind=kind, channels=6)
        model.build([graph.space])
        model = testing.randomised_module(model)
        testing.assert_invariant(model, graph)
        testing.assert_sensitive(model, graph)


def test_activation_features(traced_network):
    features = activation_features(traced_network("mlp")[2])
    assert len(features) == ACTIVATION_FEATURES
    torch.testing.assert_close(features.sum(), torch.tensor(2 / 3))  # two of three layers, one relu, one tanh


def test_nets_with_mixed_symmetries_are_read_by_scalegmn():
    net = nn.Sequential(
        nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 2)
    )
    graph = graph_of(net)
    torch.manual_seed(0)
    model = testing.randomised_module(ScaleGMNMetanet(width=8, channels=4))
    assert testing.assert_gauge_invariant(model, graph, "scale") < 1e-10
    assert testing.assert_gauge_invariant(model, graph, "sign") < 1e-10
    moved = {**graph.tensors, "4.weight": 2 * graph.tensors["4.weight"], "4.bias": 2 * graph.tensors["4.bias"],
             "6.weight": graph.tensors["6.weight"] / 2}  # fmt: skip
    assert (model(type(graph)(graph.space, moved)) - model(graph)).abs().max() > 1e-6  # GELU has no such symmetry


def test_probes_are_run_through_the_nets():
    relu, tanh = mlp(), mlp(nn.Tanh)
    torch.manual_seed(0)
    model = ProbeGenMetanet({"relu": relu, "tanh": tanh}, (3,), probes=5, hidden=8).double()
    seen = {}
    model.head[0].register_forward_hook(lambda module, inputs, output: seen.update(read=inputs[0]))
    for net in (relu, tanh):
        graph = metanet.build(net, torch.randn(2, 3)).to(torch.float64)
        model(graph)
        probes = model.generator(model.latents)
        wanted = net.double()(probes).flatten()
        torch.testing.assert_close(seen["read"][0], wanted)
        net.float()
    assert not [n for n, _ in model.named_parameters() if "network" in n]
    with pytest.raises(
        ConfigError, match=r"no network for the activation 'sigmoid'; got networks for \['relu', 'tanh'\]"
    ):
        model(graph_of(mlp(nn.Sigmoid)))
    with pytest.raises(ConfigError, match="equally many"):
        ProbeGenMetanet({"relu": relu, "tanh": nn.Linear(3, 7)}, (3,))


def test_layers_by_name():
    net = Layers({"conv1": nn.Conv1d(1, 2, 3), "act": nn.ReLU()})
    assert list(net.state_dict()) == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize("name", ["FlatMetanet", "NFNMetanet"])
def test_a_run_trains_and_reloads(name, tiny_zoo, tmp_path):
    run = tmp_path / "run"
    args = ["fit", "--model.metanet", f"metanet.models.{name}", "--model.metanet.layers", "1"]
    args += ["--data.zoo", str(tiny_zoo.path), "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(run)]
    cli = main(args)
    graph = tiny_zoo.graph([0, 1])
    loaded = load_run(run)
    wanted = cli.model.eval().double()(graph.to(torch.float64)).detach()
    found = torch.tensor([p.value for p in predict(loaded, [graph])], dtype=torch.float64)
    torch.testing.assert_close(found, wanted)
