"""What the index says of one architecture: its fingerprints, open dimensions, and what shares its names and shapes.

Modules are constructed with their weights unfilled, so that this takes some tenths of a second for most; only
architectures of equal fingerprints that differ in an attribute of a module are traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

from torch import nn

from metanet.errors import MetanetError
from metanet.space import trace
from metanet.space.infer import infer
from metanet.space.recognise.alternatives import agrees, distinct
from metanet.space.recognise.families import FAMILIES, PRESETS
from metanet.space.recognise.fingerprint import Shapes, names_key, shapes_key, shapes_of, skeleton_key
from metanet.space.recognise.index import HEADLESS
from metanet.space.recognise.libraries import create, import_library
from metanet.space.recognise.naming import without_ties
from metanet.space.recognise.recognition import UNKNOWN

TRACED = 400_000_000  # parameters of the largest network of which an inferred space is compared with the traced one
CLASSES, CHANNELS = 1009, 2  # how many classes and channels more; a difference of shapes tells which it was

Row = tuple[str, str, str, list[list[Any]], dict[str, Any]]


def names() -> Iterator[tuple[str, str]]:
    """Yield library and name of every architecture."""
    torchvision, timm = import_library("torchvision"), import_library("timm")
    yield from (("torchvision", n) for n in torchvision.models.list_models() if not n.startswith("quantized_"))
    yield from (("timm", n) for n in timm.list_models())
    package = import_library("transformers")
    for family, endings in FAMILIES.items():
        for ending in endings:
            if hasattr(package, family + ending):
                yield "transformers", family + ending
                yield from (("transformers", f"{family}{ending}/{preset}") for preset in PRESETS.get(family, {}))


def build(library: str, name: str, **arguments: Any) -> tuple[Shapes, nn.Module, Any]:
    """Construct an architecture; shapes are those that a file has, with each tied tensor once."""
    module, inputs = create(library, name, arguments, presets())
    state = without_ties(module) if library == "transformers" else module.state_dict()
    return shapes_of(state), module, inputs


def presets() -> dict[str, dict[str, Any]]:
    """Return all published configurations by name."""
    return {name: fields for named in PRESETS.values() for name, fields in named.items()}


def variants(library: str, name: str, module: nn.Module) -> Iterator[dict[str, int]]:
    """Yield arguments that change the head or the input of an architecture, all that its constructor takes first."""
    if library == "transformers":
        config: Any = module.config
        labels = {"num_labels": config.num_labels + CLASSES} if "For" in name else {}
        words = getattr(config, "vocab_size", None)
        vocabulary = {"vocab_size": words + CHANNELS} if isinstance(words, int) else {}
        yield from (v for v in ({**labels, **vocabulary}, vocabulary) if v)
        return
    yield {"num_classes": (getattr(module, "num_classes", 0) or default_classes(name)) + CLASSES}


def default_classes(name: str) -> int:
    """Return how many classes a model of torchvision has by default."""
    detection = ("rcnn", "retinanet", "fcos", "ssd")
    segmentation = ("deeplab", "fcn_", "lraspp")
    if any(part in name for part in detection):
        return 2 if "keypoint" in name else 91
    return 21 if any(part in name for part in segmentation) else 400 if is_video(name) else 1000


def is_video(name: str) -> bool:
    """Return whether a model of torchvision reads clips."""
    return name.startswith(("mvit", "swin3d", "s3d", "r3d", "mc3", "r2plus1d"))


def open_dims(before: Shapes, after: Shapes, changed: Mapping[str, tuple[int, int]]) -> list[list[Any]] | None:
    """Return which dimensions follow which argument; None if the change is of another kind.

    Args:
        before: Shapes of the architecture.
        after: Shapes with other arguments.
        changed: The value of each argument before and after.
    """
    if before.keys() != after.keys():
        return None
    found = []
    for name, shape in before.items():
        if len(shape) != len(after[name]):
            return None
        for dim, (a, b) in enumerate(zip(shape, after[name], strict=True)):
            if a == b:
                continue
            argument = next((x for x, (p, q) in changed.items() if (b - a) % (q - p) == 0), None)
            if argument is None:
                return None
            start, end = changed[argument]
            factor = (b - a) // (end - start)
            found.append([name, dim, argument, factor, a - factor * start])
    return found


def rows(library: str, name: str, shapes: Shapes, module: nn.Module) -> Iterator[tuple[Row, str, str]]:
    """Yield rows of the index for one architecture, each with the hash of its names and its hash without the head."""
    kind, _, preset = name.partition("/")
    bare = _headless(name, shapes, module) if library == "timm" else None
    if bare is not None:
        less, inputs = bare
        yield _row(library, name, less, [d for d in inputs if d[0] in less], {"num_classes": 0})
        outputs = [
            [tensor, 0, "num_classes", 1, 0]
            for tensor, shape in shapes.items()
            if tensor not in less and shape and shape[0] == getattr(module, "num_classes", None)
        ]
        found = inputs + outputs
    elif preset:  # what follows the sizes of vocabulary and labels does so in every configuration of a class
        found = [d for d in _dims_of(kind) if d[0] in shapes]
    else:
        found = _found_dims(library, name, shapes, module)
    yield _row(library, name, shapes, found, {})


def _row(
    library: str, name: str, shapes: Shapes, dims: list[list[Any]], arguments: dict[str, Any]
) -> tuple[Row, str, str]:
    key = shapes_key(shapes, {(d[0], d[1]) for d in dims})
    head = shapes_key(shapes, {(d[0], d[1]) for d in dims if d[2] in ("num_classes", "num_labels")})
    return (library, name, key, dims, arguments), names_key(shapes), head


def _found_dims(library: str, name: str, shapes: Shapes, module: nn.Module) -> list[list[Any]]:
    """Return the open dimensions of an architecture, by constructing it with other arguments."""
    for arguments in variants(library, name, module):
        start = {k: v - (CHANNELS if k == "vocab_size" else CLASSES) for k, v in arguments.items()}
        try:
            other = build(library, name, **arguments)[0]
        except MetanetError:
            continue
        dims = open_dims(shapes, other, {k: (start[k], v) for k, v in arguments.items()})
        if dims is not None:
            return dims
    return []


def _headless(name: str, shapes: Shapes, module: nn.Module) -> tuple[Shapes, list[list[Any]]] | None:
    """Construct a timm model without its head and with more input channels.

    Returns:
        Its shapes with the usual number of channels, and the dimensions that follow this number; None if it has no head
        or takes no such arguments.
    """
    channels = int(getattr(module, "pretrained_cfg", {}).get("input_size", (3,))[0])
    try:
        made = build("timm", name, num_classes=0, in_chans=channels + CHANNELS)[0]
    except MetanetError:
        return None
    if not made or not made.keys() < shapes.keys():
        return None
    less = {tensor: shapes[tensor] for tensor in made}
    dims = open_dims(less, made, {"in_chans": (channels, channels + CHANNELS)})
    return None if dims is None else (less, dims)


@cache
def _dims_of(kind: str) -> list[list[Any]]:
    """Return the open dimensions of a class of transformers in its default configuration."""
    shapes, module, _ = build("transformers", kind)
    return next(rows("transformers", kind, shapes, module))[0][3]


def finding(library: str, name: str) -> dict[str, Any]:
    """Construct one architecture and return what the index says of it, as JSON.

    Returns:
        ``rows``, each with the hash of its names and its hash without the head; ``skeleton``, the hash of its names
        without numbers (transformers alone); ``inferable``, whether inference without the library gives the traced
        space; or ``problem``, why it is left out.
    """
    try:
        shapes, module, inputs = build(library, name)
        found = list(rows(library, name, shapes, module))
        if library == "transformers":
            return {"rows": found, "skeleton": skeleton_key(shapes)}
        return {"rows": found, "inferable": is_inferable(module, inputs)}
    except MetanetError as error:
        return {"problem": str(error)}


def is_inferable(module: nn.Module, inputs: Any) -> bool:
    """Return whether names and shapes alone give a space that the traced one confirms."""
    if sum(p.numel() for p in module.parameters()) > TRACED:
        return False
    try:
        guess = infer(module.state_dict(), architecture=UNKNOWN)
    except MetanetError:
        return False
    return agrees(guess, trace(module, inputs))


def group(ids: list[str]) -> dict[str, Any]:
    """Compare the spaces of architectures that share a fingerprint.

    Returns:
        ``classes`` of keys of equal spaces; ``differs``, in what spaces of several classes differ.
    """
    classes, differs = distinct([(id, partial(_by_key, id)) for id in ids])
    return {"classes": classes, "differs": sorted(differs)}


def _by_key(key: str) -> tuple[nn.Module, Any]:
    """Construct an architecture by its key in the index, and its inputs."""
    library, _, name = key.removesuffix(HEADLESS).partition(":")
    return build(library, name, **({"num_classes": 0} if key.endswith(HEADLESS) else {}))[1:]
