"""A node that ends what it was: begun, it is gone through with, whatever crashes or fails."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from leitwolf.daemon import aside, forming, giving_way, lifecycle, service
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap, save_bootstrap
from leitwolf.daemon.departure import Lockout, load_departure, load_lockout, save_lockout
from leitwolf.daemon.lifecycle import Lifecycle
from leitwolf.daemon.service import DaemonService
from leitwolf.model.errors import Conflict, LeitwolfError, StorageError
from leitwolf.model.history import HistoryStanding
from leitwolf.model.views import ClusterSetup, JoinRequestView
from leitwolf.peers.frames import Code
from leitwolf.store import QuorumLog, StoreIdentity
from leitwolf.system.progress import Slot
from leitwolf.system.settings import Settings

ME = Bootstrap(
    node=1, name="n1", uuid="u", cluster="c", cluster_name="lab", storage="disk1", port=7
)
BROKEN = StorageError("bad", code="log-corrupt")


class Crash(BaseException):
    """Of the daemon, at this very place."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A node of a cluster, whose guard forgets at once."""
    monkeypatch.setattr(lifecycle, "begin_anew", lambda *_: None)
    monkeypatch.setattr(lifecycle, "has_memories", lambda _: False)
    monkeypatch.setattr(lifecycle, "_RETRY_S", 0.01)
    monkeypatch.setattr(lifecycle, "_STOP_AGAIN_S", 0.01)
    found = Settings(runtime=tmp_path / "run", state=tmp_path / "state", config=tmp_path / "etc")
    (found.config / "pki").mkdir(parents=True)
    (found.config / "pki" / "node.key").write_bytes(b"key")
    found.state.mkdir()
    identity = StoreIdentity(cluster="c", node=1, storage="disk1")
    QuorumLog.create(found.quorum_log, identity).close()
    save_bootstrap(found.state, ME)
    return found


def life_of(settings: Settings) -> Lifecycle:
    progress: Any = SimpleNamespace(advance=lambda _: None, slot=lambda _: Slot())
    admit: Any = None
    return Lifecycle(settings, progress, admit)


def played(life: Lifecycle, lines: list[str]) -> Any:
    """Let a life take part in a cluster that is played."""
    cluster: Any = SimpleNamespace(
        bootstrap=ME,
        node=None,
        guard=SimpleNamespace(send=lambda _: None),
        page=lambda: None,
        record=lines.append,
        addresses_of_others=lambda: ("192.0.2.2",),
    )
    life.bootstrap, life.cluster = ME, cluster
    return cluster


async def until(done: Callable[[], bool], life: Lifecycle) -> None:
    """Live until something is so."""
    running = asyncio.ensure_future(life.run())
    try:
        async with asyncio.timeout(30):
            while not done():
                if running.done():
                    running.result()
                await asyncio.sleep(0.005)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def departed(settings: Settings) -> bool:
    gone = load_departure(settings.state)
    return gone is not None and bool(gone.folder)


