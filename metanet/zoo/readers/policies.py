"""Policy networks of Stable-Baselines3 and its contrib package, rebuilt from the names and shapes of their tensors.

Source of the forward passes: the policies of A2C/PPO/TRPO, ARS, DQN/QR-DQN, DDPG/TD3 and SAC/TQC in
github.com/DLR-RM/stable-baselines3 and github.com/Stable-Baselines-Team/stable-baselines3-contrib.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from metanet.errors import ZooError
from metanet.zoo.readers.networks import activation as activation_module
from metanet.zoo.readers.networks import place

LAYER = re.compile(r"(.+?)(?:\.(\d+))?\.(weight|bias)")
HIDDEN = ("mlp_extractor.shared_net", "mlp_extractor.policy_net", "mlp_extractor.value_net", "actor.latent_pi")
EXTRACTORS = ("features_extractor", "q_net.features_extractor", "quantile_net.features_extractor")
NETS = ("q_net.q_net", "quantile_net.quantile_net", "action_net", "value_net", "actor.mu", "actor.log_std")
STRIDES = (4, 2, 1)  # of the convolutions on pixels (Mnih et al. 2015), on images of 84x84
IMAGE = 84
CRITIC = re.compile(r"critic\.qf\d+")
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class PolicyBlueprint:
    """A policy: the shapes of its tensors, and the nonlinearity of its hidden layers."""

    shapes: Shapes
    activation: str

    def module(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The networks, with an observation and, if a critic reads one, an action."""
        policy = Policy(self.shapes, self.activation)
        return policy, policy.example()


class Policy(nn.Module):
    """All networks of a policy, without the moving copies called targets.

    Args:
        shapes: Tensors by name.
        activation: Nonlinearity of the hidden layers.

    Raises:
        ZooError: A tensor belongs to no network of a known policy.
    """

    def __init__(self, shapes: Shapes, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.chains: dict[str, nn.Module] = {}
        chains: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
        for name, shape in shapes:
            found = LAYER.fullmatch(name)
            if found is None and name in ("log_std", "actor.log_std"):
                place(self, name, nn.Parameter(torch.zeros(shape)))
            elif found is None or not _known(found[1]):
                raise ZooError(f"tensor '{name}' {list(shape)} belongs to no network of a known policy")
            else:
                chains.setdefault(found[1], {}).setdefault(found[2] or "", {})[found[3]] = shape
        for path, layers in chains.items():
            self.chains[path] = self._chain(path, layers)
            place(self, path, self.chains[path])

    def _chain(self, path: str, layers: dict[str, dict[str, tuple[int, ...]]]) -> nn.Module:
        if set(layers) == {""}:
            return _layer(layers[""], 1)
        out = nn.Sequential()
        pixels = path.endswith(".cnn")
        hidden = path in HIDDEN or pixels or path.endswith("extractor.linear")
        order = sorted(layers, key=int)
        for number, index in enumerate(order):
            out.add_module(index, _layer(layers[index], STRIDES[min(number, 2)]))
            if hidden or index != order[-1]:
                kind = nn.ReLU() if "features_extractor" in path else activation_module(self.activation)
                out.add_module(str(int(index) + 1), kind)
        return out

    def example(self) -> tuple[Tensor, ...]:
        """An observation and, if there are critics of actions, an action."""
        pixels = next((chain for path, chain in self.chains.items() if path.endswith(".cnn")), None)
        if pixels is not None:
            channels = cast(nn.Conv2d, cast(nn.Sequential, pixels)[0]).in_channels
            return (torch.zeros(2, channels, IMAGE, IMAGE),)
        firsts = {path: _reads(chain) for path, chain in self.chains.items()}
        critics = [size for path, size in firsts.items() if CRITIC.fullmatch(path)]
        readers = [path for path in (*HIDDEN, *NETS) if path in firsts]
        observation = torch.zeros(2, firsts[readers[0]])
        return (observation, torch.zeros(2, critics[0] - firsts[readers[0]])) if critics else (observation,)

    def forward(self, observation: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
        """Actions or their values, then state values, deviations of the exploration, and critics, as far as present."""
        x = self._features(observation)
        x = self._through("mlp_extractor.shared_net", x)
        latent = self._through("actor.latent_pi", self._through("mlp_extractor.policy_net", x))
        out = [self.chains[path](latent) for path in NETS if path in self.chains and path != "value_net"]
        if "actor.mu" in self.chains and "actor.latent_pi" not in self.chains:
            out = [torch.tanh(value) for value in out]  # deterministic actors bound their action
        if "value_net" in self.chains:
            out.append(self.chains["value_net"](self._through("mlp_extractor.value_net", x)))
        out += [_deviation(p, latent) for name, p in self.named_parameters() if name.endswith("log_std")]
        if action is not None:
            both = torch.cat([x, action], 1)
            out += [chain(both) for path, chain in self.chains.items() if CRITIC.fullmatch(path)]
        return tuple(out)

    def _through(self, path: str, x: Tensor) -> Tensor:
        return cast(Tensor, self.chains[path](x)) if path in self.chains else x

    def _features(self, x: Tensor) -> Tensor:
        for path in EXTRACTORS:
            if f"{path}.cnn" in self.chains:
                return self._through(f"{path}.linear", self._through(f"{path}.cnn", x).flatten(1))
        return x


def networks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a policy without target networks, and without further names of one feature extractor."""
    kept = {name: t for name, t in tensors.items() if "_target." not in name}
    shared = any(name.startswith("features_extractor.") for name in kept)
    return {n: t for n, t in kept.items() if not (shared and n.startswith(("pi_features", "vf_features")))}


def _known(path: str) -> bool:
    extracts = path.endswith((".cnn", ".linear")) and path.rpartition(".")[0] in EXTRACTORS
    return path in HIDDEN or path in NETS or extracts or bool(CRITIC.fullmatch(path))


def _layer(shapes: dict[str, tuple[int, ...]], stride: int) -> nn.Module:
    weight = shapes.get("weight", ())
    if len(weight) == 4:
        return nn.Conv2d(weight[1], weight[0], weight[2:], stride=stride, bias="bias" in shapes)
    if len(weight) != 2:
        raise ZooError(f"a layer has a weight of shape {list(weight)}; linear and convolutional ones are accepted")
    return nn.Linear(weight[1], weight[0], bias="bias" in shapes)


def _reads(chain: nn.Module) -> int:
    first = chain if isinstance(chain, nn.Linear) else next(chain.children())
    return cast(nn.Linear, first).in_features


def _deviation(log_std: Tensor, latent: Tensor) -> Tensor:
    """Deviations of a Gaussian policy ``[A]``, or of state-dependent exploration ``[latent, A]``.

    Source of the latter: Raffin, Kober, Stulp, "Smooth Exploration for Robotic Reinforcement Learning" (2020,
    arXiv:2005.05719): the variance is ``latent^2 exp(log_std)^2``.
    """
    if log_std.dim() < 2:
        return log_std.exp() + 0 * latent[:, :1]
    return (latent**2) @ (log_std.exp() ** 2)
