import copy

import pytest
import torch
from torch import nn

import metanet
from metanet.errors import GraphError, SpaceError
from metanet.graph import NeuronGraph


def graph_of(traced):
    module, example, space = traced
    return NeuronGraph.from_state_dicts(space, [module.state_dict()]), module, example


def test_state_dict_gives_the_tensors_back(traced):
    graph, module, _ = graph_of(traced)
    for name, tensor in graph.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
    assert set(graph.state_dict()) == {n for n in module.state_dict() if "num_batches" not in n}


def test_permuting_a_graph_permutes_its_state_dict(traced):
    graph, module, _ = graph_of(traced)
    move = graph.space.sample(seed=1)
    moved = graph.permute(move).state_dict()
    expected = move.apply(module.state_dict())
    assert all(torch.equal(moved[name], expected[name]) for name in moved)
    assert any(not torch.equal(moved[name], module.state_dict()[name]) for name in moved)
    back = graph.permute(move).permute(move.inverse()).state_dict()
    assert all(torch.equal(back[name], graph.state_dict()[name]) for name in back)


def test_a_rebuilt_module_computes_the_same_function(traced):
    graph, module, example = graph_of(traced)
    rebuilt = copy.deepcopy(module).double().eval()
    move = graph.space.sample(seed=2)
    state = {name: t.double() for name, t in graph.permute(move).state_dict().items()}
    rebuilt.load_state_dict({**module.state_dict(), **state})
    expected = copy.deepcopy(module).double().eval()(example.double())
    torch.testing.assert_close(rebuilt(example.double()), expected, rtol=1e-10, atol=1e-12)
    name = next(n for n, s in graph.space.shapes.items() if len(s) > 1)
    rebuilt.load_state_dict({**rebuilt.state_dict(), name: rebuilt.state_dict()[name].flip(0)})
    assert not torch.allclose(rebuilt(example.double()), expected)


def test_batches_stack_select_and_refuse():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    space = metanet.trace(net, torch.zeros(1, 3))
    states = [{n: t + i for n, t in net.state_dict().items()} for i in range(3)]
    graph = NeuronGraph.from_state_dicts(space, states)
    assert graph.batch_size == 3
    assert torch.equal(graph.select([2]).state_dict()["0.weight"], states[2]["0.weight"])
    assert graph.to(torch.float64).tensors["0.bias"].dtype == torch.float64
    assert "3 nets" in repr(graph)
    with pytest.raises(GraphError, match="no state dict"):
        NeuronGraph.from_state_dicts(space, [])
    with pytest.raises(SpaceError, match=r"0\.bias.*missing"):
        NeuronGraph.from_state_dicts(space, [{n: t for n, t in net.state_dict().items() if n != "0.bias"}])
    with pytest.raises(GraphError, match="number of nets"):
        NeuronGraph(space, {**graph.tensors, "0.bias": graph.tensors["0.bias"][:2]})


def test_build_from_a_module_a_path_and_a_state_dict(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    traced = metanet.build(net, torch.zeros(1, 3))
    inferred = metanet.build(net.state_dict(), activation="relu")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    loaded = metanet.build(tmp_path / "net.pt")
    for graph in (inferred, loaded):
        assert all(torch.equal(graph.tensors[n], traced.tensors[n]) for n in traced.tensors)
    assert (traced.space.source, inferred.space.source, loaded.space.source) == ("trace", "infer", "infer")


def test_build_takes_the_space_that_a_file_carries(tmp_path):
    from metanet.checkpoint import save

    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    space = metanet.trace(net, torch.zeros(1, 3))
    save(tmp_path / "net.safetensors", net.state_dict(), {"metanet.space": space.to_json()})
    assert metanet.build(tmp_path / "net.safetensors").space == space
    save(tmp_path / "bad.pt", net.state_dict(), {"metanet.space": "{}"})
    with pytest.raises(SpaceError, match=r"bad\.pt.*not the JSON of a weight space"):
        metanet.build(tmp_path / "bad.pt")


def test_build_says_what_it_needs():
    net = nn.Linear(3, 4)
    with pytest.raises(GraphError, match="pass example_inputs"):
        metanet.build(net)
    with pytest.raises(GraphError, match="go with a module"):
        metanet.build(net.state_dict(), torch.zeros(1, 3))
    with pytest.raises(GraphError, match="from a int"):
        metanet.build(3)


def test_importing_metanet_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, metanet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(metanet.__all__) <= set(dir(metanet))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = metanet.nothing_such
