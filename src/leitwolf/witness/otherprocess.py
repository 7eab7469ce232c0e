"""Another process for self-tests: locks and caches of one process prove nothing.

It makes one object, and its methods are called from here, one after the other: a frame of
:mod:`leitwolf.witness.speech` on stdin asks, one on stdout answers.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from leitwolf.model.errors import WitnessError
from leitwolf.witness.speech import FRAME_BYTES_MAX, LENGTH_BYTES, decode, frame, length_of

__all__ = ["OtherProcess", "serve"]

T = TypeVar("T", bound=msgspec.Struct)

_PACKAGE = Path(__file__).parents[2]
_PROGRAM = (
    "import importlib, sys; sys.path.insert(0, sys.argv[1]);"
    " from leitwolf.witness.otherprocess import serve;"
    " serve(getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(*sys.argv[4:]))"
)
_END_S = 2.0


class _Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    method: str
    arguments: tuple[Any, ...]


class _Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    value: Any = None
    code: str = ""
    """Of the error that was raised, '': none was."""
    text: str = ""


class OtherProcess:
    """An object in a process of its own.

    Args:
        make: function or class of a module that returns the object.
        arguments: for it.
    """

    def __init__(self, make: Callable[..., object], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-c",
                _PROGRAM,
                str(_PACKAGE),
                make.__module__,
                make.__name__,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def call(self, method: str, *arguments: object) -> Any:
        """Return what a method of the object returns, a structure as a dictionary.

        Raises:
            WitnessError: that the method raised; or the process ended.
        """
        stdin, stdout = self._pipes()
        try:
            stdin.write(frame(_Ask(method=method, arguments=arguments)))
            stdin.flush()
            answer = _read(stdout, _Answer)
        except (OSError, EOFError, ValueError) as error:
            raise WitnessError(f"the second process of the self-test ended: {error}") from error
        if answer.code:
            raise WitnessError(answer.text, code=answer.code)
        return answer.value

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


def _read(stream: IO[bytes], kind: type[T]) -> T:
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        raise EOFError("no more frames")
    return decode(stream.read(length_of(head, FRAME_BYTES_MAX)), kind)


def serve(target: object) -> None:
    """Call methods of an object for who started this process, until stdin ends."""
    with contextlib.suppress(EOFError):
        while True:
            ask = _read(sys.stdin.buffer, _Ask)
            try:
                answer = _Answer(value=getattr(target, ask.method)(*ask.arguments))
            except WitnessError as error:
                answer = _Answer(code=error.code, text=error.text)
            sys.stdout.buffer.write(frame(answer))
            sys.stdout.buffer.flush()
