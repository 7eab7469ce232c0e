"""Parts of the guard: arming, stopping, stall measurement, what it leaves for its successor."""

from __future__ import annotations

import gc
import select
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from leitwolf.core.lease import (
    Armed,
    ArmGate,
    LeaseEffect,
    LeaseEvent,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    WritePage,
)
from leitwolf.guard import warmup
from leitwolf.guard.arming import Arming
from leitwolf.guard.memory import recall, remember
from leitwolf.guard.stalls import Stalls
from leitwolf.guard.stopper import Stopper
from leitwolf.system import clock
from leitwolf.system.pidnamespace import PidNamespaceContainment
from leitwolf.system.rtnetlink import NodeAddress
from leitwolf.wire.ballot import Now
from leitwolf.wire.guard import Configure, PeerNode, Recorded, Votes
from leitwolf.wire.heartbeat import PEER, Ack, Heartbeat, Probe, ProbeReply

MS = 1_000_000
LONG = 60_000 * MS


class FakeGate:
    """A kernel gate whose calls are noted, and take as long as the test wants."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.leases: list[int] = []
        self.there = True
        self.armed = False
        self.hold_up = threading.Event()
        self.hold_up.set()
        self.inside = threading.Event()
        self.addresses: set[str] = set()
        self._touched = False

    def arm(self, duration_ms: int, lease: int, *, renewal: bool) -> bool:
        self.inside.set()
        assert self.hold_up.wait(20)
        accepted = self.there and renewal == self.armed
        self.armed = self.armed or accepted
        self.calls.append(("arm", duration_ms, renewal))
        self.leases.append(lease)
        return accepted

    def disarm(self) -> None:
        self.calls.append(("disarm",))
        if not self.there:
            raise FileNotFoundError(2, "no gate")
        self.armed = False

    def install(self, addresses: Iterable[str] = ()) -> None:
        self.addresses = set(addresses)
        self.calls.append(("install", *sorted(self.addresses)))
        self.there, self.armed = True, False

    def intact(self) -> bool:
        return self.there

    def manage(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        self.calls.append(("manage", *add))

    def hold(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        self.addresses |= set(add)

    def managed(self) -> set[str]:
        return self.addresses

    def touched(self) -> bool:
        touched, self._touched = self._touched, False
        return touched

    def touch(self) -> None:
        self._touched = True


class Armer:
    """An arming thread over a fake gate."""

    def __init__(self, current: ArmGate | None = None) -> None:
        self.gate = FakeGate()
        self.arming = Arming(self.gate, lambda: ["192.0.2.7"], current)
        self.arming.start()

    def result(self) -> Armed | Recorded:
        assert select.select([self.arming.descriptor], [], [], 20)[0]
        results = self.arming.results()
        return results[0]

    def results(self, count: int) -> list[Armed | Recorded]:
        found: list[Armed | Recorded] = []
        while len(found) < count:
            assert select.select([self.arming.descriptor], [], [], 20)[0]
            found += self.arming.results()
        return found

    def end(self) -> None:
        self.arming.stop()


@pytest.fixture
def armer() -> Iterator[Armer]:
    made = Armer()
    yield made
    made.end()


def test_most_of_what_remains_is_armed(armer: Armer) -> None:
    """0.85 of the time between computing and the end of the lease; renewals are renewals."""
    end = clock.raw_ns() + LONG
    armer.arming.arm(ArmGate(5, end, renewal=False))
    first = armer.result()
    assert isinstance(first, Armed)
    assert (first.lease, first.until, first.accepted) == (5, end, True)
    assert first.begun <= first.done < end
    armer.arming.arm(ArmGate(5, end, renewal=True))
    armer.arming.stop()
    (_, duration, renewal), (_, _, renewed) = armer.gate.calls
    assert (renewal, renewed) == (False, True)
    assert armer.gate.leases == [5, 5]
    assert duration == (end - first.begun) * 85 // 100 // MS


def test_renewals_are_told_when_they_are_news(armer: Armer) -> None:
    """One like the arming before it wakes nobody; a refusal does, and the success after it."""
    end = clock.raw_ns() + LONG

    def renew(number: int) -> None:
        armer.arming.arm(ArmGate(5, end + number, renewal=True))
        while len(armer.gate.calls) < number:
            pass

    armer.arming.arm(ArmGate(5, end, renewal=False))
    assert armer.result().accepted  # type: ignore[union-attr]
    renew(2)
    armer.gate.armed = False
    renew(3)
    armer.gate.armed = True
    renew(4)
    renew(5)
    armer.arming.stop()
    told = [(one.until - end, one.accepted) for one in armer.arming.results()]  # type: ignore[union-attr]
    assert told == [(3, False), (4, True)]


def test_a_lease_that_is_over_is_not_armed(armer: Armer) -> None:
    """Nothing is sent to the kernel for the past."""
    armer.arming.arm(ArmGate(5, clock.raw_ns() - 1, renewal=False))
    assert not armer.result().accepted  # type: ignore[union-attr]
    assert armer.gate.calls == []


def test_arming_that_took_too_long_is_taken_back(armer: Armer) -> None:
    """More than a tenth of the remaining time between t0 and t1: deleted, and refused (L9)."""
    armer.gate.hold_up.clear()
    armer.arming.arm(ArmGate(5, clock.raw_ns() + 5_000 * MS, renewal=False))
    assert armer.gate.inside.wait(20)
    time.sleep(0.55)
    armer.gate.hold_up.set()
    assert not armer.result().accepted  # type: ignore[union-attr]
    assert [call[0] for call in armer.gate.calls] == ["arm", "disarm"]
    assert not armer.gate.armed


def test_disarming_follows_what_is_under_way_and_voids_what_waits(armer: Armer) -> None:
    """After a disarm nothing older can open the gate again."""
    end = clock.raw_ns() + LONG
    armer.gate.hold_up.clear()
    armer.arming.arm(ArmGate(5, end, renewal=False))
    assert armer.gate.inside.wait(20)
    armer.arming.arm(ArmGate(5, end + 1, renewal=True))
    armer.arming.disarm()
    armer.gate.hold_up.set()
    armer.result()
    armer.arming.stop()
    assert [call[0] for call in armer.gate.calls] == ["arm", "disarm"]
    assert not armer.gate.armed


def test_only_the_newest_request_is_armed_and_a_first_one_stays_first(armer: Armer) -> None:
    """Requests that pile up behind a slow kernel become one, which is no renewal yet."""
    end = clock.raw_ns() + LONG
    armer.gate.hold_up.clear()
    armer.arming.arm(ArmGate(4, end, renewal=False))
    assert armer.gate.inside.wait(20)
    armer.arming.arm(ArmGate(5, end, renewal=False))
    armer.arming.arm(ArmGate(5, end + 7, renewal=True))
    armer.gate.hold_up.set()
    last = armer.results(2)[-1]
    assert isinstance(last, Armed)
    assert (last.lease, last.until) == (5, end + 7)
    assert [call[2] for call in armer.gate.calls] == [False, False]


def test_a_deleted_gate_is_rebuilt_and_armed_for_the_lease_in_force(armer: Armer) -> None:
    """Foreign hands: built with the node's addresses, recorded, armed by a first arming."""
    end = clock.raw_ns() + LONG
    armer.arming.arm(ArmGate(5, end, renewal=False))
    armer.result()
    armer.gate.there = armer.gate.armed = False
    armer.gate.calls.clear()
    armer.gate.touch()
    record, armed = armer.results(2)
    assert isinstance(record, Recorded)
    assert record.code == "gate-rebuilt"
    assert isinstance(armed, Armed)
    assert armed.accepted
    assert [call[0] for call in armer.gate.calls] == ["install", "arm"]
    assert armer.gate.calls[0] == ("install", "192.0.2.7")


