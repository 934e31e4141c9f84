"""Published baselines predict what they predicted, with parameters that a formula gives: no refactoring moves them."""

import pytest
import torch

from metanet import models
from metanet.graph import NeuronGraph

SMALL = {"width": 4, "rounds": 2}
METANETS = {
    "DeepSetsMetanet": {**SMALL, "edge_width": 3},
    "GMNMetanet": {**SMALL, "edge_width": 3},
    "GraphGNNMetanet": {**SMALL, "edge_width": 3},
    "GraphTransformerMetanet": {"width": 4, "edge_width": 3, "heads": 2, "rounds": 2},
    "TransformerMetanet": {"width": 4, "edge_width": 3, "heads": 2, "layers": 2},
    "NFNMetanet NP": {"kind": "NP", "channels": 3, "layers": 2, "hidden": 5},
    "NFNMetanet HNP": {"kind": "HNP", "channels": 3, "layers": 2, "hidden": 5},
    "ScaleGMNMetanet": {"width": 4, "channels": 3, "rounds": 2},
    "FlatMetanet": {"hidden": 5, "layers": 2},
}
# predictions for three nets of networks of tests/conftest.py, in float64
PREDICTIONS = {
    "DeepSetsMetanet": {
        "mlp": [-0.110699700, -0.028637215, -0.088743453],
        "grouped": [-0.579025027, -0.391283564, -0.328631064],
        "residual": [-0.580619038, -0.593776464, -0.636588685],
    },
    "GMNMetanet": {
        "mlp": [-6.501425614, -6.362319119, -6.431903049],
        "grouped": [-6.247688476, -5.940007857, -5.758438038],
        "residual": [-4.880109238, -4.849358864, -4.866782908],
    },
    "GraphGNNMetanet": {
        "mlp": [4.393223766, 4.399065129, 4.393183690],
        "grouped": [4.265159695, 4.898963934, 4.617101526],
        "residual": [4.459852762, 4.323577170, 4.095402188],
    },
    "GraphTransformerMetanet": {
        "mlp": [-8.252893094, -7.623318143, -8.150029489],
        "grouped": [-7.733116116, -6.950817703, -7.602149405],
        "residual": [-8.201874740, -7.338089552, -8.463552902],
    },
    "TransformerMetanet": {
        "mlp": [0.113565592, 0.033553754, 0.096108653],
        "grouped": [0.217957567, 0.220826195, 0.225298150],
        "residual": [0.014798857, 0.026252809, 0.004897576],
    },
    "NFNMetanet NP": {
        "mlp": [-0.954771717, -1.512015465, -1.581338838],
        "cnn": [0.516874499, 4.120819844, 1.626327875],
    },
    "NFNMetanet HNP": {
        "mlp": [7.055747321, 7.595493976, 7.966475279],
        "cnn": [14.004411847, 13.600204139, 12.876781185],
    },
    "ScaleGMNMetanet": {
        "mlp": [-1.202233660, -1.202914005, -1.202366784],
        "grouped": [-1.206359467, -1.205850122, -1.206425051],
    },
    "FlatMetanet": {
        "mlp": [-0.505916776, 0.874864788, 1.758662151],
        "cnn": [4.328310104, 4.532622954, 4.535951382],
    },
}


def sines(size, start):
    return torch.sin(1.7 * torch.arange(start, start + size, dtype=torch.float64) ** 1.1)


def graph_of(space):
    """Three nets whose weights are sines; running variances lie between .2 and 2.2."""
    variances = {link.tensor for link in space.links if link.kind == "variance"}
    tensors, start = {}, 0
    for name, shape in space.shapes.items():
        size = 3 * torch.Size(shape).numel()
        values = sines(size, start).reshape(3, *shape)
        tensors[name] = values + 1.2 if name in variances else values
        start += size
    return NeuronGraph(space, tensors)


def predicted(name, space):
    """Predictions of a metanet whose parameters are sines, weights over the root of the numbers that they read."""
    metanet = getattr(models, name.partition(" ")[0])(**METANETS[name])
    metanet.build([space])
    metanet.double().eval()
    start = 7
    with torch.no_grad():
        for _, parameter in sorted(metanet.named_parameters()):
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
            parameter.copy_(3 * sines(parameter.numel(), start).reshape(parameter.shape) / fan_in**0.5)
            start += parameter.numel()
        return metanet(graph_of(space))[:, 0]


@pytest.mark.parametrize("name", METANETS)
def test_predictions_are_those_of_old(name, traced_network):
    for network, wanted in PREDICTIONS[name].items():
        wanted = torch.tensor(wanted, dtype=torch.float64)
        assert wanted.std() > 1e-4, "nets must differ in their predictions"
        torch.testing.assert_close(predicted(name, traced_network(network)[2]), wanted, rtol=0, atol=1e-7)


def show():
    """Print the table, where predictions are meant to change: ``python -m tests.models.test_baselines``."""
    from tests.conftest import network

    for name in METANETS:
        reads = ("mlp", "cnn") if name[:3] in ("NFN", "Fla") else ("mlp", "grouped")
        reads = reads if name[:3] in ("NFN", "Sca", "Fla") else (*reads, "residual")
        print(f'    "{name}": {{')
        for each in reads:
            print(f'        "{each}": [{", ".join(f"{v:.9f}" for v in predicted(name, network(each)[2]).tolist())}],')
        print("    },")


if __name__ == "__main__":
    show()
