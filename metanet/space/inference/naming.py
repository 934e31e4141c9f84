"""Names that denote chains of layers by convention, and the order that they tell.

Everything that is not on the lists of this module proves nothing: layers of such names may as well be parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metanet.space.inference.blocks import check_block
from metanet.space.inference.layers import Layer
from metanet.space.inference.refusal import Unlisted, stem_and_number, words
from metanet.space.inference.sizes import places, read_size

FIRST, CONVOLUTIONS, BODY, DENSE, CLASSIFIER, LAST = range(6)
LEAVES = {
    FIRST: words("input input_layer in_layer inp first first_layer stem conv_in fc_in lin_in linear_in layer_in"),
    CONVOLUTIONS: words("conv conv1d conv2d conv3d convolution conv_layer"),
    BODY: words("hidden layer hidden_layer"),
    DENSE: words("fc lin linear dense fc_layer dense_layer"),
    CLASSIFIER: words("classifier head"),
    LAST: words(
        "out output output_layer out_layer last last_layer final final_layer fc_out lin_out linear_out conv_out logits"
    ),
}
CONTAINERS = {
    FIRST: words("stem input"),
    CONVOLUTIONS: words("features feature_extractor backbone conv convs conv_layers cnn encoder extractor"),
    BODY: words("layers layer net seq sequential mlp body trunk main hidden hidden_layers module_list model network "
                "base nn siren module"),
    DENSE: words("fc fcs fc_layers linear linears lin lins dense dense_layers"),
    CLASSIFIER: words("classifier head"),
    LAST: words("out output last final"),
}  # fmt: skip
NUMBERED = words(
    "conv layer fc lin linear dense hidden conv1d conv2d conv3d conv_layer fc_layer dense_layer hidden_layer"
)
KERAS = words("conv1d conv2d conv3d dense")
NORMS = words(
    "bn norm ln gn batchnorm batch_norm batch_normalization layernorm layer_norm groupnorm group_norm instancenorm "
    "instance_norm rmsnorm prelu p_re_lu act relu bns norms lns acts prelus batch_norms layer_norms normalization"
)


@dataclass
class Unit:
    """A layer with a weight, and the vectors that follow it.

    Attributes:
        rank: Stage of the network, from first to last.
        family: The name that its siblings share.
        number: Its number among them; None for a name without one.
        layers: Its layers, the weight among them.
        entry: Whether it is a numbered entry of a container, whose numbers have gaps where layers hold no tensors.
    """

    rank: int
    family: str
    number: int | None
    layers: list[Layer]
    entry: bool = False


@dataclass
class Vector:
    """A norm layer or PReLU whose place is to be found: family and number of its name, or the name of its host."""

    layer: Layer
    family: str
    number: int | None
    host: str = ""


@dataclass
class Naming:
    """Finds the order of layers by their names.

    Attributes:
        chain: Whether the user said that the layers form a chain, so that skip connections are out of the question.
    """

    chain: bool = False

    def order(self, layers: Sequence[Layer], depth: int = 0, inside: str = "") -> list[Layer]:
        """Order layers that share their path down to ``depth``.

        Args:
            layers: The layers.
            depth: How many components of their paths they share.
            inside: Name of the container that they lie in.

        Raises:
            Unlisted: The names of the layers are on no list, or allow several orders.
        """
        children: dict[str, list[Layer]] = {}
        for layer in layers:
            children.setdefault(layer.components[depth] if len(layer.components) > depth else "", []).append(layer)
        if len(children) == 1:
            name, own = next(iter(children.items()))
            return self._inner(own, depth, name if not name.isdigit() else inside)
        if all(name.isdigit() for name in children):
            return self._sequence(children, depth, inside)
        return self._words(children, depth)

    def _inner(self, layers: list[Layer], depth: int, name: str) -> list[Layer]:
        return layers if len(layers) == 1 else self.order(layers, depth + 1, name)

    def _sequence(self, children: dict[str, list[Layer]], depth: int, inside: str) -> list[Layer]:
        """Order the numbered entries of a Sequential or ModuleList."""
        stem = stem_and_number(inside)[0]
        if stem and not any(stem in names for names in CONTAINERS.values()):
            layer = next(iter(children.values()))[0]
            raise Unlisted(layer, f"is one of {len(children)} numbered layers of '{inside}'",
                           f"parallel layers: '{inside}' is no name that denotes a chain")  # fmt: skip
        ordered: list[Layer] = []
        first: list[Layer] | None = None
        for name in sorted(children, key=int):
            block = self._inner(children[name], depth, name)
            if any(len(layer.components) > depth + 1 for layer in block):
                if not self.chain:
                    check_block(block, first, stem)
                first = first if ordered else block
            ordered += block
        return ordered

    def _words(self, children: dict[str, list[Layer]], depth: int) -> list[Layer]:
        """Order siblings whose names are words, or words with numbers."""
        units: list[Unit] = []
        vectors: list[Vector] = []
        for name, layers in children.items():
            if all(layer.kind not in ("linear", "convolution") for layer in layers):
                vectors += self._vectors(name, layers, depth, children)
            else:
                units += self._units(name, layers, depth)
        if not units:
            raise Unlisted(next(iter(children.values()))[0], "stands beside no layer with a weight", "a custom layer")
        self._check_families(units)
        units.sort(key=lambda unit: (unit.rank, unit.number if unit.number is not None else 0))
        self._check_start(units)
        return self._placed(units, vectors)

    def _units(self, name: str, layers: list[Layer], depth: int) -> list[Unit]:
        stem, number = split_name(name)
        leaf = len(layers) == 1 and len(layers[0].components) == depth + 1
        table = LEAVES if leaf else CONTAINERS
        rank = next((rank for rank, names in table.items() if stem in names), None)
        if rank is None or (number is not None and stem not in NUMBERED):
            raise Unlisted(layers[0], f"lies in '{name}', a name that denotes no place in a chain",
                           "parallel layers that read the same value", "a layer that is used twice")  # fmt: skip
        if leaf:
            self._check_leaf(layers[0], rank, number)
            return [Unit(rank, stem, number, list(layers))]
        own = self._inner(layers, depth, name)
        if number is not None and not self.chain:
            check_block(own, None, "")
        if number is not None:
            return [Unit(rank, stem, number, own)]
        return [Unit(rank, name, at, part, True) for at, part in numbered_parts(own, depth + 1)]

    def _check_leaf(self, layer: Layer, rank: int, number: int | None) -> None:
        if number is not None or self.chain:
            return
        if layer.size == read_size(layer):
            raise Unlisted(layer, "reads as many values as it writes and has no number",
                           "a recurrent layer that is used many times")  # fmt: skip
        if rank == BODY:
            raise Unlisted(layer, "has no number", "a recurrent layer that is used many times")

    def _check_start(self, units: Sequence[Unit]) -> None:
        """Raise if the first of several layers has no number, and reads enough to read its own output, too."""
        first = units[0]
        layer = _weight(first)
        bare = first.number is None and first.rank == DENSE and first.family not in KERAS
        if bare and len(units) > 1 and read_size(layer) > layer.size and layer.kind == "linear" and not self.chain:
            raise Unlisted(layer, "has no number and reads more than it writes",
                           "a recurrent layer, which reads its own output beside the input")  # fmt: skip

    def _check_families(self, units: Sequence[Unit]) -> None:
        """Raise if two families stand in the same stage, or numbers have gaps."""
        families: dict[int, dict[str, list[Unit]]] = {}
        for unit in units:
            families.setdefault(unit.rank, {}).setdefault(unit.family, []).append(unit)
        stages = set(families)
        for found in families.values():
            if len(found) > 1:
                raise _beside(*(own[0] for own in list(found.values())[:2]))
        if {CONVOLUTIONS, BODY} <= stages:
            raise _beside(*(next(iter(families[rank].values()))[0] for rank in (CONVOLUTIONS, BODY)))
        for found in families.values():
            for family, own in found.items():
                if not own[0].entry:
                    _check_numbers(family, own)

    def _vectors(self, name: str, layers: list[Layer], depth: int, children: dict[str, list[Layer]]) -> list[Vector]:
        """Read the names of norm layers: ``bn1``, ``norms.1``, ``conv1_bn``, ``bn_conv1``."""
        stem, number = split_name(name)
        if len(layers) == 1 and len(layers[0].components) == depth + 1:
            for other in children:
                if other != name and name.lower() in {f"{other}_{n}".lower() for n in NORMS} | {
                    f"{n}_{other}".lower() for n in NORMS
                }:
                    return [Vector(layers[0], stem, None, other)]
            if layers[0].kind in ("slope", "scalar") or stem in NORMS or layers[0].kind == "batch_norm":
                return [Vector(layers[0], stem, number)]
        elif stem in NORMS and all(layer.components[depth + 1 :][-1:] and layer.components[depth + 1].isdigit()
                                   for layer in layers):  # fmt: skip
            return [Vector(layer, name, int(layer.components[depth + 1])) for layer in layers]
        raise Unlisted(layers[0], f"lies in '{name}', a name that does not tell its place", "a norm that is used twice")

    def _placed(self, units: list[Unit], vectors: list[Vector]) -> list[Layer]:
        """Put the vectors behind the units that their numbers name."""
        weights = [_weight(unit) for unit in units]
        behind: dict[int, list[Layer]] = {}
        for family in dict.fromkeys(vector.family for vector in vectors):
            own = [vector for vector in vectors if vector.family == family]
            for vector, at in zip(own, self._places(own, units, weights), strict=True):
                behind.setdefault(at, []).append(vector.layer)
        ordered = list(behind.get(0, []))
        for at, unit in enumerate(units, start=1):
            ordered += [*unit.layers, *behind.get(at, [])]
        return ordered

    def _places(self, own: list[Vector], units: list[Unit], weights: list[Layer]) -> tuple[int, ...]:
        """Find the one way in which a family of vectors can stand among the units, by numbers and sizes."""
        possible = [set(places(weights, vector.layer)) for vector in own]
        if all(vector.layer.kind == "scalar" or vector.layer.size == 1 for vector in own):
            return (0,) * len(own)
        ways: dict[tuple[int, ...], None] = {}
        for way in _ways(own, units, possible):
            if all(at in allowed for at, allowed in zip(way, possible, strict=True)):
                ways[way] = None
        if not ways:
            raise Unlisted(own[0].layer, "fits no layer that its name could belong to", "a norm of another value")
        if len(ways) > 1 and not self.chain:
            raise Unlisted(
                own[0].layer, f"could act on {len(ways)} different values, by its name and size",
                "a norm that is used twice", "a norm before or after the layer of its number",
            )  # fmt: skip
        return next(iter(ways))


def _ways(own: list[Vector], units: list[Unit], possible: list[set[int]]) -> list[tuple[int, ...]]:
    """List the places of a family: behind or before the layers of its numbers, overall or within one family."""
    if own[0].host:
        hosts = [f"{unit.family}{'' if unit.number is None else unit.number}" for unit in units]
        names = ["".join(split_and_join(vector.host)) for vector in own]
        return [tuple(hosts.index(name) + 1 for name in names)] if set(names) <= set(hosts) else []
    if any(vector.number is None for vector in own) and len(own) == 1:
        return [(at,) for at in sorted(possible[0])]
    numbers = [vector.number if vector.number is not None else 0 for vector in own]
    ways: list[tuple[int, ...]] = []
    for family in dict.fromkeys(unit.family for unit in units):
        at = {u.number if u.number is not None else 0: k for k, u in enumerate(units, start=1) if u.family == family}
        for shift in (0, 1):  # behind the layer of its number, or before it
            if set(numbers) <= set(at):
                ways.append(tuple(at[number] - shift for number in numbers))
    base = min(numbers)
    if base <= 1 and max(numbers) - base < len(units):
        ways += [tuple(number - base + 1 - shift for number in numbers) for shift in (0, 1)]
    return ways


def flattens(order: Sequence[Layer]) -> bool:
    """Return whether names say that maps are flattened as they lie in memory, without a permute before.

    So they do in one Sequential, between ``features`` and ``classifier``, and in Keras. In code with a forward of its
    own (``conv1``, ``fc1``) both are common.
    """
    kernels = [layer for layer in order if layer.kind == "convolution"]
    matrices = [layer for layer in order if layer.kind == "linear"]
    if not kernels or not matrices:
        return False
    before, after = kernels[-1], matrices[0]
    if after.inputs_last:
        return True
    pairs = zip(before.components, after.components, strict=False)
    own = next(((a, b) for a, b in pairs if a != b), ("", ""))
    return own in (("features", "classifier"), ("cnn", "linear")) or all(name.isdigit() for name in own)


def numbered_parts(layers: Sequence[Layer], depth: int) -> list[tuple[int, list[Layer]]]:
    """Split an ordered container into parts of one weight each, numbered as its entries are, or in sequence."""
    parts: list[list[Layer]] = [[]]
    for layer in layers:
        if layer.kind in ("linear", "convolution") and any(o.kind in ("linear", "convolution") for o in parts[-1]):
            parts.append([])
        parts[-1].append(layer)
    numbers = [_weight_of(part).components[depth : depth + 1] for part in parts]
    own = [int(n[0]) if n and n[0].isdigit() else -1 for n in numbers]
    return list(zip(own if len(set(own)) == len(own) and -1 not in own else range(len(parts)), parts, strict=True))


def split_name(name: str) -> tuple[str, int | None]:
    """``"conv2d_1" -> ("conv2d", 1)``, ``"fc" -> ("fc", None)``; a stem that ends in a digit keeps it."""
    stem, number = stem_and_number(name)
    return (stem, number) if stem != name.lower() else (stem, None)


def split_and_join(name: str) -> tuple[str, str]:
    """``"conv_1" -> ("conv", "1")``."""
    stem, number = split_name(name)
    return stem, "" if number is None else str(number)


def _weight(unit: Unit) -> Layer:
    return _weight_of(unit.layers)


def _weight_of(layers: Sequence[Layer]) -> Layer:
    return next(layer for layer in layers if layer.kind in ("linear", "convolution"))


def _check_numbers(family: str, units: Sequence[Unit]) -> None:
    """Raise unless units are numbered 0, 1, 2 or 1, 2, 3; Keras counts on from net to net, and its first is bare."""
    numbers = sorted(unit.number if unit.number is not None else 0 for unit in units)
    bare = any(unit.number is None for unit in units)
    keras = family in KERAS
    whole = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and (keras or numbers[0] <= 1)
    if not whole or (bare and len(units) > 1 and not keras):
        raise Unlisted(
            _weight(units[-1]), f"is numbered with gaps among its siblings '{family}'",
            "parallel heads, such as fc21 and fc22 of a variational autoencoder",
        )  # fmt: skip


def _beside(first: Unit, second: Unit) -> Unlisted:
    return Unlisted(
        _weight(second), f"lies in '{second.family}' beside '{first.family}', and the names do not tell which is first",
        "parallel layers that read the same value",
    )  # fmt: skip
