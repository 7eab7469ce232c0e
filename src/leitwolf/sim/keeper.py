"""The keeper of a simulated node: it starts guard, daemon and host anew, and nothing else does.

As with the real one, what lives goes on while the keeper is dead, and the next one adopts it; who
dies meanwhile stays dead. One that stands still starts nobody until it goes on. A keeper that was
killed is started by the service manager; where none does (it was started by hand, or its manager is
busy), by the host after a second, if that runs (``host/keeper.py``).

What is not modelled: processes that hang are killed (after longer than any fault lasts), orderly
stop and reload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.process import Process

if TYPE_CHECKING:
    from leitwolf.sim.node import SimNode

__all__ = ["SimKeeper"]

_MANAGED_PER_THOUSAND = 500
"""Deaths after which the service manager starts another keeper."""
_REVIVE_NS = 1_000 * MILLISECOND
"""The host leaves it so long to others to start one."""
_COMES_MS = (150, 700)
"""Until a keeper works: the manager's pause, loading the program."""


class SimKeeper(Process):
    """The keeper process of one machine."""

    def __init__(self, node: SimNode) -> None:
        super().__init__("keeper", lambda: node.world.now)
        self._node = node
        self._world = node.world
        self._gone_at = 0
        self._coming = False
        """Another one was started and does not work yet."""

    def boot(self) -> None:
        """Start with the machine, and everything else at once."""
        self._coming = False
        self.start()
        for process in self._node.kept:
            process.begin()

    def begin(self) -> None:
        """Start: adopt what lives, start what does not."""
        if self.alive or not self._node.can_start(self.begin):
            return
        self._coming = False
        self.start()
        self._world.note(self._node.id, "keeper", "started")
        for process in self._node.kept:
            if not process.alive:
                self.ended(process)

    def perish(self, why: str = "killed") -> None:
        """Die; what lives goes on."""
        if not self.alive:
            return
        self._world.note(self._node.id, "keeper", why)
        self.kill()
        self._gone_at = self._world.now
        if self._node.entropy.chance(_MANAGED_PER_THOUSAND):
            self._come()

    def missed(self, since: int) -> None:
        """The host, which runs ``since`` then, looks whether there is a keeper, and starts one."""
        if not self._coming and self._world.now - max(since, self._gone_at) >= _REVIVE_NS:
            self._come()

    def _come(self) -> None:
        self._coming = True
        boots = self._node.boots

        def works() -> None:
            if self._node.boots == boots:
                self.begin()

        self._world.later(self._node.entropy.between(*_COMES_MS) * MILLISECOND, works)

    def ended(self, process: Process, takes: int = 0) -> None:
        """A process of the machine is gone: start another, at once or when this one runs again.

        Args:
            process: whose place is empty.
            takes: ns until the next one works, 0: what it usually takes.
        """
        self.deliver(self.life, self._spawn, process, takes or process.back_ns)

    def _spawn(self, process: Process, takes: int) -> None:
        boots = self._node.boots

        def works() -> None:
            if self._node.boots == boots:
                process.begin()

        self._world.later(takes, works)
