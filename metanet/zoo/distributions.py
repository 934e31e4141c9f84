"""Distributions of hyperparameters, as a recipe declares them.

Each is a frozen dataclass with ``draw(rng, drawn)``: one value from one random generator. ``drawn`` holds the values
drawn so far, which :class:`By` looks at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metanet.errors import ZooError

Value = str | int | float | bool


@dataclass(frozen=True)
class Constant:
    """The same value for every net."""

    value: Value

    def draw(self, rng: np.random.Generator, drawn: Mapping[str, Value]) -> Value:
        """Return the value; the generator is not touched."""
        return self.value

    def support(self) -> list[Any]:
        """Return the values that the recipe names, to be checked one by one."""
        return [self.value]

    def to_dict(self) -> Any:
        """Return what the recipe file says."""
        return self.value


@dataclass(frozen=True)
class Choice:
    """One of the values, each as likely as the next."""

    values: tuple[Value, ...]

    def draw(self, rng: np.random.Generator, drawn: Mapping[str, Value]) -> Value:
        """Return one of the values."""
        return self.values[int(rng.integers(len(self.values)))]

    def support(self) -> list[Any]:
        """Return the values that the recipe names, to be checked one by one."""
        return list(self.values)

    def to_dict(self) -> Any:
        """Return what the recipe file says."""
        return {"choice": list(self.values)}


@dataclass(frozen=True)
class Interval:
    """A number between ``low`` and ``high``, uniform or uniform in its logarithm; whole if both ends are."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: np.random.Generator, drawn: Mapping[str, Value]) -> Value:
        """Return a number of ``[low, high]``."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = float(rng.uniform(self.low, self.high))
        return round(value) if whole else min(max(value, self.low), self.high)

    def support(self) -> list[Any]:
        """Return the values that the recipe names, to be checked one by one."""
        return [self.low, self.high]

    def to_dict(self) -> Any:
        """Return what the recipe file says."""
        return {"loguniform" if self.log else "uniform": [self.low, self.high]}


@dataclass(frozen=True)
class By:
    """A distribution that depends on a hyperparameter drawn before it."""

    key: str
    cases: tuple[tuple[str, Distribution], ...]

    def draw(self, rng: np.random.Generator, drawn: Mapping[str, Value]) -> Value:
        """Return a value from the case that ``drawn[key]`` names.

        Raises:
            ZooError: The hyperparameter has no case for its value, or is drawn later.
        """
        cases = dict(self.cases)
        if drawn.get(self.key) not in cases:
            raise ZooError(
                f"Hyperparameter depends on '{self.key}', which is {drawn.get(self.key)!r} here; cases given: "
                f"{', '.join(cases)}. Declare '{self.key}' before it and give every value a case."
            )
        return cases[str(drawn[self.key])].draw(rng, drawn)

    def support(self) -> list[Any]:
        """Return the values that the recipe names, to be checked one by one."""
        return [value for _, case in self.cases for value in case.support()]

    def to_dict(self) -> Any:
        """Return what the recipe file says."""
        return {"by": self.key} | {name: case.to_dict() for name, case in self.cases}


Distribution = Constant | Choice | Interval | By


def parse_distribution(where: str, given: Any) -> Distribution:
    """Read one distribution of a recipe.

    Args:
        where: Dotted key, for messages.
        given: A plain value, ``{choice: [...]}``, ``{uniform: [low, high]}``, ``{loguniform: [low, high]}`` or
            ``{by: other, value: distribution, ...}``.

    Raises:
        ZooError: Anything else, or an empty or impossible range.
    """
    if isinstance(given, str | int | float | bool):
        return Constant(given)
    accepted = "a plain value, {choice: [...]}, {uniform: [low, high]}, {loguniform: [low, high]} or {by: key, ...}"
    if not isinstance(given, Mapping) or not given:
        raise ZooError(f"Recipe key '{where}': got {given!r}. Accepted: {accepted}.")
    if "by" in given:
        cases = {str(k): parse_distribution(f"{where}.{k}", v) for k, v in given.items() if k != "by"}
        return By(str(given["by"]), tuple(cases.items()))
    kind, body = next(iter(given.items()))
    if len(given) != 1 or kind not in ("choice", "uniform", "loguniform") or not isinstance(body, list) or not body:
        raise ZooError(f"Recipe key '{where}': got {dict(given)!r}. Accepted: {accepted}.")
    if kind == "choice":
        return Choice(tuple(body))
    numbers = len(body) == 2 and all(isinstance(x, int | float) for x in body)
    if not numbers or not body[0] <= body[1] or (kind == "loguniform" and not body[0] > 0):
        need = "0 < low <= high" if kind == "loguniform" else "low <= high"
        raise ZooError(
            f"Recipe key '{where}': {kind} needs two numbers with {need} (1e-3 must be 1.0e-3 in YAML), got {body!r}."
        )
    return Interval(body[0], body[1], log=kind == "loguniform")
