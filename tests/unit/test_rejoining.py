"""Coming back in the place of a former node: proofs, places, addresses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.policy_world import AWAY, World
from tests.unit.test_store_log import IDENTITY, SMALL

from leitwolf.core.policy import Judged
from leitwolf.daemon.admission import admit
from leitwolf.daemon.bootstrap import Bootstrap, Peer
from leitwolf.daemon.departure import Lockout, save_lockout
from leitwolf.daemon.rejoining import make_room, own_token
from leitwolf.daemon.timeline import Timeline
from leitwolf.model.commands import AddNode, Answer, Command, IssueToken, Refusal, SetQuorum
from leitwolf.model.errors import Conflict
from leitwolf.model.limits import NODES_MAX
from leitwolf.model.state import State
from leitwolf.peers.authority import create_identity, new_node_key, sign, signed_by
from leitwolf.peers.frames import JoinGrant, JoinRequest, Rejection
from leitwolf.peers.identity import save_identity
from leitwolf.peers.token import digest
from leitwolf.store import QuorumLog
from leitwolf.system.settings import Settings


def request(**changes: object) -> JoinRequest:
    made = JoinRequest(
        secret=b"s" * 16,
        name="n3",
        uuid="u",
        storage="d",
        request=b"csr",
        addresses={},
        realtime=True,
        stall_ms=0,
    )
    return msgspec.structs.replace(made, **changes)


def test_a_proof_is_about_one_request_by_one_key() -> None:
    """Another key, cluster, secret, name or certificate request: no proof."""
    mine, other = create_identity("cluster", "n3"), create_identity("cluster", "n2")
    statement = request().stated("cluster")
    proof = sign(mine.key, statement)
    assert signed_by(mine.certificate, statement, proof)
    assert not signed_by(other.certificate, statement, proof)
    assert not signed_by(b"no certificate", statement, proof)
    assert not signed_by(mine.certificate, statement, proof[:-1])
    for changed in (
        request().stated("another"),
        request(secret=b"t" * 16).stated("cluster"),
        request(name="n1").stated("cluster"),
        request(request=b"another").stated("cluster"),
    ):
        assert not signed_by(mine.certificate, changed, proof)
    assert sign(new_node_key("x").key, statement) != proof


def bootstrap(**changes: object) -> Bootstrap:
    made = Bootstrap(
        node=3, name="n3", uuid="u", cluster="cluster-1", cluster_name="lab", storage="storage-1",
        port=7000,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_a_token_is_made_of_what_a_node_still_has(tmp_path: Path) -> None:
    """Addresses of its lock-out, else of its grant; with neither it needs one from outside."""
    settings = Settings(runtime=tmp_path, state=tmp_path / "state", config=tmp_path / "etc")
    settings.state.mkdir()
    save_identity(settings.config, create_identity("cluster-1", "u"))
    QuorumLog.create(settings.state / "quorum", IDENTITY, sizes=SMALL).close()
    for known in (None, bootstrap()):
        with pytest.raises(Conflict) as raised:
            own_token(settings, known)
        assert raised.value.code == "token-needed"
        assert "node replace" in raised.value.hint
    granted = bootstrap(peers=(Peer(node=1, fingerprint="f", addresses=("10.0.0.1", "")),))
    token, _ = own_token(settings, granted)
    assert (token.cluster, token.addresses) == ("cluster-1", ("10.0.0.1",))
    assert own_token(settings, granted)[0].secret != token.secret
    locked = Lockout(
        storage="storage-1", code="state-rolled-back", text="", at_wall=0, addresses=("10.0.0.2",)
    )
    save_lockout(settings.state, locked)
    assert own_token(settings, granted)[0].addresses == ("10.0.0.2", "10.0.0.1")


# --- admission ------------------------------------------------------------------------------------


class Member:
    """What a member admits by: a played cluster's state, and the entries that arrive."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.world = World(nodes)
        self.settings = Settings(runtime=folder, config=folder / "etc")
        self.timeline = Timeline(lambda _, __: iter(()))
        save_identity(self.settings.config, create_identity("cluster", "u"))
        self.node: Any = self
        self.me = 1
        self.asked: list[Command] = []

    @property
    def state(self) -> State:
        return self.world.state

    def cluster_time(self, _: int) -> int:
        return self.world.now

    async def commit(self, command: Command, _: str, __: float) -> Answer:
        self.asked.append(command)
        found = self.world.command(command)
        assert isinstance(found, Judged)
        return Answer(index=self.state.index, data=found.data)

    async def admit(self, wanted: JoinRequest) -> JoinGrant | Rejection:
        member: Any = self
        return await admit(member, wanted, "192.0.2.4", self.commit)


def joining(**changes: object) -> JoinRequest:
    csr, addresses = new_node_key("u").request, {"192.0.2.0/24": "192.0.2.4"}
    return request(**{"name": "node4", "request": csr, "addresses": addresses, **changes})


@pytest.mark.asyncio
async def test_a_member_that_is_behind_waits_for_the_token(tmp_path: Path) -> None:
    """Another one issued it: this one has not the entry yet, but an older one arrives first."""
    member, wanted = Member(tmp_path, 3), joining()
    joined = asyncio.ensure_future(member.admit(wanted))
    await asyncio.sleep(0.1)
    member.timeline.restored(1)
    await asyncio.sleep(0.1)
    assert not joined.done()
    member.world.do(IssueToken(digest=digest(wanted.secret), lifetime_s=60))
    member.timeline.restored(2)
    assert isinstance(await joined, JoinGrant)


