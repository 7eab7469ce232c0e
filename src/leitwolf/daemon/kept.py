"""Small files of the state directory that tell the next start what is so, or still to be done.

Each is there as a whole or not at all. What is damaged is named and never guessed; of what is only
a note, nothing is known then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from leitwolf.model.errors import StorageError

__all__ = ["read_kept", "read_note", "written_down"]

T = TypeVar("T")


@contextlib.contextmanager
def written_down(what: str, folder: Path) -> Iterator[None]:
    """Say what could not be written there, should that fail.

    Raises:
        StorageError: ``storage-io``.
    """
    try:
        yield
    except OSError as error:
        text = f"{what} cannot be written down in {folder}: {error.strerror}"
        hint = "free space there, or repair the disk; then ask again"
        raise StorageError(text, code="storage-io", hint=hint) from error


def read_kept(
    path: Path,
    kind: type[T],
    *,
    code: str,
    hint: str = "",
    decode: Callable[..., Any] = msgspec.json.decode,
) -> T | None:
    """Return what a file holds, None: there is none.

    Args:
        path: the file.
        kind: what it holds.
        code: of the error, should it be damaged.
        hint: what to do then.
        decode: as :func:`msgspec.json.decode`.

    Raises:
        StorageError: ``code``, it is damaged; ``storage-io``, it cannot be read now.
    """
    try:
        found: T = decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        raise StorageError(text, code="storage-io") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is damaged: {error}", code=code, hint=hint) from error
    return found


def read_note(path: Path, kind: type[T]) -> T | None:
    """Return what a file holds, None: there is none, or it is damaged."""
    try:
        return read_kept(path, kind, code="")
    except StorageError:
        return None
