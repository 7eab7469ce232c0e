"""Backups: what a file holds, what is refused, and a restore that is done as a whole or not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.policy_world import World
from tests.unit.test_store_log import SMALL

from leitwolf import __version__
from leitwolf.daemon import forming, restoring
from leitwolf.daemon.aside import set_aside
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap
from leitwolf.daemon.forming import form
from leitwolf.daemon.restoring import begin_restore, carry_on, load_restore, save_restore
from leitwolf.model.commands import WishGroup, WishResource
from leitwolf.model.errors import InvalidConfig, LeitwolfError
from leitwolf.model.events import NetworkSet
from leitwolf.model.ids import GroupId, NetworkRole, ResourceId, Wish
from leitwolf.model.state import State
from leitwolf.peers.identity import load_identity
from leitwolf.state import Backup, decode_backup, digest, encode_backup, fold, take_backup
from leitwolf.store import QuorumLog
from leitwolf.system.interfaces import InterfaceAddress
from leitwolf.system.settings import Settings
from leitwolf.wire.ballot import Ballot

BALLOT = Ballot(0, 4, 2)
LAN = NetworkSet(name="lan", subnets=("192.0.2.0/24",), role=NetworkRole.BOTH)


class PowerCut(BaseException):
    """The machine died."""


def saved(content: State, **changes: Any) -> bytes:
    made = take_backup(content, product=__version__, node="n1", fresh=True, wall=7, ballot=BALLOT)
    return encode_backup(msgspec.structs.replace(made, **changes))


def read(data: bytes) -> Backup:
    return decode_backup(data, name="file", product=__version__)


@pytest.fixture(scope="module")
def state() -> State:
    """Three nodes; a group of two resources that is wanted online, one that is not."""
    made = World(3)
    made.add("web", {"a": ("z",), "z": ()}, preferred=(2, 1), restart_threshold=4)
    made.add("db", {"d": ()}, preferred=(3,))
    made.settle()
    made.do(WishResource(resource=ResourceId("a"), wish=Wish.OFFLINE))
    made.do(WishGroup(group=GroupId("db"), wish=Wish.OFFLINE))
    made.settle()
    return made.state


# --- the file ------------------------------------------------------------------------------------


def test_a_backup_says_what_it_is_and_holds_the_state(state: State) -> None:
    """Everything but keys and tokens comes back, with the hash of the whole state."""
    secret = b"s" * 32
    full = msgspec.structs.replace(state, keys=(secret,), keys_stage="final", authority=b"PEM")
    data = saved(full)
    assert secret not in data
    found = read(data)
    assert (found.cluster, found.index, found.ballot) == (state.uuid, state.index, BALLOT)
    assert found.hash == digest(full)
    content = found.content()
    assert not content.keys
    assert not content.tokens
    assert content.groups == state.groups
    assert content.resources == state.resources


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: b"", "backup-foreign"),
        (lambda data: b"#!/bin/sh\n" + data, "backup-foreign"),
        (lambda data: data[:20], "backup-truncated"),
        (lambda data: data[:-1], "backup-truncated"),
        (lambda data: data[: len(data) // 2], "backup-truncated"),
        (lambda data: data + b"x", "backup-damaged"),
        (lambda data: data[:16] + b"\x02" + data[17:], "backup-newer"),
        (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], "backup-damaged"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "backup-damaged"),
    ],
)
def test_what_is_no_whole_backup_is_refused(state: State, spoil: Any, code: str) -> None:
    """Each fault has its code, and says what to do."""
    with pytest.raises(InvalidConfig) as raised:
        read(spoil(saved(state)))
    assert raised.value.code == code
    assert raised.value.hint


def test_every_flipped_bit_is_found(state: State) -> None:
    """A backup with one wrong bit is never taken for whole."""
    data = saved(state)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        with pytest.raises(InvalidConfig):
            read(bytes(broken))


def test_a_state_of_another_cluster_or_version_is_refused(state: State) -> None:
    """The parts of a file must belong together, and be of a version that is known here."""
    for changes, code in (
        ({"cluster": "another"}, "backup-damaged"),
        ({"index": state.index + 1}, "backup-damaged"),
        ({"state": b"\x92\x80\x90"}, "backup-damaged"),
        ({"state": b"what a later version writes"}, "backup-newer"),
    ):
        with pytest.raises(InvalidConfig) as raised:
            read(saved(state, **changes))
        assert raised.value.code == code


# --- restoring -----------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(runtime=tmp_path / "run", state=tmp_path / "state", config=tmp_path / "etc")


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has the address 192.0.2.77."""
    mine = InterfaceAddress(
        interface="eth0", address="192.0.2.77", subnet="192.0.2.0/24", protocol=0
    )
    monkeypatch.setattr(restoring, "interface_addresses", lambda: [mine])


def opened(settings: Settings, bootstrap: Bootstrap) -> State:
    """Return what the log of a cluster of one adds up to."""
    store = QuorumLog.open(settings.state / "quorum", None)
    try:
        assert store.identity.cluster == bootstrap.cluster
        assert store.identity.storage == bootstrap.storage
        found = State()
        for entry in store.loaded.entries:
            found = fold(found, entry)
        assert store.loaded.commit == found.index
        load_identity(settings.config)
        return found
    finally:
        store.close()


