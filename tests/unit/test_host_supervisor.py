"""The host carries out orders over a resource type that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from leitwolf import resources
from leitwolf.host import host as host_module
from leitwolf.host import supervisor as subject
from leitwolf.host.host import Host
from leitwolf.host.records import Ledger, Record, Records
from leitwolf.host.tasks import TaskTree
from leitwolf.model.errors import ResourceError
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostReport,
    ResourceReport,
    StartResource,
    StopResource,
)
from leitwolf.resources import NOT_PERMITTED, Machine, Surroundings

WEB = GroupId("web")


async def _nothing() -> None:
    """Take no time."""


class World:
    """What the played resource does and what was done to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.runs = False
        self.refusals: list[str] = []
        """Answers of the permission, in order; afterwards it permits."""
        self.lease_over = ""
        self.start: Callable[[], Awaitable[None]] = _nothing
        self.ready: Callable[[], Awaitable[None]] = _nothing
        self.stop: Callable[[], Awaitable[None]] = _nothing
        self.stubborn = False
        """Survives every stop."""
        self.fail = asyncio.Event()


WORLD: list[World] = []


class Played:
    """A resource type; see :class:`leitwolf.resources.ResourceType`."""

    def __init__(self, surroundings: Surroundings) -> None:
        if "bad" in surroundings.order.parameters:
            raise ResourceError("bad", code="invalid-parameter")
        self.world = WORLD[-1]
        self.surroundings = surroundings

    async def start(self) -> None:
        self.world.calls.append(f"start {self.surroundings.order.attempt}")
        await self.world.start()
        self.world.runs = True
        self.surroundings.remember({"mark": "x"})

    async def ready(self) -> None:
        await self.world.ready()

    async def watch(self) -> None:
        await self.world.fail.wait()
        raise ResourceError("broke", code="broken")

    async def adopt(self) -> bool:
        self.world.calls.append("adopt")
        return self.world.runs

    async def stop(self) -> None:
        self.world.calls.append("stop")
        await self.world.stop()
        self.world.runs = self.world.runs and self.world.stubborn

    def kill(self) -> None:
        self.world.calls.append("kill")
        self.world.runs = self.world.runs and self.world.stubborn

    async def stopped(self) -> bool:
        return not self.world.runs


class FakePermission:
    def __init__(self, world: World) -> None:
        self._world = world

    def start(self, _lease: int) -> str:
        return self._world.lease_over or (
            self._world.refusals.pop(0) if self._world.refusals else ""
        )

    def run(self, _lease: int) -> str:
        return self._world.lease_over


class FakeCells:
    def cells(self) -> list[str]:
        return []


