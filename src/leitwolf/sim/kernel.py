"""What belongs to the kernel of a simulated node: it survives every process, but no power loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.model.observations import ResourceReport, StartResource
from leitwolf.wire.page import LeasePage

__all__ = ["Cell", "Kernel"]


@dataclass(slots=True)
class Cell:
    """Something that runs: a process in its cgroup, or an address on an interface."""

    order: StartResource
    address: bool
    report: ResourceReport


@dataclass(slots=True)
class Kernel:
    """Clocks, shared page, gate and cells of one boot of one node."""

    boot_id: bytes
    page: LeasePage | None = None
    gate_until: int = -1
    """True time at which the kernel closes the gate by itself; below now: closed."""
    gate_present: bool = False
    """The element was added and not deleted (it may have run out meanwhile)."""
    slept: int = 0
    """Time spent suspended in this boot, ns: moves BOOTTIME away from RAW."""
    cells: dict[ResourceId, Cell] = field(default_factory=dict)
    closed: dict[GroupId, int] = field(default_factory=dict)
    """Runtime directory of the host: generations that were attested."""
