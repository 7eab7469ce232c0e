"""Patience with nodes on a machine that is slow and stands still for some seconds at times."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lab.stalls import Stalls
from tests.integration.stall_support import again_if_stalled

from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError

__all__ = ["LATER", "LOOK_S", "Patient", "unless_it_stalls"]

LATER = {
    "node-not-connected",
    "no-quorum",
    "not-leader",
    "not-ready",
    "outcome-unknown",
    "overload",
    "quorum-changing",
    "shutting-down",
    "timeout",
    "unreachable",
}
"""Refusals of a moment: who stands still for some seconds loses office, lease, or itself."""
LOOK_S = 0.1
_WAIT_S = 30.0


def unless_it_stalls(
    play: Callable[[], object], before: Callable[[], object] | None = None
) -> None:
    """Play something again if it fails while the machine stands still; see stall_support.

    ``before``: what is to be done before it is played again.
    """
    with Stalls() as stalls:
        for why in again_if_stalled(play, stalls):
            print(f"once more: {why}")
            if before is not None:
                before()


class Patient(Client):
    """Asks a node again, for a while, what it refuses for a moment only.

    Args:
        runtime: returns its runtime directory, which changes when it boots.
        revive: boots who fenced itself.
    """

    def __init__(self, runtime: Callable[[], Path], revive: Callable[[], object]) -> None:
        super().__init__(runtime(), timeout_s=30)
        self._runtime = runtime
        self._revive = revive

    def _raw(self, method: str, path: str, data: bytes | None, wait_s: float = 0) -> bytes:
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                return super()._raw(method, path, data, wait_s)
            except LeitwolfError as error:
                if error.code not in LATER or time.monotonic() > deadline:
                    raise
            self._revive()
            time.sleep(LOOK_S)
            self._socket = self._runtime() / "api.sock"