@pytest.mark.asyncio
async def test_a_token_that_nobody_issued_is_refused(tmp_path: Path) -> None:
    """After a moment, as it may still come."""
    member = Member(tmp_path, 3)
    found = await member.admit(joining())
    assert isinstance(found, Rejection)
    assert (found.code, found.text) == ("token-used", "the token is not known")
    assert not member.asked


@pytest.mark.asyncio
async def test_nobody_is_evicted_for_a_joiner_that_cannot_hold_the_profile(tmp_path: Path) -> None:
    """It is refused before room is made for it; who can is let in, and who was before, too."""
    member = Member(tmp_path, 3)
    wanted = joining(realtime=False)
    member.world.do(IssueToken(digest=digest(wanted.secret), lifetime_s=60))
    member.world.see(3, AWAY)
    member.world.settle()
    placed = msgspec.structs.replace(wanted, name="node3", replace=True)
    for one in (wanted, placed):
        found = await member.admit(one)
        assert isinstance(found, Rejection)
        assert found.code == "profile-too-short"
        assert "leitwolf set --profile virtual" in found.hint
    assert member.asked == []
    able = msgspec.structs.replace(wanted, realtime=True, stall_ms=20)
    assert isinstance(await member.admit(able), JoinGrant)
    again = msgspec.structs.replace(able, stall_ms=100)
    assert isinstance(await member.admit(again), JoinGrant)
    assert all(isinstance(command, AddNode) for command in member.asked)


# --- places on a disk ----------------------------------------------------------------------------


JOINING = AddNode(
    name="node4",
    uuid="uuid4",
    storage="disk4",
    addresses={"client": "192.0.2.4"},
    fingerprint="4" * 64,
    token="a" * 64,
)


def use_disk(world: World, slots: int) -> Judged | Refusal:
    command = SetQuorum(witness="disk", storage="00000001", location="/dev/quorum", slots=slots)
    return world.command(command)


def test_a_disk_without_a_place_for_every_node_is_refused() -> None:
    """The highest number counts; a disk of which nothing is known is not refused."""
    refusal = use_disk(World(3), 2)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field) == ("no-disk-slot", "slots")
    assert isinstance(use_disk(World(3), 3), Judged)
    assert isinstance(use_disk(World(3), 0), Judged)
    assert isinstance(use_disk(World(3), 65), Refusal)


def test_a_node_without_a_place_on_the_disk_does_not_join() -> None:
    """It could never lead; the token stays good for after the disk is replaced."""
    world = World(3)
    use_disk(world, 3)
    world.do(IssueToken(digest="a" * 64, lifetime_s=60))
    refusal = world.command(JOINING)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "no-disk-slot"
    assert "quorum replace LOCATION --nodes 64" in refusal.hint
    use_disk(world, 8)
    assert isinstance(world.command(JOINING), Judged)


def test_a_new_disk_without_places_is_to_be_formatted_anew() -> None:
    """There is none to replace yet; later there is."""
    world = World(3)
    refusal = use_disk(world, 2)
    assert isinstance(refusal, Refusal)
    assert refusal.hint.startswith("leitwolf quorum disk format /dev/quorum --nodes 64 ")
    use_disk(world, 3)
    refusal = use_disk(world, 2)
    assert isinstance(refusal, Refusal)
    assert refusal.hint.startswith("leitwolf quorum replace LOCATION --nodes 64")


def test_beyond_the_last_place_another_disk_is_not_advised() -> None:
    """None has a place for number 65; another kind of quorum has."""
    world = World(3)
    use_disk(world, NODES_MAX)
    world.state = msgspec.structs.replace(world.state, node_serial=NODES_MAX)
    world.do(IssueToken(digest="a" * 64, lifetime_s=60))
    refusal = world.command(JOINING)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "no-disk-slot"
    assert "--nodes" not in refusal.hint
    assert "leitwolf quorum set witness LOCATION" in refusal.hint
    world.do(SetQuorum())
    assert isinstance(world.command(JOINING), Judged)


@pytest.mark.parametrize(("slots", "advised"), [(8, "--nodes 64"), (NODES_MAX, "set witness")])
def test_a_node_is_not_replaced_where_its_successor_has_no_place(slots: int, advised: str) -> None:
    """The former one stays a member, and the hint names a way that there is."""
    world = World(3)
    use_disk(world, slots)
    gone = msgspec.structs.replace(world.state.nodes[3], up=False)
    nodes = {**world.state.nodes, 3: gone}
    state = msgspec.structs.replace(world.state, nodes=nodes, node_serial=slots)
    cluster: Any = SimpleNamespace(node=SimpleNamespace(state=state))

    async def commit(command: Command, *_: object) -> Answer:
        raise AssertionError(command)

    asked = request(name="node3", uuid="another", replace=True)
    rejection = asyncio.run(make_room(cluster, asked, "test", commit))
    assert rejection is not None
    assert rejection.code == "no-disk-slot"
    assert advised in rejection.hint
    assert rejection.hint.endswith("; then ask again")
