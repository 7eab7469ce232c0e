"""Real nodes whose only acceptor is an etcd: any one of them is enough, and none without it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.world import CLIENT
from tests.integration.membership_support import MEMBERS, Members, formed

from leitwolf.model.views import QuorumView, StatusView

pytestmark = [pytest.mark.root, pytest.mark.needs("etcd")]

_PORT = 2379
_WAIT_S = 30.0
_MEMORY = Path("/dev/shm")


@pytest.fixture
def members() -> Iterator[Members]:
    with formed() as cluster:
        yield cluster


@pytest.fixture
def engine(members: Members) -> Iterator[subprocess.Popen[bytes]]:
    """An etcd on the clients' machine; its disk is memory, so that the protocol is tested."""
    data = _MEMORY / f"leitwolf-{os.getpid()}.etcd"
    url = f"http://{members.world.address(CLIENT)}:{_PORT}"
    server = subprocess.Popen(
        [
            *members.world.enter_network(CLIENT),
            "etcd",
            f"--data-dir={data}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(data, ignore_errors=True)


def use_engine(members: Members) -> None:
    """Let it decide alone, once it answers."""
    location = f"etcd://{members.world.address(CLIENT)}:{_PORT}/lab"
    deadline = time.monotonic() + _WAIT_S
    while (done := members.lab.command("n1", "witness", "test", location)).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    members.run("quorum", "set", "witness", location, "--alone")

    def alone(view: QuorumView) -> bool:
        weights = [member.weight for member in view.members if member.weight]
        return not view.joint and weights == [1] and view.votes == 1

    members.until_quorum("n1", alone, "the engine alone")


def online(view: StatusView) -> bool:
    return view.quorum and all(group.status == "online" for group in view.groups)


def test_an_engine_is_the_only_acceptor(members: Members, engine: subprocess.Popen[bytes]) -> None:
    """Leader after leader dies; the last node serves; it stops without the engine and comes back.

    Changes that were confirmed before a death are there after it.
    """
    before = [group.generation for group in members.status("n1").groups]
    use_engine(members)
    assert [group.generation for group in members.status("n1").groups] == before
    left = set(MEMBERS)
    for restarts in (3, 4):
        leader = members.until(min(left), online, "the group online").leader
        members.run("group", "set", "web", "--restarts", str(restarts), node=leader)
        members.world.power_off(leader)
        left.discard(leader)
        members.until(
            min(left),
            lambda view: online(view) and {view.leader, view.groups[0].owner} <= left,
            "another leader, the group online with a living owner",
        )
        assert f"restart_threshold={restarts}" in members.log_text(min(left))
    [last] = left
    engine.send_signal(signal.SIGSTOP)
    members.until(last, lambda view: not view.quorum, "no quorum without the engine")
    engine.send_signal(signal.SIGCONT)
    members.until(last, online, "the group online again")
