"""The simulated host keeps the rules of the real one where its own process is concerned."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leitwolf.core.rules import Rules
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
from leitwolf.model.observations import HostReport, ResourceReport, StartResource, StopResource
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.host import SimHost
from leitwolf.sim.kernel import Kernel
from leitwolf.wire.ballot import Now
from leitwolf.wire.page import LeasePage


class Machine:
    """A kernel, and hosts on it whose work waits until it is asked for."""

    def __init__(self) -> None:
        self.kernel = Kernel(boot_id=bytes(16))
        self.due: list[Callable[[], None]] = []
        self.told: list[HostReport] = []

    def host(self) -> SimHost:
        """Begin another host; what the former one had to do died with it."""
        self.due.clear()
        return SimHost(
            kernel=self.kernel,
            page=lambda: self.kernel.page,
            clocks=lambda: Now(1_000, 1_000 + self.kernel.slept),
            later=lambda _, work: self.due.append(work),
            about_to=lambda _: None,
            tell=self.told.append,
            started=lambda _: None,
            entropy=Entropy(1),
            rules=Rules.without("host-permit"),
        )

    def work(self) -> None:
        """Do what is due, and what follows from it."""
        while self.due:
            self.due.pop(0)()

    def states(self) -> list[ResourceState]:
        """Return the states that were reported of the resource, in order."""
        return [report.state for report in self.told if isinstance(report, ResourceReport)]


START = StartResource(
    resource=ResourceId("web"),
    group=GroupId("g1"),
    type="process",
    parameters={},
    lease=1,
    generation=1,
    attempt=0,
    first=True,
)


@pytest.fixture
def machine() -> Machine:
    """A machine on which nothing runs."""
    return Machine()


def test_a_new_host_goes_on_with_a_start(machine: Machine) -> None:
    """A resource whose host died while it started comes online under the next one."""
    machine.host().order(START)
    machine.due.pop(0)()
    assert machine.states() == [ResourceState.ONLINE_PENDING]
    machine.host()
    machine.work()
    assert machine.states() == [ResourceState.ONLINE_PENDING, ResourceState.ONLINE]


def test_a_new_host_goes_on_with_a_stop(machine: Machine) -> None:
    """A resource whose host died while it stopped is stopped by the next one."""
    host = machine.host()
    host.order(START)
    machine.work()
    host.order(StopResource(resource=START.resource, group=START.group, generation=1))
    machine.host()
    machine.work()
    assert machine.states()[-2:] == [ResourceState.OFFLINE_PENDING, ResourceState.OFFLINE]
    assert not machine.kernel.cells


def test_a_host_kills_what_ran_before_a_sleep(machine: Machine) -> None:
    """After a suspend every lease is over, also while the guard stands still."""
    machine.kernel.page = LeasePage(lease=1, gate=True, lease_end=2_000)
    host = machine.host()
    host.order(START)
    machine.work()
    assert host.watch() == 2_000
    assert machine.kernel.cells
    machine.kernel.slept = 50_000_000
    host.watch()
    assert not machine.kernel.cells
    assert machine.states()[-1] is ResourceState.FAILED