class Bench:
    """A host over the played type."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        WORLD.append(self.world)
        self.folder = folder
        self.reports: list[HostReport] = []
        self.tasks = TaskTree()
        machine: Any = Machine(
            containment=FakeCells(),  # type: ignore[arg-type]
            gate=None,  # type: ignore[arg-type]
            network=None,  # type: ignore[arg-type]
            output=folder,
            tasks=self.tasks,
            exit_status=None,  # type: ignore[arg-type]
        )
        self.records = Records(folder, "b1")
        permission: Any = FakePermission(self.world)
        ledger = Ledger(folder / "groups", "b1")
        self.host = Host(machine, permission, self.records, ledger, self.reports.append)

    async def settle(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    async def order(self, *orders: StartResource | StopResource | CloseGroup) -> list[str]:
        """Give orders, let them be carried out, and return what was reported of it."""
        self.reports.clear()
        for one in orders:
            self.host.accept(one)
        await self.settle()
        return self.told()

    def told(self) -> list[str]:
        return [
            f"{one.state} {one.code}" if isinstance(one, ResourceReport) else type(one).__name__
            for one in self.reports
        ]


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setitem(resources.TYPES, "played", f"{__name__}:Played")
    monkeypatch.setattr(host_module, "marked_addresses", list)
    monkeypatch.setattr(subject, "_PERMISSION_POLL_S", 0)
    made = Bench(tmp_path)
    yield made
    await made.tasks.cancel()
    WORLD.clear()


def start(
    attempt: int = 1, generation: int = 1, lease: int = 7, **parameters: str
) -> StartResource:
    return StartResource(
        resource=ResourceId("r"), group=WEB, type="played", parameters=parameters,
        lease=lease, generation=generation, attempt=attempt,
    )  # fmt: skip


def stop(generation: int = 1) -> StopResource:
    return StopResource(resource=ResourceId("r"), group=WEB, generation=generation)


def close(generation: int = 1) -> CloseGroup:
    return CloseGroup(group=WEB, generation=generation)


STARTED = ["online-pending starting", "online started"]
STOPPED = ["offline-pending stopping", "offline stopped"]


@pytest.mark.asyncio
async def test_life_of_a_resource(bench: Bench) -> None:
    """Start, stop and attest, with a record as long as it is not offline."""
    assert await bench.order(start()) == STARTED
    assert bench.records.load()[0].memory == {"mark": "x"}
    assert await bench.order(stop()) == STOPPED
    assert bench.records.load() == []
    assert bench.host.supervisors == []
    assert await bench.order(close()) == ["GroupAttested"]
    assert bench.world.calls == ["start 1", "stop"]


@pytest.mark.asyncio
async def test_record_stands_before_the_start(bench: Bench) -> None:
    """A host that dies within the start leaves a record that tells of it."""
    seen: list[Record] = []

    async def look() -> None:
        seen.extend(bench.records.load())

    bench.world.start = look
    await bench.order(start())
    assert [one.state for one in seen] == [ResourceState.ONLINE_PENDING]


@pytest.mark.asyncio
async def test_no_permission_no_start(bench: Bench) -> None:
    """Refused before the start: nothing was done."""
    bench.world.refusals = ["gate-closed"]
    assert await bench.order(start()) == ["online-pending starting", "failed lease-over"]
    assert "start 1" not in bench.world.calls


@pytest.mark.asyncio
async def test_permission_lost_during_the_start_kills(bench: Bench) -> None:
    """Refused after the start: killed at once and failed."""
    bench.world.refusals = ["", "gate-closed"]
    assert await bench.order(start()) == ["online-pending starting", "failed lease-over"]
    assert bench.world.calls[:2] == ["start 1", "kill"]
    assert not bench.world.runs


@pytest.mark.asyncio
async def test_lease_over_while_becoming_ready_kills(bench: Bench) -> None:
    """Refused when it became ready: killed and failed."""

    async def over() -> None:
        bench.world.lease_over = "lease-ended"

    bench.world.ready = over
    assert await bench.order(start()) == ["online-pending starting", "failed lease-over"]
    assert "kill" in bench.world.calls


@pytest.mark.asyncio
async def test_stalled_guard_delays_a_start(bench: Bench) -> None:
    """A refusal that passes with the next heartbeat costs time, not an attempt."""
    bench.world.refusals = ["guard-stalled", "lease-ending", "", "guard-stalled", "guard-stalled"]
    assert await bench.order(start()) == STARTED
    assert bench.world.calls == ["start 1", "kill", "stop", "start 1"]


@pytest.mark.asyncio
async def test_child_without_permission_is_no_failure(bench: Bench) -> None:
    """The child found the gate closed for a moment: it is started again."""
    refused = [ResourceError("not permitted to run any more", code=NOT_PERMITTED)]

    async def once() -> None:
        if refused:
            raise refused.pop()

    bench.world.start = once
    assert await bench.order(start()) == STARTED
    assert bench.world.calls == ["start 1", "kill", "stop", "start 1"]


@pytest.mark.asyncio
async def test_failure_is_cleaned_up_without_an_order(bench: Bench) -> None:
    """A broken resource is reported at once and then stopped; the next attempt comes after."""
    await bench.order(start())
    bench.reports.clear()
    bench.world.fail.set()
    await bench.settle()
    assert bench.told() == ["failed broken"]
    assert bench.world.calls == ["start 1", "stop"]
    bench.world.fail = asyncio.Event()
    assert await bench.order(start(attempt=2)) == STARTED


@pytest.mark.asyncio
async def test_same_attempt_is_not_repeated(bench: Bench) -> None:
    """An order that comes again is answered with the state, running or failed."""
    await bench.order(start())
    assert await bench.order(start()) == ["online started"]
    bench.world.fail.set()
    await bench.settle()
    assert await bench.order(start()) == ["failed broken"]
    assert bench.world.calls.count("start 1") == 1


@pytest.mark.asyncio
async def test_new_attempt_stops_the_old_one_first(bench: Bench) -> None:
    """Two attempts never run side by side."""
    await bench.order(start())
    assert await bench.order(start(attempt=2)) == STARTED
    assert bench.world.calls == ["start 1", "stop", "start 2"]
    assert await bench.order(start(attempt=1)) == ["online started"]
    assert bench.world.calls == ["start 1", "stop", "start 2"]


@pytest.mark.asyncio
async def test_old_orders_do_not_touch_a_newer_generation(bench: Bench) -> None:
    """Start and stop of an older generation are answered with the state; its end is attested."""
    await bench.order(start(generation=5))
    assert await bench.order(close(3)) == ["GroupAttested"]
    assert await bench.order(start(generation=4, attempt=9)) == ["online started"]
    assert await bench.order(stop(4)) == ["online started"]
    assert bench.world.runs


@pytest.mark.asyncio
async def test_stop_interrupts_a_start(bench: Bench) -> None:
    """A start that waits is given up when the order to stop comes, also one still in the queue."""
    bench.world.ready = asyncio.Event().wait  # type: ignore[assignment]
    assert await bench.order(start()) == ["online-pending starting"]
    assert await bench.order(stop()) == STOPPED
    bench.world.calls.clear()
    assert await bench.order(start(attempt=2), stop()) == ["offline stopped"]
    assert bench.world.calls == []


@pytest.mark.asyncio
async def test_wrong_parameters_fail_without_a_start(bench: Bench) -> None:
    """A type that refuses its parameters fails the resource; the group can be attested."""
    told = await bench.order(start(bad="1"))
    assert told == ["online-pending starting", "failed invalid-parameter"]
    assert await bench.order(close()) == ["GroupAttested"]
    assert bench.host.inventory().resources == ()


@pytest.mark.asyncio
async def test_closed_generation_never_starts(bench: Bench) -> None:
    """I11: refused after the attest, and while it is under way."""
    assert await bench.order(close(3)) == ["GroupAttested"]
    assert await bench.order(start(generation=3)) == ["failed generation-closed"]
    assert await bench.order(start(generation=2)) == ["failed generation-closed"]
    assert bench.world.calls == []
    assert await bench.order(start(generation=4)) == STARTED
    assert await bench.order(close(3)) == ["GroupAttested"]
    assert bench.world.runs


@pytest.mark.asyncio
async def test_attest_is_on_file_before_it_is_told(bench: Bench) -> None:
    """The daemon hears of an attest only when the next host would know it, too."""
    known: list[int] = []

    def report(one: HostReport) -> None:
        if isinstance(one, GroupAttested):
            known.append(Ledger(bench.folder / "groups", "b1").closed(WEB))

    bench.host.report = report
    bench.host.accept(close(3))
    await bench.settle()
    assert known == [3]


@pytest.mark.asyncio
async def test_running_group_is_not_attested(bench: Bench) -> None:
    """A close while something is online is refused and stops nothing."""
    await bench.order(start())
    assert await bench.order(close()) == ["online not-stopped"]
    assert bench.world.runs
    assert await bench.order(stop(), close()) == [*STOPPED, "GroupAttested"]


@pytest.mark.asyncio
async def test_what_survives_its_stop_is_never_attested(bench: Bench) -> None:
    """Unkillable: failed with its record, cleaned once more at each close, refused each time."""
    bench.world.stubborn = True
    await bench.order(start())
    assert await bench.order(stop()) == ["offline-pending stopping", "failed stop-timeout"]
    assert bench.records.load()[0].state == ResourceState.FAILED
    for _ in range(2):
        assert await bench.order(close()) == ["failed stop-timeout"]
        assert bench.host.inventory().closed == {}
    assert await bench.order(start(attempt=2)) == ["failed stop-timeout"]
    bench.world.stubborn = False
    assert await bench.order(close()) == [*STOPPED, "GroupAttested"]
    assert bench.records.load() == []


@pytest.mark.asyncio
async def test_late_end_answers_the_stop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be stopped is tried again; when it is gone, the ordered stop is answered."""
    monkeypatch.setattr(subject, "STOP_AGAIN_S", 0)
    bench.world.stubborn = True
    await bench.order(start())
    assert await bench.order(stop()) == ["offline-pending stopping", "failed stop-timeout"]
    await bench.settle()
    bench.reports.clear()
    bench.world.stubborn = False
    await bench.settle()
    assert bench.told() == STOPPED


