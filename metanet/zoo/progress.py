"""How far a build or an import is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a build or an import is.

    Attributes:
        done: Nets done, by an interrupted run before it too.
        total: Nets in all.
        trained: Nets that this run did itself.
        seconds: Time that it took for them.
    """

    done: int
    total: int
    trained: int
    seconds: float

    @property
    def rate(self) -> float:
        """Nets a second in this run."""
        return self.trained / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Expected time to go; infinite while nothing is known."""
        return (self.total - self.done) / self.rate if self.rate else float("inf")