def test_a_deleted_gate_stays_shut_without_a_lease(armer: Armer) -> None:
    """Rebuilt, but not armed after a disarm."""
    armer.arming.arm(ArmGate(5, clock.raw_ns() + LONG, renewal=False))
    armer.result()
    armer.arming.disarm()
    armer.gate.there = armer.gate.armed = False
    armer.gate.touch()
    codes: list[str] = []
    while "gate-rebuilt" not in codes:
        codes += [one.code for one in armer.results(1) if isinstance(one, Recorded)]
    armer.arming.stop()
    assert not armer.gate.armed


def test_addresses_taken_out_of_the_gate_are_put_back(armer: Armer) -> None:
    """The rules stand but an address of this node is not under them: managed and held again."""
    armer.gate.touch()
    record = armer.result()
    assert isinstance(record, Recorded)
    assert record.detail == "192.0.2.7"
    assert armer.gate.addresses == {"192.0.2.7"}


class FakeCells:
    """Cells that survive some kills, as processes in a slow wait do."""

    def __init__(self, lives: dict[str, int]) -> None:
        self.lives = lives
        self.calls: list[tuple[str, str]] = []
        self.failures = 0

    def cells(self) -> list[str]:
        if self.failures:
            self.failures -= 1
            raise PermissionError(13, "not now")
        return sorted(self.lives)

    def close(self, cell: str) -> None:
        self.calls.append(("close", cell))

    def kill(self, cell: str) -> None:
        self.calls.append(("kill", cell))
        self.lives[cell] -= 1

    def empty(self, cell: str) -> bool:
        return self.lives[cell] <= 0


def stop(
    cells: FakeCells, addresses: list[NodeAddress], stubborn: int = 0
) -> tuple[list[Stopped | Recorded], list[str]]:
    """Carry out one stop; return its results and what was done to addresses, in order."""
    done: list[str] = []
    tries = stubborn

    def remove(interface: int, address: str, prefix: int) -> bool:
        nonlocal tries
        done.append(
            f"{address}/{prefix}@{interface} {sum(map(max, cells.lives.values(), [0] * 9))}"
        )
        if tries:
            tries -= 1
        else:
            addresses.clear()
        return True

    stopper = Stopper(cells, lambda: list(addresses), remove)
    stopper.start()
    stopper.stop(StopAll(5, "test", 0))
    results: list[Stopped | Recorded] = []
    while Stopped(5) not in results:
        assert select.select([stopper.descriptor], [], [], 20)[0]
        results += stopper.results()
    stopper.end()
    return results, done


