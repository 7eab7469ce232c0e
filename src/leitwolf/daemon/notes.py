"""What is said and changes no state, but must be read: for the log, once each.

A change of state is an entry by itself. But that somebody else claims an address of ours changes
no state; nor does a fault of a disk or witness, which only those see who call it. And what ends
with the lease of this node is told before anybody can write an entry about it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from leitwolf.model.ids import GroupId, NodeId, ResourceId, ResourceState
from leitwolf.model.observations import ResourceReport
from leitwolf.model.quorum import Acceptor
from leitwolf.model.state import State
from leitwolf.model.witness import LASTING_FAULTS
from leitwolf.wire.guard import LeaseClosed

__all__ = ["Notes"]

_LINE_CHARACTERS = 90
"""A line with more groups is begun anew."""
_RESOURCES_NAMED_MAX = 5
_STOPPED = (ResourceState.OFFLINE, ResourceState.FAILED)


class Notes:
    """The newest report of each resource, the newest lasting fault of each disk and witness."""

    def __init__(self) -> None:
        self._newest: dict[ResourceId, ResourceReport] = {}
        self._faults: dict[int, str] = {}
        self._ended: dict[int, str] = {}
        """By lease that is closed and not attested: the groups that are being stopped."""

    def news(self, report: ResourceReport) -> str:
        """Return a line about a report that changes no state and says something new, else ''."""
        former = self._newest.get(report.resource)
        self._newest[report.resource] = report
        if former is None or _standing(former) != _standing(report):
            return ""
        if (former.code, former.text) == (report.code, report.text):
            return ""
        return f"{report.resource}: {report.text} [{report.code}]"

    def ending(self, lease: LeaseClosed, state: State, me: NodeId) -> list[str]:
        """Return lines about what is being stopped here as the lease is over, and why."""
        groups = [group.id for group in state.groups.values() if group.owner == me]
        running = {group: _running(state, group) for group in sorted(groups)}
        named = [f"{group} ({names})" for group, names in running.items() if names]
        self._ended[lease.lease] = ", ".join(group for group, names in running.items() if names)
        begun = f"run-lease over ({lease.reason})"
        if not named:
            return [f"{begun}: nothing runs here"]
        lines = [f"{begun}: stopping {named[0]}"]
        for group in named[1:]:
            if len(lines[-1]) + len(group) < _LINE_CHARACTERS:
                lines[-1] += f", {group}"
            else:
                lines.append(f"stopping {group}")
        return lines

    def ended(self, lease: int) -> str:
        """Return a line when everything of such a lease is stopped; '': nothing was to be."""
        groups = self._ended.pop(lease, "")
        return f"all of it is stopped: {groups}" if groups else ""

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


def _running(state: State, group: GroupId) -> str:
    """Return the resources of a group that are not known to be stopped."""
    names = sorted(
        one.id
        for one in state.resources.values()
        if one.group == group and one.state not in _STOPPED
    )
    more = len(names) - _RESOURCES_NAMED_MAX
    return ", ".join(names[:_RESOURCES_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _standing(report: ResourceReport) -> tuple[object, ...]:
    return (report.lease, report.generation, report.attempt, report.state)
