"""The self-test that a daemon makes of each disk and witness before anything of it counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.disk_world import CLUSTER, GEOMETRY, HEADER, MemoryDevice, entry, formatted, opened
from tests.unit.test_witness_channel import Bench, block
from tests.unit.test_witness_selftest import SAID
from tests.witness_fakes import MemoryCas, Store

from leitwolf.core.effects import CallWitness, FromWitness
from leitwolf.daemon import trials
from leitwolf.daemon.witnesses import Witnesses
from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.location import Location
from leitwolf.model.quorum import Acceptor, AcceptorId
from leitwolf.model.witness import CasObject, DiskBlock, WitnessMode
from leitwolf.ports.witness import (
    CasFound,
    CasGet,
    DiskCall,
    DiskResult,
    RegionRead,
    RegionWrite,
    Versioned,
    WitnessFault,
)
from leitwolf.system.clock import raw_ns
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.witness import disk as disk_module
from leitwolf.witness import disktest
from leitwolf.witness.device import DirectFile
from leitwolf.witness.disk import open_disk
from leitwolf.witness.format import format_disk
from leitwolf.witness.layout import UNIT_BYTES
from leitwolf.witness.objects import encode_object
from leitwolf.witness.selftest import self_test

OBJECT = AcceptorId(NodeId(60_000), "object-1")
HERE = "etcd://127.0.0.1:1/office"
THERE = "etcd://127.0.0.1:2/office"
UUID = "6e1f5a52-3b0e-4d7c-9a55-0d8a5b1c2d3e"


class Client(MemoryCas):
    """A client of a store that tells what it does, and does not answer while it is told so."""

    def __init__(self, places: Places, address: str) -> None:
        scratch = ".selftest-" in address
        store = places.stores.setdefault(address, Store(places.fault if scratch else ""))
        places.clients.append(address)
        super().__init__(store, reader=places.clients.count(address) % 2 == 0)
        self.places, self.address, self.scratch = places, address, scratch

    def get(self) -> Versioned | None:
        self._pause()
        return super().get()

    def put(self, data: bytes, expected: str | None) -> str | None:
        self._pause()
        self.places.written.append(self.address)
        return super().put(data, expected)

    def remove(self) -> None:
        super().remove()
        self.places.removed_at = raw_ns()

    def _pause(self) -> None:
        if self.scratch:
            self.places.goes_on.wait(20)
        if self.address.startswith(self.places.gone):
            raise WitnessError(f"{self.address} is gone", code="witness-unreachable")


class Places:
    """A daemon's threads, over values in memory."""

    def __init__(self) -> None:
        self.fault = ""
        self.gone: tuple[str, ...] = ()
        self.stores: dict[str, Store] = {}
        self.clients: list[str] = []
        self.written: list[str] = []
        self.removed_at = 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.ends: asyncio.Queue[FromWitness] = asyncio.Queue()
        self.witnesses = Witnesses(
            cluster=CLUSTER, node=1, config=Path("/nowhere"), on_end=self.ends.put_nowait
        )
        self._serial = 0
        for address in (HERE, THERE):
            self.place(address)

    def place(self, address: str, cluster: str = CLUSTER) -> None:
        value = CasObject(cluster=cluster, storage=OBJECT.storage, mode=WitnessMode.TAG)
        self.stores[address] = Store()
        MemoryCas(self.stores[address]).put(encode_object(value), None)

    async def call(self, location: str = HERE) -> FromWitness:
        self._serial += 1
        self.witnesses.call(
            Acceptor(id=OBJECT, kind="object", location=location),
            CallWitness(acceptor=OBJECT, serial=self._serial, call=CasGet()),
        )
        async with asyncio.timeout(30):
            return await self.ends.get()

    @property
    def scratches(self) -> list[Store]:
        return [store for name, store in self.stores.items() if ".selftest-" in name]

    def tests(self, location: str = HERE) -> int:
        """Return how many tests began: each has two clients of the scratch value."""
        return sum(one.startswith(f"{location}.selftest-") for one in self.clients) // 2


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Places]:
    def made() -> Places:
        found = Places()

        def inner(location: Location, *_: object) -> Client:
            return Client(found, location.address)

        monkeypatch.setattr("leitwolf.witness.opening._inner", inner)
        return found

    return made


