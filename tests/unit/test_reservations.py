"""Reservations through the kernel's interface, and who may register, on a LUN in memory."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest
from tests.disk_world import MemoryDevice, formatted, opened
from tests.lun_fake import CHECK, PREEMPT, PREEMPT_ABORT, REGISTRANTS_ONLY, Host, Lun

from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import DiskCall
from leitwolf.wire.ballot import Ballot
from leitwolf.witness import iscsi
from leitwolf.witness.device import DirectFile
from leitwolf.witness.libiscsi import CHECK_CONDITION, Reply
from leitwolf.witness.reservations import KernelReservations, family_of, key_of


def welcome() -> None:
    """Nobody was evicted."""


def evicted() -> None:
    raise WitnessError("evicted", code="witness-fenced")


def on(lun: Lun, host: str) -> tuple[KernelReservations, Host]:
    kernel = Host(lun, host)
    return KernelReservations(-1, "/dev/lun", kernel.ioctl), kernel


def test_every_node_registers_and_one_holds_the_reservation() -> None:
    """Two nodes may write, whoever holds the reservation; a third host may not."""
    lun = Lun()
    for host, key in (("a", 1), ("b", 2)):
        reservations, _ = on(lun, host)
        assert reservations.lacking() == ""
        reservations.claim(key, welcome)
    assert lun.keys == {"a": 1, "b": 2}
    assert lun.holder == ("a", REGISTRANTS_ONLY)
    assert [lun.may_write(host) for host in "abc"] == [True, True, False]


@pytest.mark.parametrize("aborts", [True, False])
def test_a_removed_key_ends_writing_and_the_reservation_passes_on(aborts: bool) -> None:
    """The holder is fenced, its commands are aborted where the disk can; again is harmless."""
    lun = Lun(aborts=aborts)
    first, _ = on(lun, "a")
    second, kernel = on(lun, "b")
    first.claim(1, welcome)
    second.claim(2, welcome)
    second.fence(2, 1)
    assert lun.keys == {"b": 2}
    assert lun.holder == ("b", REGISTRANTS_ONLY)
    assert lun.aborted == (["a"] if aborts else [])
    assert PREEMPT_ABORT in kernel.calls
    assert (PREEMPT in kernel.calls) is not aborts
    second.fence(2, 1)
    assert not lun.may_write("a")


def test_a_unit_attention_is_no_answer() -> None:
    """After a login or a removal the first command is not done: it is made again."""
    lun = Lun()
    first, kernel = on(lun, "a")
    kernel.attention = True
    assert first.claim(1, welcome) == ""
    assert lun.keys == {"a": 1}


def test_a_target_that_forgets_in_a_power_loss_is_used_without() -> None:
    """The kernel asks for registrations that outlive it; the disk works, and says what it lacks."""
    lun = Lun(outlives_power=False)
    first, _ = on(lun, "a")
    assert "outlives a power loss" in first.claim(1, welcome)
    with pytest.raises(WitnessError):
        first.claim(1, evicted)
    assert (lun.keys, lun.holder) == ({}, None)


def test_a_lost_path_is_no_success() -> None:
    """Its status has zeros where SCSI has its own."""
    lost = KernelReservations(-1, "/dev/lun", lambda *_: 0x10000)
    assert lost.lacking()
    assert lost.claim(1, welcome)
    with pytest.raises(WitnessError):
        lost.fence(1, 2)


def test_a_fenced_node_fences_nobody() -> None:
    """It is told that it was fenced itself, not that all is well."""
    lun = Lun()
    first, _ = on(lun, "a")
    second, _ = on(lun, "b")
    first.claim(1, welcome)
    second.claim(2, welcome)
    second.fence(2, 1)
    with pytest.raises(WitnessError) as raised:
        first.fence(1, 2)
    assert raised.value.code == "witness-fenced"
    assert lun.keys == {"b": 2}


def test_a_registration_of_an_evicted_node_is_withdrawn() -> None:
    """It neither stays nor takes a reservation with it."""
    lun = Lun()
    first, _ = on(lun, "a")
    with pytest.raises(WitnessError):
        first.claim(1, evicted)
    assert (lun.keys, lun.holder) == ({}, None)


def test_a_device_without_reservations_says_so() -> None:
    """By the kernel's answer, and it asks without changing anything."""
    assert on(Lun(reservations=False), "a")[0].lacking() == "the disk has no reservations"
    lun = Lun()
    reservations, _ = on(lun, "a")
    reservations.claim(1, welcome)
    assert reservations.lacking() == ""
    assert lun.holder == ("a", REGISTRANTS_ONLY)

    strange = Lun(checks_strangers=True)
    stranger, _ = on(strange, "a")
    assert stranger.lacking() == ""
    assert (strange.keys, strange.holder) == ({}, None)
    stranger.claim(1, welcome)
    assert stranger.lacking() == ""
    assert (strange.keys, strange.holder) == ({"a": 1}, ("a", REGISTRANTS_ONLY))

    def refusing(*_: object) -> int:
        return CHECK

    assert "refuses" in KernelReservations(-1, "/dev/lun1", refusing).lacking()

    def partition(*_: object) -> int:
        raise OSError(errno.EPERM, "not permitted")

    assert "whole disk" in KernelReservations(-1, "/dev/lun1", partition).lacking()


