"""The network that a command is asked about: a checkpoint file, or a module named ``package.module:function``."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metanet.graph.neuron_graph import NeuronGraph
    from metanet.space.inference.options import InferOptions
    from metanet.space.recognise import Recognition

MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
INPUT = re.compile(r"(\d+(?:x\d+)*)(:int)?")


@dataclass(frozen=True)
class Network:
    """What a command works on.

    Attributes:
        name: As the user gave it.
        graph: The neuron graph.
        module: The module, None if the network came from a file that holds no graph.
        inputs: Example inputs of the module.
        recognition: What a file without code was recognised as; its module is constructed only where it is run.
    """

    name: str
    graph: NeuronGraph
    module: nn.Module | None = None
    inputs: tuple[Tensor, ...] | dict[str, Tensor] = ()
    recognition: Recognition | None = None

    def with_code(self) -> Network:
        """Return the network with the module that it was recognised as, the weights of the file in it."""
        if self.recognition is None or self.module is not None:
            return self
        module, inputs = self.recognition.module()
        weights = {name: tensor[0] for name, tensor in self.graph.tensors.items()}
        module.load_state_dict(weights, strict=False, assign=True)
        return replace(self, module=module, inputs=inputs)


def find_network(
    name: str,
    inputs: Sequence[str] | None = None,
    activation: str | None = None,
    options: InferOptions | None = None,
) -> Network:
    """Build the neuron graph of a file or of a named module.

    Args:
        name: Path of a checkpoint, or ``package.module:function`` where the function (or class) takes no arguments and
            returns a module. The current folder is searched first. A file is never executed.
        inputs: Shape of each input of the module or ONNX file, such as ``1x3x224x224``; ``1x16:int`` for whole numbers.
        activation: Nonlinearity between the layers of a network without code.
        options: What else is not in a file without code: options of :func:`metanet.infer`.

    Raises:
        MetanetError: It is neither, cannot be imported or read, its inputs are missing or malformed, or an option does
            not go with it.
    """
    from metanet.checkpoint import load
    from metanet.graph.build import SPACE_KEY, build, from_onnx
    from metanet.space.recognise import recognise

    if MODULE.fullmatch(name) and not Path(name).exists():
        _refuse_options(activation, options, "a module")
        if not inputs:
            raise ConfigError(
                f"'{name}' is a module, which is traced: say the shape of its input, as in --input 1x3x224x224"
            )
        module, example = named_module(name), tuple(map(example_input, inputs))
        logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # the error says it in one line
        return Network(name, build(module, example), module, example)
    checkpoint = load(name)
    if checkpoint.format == "onnx":
        _refuse_options(activation, options, "an ONNX file")
        given = tuple(map(example_input, inputs)) if inputs else None
        return Network(name, *from_onnx(name, given))
    if inputs:
        raise ConfigError(
            f"--input goes with a module named package.module:function, or with an ONNX file; got the file '{name}'"
        )
    graph = build(checkpoint, activation=activation, **(options or {}))
    if ":" not in graph.space.source or SPACE_KEY in checkpoint.metadata:
        return Network(name, graph)
    return Network(name, graph, recognition=recognise(checkpoint, (options or {}).get("architecture")))


def _refuse_options(activation: str | None, options: InferOptions | None, kind: str) -> None:
    if activation is not None:
        raise ConfigError(
            f"--activation {activation}: {kind} tells its activations itself; the option goes with files without code"
        )
    if options:
        raise ConfigError(
            f"--{next(iter(options)).replace('_', '-')} goes with files without code: {kind} is traced, which tells it"
        )


def example_input(text: str) -> Tensor:
    """Zeros of the shape that ``1x3x224x224`` or ``1x16:int`` means.

    Raises:
        ConfigError: The text is no shape, or one that does not fit in memory.
    """
    import torch

    found = INPUT.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--input {text}: not a shape. Write sizes with x between them, as in 1x3x224x224 or 1x16:int"
        )
    shape = [int(size) for size in found[1].split("x")]
    if 0 in shape:
        raise ConfigError(f"--input {text}: got a size of 0. Write sizes of at least 1, as in 1x3x224x224")
    try:
        return torch.zeros(shape, dtype=torch.long if found[2] else torch.float32)
    except (RuntimeError, OverflowError, TypeError):  # torch has several ways to say it
        raise ConfigError(
            f"--input {text}: an input of this shape does not fit in memory. Write a smaller one"
        ) from None


def named_module(name: str) -> nn.Module:
    """Import ``package.module:function`` and call it; a module object is taken as it is.

    Raises:
        ConfigError: The name cannot be imported, or what it gives is no ``torch.nn.Module``.
    """
    from torch import nn

    package, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())  # a command's path starts at its own folder, not at the user's
    try:
        found: Any = importlib.import_module(package)
        for part in attribute.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, nn.Module) else found()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ConfigError(
            f"cannot make a module from '{name}': {type(error).__name__}: {error}. Accepted: package.module:function, "
            f"importable from here, where the function or class takes no arguments; or the path of a checkpoint file"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(made, nn.Module):
        raise ConfigError(f"'{name}' gives a {type(made).__name__}; a torch.nn.Module is needed")
    return made