def test_cells_are_closed_and_killed_until_empty_then_addresses_go() -> None:
    """Close before kill, kill again, and no address is removed while something still runs."""
    cells = FakeCells({"a": 3, "b": 1, "c": 0})
    results, done = stop(cells, [NodeAddress(1, "192.0.2.7", 32)], stubborn=2)
    assert results == [Stopped(5)]
    assert cells.calls.count(("kill", "a")) == 3
    assert cells.calls.count(("kill", "b")) == 1
    assert ("kill", "c") not in cells.calls
    assert cells.calls.index(("close", "a")) < cells.calls.index(("kill", "a"))
    assert done == ["192.0.2.7/32@1 0"] * 3


def test_a_stop_that_fails_is_recorded_and_tried_again() -> None:
    """An error of the system delays the stop; it never counts as one."""
    cells = FakeCells({"a": 1})
    cells.failures = 3
    results, _ = stop(cells, [])
    assert isinstance(results[0], Recorded)
    assert results[0].code == "stop-failed"
    assert results[1:] == [Stopped(5)]


@pytest.mark.parametrize(
    "record",
    ["", "ending\nBOOT\ninit 1 1\n", "BOOT\n", "BOOT\nguide 1 1\n", "BOOT\ninit 1\n", "\0\xff"],
)
def test_a_cell_whose_record_is_no_record_never_counts_as_stopped(
    tmp_path: Path, record: str
) -> None:
    """Nobody knows what runs in it: that is told, until the deadline ends the node."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path = tmp_path / "a.cell"
    path.write_bytes(record.replace("BOOT", boot).encode("latin-1"))
    cells = PidNamespaceContainment(tmp_path)
    with pytest.raises(OSError, match="no record of a cell"):
        cells.remove("a")
    stopper = Stopper(cells, list, lambda *_: True)
    stopper.start()
    stopper.stop(StopAll(5, "test", 0))
    assert select.select([stopper.descriptor], [], [], 20)[0]
    [told] = stopper.results()
    assert isinstance(told, Recorded)
    assert told.code == "stop-failed"
    assert told.detail.startswith("a: ")
    path.unlink()
    assert select.select([stopper.descriptor], [], [], 20)[0]
    assert stopper.results() == [Stopped(5)]
    stopper.end()


def test_the_worst_stall_is_known_since_the_start_and_of_the_last_minute() -> None:
    """A stall leaves the window after a minute and stays the peak."""
    second = 1_000_000_000
    stalls = Stalls(100 * second)
    stalls.note(101 * second, 7)
    stalls.note(102 * second, 90)
    stalls.note(103 * second, 3)
    assert (stalls.recent, stalls.peak) == (90, 90)
    stalls.note(150 * second, 5)
    assert stalls.recent == 90
    stalls.note(170 * second, 4)
    assert (stalls.recent, stalls.peak) == (5, 90)
    stalls.note(999 * second, 2)
    assert (stalls.recent, stalls.peak) == (2, 90)


def test_the_configuration_is_remembered_for_this_boot_only(tmp_path: Path) -> None:
    """Whole and of this boot, or nothing."""
    path, boot = tmp_path / "guard.configuration", bytes(range(16))
    configure = Configure(
        1,
        7,
        ("192.0.2.1",),
        1,
        2,
        3,
        4,
        2,
        3,
        (PeerNode(2, ("192.0.2.2",)),),
        (Votes((1, 2), (1, 1)),),
    )
    assert recall(path, boot) is None
    remember(path, boot, configure)
    assert recall(path, boot) == configure
    assert recall(path, bytes(16)) is None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert recall(path, boot) is None
    path.write_bytes(b"")
    assert recall(path, boot) is None


def test_the_warm_up_runs_what_a_heartbeat_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an office: it renews and is renewed, opens what it sealed, and leaves nothing behind."""
    done: list[object] = []

    class Noted(warmup.LeaseMachine):
        def step(self, now: Now, event: LeaseEvent) -> list[LeaseEffect]:
            effects = super().step(now, event)
            done.extend(effects)
            return effects

    class Opened(warmup.Opener):
        def open(self, datagram: bytes) -> tuple[int, int, bytes] | None:
            found = super().open(datagram)
            done.append(found and PEER.decode(found[2]))
            return found

    def descriptors() -> list[Path]:
        return sorted(Path("/proc/self/fd").iterdir())

    monkeypatch.setattr(warmup, "LeaseMachine", Noted)
    monkeypatch.setattr(warmup, "Opener", Opened)
    gc.collect()  # what others left behind is closed before, not meanwhile
    before = descriptors(), threading.active_count()
    warmup.warm_up()
    assert (descriptors(), threading.active_count()) == before
    sent = {type(one.message) for one in done if isinstance(one, SendPeer)}
    assert {type(one) for one in done} >= {WritePage, SendPeer, Tell, Heartbeat, Ack}
    assert sent >= {Heartbeat, Ack, Probe, ProbeReply}
    assert None not in done
