"""Stored metanets predict what they predicted when they were stored, to a millionth.

A change of what a metanet computes, or of the names of its parameters, breaks the runs that users have: it is noticed
here. Where predictions are meant to change, ``python -m tests.models.test_stored`` stores the metanets anew and prints
the table below; CHANGELOG.md then says that older runs must be trained again.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from metanet.graph import NeuronGraph
from metanet.models import EdgeStateMetanet, GaugeMetanet, OperatorMetanet

FOLDER = Path(__file__).parent / "stored"
METANETS = {
    "operator": (OperatorMetanet, {"width": 4, "heads": 2, "rounds": 2}),
    "operator-parallel": (OperatorMetanet, {"width": 4, "heads": 2, "rounds": 2, "schedule": "parallel"}),
    "gauge": (GaugeMetanet, {"width": 4, "heads": 2, "rounds": 2}),
    "edge-state": (EdgeStateMetanet, {"width": 4, "edge_width": 3, "rounds": 2}),
}
# predictions for three nets of each network of tests/conftest.py
PREDICTIONS = {
    "operator": {
        "mlp": [2.716842054, 2.438847066, 2.606753601],
        "cnn": [2.653369609, 2.882424948, 3.048934422],
        "residual": [2.926355799, 3.105198313, 2.431301433],
        "grouped": [2.658272144, 2.575085283, 2.425217868],
    },
    "operator-parallel": {
        "mlp": [0.324101623, 0.189485553, 0.212451438],
        "cnn": [0.214412693, 0.352096997, 0.329901798],
        "residual": [0.261762620, 0.248341628, 0.297769163],
        "grouped": [0.406711713, 0.372637919, 0.257372547],
    },
    "gauge": {
        "mlp": [3.346373839, 2.414450117, 2.272835283],
        "cnn": [2.866733830, 2.682678243, 2.738774269],
        "residual": [2.047801568, 1.741253130, 2.516095232],
        "grouped": [3.898997977, 3.281783839, 3.574072321],
    },
    "edge-state": {
        "mlp": [1.158559334, 1.276779197, 0.832890294],
        "cnn": [1.012106015, 1.108909645, 1.677864332],
        "residual": [0.924700487, 0.908717329, 0.739755282],
        "grouped": [3.093369210, 2.249081473, 1.543773671],
    },
}


def graph_of(space):
    """Three nets whose weights are sines, of deviation .7; running variances lie between .2 and 2.2."""
    variances = {link.tensor for link in space.links if link.kind == "variance"}
    tensors, start = {}, 0
    for name, shape in space.shapes.items():
        size = 3 * torch.Size(shape).numel()
        values = torch.sin(1.7 * torch.arange(start, start + size, dtype=torch.float64) ** 1.1).reshape(3, *shape)
        tensors[name] = values + 1.2 if name in variances else values
        start += size
    return NeuronGraph(space, tensors)


def stored(name):
    """A metanet with the parameters that were stored, in float64."""
    cls, arguments = METANETS[name]
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        assert json.loads(file.metadata()["arguments"]) == arguments
    metanet = cls(**arguments).double().eval()
    metanet.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    return metanet


@pytest.mark.parametrize("name", METANETS)
def test_predictions_are_those_of_old(name, traced_network):
    metanet = stored(name)
    for network, wanted in PREDICTIONS[name].items():
        with torch.no_grad():
            found = metanet(graph_of(traced_network(network)[2]))[:, 0]
        wanted = torch.tensor(wanted, dtype=torch.float64)
        assert wanted.std() > 1e-3, "nets must differ in their predictions"
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METANETS)
def test_single_precision_and_training_predict_the_same(name, traced_network):
    metanet = stored(name).float().train()
    for network, wanted in PREDICTIONS[name].items():
        found = metanet(graph_of(traced_network(network)[2]).to(torch.float32))[:, 0]
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def store():
    """Store every metanet with new parameters in half precision, and print what they predict."""
    from tests.conftest import NETWORKS, network

    FOLDER.mkdir(exist_ok=True)
    for name, (cls, arguments) in METANETS.items():
        torch.manual_seed(0)
        metanet = cls(**arguments)
        with torch.no_grad():
            for parameter in metanet.parameters():  # small ones would hardly tell nets apart
                parameter.add_(0.4 * torch.randn_like(parameter))
        metanet.half()
        save_file(metanet.state_dict(), FOLDER / f"{name}.safetensors", {"arguments": json.dumps(arguments)})
        print(f'    "{name}": {{')
        for each in NETWORKS:
            found = stored(name)(graph_of(network(each)[2]))[:, 0].tolist()
            print(f'        "{each}": [{", ".join(f"{v:.9f}" for v in found)}],')
        print("    },")


if __name__ == "__main__":
    store()