def drive(settings: Settings) -> Bootstrap | None:
    """Do what the daemon does when it starts, up to where it opens its log."""
    while (pending := load_restore(settings.state)) is not None:
        present = load_bootstrap(settings.state)
        reason = asyncio.run(carry_on(settings, pending, present))
        if reason:
            set_aside(settings, "old", reason)
    return load_bootstrap(settings.state)


def test_a_restored_cluster_is_another_one_with_the_same_services(
    state: State, settings: Settings
) -> None:
    """New UUID, authority and node; groups, resources, wishes and settings as they were; paused."""
    save_restore(settings, begin_restore(saved(state), node="node2", wall=9))
    bootstrap = drive(settings)
    assert bootstrap is not None
    found = opened(settings, bootstrap)
    assert found.uuid == bootstrap.cluster != state.uuid
    assert (found.name, found.profile, found.port) == (state.name, state.profile, state.port)
    assert found.authority != state.authority
    [node] = found.nodes.values()
    assert (node.name, node.paused, node.addresses["client"]) == ("node2", True, "192.0.2.77")
    assert {group.id: group.wish for group in found.groups.values()} == {
        group.id: group.wish for group in state.groups.values()
    }
    former = next(one.id for one in state.nodes.values() if one.name == "node2")
    for group in found.groups.values():
        old = state.groups[group.id]
        assert group.generation >= old.generation
        assert group.preferred == ((1,) if former in old.preferred else ())
        assert group.restart_threshold == old.restart_threshold
    for resource in found.resources.values():
        old_one = state.resources[resource.id]
        assert (resource.type, resource.parameters, resource.depends, resource.wish) == (
            old_one.type,
            old_one.parameters,
            old_one.depends,
            old_one.wish,
        )
        assert not resource.proven
    assert found.quorum is not None
    assert [acceptor.id.storage for acceptor in found.quorum.acceptors] == [bootstrap.storage]
    assert load_restore(settings.state) is None


def test_a_machine_without_the_interconnect_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes could never meet; the networks that are missing are named."""
    monkeypatch.setattr(restoring, "interface_addresses", list)
    with pytest.raises(InvalidConfig) as raised:
        begin_restore(saved(state), node="n1", wall=9)
    assert raised.value.code == "no-interconnect"
    assert "192.0.2.0/24" in raised.value.hint


@contextmanager
def dying_at(monkeypatch: pytest.MonkeyPatch, cut_at: int) -> Iterator[None]:
    """Count the syncs and changes of names; the machine dies in the one with this number."""
    count = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == cut_at:
                raise PowerCut
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for owner, name in (
            (os, "fsync"), (os, "fdatasync"), (Path, "replace"), (Path, "rename"),
            (Path, "unlink"), (os, "rename"),
        ):  # fmt: skip
            patched.setattr(owner, name, counted(getattr(owner, name)))
        yield


@pytest.mark.parametrize("replacing", [False, True])
def test_a_crash_at_every_step_leaves_nothing_or_all(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    """What was there before goes on untouched, or the restored cluster is there as a whole."""
    for name in ("fsync", "fdatasync"):  # counted, but nothing here needs a disk
        monkeypatch.setattr(os, name, lambda _descriptor: None)
    small = SimpleNamespace(create=partial(QuorumLog.create, sizes=SMALL))
    monkeypatch.setattr(forming, "QuorumLog", small)
    outcomes, cut_at = [], 0
    while True:
        cut_at += 1
        root = tmp_path / str(cut_at)
        settings = Settings(runtime=root / "run", state=root / "state", config=root / "etc")
        old = None
        if replacing:
            old = form(
                settings,
                name="old", node_name="n1", profile="virtual", port=7000, networks=[LAN],
                addresses={"lan": "192.0.2.77"}, dynamic=True,
            )  # fmt: skip
        died = True
        with suppress(PowerCut), dying_at(monkeypatch, cut_at):
            save_restore(settings, begin_restore(saved(state), node="n1", wall=9))
            drive(settings)
            died = False
        found = drive(settings)
        if found is None or found == old:
            assert found == old
            if old is not None:
                assert opened(settings, old).name == "old"
            outcomes.append("nothing")
        else:
            assert opened(settings, found).groups.keys() == state.groups.keys()
            outcomes.append("all")
        if not died:
            break
    assert outcomes[0] == "nothing"
    assert outcomes == sorted(outcomes, reverse=True), "nothing comes back after it was begun"
    assert len(outcomes) > 20
    assert outcomes[-1] == "all"


def test_a_kept_backup_that_is_damaged_is_named(settings: Settings) -> None:
    """It is removed by hand; nothing is guessed."""
    settings.state.mkdir()
    (settings.state / "restoring.msgpack").write_bytes(b"\x00")
    with pytest.raises(LeitwolfError) as raised:
        load_restore(settings.state)
    assert raised.value.code == "restore-damaged"
