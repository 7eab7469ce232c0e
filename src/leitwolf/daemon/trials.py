"""Does a disk or witness do what the quorum needs of it? Asked before anything of it counts.

Rules:

- One test for each acceptor at each location, in each process of the daemon: a disk formatted anew
  and another way to it are tested, a connection that was lost and made again is not.
- Until it passed, nothing that stands there is answered to the core: a store that fails is refused
  (``witness-unfit``, in the words of the check), and tested again when it is called after
  :data:`AGAIN_NS`. One that cannot be reached is not refused; it is tested when it can be.
- Nobody is written over. An object is looked at first, and left alone unless it is this cluster's;
  the scratch value beside it has the names of cluster and node, so a daemon removes what it left
  itself when it was killed. A disk is tried in the own place (W3), with the right to write there.
- Whatever it begins is over before the acceptor is used (A4): the channel is told of each thread.

What this does not guarantee: that another machine sees the same; and that it stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from leitwolf.model.errors import WitnessError
from leitwolf.model.quorum import Acceptor
from leitwolf.system.clock import raw_ns
from leitwolf.system.diary import log

if TYPE_CHECKING:
    from leitwolf.witness.selftest import SelfTestReport

__all__ = ["AGAIN_NS", "Lingering", "Trial"]

AGAIN_NS = 15_000_000_000
"""What was refused is tested again after this time, so what was repaired comes back by itself."""


class Lingering(Protocol):
    """A thread that may outlast a failure and the closing behind it."""

    @property
    def over(self) -> bool:
        """Whether it ended: nothing of it is on its way."""
        ...


class Trial:
    """The self-test of an acceptor at a location. Used by one thread at a time."""

    def __init__(self) -> None:
        self.passed = False
        self._refusal = ""
        self._refused_at = 0

    def demand(self) -> None:
        """Refuse what failed a moment ago, before it is even opened.

        Raises:
            WitnessError: ``witness-unfit``.
        """
        if self._refusal and raw_ns() < self._refused_at + AGAIN_NS:
            raise WitnessError(self._refusal, code="witness-unfit")

    def run(self, acceptor: Acceptor, test: Callable[[], SelfTestReport]) -> None:
        """Test it.

        Raises:
            WitnessError: ``witness-unfit``, it is refused; else it cannot be reached.
        """
        begun = raw_ns()
        try:
            role = "a quorum disk" if acceptor.kind == "disk" else "a witness"
            test().demand(acceptor.location, role)
        except WitnessError as error:
            if error.code == "witness-unfit":
                self._refusal, self._refused_at = error.text, raw_ns()
            raise
        self.passed, self._refusal = True, ""
        took_ms = (raw_ns() - begun) // 1_000_000
        log.info("passed its self-test", acceptor=acceptor.location, took_ms=took_ms)