@pytest.mark.asyncio
async def test_late_end_of_a_failure_is_told(bench: Bench) -> None:
    """Without an order to stop it stays failed, but no longer as one that cannot be stopped."""
    bench.world.stubborn = True
    await bench.order(start())
    bench.reports.clear()
    bench.world.fail.set()
    await bench.settle()
    assert bench.told() == ["failed broken", "failed stop-timeout"]
    bench.world.stubborn = False
    (supervisor,) = bench.host.supervisors
    supervisor.clean()
    await bench.settle()
    assert bench.told()[2:] == ["failed cleaned"]
    assert await bench.order(stop()) == STOPPED


@pytest.mark.asyncio
async def test_error_of_a_stop_has_its_own_code(bench: Bench) -> None:
    """Whatever stopped the stop, its code says that the stop failed."""

    async def refused() -> None:
        raise PermissionError(1, "Operation not permitted")

    bench.world.stop = refused
    await bench.order(start())
    assert (await bench.order(stop()))[-1] == "failed stop-failed"


@pytest.mark.asyncio
async def test_close_waits_for_a_stop(bench: Bench) -> None:
    """While a stop is under way the close is neither refused nor attested."""
    gone = asyncio.Event()

    async def slowly() -> None:
        await gone.wait()

    bench.world.stop = slowly
    await bench.order(start())
    assert await bench.order(stop(), close()) == ["offline-pending stopping"]
    gone.set()
    await bench.settle()
    assert bench.told() == [*STOPPED, "GroupAttested"]


