"""What `quorum set` and `quorum replace` overwrite: never what another half may live with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.disk_world import HEADER, MemoryDevice, formatted, opened

from leitwolf.cli import quorum
from leitwolf.model.commands import SetQuorum
from leitwolf.model.errors import Conflict
from leitwolf.model.ids import NodeId
from leitwolf.model.witness import CasObject, DiskBlock, WitnessMode
from leitwolf.ports.witness import DiskCall
from leitwolf.wire.ballot import Ballot
from leitwolf.witness import disk, inspect, opening
from leitwolf.witness import format as formatting
from leitwolf.witness.objects import decode_object, encode_object

BLOCK = DiskBlock(node=NodeId(1), boot=1, sequence=1, promised=Ballot(0, 1, 1))
OBJECT = CasObject(cluster=HEADER.cluster, storage="former", mode=WitnessMode.FULL)
PLACE = "/dev/quorum"


def context(*used: str) -> Any:
    """Of a cluster that uses these storages."""
    members = [SimpleNamespace(storage=storage, fault="") for storage in used]
    view = SimpleNamespace(members=members, witness=members[0] if members else None)
    status = SimpleNamespace(uuid=HEADER.cluster, quorum=True)
    client = SimpleNamespace(status=lambda: status, quorum=lambda: view)
    return SimpleNamespace(client=client, progress=lambda _: None)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MemoryDevice:
    """A formatted disk, whoever opens one."""
    made = formatted()
    for module in (inspect, formatting):
        monkeypatch.setattr(module, "open_device", lambda *_, **__: made)
    return made


def brought_in(monkeypatch: pytest.MonkeyPatch, *used: str) -> SetQuorum:
    """Bring the disk in; return what the leader is asked for."""
    monkeypatch.setattr(quorum, "_try_file", lambda *_, **__: None)
    given = {"location": PLACE, "witness": True, "silence_ms": 0, "local": False}
    return quorum._disk_brought_in(context(*used), **given)


def test_a_disk_that_is_brought_in_is_another_one(
    monkeypatch: pytest.MonkeyPatch, device: MemoryDevice
) -> None:
    """Two halves that bring the same new disk in never wish for the same storage."""
    wished = {brought_in(monkeypatch).storage for _ in range(2)}
    assert len(wished | {HEADER.disk}) == 3
    assert disk.read_header(device).disk in wished
    inspect.demand_unused(PLACE)


def test_a_disk_in_use_is_brought_in_as_it_is(
    monkeypatch: pytest.MonkeyPatch, device: MemoryDevice
) -> None:
    """Only its role changes; what stands there stays."""
    opened(device).call(DiskCall(block=BLOCK))
    before = bytes(device.content)
    assert brought_in(monkeypatch, HEADER.disk).storage == HEADER.disk
    assert bytes(device.content) == before


def test_a_disk_with_a_block_gets_no_other_uuid(device: MemoryDevice) -> None:
    """The half that wrote there lives with it: nothing on it changes."""
    opened(device).call(DiskCall(block=BLOCK))
    before = bytes(device.content)
    with pytest.raises(Conflict) as raised:
        formatting.stamp_anew(PLACE)
    assert raised.value.code == "witness-used"
    assert bytes(device.content) == before


@pytest.mark.parametrize(
    ("numbers", "asked", "places"),
    [((1, 3), None, 8), ((2, 8), None, 8), ((3, 9), None, 64), ((3, 9), 12, 12), ((1,), 2, 2)],
)
def test_a_disk_is_replaced_by_one_with_a_place_for_every_node(
    numbers: tuple[int, ...], asked: int | None, places: int
) -> None:
    """The one command suffices, whatever numbers the members have by now."""
    view: Any = SimpleNamespace(nodes=[SimpleNamespace(id=NodeId(one)) for one in numbers])
    assert quorum._places(view, asked) == places


@pytest.mark.parametrize(("written", "force"), [(True, False), (True, True), (False, False)])
def test_a_disk_is_replaced_by_one_that_was_used_only_by_force(
    monkeypatch: pytest.MonkeyPatch, device: MemoryDevice, written: bool, force: bool
) -> None:
    """Of the own cluster, with another UUID than the one in use."""
    done: list[bool] = []

    def format_disk(_location: str, **given: Any) -> Any:
        done.append(given["force"])
        return SimpleNamespace(disk="new", nodes_max=8)

    monkeypatch.setattr(formatting, "format_disk", format_disk)
    if written:
        opened(device).call(DiskCall(block=BLOCK))
    if written and not force:
        with pytest.raises(Conflict) as raised:
            quorum._format(context("own"), PLACE, 8, create=False, force=force)
        assert (raised.value.code, done) == ("witness-used", [])
        return
    assert quorum._format(context("own"), PLACE, 8, create=False, force=force) == ("new", 8)
    assert done == [True]


@pytest.mark.parametrize(("used", "force"), [(True, False), (True, True), (False, False)])
def test_an_object_that_was_used_is_overwritten_only_by_force(
    monkeypatch: pytest.MonkeyPatch, used: bool, force: bool
) -> None:
    """One that nobody promised anything on is nobody's."""
    value = replace(OBJECT, promised=Ballot(1, 2, 3)) if used else OBJECT
    store = SimpleNamespace(data=encode_object(value))

    def put(data: bytes, _version: str) -> str:
        store.data = data
        return "2"

    store.get = lambda: SimpleNamespace(data=store.data, version="1")
    store.put, store.close = put, lambda: None
    monkeypatch.setattr(opening, "open_cas", lambda *_, **__: store)
    fit = SimpleNamespace(demand=lambda _: None)
    monkeypatch.setattr(opening, "try_location", lambda *_, **__: fit)
    if used and not force:
        with pytest.raises(Conflict) as raised:
            quorum._prepare(context("own"), "share:/w", WitnessMode.FULL, force=force)
        assert raised.value.code == "witness-used"
        assert decode_object(store.data, "share:/w") == value
        return
    storage = quorum._prepare(context("own"), "share:/w", WitnessMode.FULL, force=force)
    assert decode_object(store.data, "share:/w").storage == storage != "former"
