"""A share's value in the hands of another process, as the second client of a self-test."""

from __future__ import annotations

from typing import cast

import msgspec

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.location import ShareLocation, parse_location
from leitwolf.ports.witness import Versioned
from leitwolf.witness.otherprocess import OtherProcess
from leitwolf.witness.share import ShareCas

__all__ = ["OtherProcessCas", "open_share"]


def open_share(location: str, timeout_s: str) -> ShareCas:
    """Open a share's value, in the other process."""
    place = parse_location(location)
    if not isinstance(place, ShareLocation):
        raise InvalidConfig(f"location {location!r} is no share", field="location")
    return ShareCas(place, timeout_s=float(timeout_s))


class OtherProcessCas:
    """A share's value, read and written by a process of its own.

    Args:
        location: of the share.
        timeout_s: seconds to wait for its lock.
    """

    def __init__(self, location: ShareLocation, *, timeout_s: float) -> None:
        self._process = OtherProcess(open_share, str(location), str(timeout_s))

    def get(self) -> Versioned | None:
        """Return the newest value."""
        found = self._process.call("get")
        return None if found is None else msgspec.convert(found, Versioned)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value if its version still is ``expected``."""
        return cast("str | None", self._process.call("put", data, expected))

    def remove(self) -> None:
        """Remove the value."""
        self._process.call("remove")

    def close(self) -> None:
        """End the process."""
        self._process.close()
