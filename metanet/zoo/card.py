"""The card of a zoo, ``zoo.json``: every field that metanet reads is checked when the zoo is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from metanet.errors import ZooError
from metanet.formats import check_format
from metanet.zoo.json_file import read_json

CARD = "zoo.json"
FORMAT = 1  # of zoos that this metanet reads
REBUILD = "Restore the file, or delete the zoo's folder and build or import it again."
HEX = frozenset("0123456789abcdef")


def read_card(zoo: Path) -> dict[str, Any]:
    """Read the card of the zoo in a folder.

    Raises:
        ZooError: It is missing, damaged, of a newer format, or a field of it has another type.
    """
    try:
        card = read_json(zoo / CARD)
    except ZooError as error:
        raise ZooError(f"Cannot open the zoo {zoo}: {error} {REBUILD}") from error
    check_format(card.get("format", 1), FORMAT, f"Cannot open the zoo {zoo}: {CARD}", ZooError)
    if "name" not in card:
        raise ZooError(f"Cannot open the zoo {zoo}: {CARD} names no zoo. {REBUILD}")
    for key, (accepted, fits) in FIELDS.items():
        if key in card and not fits(card[key]):
            found = f"{repr(card[key])[:60]}, a {type(card[key]).__name__}"
            raise ZooError(f"Cannot open the zoo {zoo}: '{key}' in {CARD} is not {accepted} (got {found}). {REBUILD}")
    return card


def checksums(card: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files of a zoo by path; empty for zoos that have none, as older ones do."""
    return dict(card.get("sha256", {}))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _version(value: Any) -> bool:
    return type(value) in (int, float, str)


def _mapping(each: Callable[[Any], bool], keys: Callable[[str], bool] = bool) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(keys(key) and each(one) for key, one in value.items())


def _list(each: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(each, value))


def _digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and HEX.issuperset(value)


def _inside(name: str) -> bool:
    """Whether a path stays in the folder of the zoo."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _is_left_out(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("id")) and _text(value.get("reason"))


def _anything(value: Any) -> bool:
    return True


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a text", lambda value: _text(value) and value != ""),
    "version": ("a number or text", _version),
    "description": ("a text", _text_or_null),
    "licence": ("a text", _text_or_null),
    "source": ("a text", _text_or_null),
    "nets": ("a whole number >= 0", _count),
    "recipe": ("a text", _text),
    "notes": ("a list of texts", _list(_text)),
    "unreadable": ("a list of mappings with id and reason", _list(_is_left_out)),
    "columns": ("a mapping of mappings of texts", _mapping(_mapping(_text))),
    "architectures": ("a mapping of mappings", _mapping(_mapping(_anything))),
    "imported": ("a mapping", _mapping(_anything)),
    "sha256": ("a mapping from files of the zoo to their SHA-256", _mapping(_digest, _inside)),
}