@pytest.mark.asyncio
async def test_kill_ends_everything_at_once(bench: Bench) -> None:
    """The lease is over: online, starting and stopping resources are killed and cleaned up."""
    await bench.order(start())
    bench.reports.clear()
    (supervisor,) = bench.host.supervisors
    supervisor.kill("lease-over", "lease-ended")
    assert not bench.world.runs
    assert bench.told() == ["failed lease-over"]
    await bench.settle()
    assert await bench.order(close()) == ["GroupAttested"]
    bench.world.ready = asyncio.Event().wait  # type: ignore[assignment]
    await bench.order(start(generation=2))
    (supervisor,) = bench.host.supervisors
    bench.reports.clear()
    supervisor.kill("lease-over", "lease-ended")
    assert not bench.world.runs
    await bench.settle()
    assert bench.told() == ["failed lease-over"]


@pytest.mark.asyncio
async def test_death_by_the_guard_is_the_end_of_the_lease(bench: Bench) -> None:
    """What breaks because the guard killed it is reported as the end of the lease."""
    await bench.order(start())
    bench.reports.clear()
    bench.world.lease_over = "gate-closed"
    bench.world.fail.set()
    await bench.settle()
    assert bench.told() == ["failed lease-over"]


@pytest.mark.parametrize(
    ("state", "runs", "lease_over", "told"),
    [
        (ResourceState.ONLINE, True, "", "online adopted"),
        (ResourceState.ONLINE, False, "", "failed lost"),
        (ResourceState.ONLINE, True, "other-lease", "failed lease-over"),
        (ResourceState.ONLINE_PENDING, True, "", "online-pending starting"),
        (ResourceState.ONLINE_PENDING, False, "", "failed lost"),
        (ResourceState.OFFLINE_PENDING, True, "", "offline-pending starting"),
        (ResourceState.FAILED, True, "", "failed starting"),
    ],
)
@pytest.mark.asyncio
async def test_adoption(
    bench: Bench, state: ResourceState, runs: bool, lease_over: str, told: str
) -> None:
    """What a former host left is reported as it is and carried to its end, never started."""
    bench.world.runs, bench.world.lease_over = runs, lease_over
    bench.records.save(Record(boot="b1", order=start(), state=state, code="starting", text=""))
    await bench.host.adopt()
    (report,) = bench.host.inventory().resources
    assert f"{report.state} {report.code}" == told
    await bench.settle()
    assert not any(call.startswith("start") for call in bench.world.calls)
    last = bench.told()[-1:] if bench.told() else []
    if state is ResourceState.ONLINE_PENDING and runs:
        assert last == ["online started"]
    if state is ResourceState.OFFLINE_PENDING:
        assert last == ["offline stopped"]
    goes_on = report.state in ("online", "online-pending")
    assert bench.world.runs is goes_on


@pytest.mark.asyncio
async def test_unexpected_error_ends_the_host(bench: Bench) -> None:
    """A bug in a type is not taken for a failed resource: the host ends and is replaced."""

    async def bug() -> None:
        raise KeyError("bug")

    bench.world.start = bug
    await bench.order(start())
    with pytest.raises(KeyError):
        await asyncio.wait_for(bench.tasks.failed(), 30)
