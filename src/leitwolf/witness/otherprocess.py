"""A share's value in the hands of another process: locks and caches of one process prove nothing.

The process reads requests of :mod:`leitwolf.witness.speech` from stdin and answers on stdout.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import IO, TypeVar

from leitwolf.model.errors import InvalidConfig, WitnessError
from leitwolf.model.location import ShareLocation, parse_location
from leitwolf.ports.witness import RemovableCas, Versioned
from leitwolf.witness.speech import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Ask,
    Code,
    Kind,
    Reply,
    decode,
    frame,
    length_of,
)

__all__ = ["OtherProcessCas", "main"]

T = TypeVar("T", Ask, Reply)

_PACKAGE = Path(__file__).parents[2]
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from leitwolf.witness.otherprocess import main; main(*sys.argv[2:])"
)
_END_S = 2.0


class OtherProcessCas:
    """A share's value, read and written by a process of its own.

    Args:
        location: of the share.
        timeout_s: seconds to wait for its lock.
    """

    def __init__(self, location: str, *, timeout_s: float) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-c",
                _PROGRAM,
                str(_PACKAGE),
                location,
                str(timeout_s),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def get(self) -> Versioned | None:
        """Return the newest value."""
        reply = self._ask(Ask(kind=Kind.GET))
        if reply.code is Code.NONE:
            return None
        return Versioned(data=reply.data, version=reply.version)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value if its version still is ``expected``."""
        reply = self._ask(Ask(kind=Kind.PUT, data=data, expected=expected))
        return None if reply.code is Code.CONFLICT else reply.version

    def remove(self) -> None:
        """Remove the value."""
        self._ask(Ask(kind=Kind.REMOVE))

    def close(self) -> None:
        """End the process."""
        stdin, stdout = self._pipes()
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # one that hangs in the kernel ends when the mount comes back
        stdout.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WitnessError("the second process has no pipes")
        return stdin, stdout

    def _ask(self, ask: Ask) -> Reply:
        stdin, stdout = self._pipes()
        try:
            stdin.write(frame(ask))
            stdin.flush()
            reply = _read(stdout, Reply)
        except (OSError, EOFError, ValueError) as error:
            raise WitnessError(f"the second process of the self-test ended: {error}") from error
        if reply.code is Code.FAILED:
            raise WitnessError(reply.text, code=reply.version)
        return reply


def _read(stream: IO[bytes], kind: type[T]) -> T:
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        raise EOFError("no more frames")
    return decode(stream.read(length_of(head, FRAME_BYTES_MAX)), kind)


def main(location: str, timeout_s: str) -> None:
    """Answer requests until stdin ends."""
    from leitwolf.witness.share import ShareCas  # noqa: PLC0415 — the parent needs none of it

    place = parse_location(location)
    if not isinstance(place, ShareLocation):
        raise InvalidConfig(f"location {location!r} is no share", field="location")
    cas = ShareCas(place, timeout_s=float(timeout_s))
    with contextlib.suppress(EOFError):
        while True:
            ask = _read(sys.stdin.buffer, Ask)
            sys.stdout.buffer.write(frame(_answer(cas, ask)))
            sys.stdout.buffer.flush()


def _answer(cas: RemovableCas, ask: Ask) -> Reply:
    try:
        if ask.kind is Kind.PUT:
            version = cas.put(ask.data, ask.expected)
            return Reply(code=Code.CONFLICT) if version is None else _ok(version)
        if ask.kind is Kind.REMOVE:
            cas.remove()
            return Reply(code=Code.NONE)
        found = cas.get()
        return Reply(code=Code.NONE) if found is None else _ok(found.version, found.data)
    except WitnessError as error:
        return Reply(code=Code.FAILED, text=error.text, version=error.code)


def _ok(version: str, data: bytes = b"") -> Reply:
    return Reply(code=Code.OK, version=version, data=data)