# Those that show only in a race are looked for in the test of the self-test.
@pytest.mark.parametrize("fault", sorted(SAID.keys() - {"conflicts-both", "conflicts-none"}))
@pytest.mark.asyncio
async def test_a_store_of_wrong_semantics_is_refused(
    places: Callable[[], Places], fault: str
) -> None:
    """By each daemon, whoever brought it; in the words of the check, and nothing is left there."""
    made = places()
    made.fault = fault
    found = (await made.call()).result
    assert isinstance(found, WitnessFault)
    assert (found.code, HERE in found.text) == ("witness-unfit", True)
    assert SAID[fault] in found.text
    assert HERE not in made.written
    assert [store.history[-1] for store in made.scratches] == [None]
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_a_store_is_tested_once(places: Callable[[], Places]) -> None:
    """Not again when its connection was lost, nor when it left and came back."""
    made = places()
    assert isinstance((await made.call()).result, CasFound)
    made.gone = (HERE,)
    assert isinstance((await made.call()).result, WitnessFault)
    made.gone = ()
    assert isinstance((await made.call()).result, CasFound)
    made.witnesses.keep(())
    assert isinstance((await made.call()).result, CasFound)
    assert made.tests() == 1
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_what_was_repaired_comes_back(
    places: Callable[[], Places], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused is not even opened for a while; then it is tested again."""
    made = places()
    made.fault = "ignores-versions"
    for _ in range(3):
        found = (await made.call()).result
        assert isinstance(found, WitnessFault)
        assert "conditions are ignored" in found.text
    assert made.tests() == 1
    for store in made.scratches:
        store.fault = ""
    monkeypatch.setattr(trials, "AGAIN_NS", 0)
    assert isinstance((await made.call()).result, CasFound)
    assert made.tests() == 2
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_who_cannot_be_reached_is_not_refused(places: Callable[[], Places]) -> None:
    """It is tested as soon as it answers, also when it fell silent in the middle of the test."""
    made = places()
    for gone in (HERE, f"{HERE}.selftest-"):
        made.gone = (gone,)
        found = (await made.call()).result
        assert isinstance(found, WitnessFault)
        assert found.code == "witness-unreachable"
    made.gone = ()
    assert isinstance((await made.call()).result, CasFound)
    assert made.tests() == 2
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_beside_a_foreign_value_nothing_is_written(places: Callable[[], Places]) -> None:
    """It is looked at first."""
    made = places()
    made.place(HERE, cluster="cluster-2")
    found = (await made.call()).result
    assert isinstance(found, WitnessFault)
    assert found.code == "witness-foreign"
    assert made.written == []
    made.place(HERE)
    assert isinstance((await made.call()).result, CasFound)
    assert made.written
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_what_a_killed_test_left_is_removed_by_the_next(
    places: Callable[[], Places],
) -> None:
    """The scratch value has the name of cluster and node; nobody else tests there."""
    made = places()
    left = f"{HERE}.selftest-{CLUSTER}-1"
    made.stores[left] = Store()
    MemoryCas(made.stores[left]).put(b"left", None)
    assert isinstance((await made.call()).result, CasFound)
    assert [store.history[-1] for store in made.scratches] == [None]
    assert made.written.count(left) > 0
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_the_test_is_no_part_of_the_call(places: Callable[[], Places]) -> None:
    """From what calls take follows for how long others wait."""
    made = places()
    assert (await made.call()).started >= made.removed_at > 0
    made.witnesses.stop()


def object_at(location: str) -> tuple[Acceptor, ...]:
    return (Acceptor(id=OBJECT, kind="object", location=location),)


@pytest.mark.asyncio
async def test_another_way_is_tested_while_the_former_is_used(
    places: Callable[[], Places],
) -> None:
    """A test may take longer than a lease that is derived from there."""
    made = places()
    assert isinstance((await made.call()).result, CasFound)
    made.goes_on.clear()
    made.witnesses.move(object_at(THERE))
    for _ in range(3):
        assert isinstance((await made.call(THERE)).result, CasFound)
    assert THERE not in made.written
    used = made.clients.count(THERE)
    made.goes_on.set()
    async with asyncio.timeout(20):
        while made.witnesses._channels[OBJECT].acceptor.location != THERE:
            assert isinstance((await made.call(THERE)).result, CasFound)
    assert made.tests(THERE) == 1
    assert made.clients.count(THERE) > used  # opened for its calls, after its test
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_another_way_that_fails_is_refused(places: Callable[[], Places]) -> None:
    """The way back needs no test."""
    made = places()
    assert isinstance((await made.call()).result, CasFound)
    made.fault = "ignores-versions"
    made.witnesses.move(object_at(THERE))
    async with asyncio.timeout(20):
        while isinstance(found := (await made.call(THERE)).result, CasFound):
            pass
    assert isinstance(found, WitnessFault)
    assert found.code == "witness-unfit"
    async with asyncio.timeout(20):
        while not isinstance((await made.call(HERE)).result, CasFound):
            pass
    assert made.tests() == 1
    made.witnesses.stop()


# --- disks


def dropping(device: MemoryDevice) -> None:
    """Confirm writes into regions, and do none of them."""
    write = device.write

    def drops(offset: int, data: bytes) -> None:
        if offset < GEOMETRY.region_offset(0, 0):
            write(offset, data)

    device.write = drops  # type: ignore[method-assign]


def short(device: MemoryDevice) -> None:
    """End before the last region does."""
    del device.content[-UNIT_BYTES:]


@pytest.mark.parametrize(
    ("breaks", "said"),
    [(dropping, "fresh reads: what was written is not"), (short, "size: ")],
)
@pytest.mark.asyncio
async def test_a_disk_of_wrong_semantics_is_refused(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[MemoryDevice], None], said: str
) -> None:
    """It says what is wrong, and its blocks are as they were."""
    made = Bench()
    monkeypatch.setattr(disk_module, "open_device", made.open)
    device = made.devices["/a"] = formatted()
    blocks = bytes(device.content[: GEOMETRY.region_offset(0, 0)])
    breaks(device)
    found = (await made.call("/a", block(1))).result
    assert isinstance(found, WitnessFault)
    assert found.code == "witness-unfit"
    assert f"/a cannot be a quorum disk: {said}" in found.text
    assert bytes(device.content[: GEOMETRY.region_offset(0, 0)]) == blocks
    made.witnesses.stop()


@pytest.mark.asyncio
async def test_another_way_to_a_disk_is_tested_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call finds it open, and the former way closed."""
    made = Bench()
    monkeypatch.setattr(disk_module, "open_device", made.open)
    made.devices["/a"] = made.devices["/b"] = formatted()
    assert isinstance((await made.call("/a", block(1))).result, DiskResult)
    other = Acceptor(id=AcceptorId(NodeId(60_000), HEADER.disk), kind="disk", location="/b")
    made.witnesses.move((other,))
    async with asyncio.timeout(20):
        while made.opened[-1] != "/b":
            await asyncio.sleep(0.01)
    assert isinstance((await made.call("/b", block(2))).result, DiskResult)
    assert made.opened == ["/a", "/b"]
    made.witnesses.stop()


def test_the_test_of_a_disk_writes_where_nothing_counts() -> None:
    """Another node reads the same region before and after it, and no unit of others changed."""
    device = formatted()
    ballot = Ballot(0, 1, 1)
    for generation, region in ((1, 0), (2, 1), (3, 0)):
        disk = opened(device)
        key = Key(ballot, generation)
        named = DiskBlock(
            node=NodeId(1), boot=1, sequence=0, promised=ballot, accepted=ballot,
            region=region, generation=generation, key=key,
        )  # fmt: skip
        write = RegionWrite(
            region=region,
            generation=generation,
            accepted=ballot,
            fresh=True,
            entries=(entry(generation, ballot),),
        )
        disk.call(DiskCall(write=write, block=named))
        former = bytes(device.content)
        assert disk.self_test().ok
        changed = [
            offset
            for offset in range(0, len(former), UNIT_BYTES)
            if former[offset : offset + UNIT_BYTES] != device.content[offset : offset + UNIT_BYTES]
        ]
        free = GEOMETRY.region_offset(0, 1 - region)
        assert changed == [free + HEADER.region_bytes - UNIT_BYTES]
        reader = opened(device, node=2)
        [own] = [one for one in reader.call(DiskCall(read=True)).blocks if one.node == 1]
        result = reader.call(DiskCall(region=RegionRead(block=own)))
        assert result.region is not None
        assert [one.index for one in result.region.entries] == [generation]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A formatted file on a file system with direct I/O."""
    path = tmp_path / "disk"
    try:
        format_disk(str(path), cluster=UUID, region_bytes=64 << 10, nodes_max=2, create=True)
    except WitnessError as error:
        pytest.skip(error.text)
    return path


def test_a_file_is_tried_by_two_openings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that keep nobody out, and reads from a cache, are found; nothing is left behind."""
    disk = open_disk(str(file), cluster=UUID, node=1, timeout_s=20)
    report = disk.self_test()
    assert [(one.name, one.ok) for one in report.checks] == [
        ("size", True),
        ("fresh reads", True),
        ("locks", True),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(disktest, "_claims", lambda *_: True)
        assert [one.name for one in disk.self_test().checks if not one.ok] == ["locks"]
    seen: dict[int, bytes] = {}
    read = DirectFile.read
    first = disk._device

    def cached(device: DirectFile, offset: int, length: int) -> bytes:
        if device is first:
            return read(device, offset, length)
        return seen.setdefault(offset, read(device, offset, length))

    monkeypatch.setattr(DirectFile, "read", cached)
    [bad] = [one for one in disk.self_test().checks if not one.ok]
    assert "reads are stale" in bad.found
    disk.close()
    assert list(file.parent.iterdir()) == [file]


# --- the self-test itself


def test_damage_of_a_scratch_value_is_a_verdict() -> None:
    """Nobody else writes there: the store lost what it confirmed."""

    class Damaged(MemoryCas):
        def get(self) -> Versioned | None:
            if super().get() is not None:
                raise WitnessError("the newest value is damaged", code="witness-damaged")
            return None

    store = Store()
    report = self_test(lambda: Damaged(store))
    assert [(one.name, one.found) for one in report.checks if not one.ok] == [
        ("create", "the newest value is damaged")
    ]


def test_a_test_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store so slow is out of reach, not unfit; what was written is removed."""
    monkeypatch.setattr("leitwolf.witness.selftest._LIMIT_S", -1.0)
    store = Store()
    with pytest.raises(WitnessError, match="takes longer") as raised:
        self_test(lambda: MemoryCas(store))
    assert raised.value.code == "witness-unreachable"
    assert store.history[-1] is None