def test_the_system_call_gives_its_status_back() -> None:
    """A buffer that cannot be changed would come back itself instead of the status."""
    with Path("/dev/null").open("rb") as file:
        found = KernelReservations(file.fileno(), "/dev/null", fcntl.ioctl).lacking()
    assert found == "the disk has no reservations"


def test_a_file_has_no_reservations(tmp_path: Path) -> None:
    """Its claim is the lock alone."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    device = DirectFile(path)
    try:
        device.claim("cluster", 1, 4096, welcome)
        assert device.unfenced == "a file has no reservations"
    finally:
        device.close()


def test_a_lun_that_cannot_be_used_leaves_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at it would leave another one behind, here and at the target."""
    ends: list[bool] = []

    class Refusing:
        """Answers every command with a check condition: illegal request."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def command(self, _: bytes, *, out: bytes, room: int) -> Reply:
            del out
            return Reply(CHECK_CONDITION, 5, bytes(room))

        def close(self, *, logout: bool) -> None:
            ends.append(logout)

    monkeypatch.setattr(iscsi, "Session", Refusing)
    with pytest.raises(WitnessError, match="sense 5"):
        iscsi.IscsiDevice("iscsi://192.0.2.1/t/1", timeout_s=1)
    assert ends == [True]


def test_keys_of_a_cluster_have_something_in_common() -> None:
    """Nobody removes keys of others."""
    assert key_of("one", 7) >> 16 == family_of("one") != family_of("two")


# --- who may register ----------------------------------------------------------------------------


class Latecomer(MemoryDevice):
    """A device on which the eviction is written between the first look and the registration."""

    def __init__(self, source: MemoryDevice, evicts: int) -> None:
        super().__init__()
        self.content = source.content
        self.evicts = evicts
        self.registered: list[int] = []

    def claim(self, cluster: str, node: int, offset: int, admit: object) -> None:
        self.registered.append(node)
        other = MemoryDevice()
        other.content = self.content
        evict(other, self.evicts)
        try:
            super().claim(cluster, node, offset, admit)  # type: ignore[arg-type]
        except WitnessError:
            self.registered.remove(node)
            raise


def evict(device: MemoryDevice, *nodes: int, leader: int = 3, round_: int = 9) -> None:
    ballot = Ballot(0, round_, leader)
    block = DiskBlock(
        node=NodeId(leader), boot=1, sequence=0, promised=ballot, accepted=ballot, evicted=nodes
    )
    opened(device, leader).call(DiskCall(block=block, fence=nodes))


def test_an_evicted_node_does_not_open_the_disk_again() -> None:
    """The newest leader's block says so, and its key was removed."""
    device = formatted()
    opened(device, 1)
    evict(device, 1)
    assert device.fenced == {1}
    for _ in range(2):
        with pytest.raises(WitnessError) as raised:
            opened(device, 1)
        assert raised.value.code == "witness-fenced"
    opened(device, 2)


def test_a_node_that_registers_while_it_is_evicted_withdraws() -> None:
    """It looks again when its registration stands (S5)."""
    device = Latecomer(formatted(), evicts=1)
    with pytest.raises(WitnessError) as raised:
        opened(device, 1)
    assert raised.value.code == "witness-fenced"
    assert device.registered == []


def test_the_newest_leader_says_who_was_evicted() -> None:
    """A leader by force may know a node as a member that an older one evicted."""
    device = formatted()
    evict(device, 1, leader=3, round_=9)
    evict(device, leader=2, round_=10)
    opened(device, 1)
