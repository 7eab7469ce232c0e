"""Requests that wait while the disk writes: what came in meanwhile is decided together.

Rules:

- A request is taken at once unless this node leads, is writing, and has entries that are not
  committed. Then it waits until they are, or the write is done: one step decides, writes and sends
  all that wait, so that changes of many clients cost little more than one.
- The order of arrival is kept. At most ``REQUESTS_TOGETHER_MAX`` make one step, so that a step
  stays short; the others follow.

Pure; the daemon and the simulator both use it. It bounds nothing: who waits for an answer holds a
connection, and the core refuses what is too much.
"""

from __future__ import annotations

from collections import deque

from leitwolf.core.effects import Request, Requests
from leitwolf.core.node import Node
from leitwolf.model.limits import REQUESTS_TOGETHER_MAX

__all__ = ["Intake"]


class Intake:
    """The queue in front of the core."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()

    def put(self, request: Request) -> None:
        """Take in a request."""
        self._waiting.append(request)

    def take(self, node: Node, *, writing: bool) -> Requests | None:
        """Return the event that is due, None: nothing waits, or not yet.

        Args:
            node: the core of this node.
            writing: its log is being written.
        """
        if not self._waiting or (writing and _awaits_commit(node)):
            return None
        count = min(len(self._waiting), REQUESTS_TOGETHER_MAX)
        return Requests(requests=tuple(self._waiting.popleft() for _ in range(count)))


def _awaits_commit(node: Node) -> bool:
    """Return whether a node leads and has entries that are not committed."""
    return node.governor is not None and node.quorum.commit < node.quorum.last_key.index
