"""NeuronGraph: a weight space plus the weights of one net or of a batch of nets of that space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metanet.errors import GraphError
from metanet.graph.coverage import left_out
from metanet.graph.layout import Layout, layout_of
from metanet.space.weight_space import WeightSpace
from metanet.symmetry.move import Move, check_real, check_shared, check_state

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class NeuronGraph:
    """Neurons are nodes, parameters are edges; the weights of B nets are stacked tensors.

    No edge list exists until :meth:`to_pyg` is asked for: links are dense blocks between node sets, so message passing
    is batched matrix products.

    Attributes:
        space: What the tensors mean.
        tensors: Every tensor of the space, stacked ``[B, *shape]``.

    Raises:
        SpaceError: A tensor is missing or of another shape than the space says.
        GraphError: The tensors disagree on the number of nets.
    """

    space: WeightSpace
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        check_state(self.space, self.tensors, batched=True)
        check_real(self.space, self.tensors)
        sizes = {len(self.tensors[name]) for name in self.space.tensor}
        if len(sizes) > 1:
            raise GraphError(f"the tensors of a batch must agree on the number of nets; got {sorted(sizes)}")

    @staticmethod
    def from_state_dicts(space: WeightSpace, states: Sequence[Mapping[str, Tensor]]) -> NeuronGraph:
        """Stack the state dicts of nets of one space; entries that the space does not govern are left out."""
        if not states:
            raise GraphError("got no state dict; a neuron graph needs at least one")
        for state in states:
            check_state(space, state)
            check_shared(space, state)
        return NeuronGraph(space, {name: torch.stack([s[name] for s in states]) for name in space.tensor})

    @property
    def layout(self) -> Layout:
        """Node sets, blocks and vectors of the space."""
        return layout_of(self.space)

    @property
    def batch_size(self) -> int:
        """Number of nets.

        Raises:
            GraphError: The network has no parameters.
        """
        if not self.space.tensors:
            raise GraphError(
                "the network has no parameters (got a space of 0 tensors), so its graph has no neurons. Give a network "
                "with weights"
            )
        return len(self.tensors[self.space.tensors[0].name])

    @property
    def coverage(self) -> float:
        """Share of the parameters that the graph holds, so that a metanet sees them; 1 if all of them."""
        return self.layout.coverage

    def blocks(self) -> list[Tensor]:
        """Weights as dense blocks ``[B, D, T, S, K]``, aligned with ``layout.blocks``."""
        return [b.piece.read(self.tensors[b.link.tensor]) for b in self.layout.blocks]

    def vectors(self) -> list[Tensor]:
        """Unary parameters ``[B, N, K]``, aligned with ``layout.vectors``."""
        return [v.piece.read(self.tensors[v.link.tensor]) for v in self.layout.vectors]

    def state_dict(self, number: int = 0) -> dict[str, Tensor]:
        """The tensors of one net, tied names included."""
        state = {}
        for spec in self.space.tensors:
            for name in (spec.name, *spec.aliases):
                state[name] = self.tensors[spec.name][number]
        return state

    def permute(self, move: Move) -> NeuronGraph:
        """Act with an element of the symmetry group on every net."""
        return NeuronGraph(self.space, move.apply(self.tensors, batched=True))

    def select(self, numbers: Sequence[int] | Tensor | slice) -> NeuronGraph:
        """The nets with these numbers."""
        return NeuronGraph(self.space, {name: tensor[numbers] for name, tensor in self.tensors.items()})

    def to(self, *args: Any, **kwargs: Any) -> NeuronGraph:
        """Convert every tensor as ``Tensor.to`` does."""
        return NeuronGraph(self.space, {name: tensor.to(*args, **kwargs) for name, tensor in self.tensors.items()})

    def pin_memory(self) -> NeuronGraph:
        """Copy to pinned memory (called by data loaders)."""
        return NeuronGraph(self.space, {name: tensor.pin_memory() for name, tensor in self.tensors.items()})

    def to_pyg(self, number: int = 0, **options: int) -> Data:
        """One net as a ``torch_geometric.data.Data``; see :func:`metanet.graph.pyg.to_pyg`."""
        from metanet.graph.pyg import to_pyg  # importing torch_geometric takes a second

        return to_pyg(self, number, **options)

    def __repr__(self) -> str:
        if not self.space.tensors:
            return "NeuronGraph(no parameters)"
        layout = self.layout
        unseen = f", {left_out(layout)}" if layout.unplaced else ""
        return (
            f"NeuronGraph({self.batch_size} nets, {layout.size} nodes in {len(layout.nodes)} sets, "
            f"{len(layout.blocks)} blocks, {self.space.parameters} parameters each{unseen})"
        )
