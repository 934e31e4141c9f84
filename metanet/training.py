"""The training command: ``python train.py fit --config configs/NAME.yaml``."""

from __future__ import annotations

import difflib
import logging
import math
import re
import shlex
import statistics
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from rich.console import Console

import metanet.models
from metanet.errors import CheckpointError, ConfigError, MetanetError
from metanet.models import Metanet
from metanet.tasks import TASKS
from metanet.tasks.callbacks import (
    EpochLines,
    RunConfig,
    RunNotes,
    checkpoint_callbacks,
    loggers,
    make_run_folder,
    run_folder,
)
from metanet.tasks.report import RunFacts, machine_name
from metanet.tasks.restore import stored_settings
from metanet.tasks.resume import HERE, ResumeCheck, RunCheckpointIO, best_file
from metanet.tasks.run_file import first_line, read_run_file
from metanet.tasks.undefined import take_last, undefined
from metanet.zoo.data import ZooDataModule

RUNS = Path("runs")


class Parser(LightningArgumentParser):
    """Lightning's parser without abbreviated options and without pages of usage before an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # else --trainer.max_epoch is silently taken as max_epochs
        super().__init__(*args, **kwargs)

    def format_usage(self) -> str:
        """Nothing: ``--help`` prints the options."""
        return ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Name the classes there are when a metanet is not found, then exit with code 2."""
        super().error(message + suggestion(message), ex)


class MetanetCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` of a task on a :class:`ZooDataModule`.

    The configuration's ``task`` names the task, ``regression`` unless it says otherwise.

    Runs write to ``runs/<config name>/seed-<seed>``, or to ``trainer.default_root_dir`` if it is given. After ``fit``
    the best checkpoint is tested, beside StatNN on the same split.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        self.task = chosen_task(args)
        super().__init__(
            TASKS[self.task],
            ZooDataModule,
            save_config_callback=RunConfig,
            seed_everything_default=0,
            parser_class=Parser,
            args=args,
            run=run,
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands of the trainer; predictions for files are ``metanet predict``."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The task predicts what the data module gives; one CPU thread unless more are asked for."""
        parser.link_arguments("data.target", "model.target")
        parser.add_argument("--task", type=Literal[tuple(TASKS)], default=self.task, help="What is learned.")
        parser.link_arguments("task", "data.classify", compute_fn=_classifies)
        parser.add_argument(
            "--threads", type=PositiveInt, default=1,
            help="CPU threads of torch. A second one gains little on the small products of a metanet, and stalls both "
            "whenever another process has its core.",
        )  # fmt: skip

    def before_instantiate_classes(self) -> None:
        """Set the number of threads before anything is computed."""
        torch.set_num_threads(int(self._get(self.config, "threads")))

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self._get(self.config, "seed_everything"))

    @property
    def _is_trial(self) -> bool:
        """Whether this is a ``fast_dev_run``, which writes nothing."""
        return bool(self._get(self.config, "trainer")["fast_dev_run"])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer of the config, with the defaults of this command where the config says nothing."""
        given = self._get(self.config_init, "trainer")
        fits = self.subcommand in ("fit", None)
        configs = self._get(self.config, "config") or ["run"]
        resume = fits and bool(self._get(self.config, "ckpt_path"))
        self.folder = Path(
            given["default_root_dir"] or run_folder(RUNS, Path(str(configs[-1])).stem, self.seed, resume)
        )
        callbacks = list(given["callbacks"] or [])
        defaults: dict[str, Any] = {"default_root_dir": str(self.folder), "callbacks": callbacks}
        if fits and given["enable_checkpointing"] is not False:
            if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
                callbacks.extend(checkpoint_callbacks(self.folder, TASKS[self.task].monitor))
        elif not fits:
            defaults["enable_checkpointing"] = False
        if given["logger"] in (None, True):
            defaults["logger"] = loggers(self.folder) if fits else False
        if not sys.stdout.isatty() and given["enable_progress_bar"] is None:
            defaults["enable_progress_bar"] = False
            callbacks.append(EpochLines())
        for name, value in {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10}.items():
            defaults[name] = value if given[name] is None else given[name]
        callbacks += [RunNotes(self.folder, _resume_command()), ResumeCheck(self.checkpoints)]
        plugins = given["plugins"] or []
        defaults["plugins"] = [self.checkpoints, *(plugins if isinstance(plugins, list) else [plugins])]
        return super().instantiate_trainer(**defaults, **kwargs)

    def _parse_ckpt_path(self) -> None:
        """Take the settings of the task, but no optimiser, from a checkpoint that is named; its classes are metanet's.

        Raises:
            CheckpointError: It cannot be read, or names a class that the configuration does not.
            ConfigError: It is a word that the command does not know.
        """
        command = self.config.get("subcommand")
        given = self.config[command].get("ckpt_path") if command else None
        target = str(self.config[command]["data"]["target"]) if command else ""
        self.checkpoints = RunCheckpointIO(self.task, target, weights=command != "fit")
        if not given or (given == "last" and command == "fit"):
            return
        if not Path(given).exists():
            words = "last, or a .ckpt file on this machine" if command == "fit" else "a .ckpt file on this machine"
            raise ConfigError(f"--ckpt_path: got {given!r}. Accepted: {words}.")
        self.config = self.parser.parse_object(
            {command: {"model": stored_settings(Path(given), self.config[command]["model"]["metanet"])}}, self.config
        )

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; a checkpoint that cannot be restored is one line."""
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            file = self.checkpoints.pending
            if isinstance(error, MisconfigurationException):  # of options that do not go together
                raise ConfigError(" ".join(str(error).split())) from error
            if file is None or (isinstance(error, MetanetError) and str(file) in str(error)):
                raise
            raise CheckpointError(f"Cannot restore {file}: got {first_line(error)}. {HERE}") from error

    def before_fit(self) -> None:
        """Make the run folder, so that a folder that cannot be written fails before any training."""
        if not self._is_trial:
            make_run_folder(self.folder)

    def after_fit(self) -> None:
        """Test the best checkpoint beside StatNN; print the table, write scores and picture."""
        found = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        kept = next((c for c in found if c.monitor), None)
        best = best_file(kept) if kept is not None and not self._is_trial else None
        if kept is None or best is None:
            return
        epoch = int(read_run_file(best)["epoch"])
        if kept.best_model_score is None or not kept.best_model_score.isfinite():
            epoch = take_last(best)
            print(undefined(kept.monitor, self.datamodule, epoch), flush=True)
        self.checkpoints.weights = True
        self.trainer.test(self.model, self.datamodule, ckpt_path=str(best), verbose=False)
        report = self.model.report(self.datamodule, self.seed, self._facts(kept, epoch))
        files = [*report.write(self.folder), best]
        console = Console()
        console.print(report.table())
        if self.model.overflowing:
            names = list(self.model.overflowing)
            more = ", ..." if len(names) > 5 else ""
            print(
                f"left out: {len(names)} nets on which the metanet overflows: {', '.join(names[:5])}{more}", flush=True
            )
        console.print(f"written: {', '.join(str(file) for file in files)}", highlight=False, soft_wrap=True)

    def _facts(self, kept: ModelCheckpoint, epoch: int) -> RunFacts:
        score = float(kept.best_model_score if kept.best_model_score is not None else math.nan)
        notes = next(c for c in self.trainer.callbacks if isinstance(c, RunNotes))  # type: ignore[attr-defined]
        return RunFacts(
            monitor=str(kept.monitor),
            validation=score if math.isfinite(score) else None,
            epoch=epoch,
            epochs=self.trainer.current_epoch,
            parameters=sum(p.numel() for p in self.model.metanet.parameters() if p.requires_grad),
            seconds_per_epoch=statistics.median(notes.seconds) if notes.seconds else None,
            machine=machine_name(self.trainer.strategy.root_device),
        )


def main(args: ArgsType = None, run: bool = True) -> MetanetCLI:
    """Run the command line; with ``run=False`` only build ``cli.model``, ``cli.datamodule`` and ``cli.trainer``.

    Exits with code 2 and one line on what is wrong with the input.
    """
    try:
        with quiet():
            return MetanetCLI(args, run)
    except MetanetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def chosen_task(args: ArgsType) -> str:
    """The task that arguments or the configurations that they name ask for; the last one given counts.

    The task decides which options there are, so it has to be known before options are read.
    """
    if isinstance(args, dict | Namespace):
        return str(args.get("task", next(iter(TASKS))))
    words = sys.argv[1:] if args is None else [str(word) for word in args] if isinstance(args, list) else []
    pairs = [tuple(w.split("=", 1)) for w in words if "=" in w] + list(pairwise(words))
    named = [Path(value) for key, value in pairs if key in ("--config", "-c")]
    tasks = [_task_of(file) for file in named if file.is_file()]
    found = [task for task in tasks if task in TASKS] + [v for key, v in pairs if key == "--task" and v in TASKS]
    return found[-1] if found else next(iter(TASKS))


def _task_of(file: Path) -> Any:
    """What a configuration says; one that cannot be read is left for the parser to complain about."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content.get("task") if isinstance(content, dict) else None


def _classifies(task: str) -> bool:
    return task == "classification"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's adverts, device lists and remarks on its own internals away while a command runs."""
    logger = logging.getLogger("lightning")
    names = ["lightning.pytorch", "lightning.fabric"]
    before = {name: logging.getLogger(name).level for name in [logger.name, *names]}
    for name in before:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in QUIET:
                warnings.filterwarnings("ignore", text)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


QUIET = (
    "Be aware that when using `ckpt_path`",  # test and validate need none of the callbacks that write checkpoints
    "The number of training batches",  # a zoo of few nets has few steps an epoch, which are logged as epoch means
    "`training_step` returned `None`",  # a batch of nets all of which overflow
    ".*does not have many workers",  # a zoo held in memory is read fastest by the training process
    "Checkpoint directory .* exists and is not empty",  # always so when a run is resumed
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning 2.6's own use of torch
    r"(?s)\s*The '?(add_instantiator|instantiate_classes|skip_none)",  # Lightning 2.6's own use of jsonargparse
    ".*args parameter is intended to run from within Python",  # tests and notebooks do run it from within Python
)


def suggestion(message: str) -> str:
    """What to add to a parser's message: the metanets there are, if one was not found."""
    if "model.metanet" not in message:
        return ""
    known = {cls.__name__: f"{cls.__module__}.{cls.__name__}" for cls in _subclasses(Metanet)}
    paths = {name: f"metanet.models.{name}" if hasattr(metanet.models, name) else path for name, path in known.items()}
    found = re.search(r"(?:class_path|path string:?|class) '?([\w.]+)'?", message)
    name = found.group(1).split(".")[-1] if found else ""
    if name in known:
        return ""  # the class was found; something else is wrong
    close = difflib.get_close_matches(name, list(paths), n=1)
    hint = f" Did you mean {paths[close[0]]}?" if close else ""
    return f"\nAccepted metanets: {', '.join(sorted(paths.values()))}, or the path of your own.{hint}"


def _subclasses(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    found = [cls for child in children for cls in (child, *_subclasses(child))]
    return [cls for cls in found if not getattr(cls, "__abstractmethods__", None)]


def _resume_command() -> str:
    words = [word for word in sys.argv if not word.startswith("--ckpt_path")]
    return shlex.join(["python", *words, "--ckpt_path", "last"])
