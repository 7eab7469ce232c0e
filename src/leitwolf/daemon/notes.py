"""What is said and changes no state, but must be read: for the log, once each.

A change of state is an entry by itself. But that somebody else claims an address of ours changes
no state; nor does a fault of a disk or witness, which only those see who call it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from leitwolf.model.ids import ResourceId
from leitwolf.model.observations import ResourceReport
from leitwolf.model.quorum import Acceptor
from leitwolf.model.witness import LASTING_FAULTS

__all__ = ["Notes"]


class Notes:
    """The newest report of each resource, the newest lasting fault of each disk and witness."""

    def __init__(self) -> None:
        self._newest: dict[ResourceId, ResourceReport] = {}
        self._faults: dict[int, str] = {}

    def news(self, report: ResourceReport) -> str:
        """Return a line about a report that changes no state and says something new, else ''."""
        former = self._newest.get(report.resource)
        self._newest[report.resource] = report
        if former is None or _standing(former) != _standing(report):
            return ""
        if (former.code, former.text) == (report.code, report.text):
            return ""
        return f"{report.resource}: {report.text} [{report.code}]"

    def faults(
        self, faults: Mapping[int, str], used: Iterable[Acceptor], working: Container[int] = ()
    ) -> list[str]:
        """Return lines about faults that do not pass by themselves and were not told yet.

        Args:
            faults: of the newest calls, by the acceptor's number.
            used: all disks and witnesses.
            working: those whose newest call went well: what was repaired is told, too.
        """
        found = []
        for acceptor in used:
            number, fault = acceptor.id.node, faults.get(acceptor.id.node, "")
            code = fault.partition(":")[0]
            if code in LASTING_FAULTS and self._faults.get(number) != code:
                self._faults[number] = code
                found.append(f"{acceptor.kind} {acceptor.location}: {fault}")
            elif number in working and self._faults.pop(number, ""):
                found.append(f"{acceptor.kind} {acceptor.location} counts again")
        return found


def _standing(report: ResourceReport) -> tuple[object, ...]:
    return (report.lease, report.generation, report.attempt, report.state)
