"""WeightSpace: what the parameters of one architecture mean, without any weights.

It names the axes, says which axis indexes each dimension of each tensor, and lists the links through which tensors
connect axes. It is immutable, hashable, printable and survives a JSON round trip. The permutation symmetry group of
the architecture is the product of the symmetric groups of its free axes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from metanet.errors import SpaceError
from metanet.formats import check_format
from metanet.space.checked import check_space
from metanet.space.gauges import Gauge, gauge_from_data
from metanet.space.labels import Axis, Label

if TYPE_CHECKING:
    from metanet.symmetry.move import Move

FORMAT = 1

LinkKind = Literal["linear", "convolution", "embedding", "bias", "scale", "mean", "variance"]
WEIGHT_KINDS = ("linear", "convolution", "embedding")
VECTOR_KINDS = ("bias", "scale", "mean", "variance")


@dataclass(frozen=True)
class TensorSpec:
    """One parameter, or one running statistic of a norm layer.

    Attributes:
        name: Key in the state dict.
        shape: Its shape.
        labels: What indexes each dimension.
        aliases: Other state-dict keys that share its storage (tied parameters).
    """

    name: str
    shape: tuple[int, ...]
    labels: tuple[Label, ...]
    aliases: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of all axes that index this tensor, without repeats."""
        return tuple(dict.fromkeys(axis for label in self.labels for axis in label.axes))


@dataclass(frozen=True)
class Link:
    """One use of a tensor by the network: what it connects to what.

    Attributes:
        tensor: Name of the tensor.
        kind: ``linear``, ``convolution`` and ``embedding`` carry values from ``source`` to ``target``; ``bias``,
            ``scale``, ``mean`` and ``variance`` act on ``target`` alone.
        source: Label of the neurons read, None for the unary kinds. In a grouped convolution it also holds the group
            axis, which is not a source dimension of the tensor.
        target: Label of the neurons written.
        source_dims: Dimensions of the tensor indexed by the source.
        target_dims: Dimensions of the tensor indexed by the target; the rest are extents, such as kernel taps.
        depth: Weight links on the longest path from the input up to and including this one.
        activation: First nonlinearity applied to what was written (``"relu"``), or None.
        stride: Convolution strides, empty otherwise.
        module: Path of the module that used the tensor.
    """

    tensor: str
    kind: LinkKind
    source: Label | None
    target: Label
    source_dims: tuple[int, ...]
    target_dims: tuple[int, ...]
    depth: int
    activation: str | None = None
    stride: tuple[int, ...] = ()
    module: str = ""


@dataclass(frozen=True)
class Opaque:
    """An operation that was not understood: every axis it touched was frozen.

    Attributes:
        op: Its name (``"aten.sort.default"``).
        module: Path of the module that called it.
        reason: What was not understood.
    """

    op: str
    module: str
    reason: str = "no rule is registered for it"


