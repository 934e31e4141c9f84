"""ProbeGen: learned probes through the networks' functions. It sees outputs, so it stands apart from the others."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metanet.errors import ConfigError
from metanet.graph import NeuronGraph
from metanet.graph.match import activations
from metanet.models.base import Metanet


class Layers(nn.Sequential):
    """Named layers in a row: a network that a configuration file can write down.

    Args:
        layers: Modules by name; the names are those in the nets' state dicts (``conv1`` of ``conv1.weight``).
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__(OrderedDict(layers))


class ProbeGenMetanet(Metanet):
    """A linear generator makes K inputs; every net is run on them, and a small network reads the outputs.

    Source: Kahana, Horwitz, Shuval, Hoshen, "Deep Linear Probe Generators for Weight Space Learning" (ICLR 2025,
    arXiv:2410.10811): ``probe_k = G z_k`` with learned ``z_k`` and a deep generator G without nonlinearities. What
    differs: all nets of a batch are run at once, vectorised over their weights, not in a loop.

    It queries the function, which is more than the weights alone tell a weight-only metanet: list it apart. For the
    same reason it is invariant to whatever leaves the function unchanged.

    Args:
        networks: The module of the nets, by the nonlinearities of their space (``relu``; as
            :func:`metanet.graph.match.activations` names them), or under ``any`` for all. Its own weights are not used.
            A configuration file may write a chain of layers down as :class:`Layers`.
        input_shape: Shape of one input, without the batch.
        probes: Probes K.
        latent: Numbers per ``z_k``.
        depth: Linear maps of the generator.
        hidden: Hidden units of generator and head.
        out_features: Numbers predicted per net.
        dropout: Dropout before the last layer.
    """

    claims: frozenset[str] = frozenset({"permutation", "scale", "sign"})
    sees_outputs = True

    def __init__(
        self,
        networks: dict[str, nn.Module],
        input_shape: Sequence[int],
        probes: int = 64,
        latent: int = 32,
        depth: int = 3,
        hidden: int = 128,
        out_features: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not networks or not input_shape or depth < 1:
            raise ConfigError(
                f"ProbeGenMetanet needs a network, the shape of its input and depth >= 1; got networks "
                f"{sorted(networks)}, input_shape {list(input_shape)}, depth {depth}"
            )
        self._networks = {name: net.eval() for name, net in networks.items()}  # no children: only their code is used
        self.input_shape, self.out_features = tuple(input_shape), out_features
        self.latents = nn.Parameter(torch.randn(probes, latent))
        widths = [latent, *([hidden] * (depth - 1)), math.prod(self.input_shape)]
        self.generator = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
        self.head = nn.Sequential(
            nn.Linear(probes * self._outputs(), hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_features),
        )

    def forward(self, graph: NeuronGraph) -> Tensor:
        """Predictions ``[B, out_features]``.

        Raises:
            ConfigError: There is no network for the nonlinearities of the nets.
        """
        return self.head[-1](self.embed(graph))

    def embed(self, graph: NeuronGraph) -> Tensor:
        """The last hidden layer, ``[B, hidden]``."""
        network = self._network(activations(graph.space))
        probes = self.generator(self.latents).unflatten(1, self.input_shape)

        def outputs(tensors: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(network, tensors, (probes,)).flatten()

        return self.head[:-1](torch.func.vmap(outputs)(dict(graph.tensors)))

    def _network(self, name: str) -> nn.Module:
        for key in (name, "any"):
            if key in self._networks:
                return self._networks[key]
        raise ConfigError(
            f"ProbeGenMetanet runs the nets, and has no network for the activation '{name}'; got networks for "
            f"{sorted(self._networks)}. Add one, or one named 'any'"
        )

    def _outputs(self) -> int:
        """Numbers that a network gives for one input; all must agree."""
        parameter = next(iter(self._networks.values())).parameters()
        example = torch.zeros(1, *self.input_shape, dtype=next(parameter).dtype)
        with torch.no_grad():
            sizes = {name: net(example).numel() for name, net in self._networks.items()}
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"ProbeGenMetanet: the networks must give equally many numbers; got {sizes}")
        return next(iter(sizes.values()))
