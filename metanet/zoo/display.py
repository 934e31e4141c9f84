"""What a person sees while a zoo is built: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from metanet.zoo.progress import Progress

LINES = 20  # printed per build at most, when the output is no terminal


@contextmanager
def show_build(
    name: str, console: Console | None = None, doing: str = "building"
) -> Iterator[Callable[[Progress], None]]:
    """Yield a callback for :func:`metanet.zoo.build_zoo` that shows nets done, nets per second and the time left.

    Nothing is shown before the first call, so a zoo that is there already opens without a word.

    Args:
        name: Name of the zoo, shown in front.
        console: Where to print; the standard output by default.
        doing: What is done to it.
    """
    console = console or Console()
    title = f"{doing} zoo {name}"
    with _bar(title[0].upper() + title[1:], console) if console.is_terminal else _lines(title, console) as callback:
        yield callback


@contextmanager
def show_download(console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback for downloads: a bar for each file in a terminal, a line for each that is whole in a log."""
    console = console or Console()
    bar = Bar("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console)
    tasks: dict[str, TaskID] = {}

    def callback(name: str, done: int, total: int) -> None:
        if console.is_terminal:
            bar.start()
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], completed=done, total=total or None)
            if done == total:
                bar.stop()
        elif done == total:
            console.print(f"downloaded {name}: {total / 1e6:.1f} MB", highlight=False, soft_wrap=True)

    try:
        yield callback
    finally:
        if tasks:
            bar.stop()


@contextmanager
def _bar(title: str, console: Console) -> Iterator[Callable[[Progress], None]]:
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("nets  {task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task(title, total=None, note="", start=True)

    def callback(state: Progress) -> None:
        bar.start()
        bar.update(task, completed=state.done, total=state.total, note=_note(state))

    try:
        yield callback
    finally:
        bar.stop()


@contextmanager
def _lines(title: str, console: Console) -> Iterator[Callable[[Progress], None]]:
    printed, start = 0, time.perf_counter()

    def callback(state: Progress) -> None:
        nonlocal printed
        part = state.done * LINES // state.total
        if part > printed or state.done == state.total:
            printed = part
            elapsed = time.perf_counter() - start
            text = f"{title}: {state.done}/{state.total} nets  {_note(state)}  {elapsed:.0f} s"
            console.print(text, highlight=False, soft_wrap=True, markup=False)

    yield callback


def _note(state: Progress) -> str:
    left = f"{state.seconds_left:.0f} s left" if state.trained else "? s left"
    return f"{state.rate:.1f} nets/s  {left}"
