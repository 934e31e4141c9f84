"""The ``metanet`` command: one sub-command per module of :mod:`metanet.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from metanet.commands.audit import audit
from metanet.commands.graph import graph
from metanet.commands.predict import predict
from metanet.commands.symmetries import symmetries
from metanet.commands.zoo import app as zoo
from metanet.errors import MetanetError

# the base of all usage errors, which typer does not name
USAGE: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
BAD_INPUT = 2
INTERRUPTED = 130

app = typer.Typer(
    name="metanet", help="Learn from the weights of neural networks.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.callback()
def _group() -> None:
    """Learn from the weights of neural networks."""


app.command()(audit)
app.command()(graph)
app.command()(predict)
app.command()(symmetries)
app.add_typer(zoo, name="zoo")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 after one line ``error: ...`` on bad input, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if args is None else args) or ["--help"]
    try:
        result = app(args=given, prog_name="metanet", standalone_mode=False)
    except MetanetError as error:
        return _failed(str(error))
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except USAGE as error:
        say = getattr(error, "format_message", error.__str__)
        return _failed(f"{say()} (see metanet --help)")
    return result if isinstance(result, int) else 0


def _failed(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