# --- out of a cluster ----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["", "begun", "first", "second", "quarantine", "save_departure"])
@pytest.mark.asyncio
async def test_who_was_told_to_go_goes_also_after_a_crash(
    settings: Settings, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an operator was promised holds; all that was here is in one folder of the quarantine."""
    life = life_of(settings)
    life.bootstrap, life.fault = ME, BROKEN
    life.leave("destroyed by the operator")
    if cut:
        moved = 0
        move = aside._move

        def cut_move(source: Path, target: Path) -> None:
            nonlocal moved
            moved += 1
            if moved == (1 if cut == "first" else 2):
                raise Crash
            move(source, target)

        with monkeypatch.context() as patched:
            if cut in ("first", "second"):
                patched.setattr(aside, "_move", cut_move)
            elif cut == "begun":
                patched.setattr(lifecycle, "set_aside", crash)
            else:
                patched.setattr(aside, cut, crash)
            with pytest.raises(Crash):
                await life._left()
        life = life_of(settings)
        assert life.leaving == "destroyed by the operator"
    await until(lambda: departed(settings), life)
    assert load_bootstrap(settings.state) is None
    assert not (settings.config / "pki").exists()
    folders = [
        folder for folder in (settings.state / "quarantine").iterdir() if any(folder.iterdir())
    ]
    assert len(folders) == 1
    names = {path.name for path in folders[0].iterdir()}
    assert names >= {"bootstrap.json", "pki", "identity.json"}
    gone = load_departure(settings.state)
    assert gone is not None
    assert (gone.cluster, gone.reason) == ("lab", "destroyed by the operator")
    assert not life_of(settings).leaving


@pytest.mark.parametrize("cut", ["", "copytree", "rename", "rmtree", "half of rmtree"])
@pytest.mark.asyncio
async def test_keys_on_another_file_system_are_kept_as_a_whole(
    settings: Settings, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are copied there; cut off anywhere, the copy in quarantine is whole and at its place."""
    pki = settings.config / "pki"
    (pki / "node.crt").write_bytes(b"certificate")
    rename, copytree, cutting = Path.rename, shutil.copytree, True

    def foreign(source: Path, target: Path) -> Path:
        if source == pki:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if cutting and cut == "rename" and source.name == "pki.part":
            raise Crash
        return rename(source, target)

    def copy(source: Path, target: Path) -> None:
        copytree(source, target)
        if cutting and cut == "copytree":
            (target / "node.crt").unlink()
            raise Crash

    def remove(folder: Path) -> None:
        if cutting and cut == "half of rmtree" and folder == pki:
            (folder / "node.key").unlink()
        if cutting and "rmtree" in cut:
            raise Crash
        rmtree(folder)

    rmtree = shutil.rmtree
    monkeypatch.setattr(Path, "rename", foreign)
    monkeypatch.setattr(aside.shutil, "copytree", copy)
    monkeypatch.setattr(aside.shutil, "rmtree", remove)
    if cut:
        with pytest.raises(Crash):
            aside.set_aside(settings, "lab", "evicted")
        cutting = False
    aside.set_aside(settings, "lab", "evicted")
    (folder,) = (settings.state / "quarantine").iterdir()
    found = {path.name: path.read_bytes() for path in (folder / "pki").iterdir()}
    assert found == {"node.key": b"key", "node.crt": b"certificate"}
    assert not (folder / "pki.part").exists()
    assert not pki.exists()
    assert departed(settings)


@pytest.mark.parametrize("end", ["leaving", "giving_way"])
@pytest.mark.asyncio
async def test_nothing_is_formed_beside_an_end_that_is_not_done(
    settings: Settings, end: str
) -> None:
    """What is set aside then would be the new cluster."""
    (settings.state / "bootstrap.json").unlink()  # moved already; the rest waits for the disk
    daemon = DaemonService(settings, life_of(settings)._progress)
    setattr(daemon.life, end, "evicted")
    with pytest.raises(Conflict) as raised:
        daemon._refuse_second()
    assert raised.value.code == "ending-already"
    setattr(daemon.life, end, "")
    daemon._refuse_second()


@pytest.mark.asyncio
async def test_what_cannot_be_written_down_is_not_promised(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator is told; whom the cluster put out goes all the same, the log says it again."""
    monkeypatch.setattr(lifecycle, "save_departure", full)
    life, lines = life_of(settings), list[str]()
    cluster = played(life, lines)
    with pytest.raises(StorageError, match="No space left") as raised:
        life.leave("destroyed by the operator")
    assert (raised.value.code, life.leaving) == ("storage-io", "")
    life.evicted("it was removed from the cluster")
    assert life.leaving == "it was removed from the cluster"
    assert any("No space left" in line for line in lines)
    await asyncio.wait_for(life.changed.wait(), 30)
    assert life.cluster is cluster


@pytest.mark.asyncio
async def test_the_end_waits_until_all_is_stopped(settings: Settings) -> None:
    """Set aside before, what runs would go on without anybody who knows of it."""
    life = life_of(settings)
    cluster = played(life, [])
    sent = list[object]()
    cluster.guard = SimpleNamespace(send=sent.append)
    cluster.page = lambda: SimpleNamespace(lease=3 if len(sent) < 4 else 0)
    life.leave("destroyed by the operator")
    await asyncio.wait_for(life.changed.wait(), 30)
    assert len(sent) == 4


@pytest.mark.asyncio
async def test_one_end_at_a_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives way is not destroyed beside it, also when all is stopped: it would come back."""
    monkeypatch.setattr(lifecycle.giving_way, "plan", lambda *_: None)
    monkeypatch.setattr(lifecycle.giving_way, "intend", lambda *_: None)
    life = life_of(settings)
    played(life, [])
    life.superseded(HistoryStanding(lineage=(7,), forced=1), "forced by others")
    await asyncio.wait_for(life.changed.wait(), 30)
    life.evicted("it was removed from the cluster")
    assert not life.leaving
    with pytest.raises(Conflict) as raised:
        life.leave("destroyed by the operator")
    assert raised.value.code == "ending-already"
    assert load_departure(settings.state) is None


@pytest.mark.asyncio
async def test_join_only_is_promised_only_where_it_is_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator is told by a code, and may ask again."""
    daemon = DaemonService(settings, life_of(settings)._progress)
    cluster = played(daemon.life, [])
    cluster.node = SimpleNamespace(leader=0)
    with monkeypatch.context() as patched:
        patched.setattr(giving_way, "write_durably", full)
        with pytest.raises(StorageError, match="No space left") as raised:
            await daemon.prevent("me", on=True)
    assert raised.value.code == "storage-io"
    assert not daemon.life.changed.is_set()
    assert not giving_way.is_prevented(settings.state)
    await daemon.prevent("me", on=True)
    assert giving_way.is_prevented(settings.state)


# --- locked out ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_lock_out_holds_also_where_it_cannot_be_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that forgot what it promised votes no more, whatever its disk says."""
    monkeypatch.setattr(lifecycle, "save_lockout", full)
    life, lines = life_of(settings), list[str]()
    played(life, lines)
    life._locked_out(Code.STATE_ROLLED_BACK, "n2 says: older than before")
    await asyncio.wait_for(life.changed.wait(), 30)
    assert load_lockout(settings.state, "disk1") is None
    assert any("cannot be written down" in line for line in lines)
    with pytest.raises(StorageError, match="locked out") as raised:
        life._open(ME)
    assert raised.value.code == Code.STATE_ROLLED_BACK


def test_a_damaged_file_is_named(settings: Settings) -> None:
    """Not another one: who looks at the wrong file repairs nothing."""
    lockout = Lockout(storage="disk1", code="x", text="y", at_wall=0)
    save_lockout(settings.state, lockout)
    assert load_lockout(settings.state, "disk1") == lockout
    for name in ("locked.json", "bootstrap.json"):
        (settings.state / name).write_bytes(b"\xff{")
    with pytest.raises(StorageError, match=r"locked\.json is damaged"):
        load_lockout(settings.state, "disk1")
    with pytest.raises(StorageError, match=r"bootstrap\.json is damaged"):
        load_bootstrap(settings.state)


@pytest.mark.asyncio
async def test_a_disk_that_cannot_be_read_is_tried_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon stays up meanwhile and says why it takes no part; nobody need tell it."""
    (settings.state / "bootstrap.json").unlink()
    (settings.state / "bootstrap.json").mkdir()
    life = life_of(settings)
    await until(lambda: life.fault is not None, life)
    assert life.fault is not None
    assert (life.fault.code, "bootstrap.json" in life.fault.text) == ("storage-io", True)
    running = asyncio.ensure_future(life.run())
    async with asyncio.timeout(30):
        await asyncio.sleep(0.05)
        assert life.fault is not None
        (settings.state / "bootstrap.json").rmdir()
        while life.fault is not None:
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# --- giving way ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_who_cannot_give_way_says_why(settings: Settings) -> None:
    """It is in a cluster: nobody is told to form one or to join."""
    settings.runtime.mkdir()
    (settings.state / "giving-way.json").write_bytes(b"{")
    daemon = DaemonService(settings, life_of(settings)._progress)
    await until(lambda: bool(daemon.life.stuck), daemon.life)
    view = daemon.status()
    assert (view.formed, view.fault) == (False, "giving-way")
    assert "giving-way.json is damaged" in view.advice
    assert "remove" in view.advice
    assert "leitwolf init" not in view.advice


@pytest.mark.asyncio
async def test_who_is_to_give_way_stops_also_where_that_cannot_be_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others forced a quorum: all here stops, and gives way as soon as the disk takes it."""
    giving = giving_way.GivingWay(
        bootstrap=msgspec.structs.replace(ME, storage="disk2", replaces=("disk1",)),
        reason="forced by others",
        entries=1,
        at_wall=0,
    )
    monkeypatch.setattr(lifecycle.giving_way, "plan", lambda *_: giving)
    life, lines = life_of(settings), list[str]()
    cluster = played(life, lines)
    sent = list[object]()
    cluster.guard = SimpleNamespace(send=sent.append)
    history = HistoryStanding(lineage=(7,), forced=1)
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle.giving_way, "intend", full)
        with pytest.raises(StorageError, match="No space left") as raised:
            life.give_way(history, "given up by me@n1")
        assert raised.value.code == "storage-io"
        assert life._ending is None
        life.superseded(history, "forced by others")
        await asyncio.wait_for(life.changed.wait(), 30)
        assert sent
        assert any("No space left" in line for line in lines)
        assert not await life._gave_way()
        assert "No space left" in life.stuck
    assert await life._gave_way()
    bootstrap = load_bootstrap(settings.state)
    assert bootstrap is not None
    assert bootstrap.storage == "disk2"
    assert await life._gave_way()
    assert not life.giving_way


# --- joining -------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_storage_that_votes_is_never_asked_for_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash at the end of a join left its file: gone before this node takes part, or no part."""
    joining = settings.state / "joining.json"
    joining.write_bytes(b"{}")
    (settings.state / "departure.json").write_bytes(b"{}")
    seen = list[set[str]]()

    class Part:
        def __init__(self, **_: object) -> None:
            seen.append({path.name for path in settings.state.iterdir()})
            raise StorageError("played", code="played")

    monkeypatch.setattr(lifecycle, "Cluster", Part)
    life = life_of(settings)
    with monkeypatch.context() as patched:
        patched.setattr(forming, "remove_durably", full)
        await until(lambda: life.fault is not None, life)
        assert life.fault is not None
        assert (life.fault.code, seen) == ("storage-io", [])
    await until(lambda: bool(seen), life)
    assert not seen[0] & {"joining.json", "departure.json"}


@pytest.mark.asyncio
async def test_a_join_goes_on_when_nobody_listens_any_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it done, the node would be neither in nor out; and nothing else begins meanwhile."""
    (settings.state / "bootstrap.json").unlink()
    progress: Any = SimpleNamespace(slot=lambda _: Slot(counter=1))
    daemon = DaemonService(settings, progress)
    go, done = asyncio.Event(), asyncio.Event()

    async def join(
        _: object, __: object, ___: str, guard: Slot, tell: Callable[[str], None], ____: object
    ) -> Any:
        assert guard == Slot(counter=1)
        tell("calling")
        await go.wait()
        granted = SimpleNamespace(profile="default", addresses={})
        return SimpleNamespace(bootstrap=ME, grant=granted, unanswered=())

    async def started(*_: object) -> ClusterSetup:
        done.set()
        return ClusterSetup(
            cluster="lab", uuid="c", node="n1", node_id=1, profile="default", networks={}, advice=""
        )

    monkeypatch.setattr(forming, "join", join)
    monkeypatch.setattr(service, "invitation", lambda *_: (None, None))
    monkeypatch.setattr(daemon, "_started", started)
    lines = daemon.join(JoinRequestView(token="t"))
    assert await anext(lines) == "calling"
    await lines.aclose()  # type: ignore[attr-defined]
    assert daemon._forming.locked()
    go.set()
    await asyncio.wait_for(done.wait(), 30)
    again = [line async for line in daemon.join(JoinRequestView(token="t"))]
    assert isinstance(again[-1], ClusterSetup)
    save_bootstrap(settings.state, ME)
    with pytest.raises(LeitwolfError, match="in a cluster already"):
        await anext(daemon.join(JoinRequestView(token="t")))
