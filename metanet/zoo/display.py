"""What a person sees while a zoo is built: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from metanet.zoo.progress import Progress

LINES = 20  # printed per build at most, when the output is no terminal


@contextmanager
def show_build(name: str, console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Yield a callback for :func:`metanet.zoo.build_zoo` that shows nets done, nets per second and the time left.

    Nothing is shown before the first call, so a zoo that is there already opens without a word.

    Args:
        name: Name of the zoo, shown in front.
        console: Where to print; the standard output by default.
    """
    console = console or Console()
    with _bar(name, console) if console.is_terminal else _lines(name, console) as callback:
        yield callback


@contextmanager
def _bar(name: str, console: Console) -> Iterator[Callable[[Progress], None]]:
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("nets  {task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task(f"Building zoo {name}", total=None, note="", start=True)

    def callback(state: Progress) -> None:
        bar.start()
        bar.update(task, completed=state.done, total=state.total, note=_note(state))

    try:
        yield callback
    finally:
        bar.stop()


@contextmanager
def _lines(name: str, console: Console) -> Iterator[Callable[[Progress], None]]:
    printed, start = 0, time.perf_counter()

    def callback(state: Progress) -> None:
        nonlocal printed
        part = state.done * LINES // state.total
        if part > printed or state.done == state.total:
            printed = part
            elapsed = time.perf_counter() - start
            text = f"building zoo {name}: {state.done}/{state.total} nets  {_note(state)}  {elapsed:.0f} s"
            console.print(text, highlight=False, soft_wrap=True)

    yield callback


def _note(state: Progress) -> str:
    left = f"{state.seconds_left:.0f} s left" if state.trained else "? s left"
    return f"{state.rate:.1f} nets/s  {left}"
