"""Downloads that go on where they stopped, and are checked before they are used."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock

from metanet.errors import ZooError
from metanet.zoo.write import make_folder

PART = ".part"
ATTEMPTS = 3  # per address: a broken connection is taken up again, a wrong content is fetched anew
CHUNK = 1 << 16
TIMEOUT = 30  # seconds without a byte


def download(
    addresses: Sequence[str],
    sha256: str,
    path: Path,
    progress: Callable[[str, int, int], None] | None = None,
    advice: str = "",
) -> None:
    """Download a file, unless it is there with the right content.

    What has arrived is kept beside it as ``<name>.part`` and taken up again, by this call or a later one.

    Args:
        addresses: Where it is, tried in turn.
        sha256: Of the content, hexadecimal.
        path: File to write; it appears whole and checked, or not at all.
        progress: Called with name, bytes so far and bytes in all (0 if unknown).
        advice: What the user can do if no address works.

    Raises:
        ZooError: No address gave the file, another process downloads it, or it cannot be written.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    make_folder(path.parent)
    fetch = _Resuming(path.with_name(path.name + PART), progress or (lambda *_: None))
    failures = []
    try:
        with filelock.FileLock(path.with_name(f".{path.name}.lock")).acquire(timeout=0):
            for address in (address for address in addresses for _ in range(ATTEMPTS)):
                try:
                    pooch.retrieve(address, f"sha256:{sha256}", path.name, path.parent, downloader=fetch)
                    return
                except requests.RequestException as error:
                    failures.append(f"{address}: {_cause(error)}")
                except ValueError:  # pooch: the content is another one, and is deleted
                    failures.append(f"{address}: its SHA-256 is not {sha256[:16]}...")
    except filelock.Timeout:
        raise ZooError(f"Another process is downloading {path}. Wait until it has finished, then try again.") from None
    except OSError as error:
        raise ZooError(
            f"Cannot write {path}: got '{error.strerror or error}'. Make space or give write permission, and start "
            "again: what has arrived is kept. Or set METANET_DATA to another folder."
        ) from error
    raise ZooError(f"Cannot download {path.name}: {'; '.join(dict.fromkeys(failures))}. {advice}")


class _Resuming:
    """A downloader for pooch that keeps what has arrived."""

    def __init__(self, part: Path, progress: Callable[[str, int, int], None]) -> None:
        self._part, self._progress = part, progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        have = self._part.stat().st_size if self._part.is_file() else 0
        headers = (
            {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
        )
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable and have:
                os.replace(self._part, output_file)  # all is there already, or too much: pooch looks at the content
                return
            answer.raise_for_status()
            if answer.status_code != requests.codes.partial_content:
                have = 0  # the server sends everything again
            total = have + int(answer.headers.get("Content-Length", 0))
            with open(self._part, "ab" if have else "wb") as file:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    self._progress(self._part.name.removesuffix(PART), have, max(total, have))
        os.replace(self._part, output_file)


def _cause(error: Exception) -> str:
    """Return one short line: the innermost reason of a chain of network errors."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"got HTTP {response.status_code} {response.reason}"
    reason: object = error
    while isinstance(reason, Exception) and (getattr(reason, "reason", None) or (reason.args and reason.args[0])):
        inner = getattr(reason, "reason", None) or reason.args[0]
        if not isinstance(inner, Exception):
            break
        reason = inner
    return str(reason).splitlines()[0][:120] if str(reason) else type(error).__name__