@dataclass(frozen=True)
class WeightSpace:
    """The meaning of every parameter of one architecture.

    Attributes:
        axes: All axes; the free ones are permutable neurons.
        tensors: Parameters and norm statistics, in state-dict order.
        links: Uses of the tensors, in the order of computation.
        opaque: Operations that were not understood; their axes are frozen, so the space stays sound.
        certified: Whether :func:`metanet.certify` confirmed it on the network itself. Not part of the identity.
        source: How it was derived: ``"trace"``, ``"onnx"``, ``"infer"``, or the recognised architecture whose code was
            traced (``"timm:resnet18"``). Not part of the identity.
        gauges: Other symmetries than permutations of whole axes (:class:`Gauge`). They follow from the rest together
            with the forward function, so they are not part of the identity.
    """

    axes: tuple[Axis, ...]
    tensors: tuple[TensorSpec, ...]
    links: tuple[Link, ...]
    opaque: tuple[Opaque, ...] = ()
    certified: bool = field(default=False, compare=False)
    source: str = field(default="trace", compare=False)
    gauges: tuple[Gauge, ...] = field(default=(), compare=False)

    @cached_property
    def axis(self) -> dict[str, Axis]:
        """Axes by name."""
        return {a.name: a for a in self.axes}

    @cached_property
    def tensor(self) -> dict[str, TensorSpec]:
        """Tensors by name."""
        return {t.name: t for t in self.tensors}

    def __hash__(self) -> int:
        """Computed once: layouts and features are looked up by space several times a pass."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.axes, self.tensors, self.links, self.opaque))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return {t.name: t.shape for t in self.tensors}

    @property
    def free_axes(self) -> tuple[Axis, ...]:
        """The axes whose entries may be permuted."""
        return tuple(a for a in self.axes if a.free)

    @property
    def neurons(self) -> int:
        """Number of permutable neurons: the sum of the sizes of the free axes."""
        return sum(a.size for a in self.free_axes)

    @property
    def parameters(self) -> int:
        """Number of entries of all tensors, norm statistics included."""
        total = 0
        for spec in self.tensors:
            count = 1
            for size in spec.shape:
                count *= size
            total += count
        return total

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON: equal for equal spaces, whether certified or not."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()

    def sample(self, seed: int = 0, kinds: Sequence[str] = ("permutation",)) -> Move:
        """A random element of the symmetry group.

        Args:
            seed: Seed of the draw.
            kinds: Which generators to draw from.

        Returns:
            A move whose permutation of every free axis with two or more entries is not the identity.
        """
        from metanet.symmetry.move import sample  # symmetry builds on space, so it is imported where it is used

        return sample(self, seed=seed, kinds=kinds)

    def to_json(self, indent: int | None = None) -> str:
        """The space as JSON."""
        data = {"format": FORMAT, **self._identity(), "certified": self.certified, "source": self.source}
        data["gauges"] = [asdict(g) for g in self.gauges]
        return json.dumps(data, indent=indent, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> WeightSpace:
        """Inverse of :meth:`to_json`.

        Raises:
            SpaceError: The text is not a weight space, or one of an unknown format version.
        """
        try:
            data = json.loads(text)
            check_format(data["format"], FORMAT, "a weight space", SpaceError)
            space = _from_data(data)
            check_space(space)
            return space
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, SpaceError):
                raise
            raise SpaceError(f"not the JSON of a weight space: {type(error).__name__}: {error}") from None

    def _identity(self) -> dict[str, Any]:
        return {
            "axes": [asdict(a) for a in self.axes],
            "tensors": [{**_plain(t), "labels": [label.to_data() for label in t.labels]} for t in self.tensors],
            "links": [
                {**_plain(k), "source": k.source.to_data() if k.source else None, "target": k.target.to_data()}
                for k in self.links
            ],
            "opaque": [asdict(o) for o in self.opaque],
        }

    def __str__(self) -> str:
        state = "certified" if self.certified else "not certified"
        head = (
            f"WeightSpace: {len(self.tensors)} tensors, {self.parameters} parameters, "
            f"{self.neurons} neurons on {len(self.free_axes)} free axes, {len(self.opaque)} opaque operations, {state}"
        )
        rows = [
            f"  {t.name:40s} {'x'.join(map(str, t.shape)) or 'scalar':>14s}  [{', '.join(map(str, t.labels))}]"
            for t in self.tensors
        ]
        return "\n".join([head, *rows])


def _plain(item: TensorSpec | Link) -> dict[str, Any]:
    """Fields of a dataclass one level deep (labels and axes are written by their own methods)."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _from_data(data: dict[str, Any]) -> WeightSpace:
    axes = tuple(Axis(**a) for a in data["axes"])
    sizes = {a.name: a.size for a in axes}

    def label(raw: Any) -> Label:
        return Label.from_data(raw, sizes)

    tensors = tuple(
        TensorSpec(t["name"], tuple(t["shape"]), tuple(map(label, t["labels"])), tuple(t["aliases"]))
        for t in data["tensors"]
    )
    links = []
    for raw in data["links"]:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        fields["source"] = None if raw["source"] is None else label(raw["source"])
        fields["target"] = label(raw["target"])
        links.append(Link(**fields))
    opaque = tuple(Opaque(**o) for o in data["opaque"])
    gauges = tuple(map(gauge_from_data, data["gauges"]))
    return WeightSpace(axes, tensors, tuple(links), opaque, bool(data["certified"]), data["source"], gauges)
