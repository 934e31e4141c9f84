"""Make the task of a stored run by hand: known settings of plain types, and a metanet from a closed list of classes.

Lightning would do it by importing every class that the file names. Here the file decides about numbers only: which
task, which of metanet's own metanets, their settings, and the weights. The optimiser is not made.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import jsonargparse
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from metanet.errors import CheckpointError, ConfigError, MetanetError
from metanet.models.base import Metanet
from metanet.models.registry import MODULES, check_module, make_metanet
from metanet.space import WeightSpace
from metanet.tasks import TASKS
from metanet.tasks.base import PropertyTask
from metanet.tasks.run_file import CLASSES, SETTINGS, SPACES, TASK, check_keys, first_line, read_run_file

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
UNUSED = ("optimizer", "_instantiator")  # settings that predictions do not need


def load_task(path: Path, trust: bool = False) -> PropertyTask:
    """Make the task of a run's checkpoint, in evaluation mode.

    Args:
        path: The ``.ckpt`` file.
        trust: Import the metanet's class if it is not one of metanet's own, by the name in the file.

    Raises:
        CheckpointError: The file cannot be read, holds more than a run of metanet writes, names a class that is not one
            of metanet's (without ``trust``), or its weights do not fit.
    """
    content = read_run_file(path)
    kind = task_kind(path, content)
    settings = checked_settings(path, content)
    given = settings.pop("metanet")
    try:
        if trust and not _is_closed(given):
            metanet = _imported(given)
        else:
            _check_size(given, content)
            metanet = make_metanet("model.metanet", given)
        task = kind(metanet, **settings)
        task.on_load_checkpoint(content)
        task.load_state_dict(content["state_dict"])
    except MetanetError as error:
        hint = "" if trust or _is_closed(given) else " If you trust the run, pass --trust (trust=True)."
        raise CheckpointError(f"{path}: {error}{hint}") from None
    except (Exception, SystemExit) as error:  # whatever a class that another version wrote leads to
        raise CheckpointError(f"{path} does not fit this version of metanet: got {first_line(error)}.") from error
    classes = content.get(CLASSES, [])
    if len(classes) not in (0, metanet.out_features):
        raise CheckpointError(f"{path}: got {len(classes)} classes for a metanet of {metanet.out_features} outputs.")
    return task.eval()


def task_kind(path: Path, content: Mapping[str, Any]) -> type[PropertyTask]:
    """Return the class of the task that a checkpoint names.

    Raises:
        CheckpointError: There is no such task.
    """
    name = content.get(TASK, "regression")
    if name not in TASKS:
        raise CheckpointError(f"{path}: got the task {str(name)[:80]!r}. Accepted: {', '.join(TASKS)}.")
    return TASKS[name]


def checked_settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint's task, each of the type that the task's constructor asks for.

    ``metanet`` is the description in the file, not checked yet; the optimiser is left out.

    Raises:
        CheckpointError: A setting is unknown, or has another type.
    """
    given, kind = content[SETTINGS], task_kind(path, content)
    types = typing.get_type_hints(kind.__init__)
    types.pop("return", None)
    check_keys(path, given, (*types, "_instantiator"), f"the {kind.name}'s setting")
    if given.get("_instantiator", INSTANTIATOR) != INSTANTIATOR:
        raise CheckpointError(
            f"{path}: got '_instantiator' {str(given['_instantiator'])[:80]!r}. Accepted: {INSTANTIATOR}."
        )
    if "metanet" not in given:
        raise CheckpointError(f"{path} names no metanet in '{SETTINGS}'. Give a .ckpt file that fit wrote.")
    for name, value in given.items():
        if name not in ("metanet", *UNUSED) and not _fits(value, types[name]):
            raise CheckpointError(
                f"{path}: the setting '{name}' is {str(value)[:80]!r}. Accepted: {_named(types[name])}."
            )
    return {name: value for name, value in given.items() if name not in UNUSED}


def stored_settings(path: Path, configured: Any) -> dict[str, Any]:
    """Return what a configuration takes over from a checkpoint: the settings of its task, but not optimiser and target.

    Args:
        path: The checkpoint.
        configured: The description of the metanet in the configuration, which may name any class.

    Raises:
        CheckpointError: The checkpoint names a class that is neither metanet's own nor the configuration's.
    """
    settings = checked_settings(path, read_run_file(path))
    settings.pop("target", None)
    given = settings["metanet"]
    if _is_closed(given):
        return settings
    named = given.get("class_path") if isinstance(given, dict) else None
    own = isinstance(configured, Mapping | jsonargparse.Namespace) and named == configured["class_path"]
    if not own or named in MODULES:
        try:
            check_module("model.metanet", given)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error} A class of your own is named by the configuration.") from None
    del settings["metanet"]  # the configuration says how to make it
    return settings


def _fits(value: Any, wanted: Any) -> bool:
    if typing.get_origin(wanted) is Literal:
        return isinstance(value, str) and value in typing.get_args(wanted)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is wanted


def _named(wanted: Any) -> str:
    choices = typing.get_args(wanted)
    return ", ".join(map(str, choices)) if choices else f"a value of type {wanted.__name__}"


def _is_closed(given: Any) -> bool:
    """Say whether a metanet's description needs nothing but classes of metanet."""
    try:
        check_module("model.metanet", given)
    except ConfigError:
        return False
    return True


def _imported(given: Any) -> Metanet:
    """Make a metanet whose class is imported by name, for users who trust the file."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Metanet, "metanet", fail_untyped=False)
    return cast(Metanet, parser.instantiate_classes(parser.parse_object({"metanet": given})).metanet)


def _check_size(given: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Refuse a metanet with more parameters than the file holds, before memory is taken for them.

    Raises:
        CheckpointError: It has more.
    """
    state: dict[str, Tensor] = content["state_dict"]
    with torch.device("meta"), _at_most(len(state), sum(t.numel() for t in state.values())):
        metanet = make_metanet("model.metanet", given)
        if type(metanet).build is not Metanet.build:
            metanet.build([WeightSpace.from_json(text) for text in content[SPACES]])


class _TooLarge(BaseException):  # no Exception, which the guards around constructors would take for a bad argument
    pass


@contextmanager
def _at_most(tensors: int, numbers: int) -> Iterator[None]:
    """Stop a construction that registers more parameters than this."""
    seen = [0, 0]

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        seen[0] += parameter is not None
        seen[1] += 0 if parameter is None else parameter.numel()
        if seen[0] > tensors or seen[1] > numbers:
            raise _TooLarge

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except _TooLarge:
        raise CheckpointError(
            f"its settings describe a larger metanet than its weights are for (got {tensors} tensors of {numbers:,} "
            "numbers). Give a .ckpt file that fit wrote."
        ) from None
    finally:
        hook.remove()
