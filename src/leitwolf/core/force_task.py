"""A quorum that is being forced, as the node knows it on which the operator asked for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from leitwolf.core.effects import Request
from leitwolf.core.messages import ForceReport
from leitwolf.model.ids import NodeId

__all__ = ["Phase", "Task"]


class Phase(StrEnum):
    """How far it is, see :mod:`leitwolf.core.force`."""

    ASK = "ask"
    WAIT = "wait"
    CONFIRM = "confirm"
    APPEND = "append"


@dataclass(slots=True)
class Task:
    """What the operator asked for."""

    request: Request
    nodes: frozenset[NodeId]
    others: frozenset[NodeId]
    """All of them but this one."""
    confirmed: bool
    serial: int = 0
    deadline: int = 0
    phase: Phase = Phase.ASK
    reports: dict[int, ForceReport] = field(default_factory=dict)
    index: int = 0
    """Of the first entry of the new history."""

    @property
    def lacking(self) -> frozenset[NodeId]:
        """Other named nodes that did not answer."""
        return self.others - self.reports.keys()
