"""What the host says of a resource whose state stays as it is: for the log, once each.

A change of state is an entry by itself. But that somebody else claims an address of ours changes
no state, and still somebody must read it.
"""

from __future__ import annotations

from leitwolf.model.ids import ResourceId
from leitwolf.model.observations import ResourceReport

__all__ = ["Notes"]


class Notes:
    """The newest report of each resource."""

    def __init__(self) -> None:
        self._newest: dict[ResourceId, ResourceReport] = {}

    def news(self, report: ResourceReport) -> str:
        """Return a line about a report that changes no state and says something new, else ''."""
        former = self._newest.get(report.resource)
        self._newest[report.resource] = report
        if former is None or _standing(former) != _standing(report):
            return ""
        if (former.code, former.text) == (report.code, report.text):
            return ""
        return f"{report.resource}: {report.text} [{report.code}]"


def _standing(report: ResourceReport) -> tuple[object, ...]:
    return (report.lease, report.generation, report.attempt, report.state)
