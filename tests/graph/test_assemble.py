import torch
from torch import nn

import metanet
from metanet import testing
from metanet.graph.assemble import assemble


class Dense(nn.Module):
    """Concatenations, so that one tensor is several blocks, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.twice = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=1), nn.Linear(10, 10)
        self.norm, self.fc = nn.BatchNorm2d(10), nn.Linear(10, 5)

    def forward(self, x):
        x = self.stem(x)
        x = self.norm(torch.cat([x, torch.relu(self.a(x))], 1)).mean((2, 3))
        return self.fc(self.twice(torch.relu(self.twice(x))))


def test_blocks_and_vectors_assemble_to_the_tensors(traced):
    graph = testing.randomised_graph(traced[2], nets=3)
    tensors = assemble(graph.layout, graph.blocks(), graph.vectors())
    assert set(tensors) == set(graph.space.tensor)
    assert all(torch.equal(tensors[name], graph.tensors[name]) for name in tensors)


def test_pieces_of_a_concatenation_and_layers_used_twice():
    space = metanet.trace(Dense(), torch.zeros(2, 3, 4, 4))
    graph = testing.randomised_graph(space, nets=2)
    pieces = [b.link.tensor for b in graph.layout.blocks]
    assert pieces.count("fc.weight") > 1 or pieces.count("twice.weight") > 1
    tensors = assemble(graph.layout, graph.blocks(), graph.vectors())
    assert set(tensors) == set(space.tensor) - set(graph.layout.unplaced)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, graph.tensors[name], rtol=1e-12, atol=1e-12)


def test_gradients_pass(traced_network):
    graph = testing.randomised_graph(traced_network("grouped")[2], nets=2)
    blocks = [b.clone().requires_grad_() for b in graph.blocks()]
    tensors = assemble(graph.layout, blocks, graph.vectors())
    torch.stack([t.square().sum() for t in tensors.values()]).sum().backward()
    for block in blocks:
        torch.testing.assert_close(block.grad, 2 * block.detach())
