"""The service facade: what the API (and later the console) may ask of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from leitwolf.model.commands import Answer, Command
from leitwolf.model.views import (
    ClusterSetup,
    ExplanationView,
    InitRequest,
    JoinRequestView,
    LogLine,
    NetworkView,
    QuorumView,
    StatusView,
)

__all__ = ["Service"]


class Service(Protocol):
    """Everything that users can do with a node. All errors are LeitwolfError."""

    def status(self) -> StatusView:
        """Return the cluster as this node sees it; answers without quorum too."""

    def networks(self) -> tuple[NetworkView, ...]:
        """Return the networks with all links of all pairs of nodes. Raises Conflict."""

    def quorum(self) -> QuorumView:
        """Return who promised what, votes, lease margins."""

    def why(self, group: str) -> ExplanationView:
        """Explain where a group is and why. Raises NotFound."""

    def log(self, after: int, limit: int) -> list[LogLine]:
        """Return lines of the timeline with an index above ``after``, at most ``limit``."""

    async def wait_beyond(self, index: int, timeout_s: float) -> int:
        """Wait until the applied index is above ``index``; return the applied index."""

    async def command(
        self, command: Command, by: str, timeout_s: float, unchanged_since: int = -1
    ) -> Answer:
        """Have the leader do something. Raises RequestTimeout, NoQuorum.

        Refused as ``changed-meanwhile`` if an entry above ``unchanged_since`` changed the
        configuration; -1: whatever changed.
        """

    async def form(self, request: InitRequest) -> ClusterSetup:
        """Form a cluster of one. Raises Conflict, InvalidConfig."""

    def join(self, request: JoinRequestView) -> AsyncIterator[str | ClusterSetup]:
        """Join a cluster: yields lines of progress, at last the outcome."""

    async def token(self, lifetime_s: int, by: str) -> str:
        """Return a new one-time join token."""

    async def rekey(self, by: str) -> Answer:
        """Replace the heartbeat key of all guards; returns after the first of three steps."""

    async def backup(self, by: str) -> bytes:
        """Return the state of the cluster as a backup file. Raises Conflict."""

    async def restore(self, data: bytes, node_name: str, *, replace: bool) -> ClusterSetup:
        """Make a cluster of one from a backup file. Raises InvalidConfig, Conflict."""

    async def give_up(self, by: str) -> None:
        """Give up the history of this node for another one that it hears. Raises Conflict."""

    async def prevent(self, by: str, *, on: bool) -> None:
        """Let this node join only, until it has joined; or not. Raises Conflict."""

    async def destroy(self) -> None:
        """Set the state of this node aside; it is in no cluster then. Raises Conflict."""
