"""The thread of a disk: what is on its way by one path is over before another path is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.disk_world import CLUSTER, HEADER, MemoryDevice, formatted
from tests.witness_fakes import MemoryCas, Store

from leitwolf.core.effects import CallWitness, FromWitness
from leitwolf.daemon.witnesses import CheckedObject, Witnesses
from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import CasGet, DiskCall, DiskResult, WitnessFault
from leitwolf.witness import disk as disk_module
from leitwolf.witness.format import write_structure
from leitwolf.witness.share import ShareCas

IDENTITY = AcceptorId(NodeId(60_000), HEADER.disk)


class Bench:
    """A daemon's threads, over devices in memory by the name of their path."""

    def __init__(self) -> None:
        self.devices: dict[str, MemoryDevice] = {}
        self.ends: asyncio.Queue[FromWitness] = asyncio.Queue()
        self.opened: list[str] = []
        self.witnesses = Witnesses(
            cluster=CLUSTER, node=1, config=Path("/nowhere"), on_end=self.ends.put_nowait
        )
        self._serial = 0

    def open(self, location: str, **_: object) -> MemoryDevice:
        self.opened.append(location)
        if location not in self.devices:
            raise WitnessError(f"{location} is gone")
        return self.devices[location]

    async def call(self, location: str, call: DiskCall | None = None) -> FromWitness:
        self._serial += 1
        order = call or DiskCall(read=True)
        self.witnesses.call(
            Acceptor(id=IDENTITY, kind="disk", location=location),
            CallWitness(acceptor=IDENTITY, serial=self._serial, call=order),
        )
        async with asyncio.timeout(20):
            return await self.ends.get()

    async def until_done(self, location: str, call: DiskCall) -> DiskResult:
        """Call again and again, until it is answered."""
        for _ in range(200):
            found = (await self.call(location, call)).result
            if isinstance(found, DiskResult):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(found)


def hanging(device: MemoryDevice) -> threading.Event:
    """Let the writes of a device hang until the event is set."""
    goes_on, write = threading.Event(), device.write

    def hangs(offset: int, data: bytes) -> None:
        goes_on.wait(20)
        write(offset, data)

    device.write = hangs  # type: ignore[method-assign]
    return goes_on


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Bench]:
    def made() -> Bench:
        found = Bench()
        monkeypatch.setattr(disk_module, "open_device", found.open)
        return found

    return made


def lose_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon what hangs; not so soon that a busy machine does not answer in time."""
    monkeypatch.setattr("leitwolf.daemon.witnesses._TIMEOUT_S", 1.0)


def block(stamp: int) -> DiskCall:
    return DiskCall(block=DiskBlock(node=NodeId(1), boot=1, sequence=0, stamp=stamp), read=True)


@pytest.mark.asyncio
async def test_a_disk_is_reached_at_another_place(bench: Callable[[], Bench]) -> None:
    """The next call goes there; the former opening is closed."""
    made = bench()
    made.devices = {"/a": formatted()}
    made.devices["/b"] = made.devices["/a"]
    assert isinstance((await made.call("/a", block(1))).result, DiskResult)
    await made.until_done("/b", block(2))
    assert made.opened[-1] == "/b"
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_a_share_that_hangs_keeps_one_thread(
    bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every look at it would leave another one behind."""
    lose_patience(monkeypatch)
    made = bench()
    goes_on, hanging = threading.Event(), []

    def hangs(_: ShareCas) -> None:
        hanging.append(1)
        goes_on.wait(20)

    monkeypatch.setattr(ShareCas, "get", hangs)
    place = Acceptor(id=IDENTITY, kind="object", location=f"share:{tmp_path}/w?local=yes")
    try:
        for serial in range(4):
            order = CallWitness(acceptor=IDENTITY, serial=serial, call=CasGet())
            made.witnesses.call(place, order)
            async with asyncio.timeout(20):
                assert isinstance((await made.ends.get()).result, WitnessFault)
        assert hanging == [1]
    finally:
        goes_on.set()
    made.witnesses.stop()


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.asyncio
async def test_another_place_waits_for_what_is_on_its_way(
    bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch, *, given_up: bool
) -> None:
    """A write hangs in one path: by the other one nothing is written before it is over (A4).

    That holds as well for a disk that left the quorum meanwhile and comes back.
    """
    lose_patience(monkeypatch)
    made = bench()
    slow = formatted()
    made.devices = {"/a": slow, "/b": MemoryDevice()}
    made.devices["/b"].content = slow.content
    await made.until_done("/a", block(1))
    goes_on = hanging(slow)
    try:
        late = (await made.call("/a", block(2))).result
        assert isinstance(late, WitnessFault)
        if given_up:
            made.witnesses.keep(())
        for _ in range(3):
            found = (await made.call("/b", block(3))).result
            assert isinstance(found, WitnessFault)
            assert "still on its way" in found.text
        assert "/b" not in made.opened
    finally:
        goes_on.set()
    assert [one.stamp for one in (await made.until_done("/b", block(3))).blocks] == [3]
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_a_disk_formatted_anew_at_the_same_place_is_let_go_first(
    bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former opening holds the right to write as this node; both are used for a moment."""
    made = bench()
    device = formatted()
    holders: list[MemoryDevice] = []

    def opening(*_: object, **__: object) -> MemoryDevice:
        mine = MemoryDevice()
        mine.content = device.content

        def claim(*_: object) -> None:
            if holders:
                raise WitnessError("used by another process as node 1", code="witness-denied")
            holders.append(mine)

        def close() -> None:
            if mine in holders:
                holders.remove(mine)

        mine.claim, mine.close = claim, close  # type: ignore[method-assign]
        return mine

    monkeypatch.setattr(disk_module, "open_device", opening)
    assert isinstance((await made.call("/a", block(1))).result, DiskResult)
    header = msgspec.structs.replace(HEADER, disk="disk-2")
    write_structure(device, header, None)
    fresh = AcceptorId(NodeId(60_001), "disk-2")
    for serial in range(100, 150):
        made.witnesses.call(
            Acceptor(id=fresh, kind="disk", location="/a"),
            CallWitness(acceptor=fresh, serial=serial, call=DiskCall(read=True)),
        )
        async with asyncio.timeout(20):
            found = (await made.ends.get()).result
        if isinstance(found, DiskResult):
            break
        await asyncio.sleep(0.02)
    assert isinstance(found, DiskResult), found
    former = (await made.call("/a")).result
    assert isinstance(former, WitnessFault)
    assert former.code == "witness-foreign"
    assert len(holders) == 1
    made.witnesses.stop()


@pytest.mark.parametrize(
    "found", [b"\xc1", msgspec.msgpack.encode({"cluster": "?"}), b"\x81\xa1\xff\x01"]
)
def test_an_object_that_cannot_be_read_is_damaged(found: bytes) -> None:
    """That is lasting, whatever is wrong with the bytes: the object is to be replaced."""
    cas = MemoryCas(Store())
    cas.put(found, None)
    place = Acceptor(id=IDENTITY, kind="object", location="share:/w")
    with pytest.raises(WitnessError) as raised:
        CheckedObject(cas, place, CLUSTER).get()
    assert raised.value.code == "witness-damaged"
