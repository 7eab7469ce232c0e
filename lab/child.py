"""The outer half of the lab's measuring processes: one line in, one line of JSON out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["MeasuringProcess"]


class MeasuringProcess:
    """Runs a script of the lab in a machine's network; a context manager.

    Args:
        enter: command prefix, see :meth:`lab.world.World.enter_network`.
        script: a file that answers ``report`` with a line of JSON and ends with its input.
        arguments: of the script.
    """

    def __init__(self, enter: Sequence[str], script: Path, arguments: Sequence[str]) -> None:
        self._argv = [*enter, sys.executable, "-S", "-E", str(script), *arguments]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start, and wait until it measures."""
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for who measures
        )
        self.report()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def report(self) -> dict[str, Any]:
        """Return what was measured since the last report.

        Raises:
            RuntimeError: the process has ended; its error output says why.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("not started")
        try:
            process.stdin.write("report\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer tells
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._argv[-1]}: a measuring process ended: {process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
