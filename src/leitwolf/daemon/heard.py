"""What the own guard tells for people alone: nothing is decided by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from leitwolf.model.views import DroppedView
from leitwolf.peers.stream import Counters
from leitwolf.wire.guard import DatagramReport, RosterReport, Stranger, StrangersReport

__all__ = ["Heard"]


class Heard:
    """The newest word of each kind.

    Args:
        record: takes a line that is worth keeping.
    """

    def __init__(self, record: Callable[[str], None]) -> None:
        self._record = record
        self.roster: RosterReport | None = None
        """About all nodes, in the last office that it had."""
        self.strangers: tuple[Stranger, ...] = ()
        self.datagrams: DatagramReport | None = None

    def take(self, report: RosterReport | StrangersReport | DatagramReport) -> None:
        """Keep a report; somebody new who sends heartbeats of another cluster is recorded."""
        match report:
            case RosterReport():
                self.roster = report
            case DatagramReport():
                self.datagrams = report
            case StrangersReport():
                known = {stranger.address for stranger in self.strangers}
                self.strangers = report.strangers
                for address in (one.address for one in report.strangers):
                    if address not in known:
                        self._record(f"heartbeats of another cluster or a former member: {address}")

    def dropped(self, counters: Counters) -> DroppedView:
        """Return what this node did not take or send, with what its peer streams counted."""
        datagrams = _by_reason(dataclasses.asdict(self.datagrams)) if self.datagrams else {}
        streams = dataclasses.asdict(counters)
        rejected = streams.pop("rejected")
        return DroppedView(
            unsent=datagrams.pop("unsent", 0),
            datagrams=datagrams,
            streams=_by_reason(streams),
            rejected=rejected,
        )


def _by_reason(counts: dict[str, int]) -> dict[str, int]:
    return {reason.replace("_", "-"): count for reason, count in counts.items()}
