"""``leitwolf check``: what is missing is named, with what is lost by it and how to get it."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.unit.api_support import node_line, status_view
from tests.unit.test_docs import example

from leitwolf.cli import check
from leitwolf.cli.commands import cli
from leitwolf.daemon.service import DaemonService
from leitwolf.model.views import (
    EndView,
    FindingView,
    LinkView,
    MachineView,
    NetworkView,
    PairView,
    ProofView,
    StatusView,
    StrangerView,
)
from leitwolf.system.interfaces import InterfaceAddress
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL
from leitwolf.system.settings import Settings

Patch = pytest.MonkeyPatch


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens at."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        yield other.getsockname()[1]


def no_file(patch: Patch) -> None:
    patch.setattr(Path, "exists", lambda _: False)


def refuse(*_: object) -> None:
    raise PermissionError(1, "not here")


MINE = [
    InterfaceAddress("eth0", "192.0.2.1", "192.0.2.0/24", 0),
    InterfaceAddress("eth1", "127.0.0.2", "127.0.0.0/24", 0),
    InterfaceAddress("eth2", "192.0.2.80", "192.0.2.0/24", ADDRESS_PROTOCOL),
]

MISSING: dict[str, tuple[Callable[[Patch], object], Callable[[], check.Finding], str]] = {
    "root": (
        lambda patch: patch.setattr(os, "geteuid", lambda: 1000),
        lambda: check._root(None),
        "uid 1000",
    ),
    "real time": (
        lambda patch: patch.setattr(os, "sched_setscheduler", refuse),
        lambda: check._realtime(None),
        "refused",
    ),
    "real time that is not wanted": (
        lambda patch: patch.setenv("LEITWOLF_REALTIME", "no"),
        lambda: check._realtime(None),
        "switched off by LEITWOLF_REALTIME=no",
    ),
    "nftables": (
        lambda patch: patch.setattr(socket, "socket", refuse),
        lambda: check._nftables(None),
        "does not list its tables: not here",
    ),
    "watchdog": (no_file, lambda: check._watchdog(None), "/dev/watchdog: there is none"),
    "watchdog that is not wanted": (
        lambda patch: patch.setenv("LEITWOLF_WATCHDOG", "none"),
        lambda: check._watchdog(None),
        "switched off by LEITWOLF_WATCHDOG=none",
    ),
    "another watchdog": (
        lambda patch: patch.setenv("LEITWOLF_WATCHDOG", "/dev/nothing"),
        lambda: check._watchdog(None),
        "/dev/nothing: there is none",
    ),
    "cgroups": (no_file, lambda: check._cgroups(None), "no cgroup version 2"),
    "cgroups that others may make": (
        lambda patch: patch.setattr(check, "own_cgroup", lambda: Path("/proc/self")),
        lambda: check._cgroups(None),
        "none can be made in /proc/self: ",
    ),
    "addresses": (
        lambda patch: patch.setattr(check, "interface_addresses", list),
        lambda: check._interconnects(None),
        "no network address",
    ),
    "a second network": (
        lambda patch: patch.setattr(check, "interface_addresses", lambda: MINE[:1]),
        lambda: check._interconnects(None),
        "would take, for nodes and clients: eth0 (192.0.2.0/24) as lan",
    ),
    "kernel": (
        lambda patch: patch.setattr(platform, "release", lambda: "5.10.0-28-amd64"),
        check._kernel,
        "5.10.0",
    ),
    "runtime": (
        lambda patch: patch.setattr(check, "_mount_type", lambda _: "ext4"),
        lambda: check._runtime(Path("/var/leitwolf")),
        "/var/leitwolf on ext4",
    ),
    "state": (lambda _: None, lambda: check._state(Path("/proc/nowhere/state")), "No such file"),
    "slow state": (
        lambda patch: patch.setattr(check, "_SYNC_MS_MAX", 0.0),
        lambda: check._state(Path("/var/tmp")),
        "at worst",
    ),
    "daemon": (lambda _: None, lambda: check._cluster(None), "does not answer"),
}
"""What is missing -> how that is played, who looks, and what is said."""


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_is_named(monkeypatch: Patch, what: str) -> None:
    """Not ok; the text says what was found, which guarantee is lost, and what to do."""
    play, look, said = MISSING[what]
    with monkeypatch.context() as patch:
        play(patch)
        found = look()
    assert not found.ok
    assert said in found.found
    assert found.lost
    assert found.fix


def test_a_port_that_is_taken_is_named(monkeypatch: Patch, taken: int) -> None:
    """Before a cluster is formed, by protocol and number."""
    monkeypatch.setattr(check, "_PORT_DEFAULT", taken)
    found = check._port(None)
    assert not found.ok
    assert found.found.startswith(f"TCP {taken}: ")
    assert "--port" in found.fix


def formed(port: int, *peers: tuple[LinkView, ...], gate: bool = True) -> StatusView:
    """A cluster in which this node has an interconnect and a network of clients."""
    here = node_line(1, addresses={"ic": "127.0.0.2", "lan": "192.0.2.1"})
    lines = [node_line(number, links=links) for number, links in enumerate(peers, start=2)]
    return status_view(
        port=port,
        nodes=(here, *lines),
        proof=ProofView(address=gate, process=True, data=False),
        networks=(
            network("ic", "interconnect"),
            network("lan", "client", up=False, reason="eth0 is down, here"),
        ),
    )


def network(name: str, role: str, *, up: bool = True, reason: str = "") -> NetworkView:
    return NetworkView(name=name, subnets=("192.0.2.0/24",), role=role, up=up, reason=reason)


@pytest.mark.parametrize("kinds", ["both", "TCP", "UDP", "none"])
def test_it_is_looked_whether_somebody_listens(kinds: str) -> None:
    """At the port of the cluster and the own address between the nodes, TCP and UDP."""
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        tcp.bind(("127.0.0.2", 0))
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.2", port))
        if kinds not in ("both", "TCP"):
            tcp.close()
        if kinds not in ("both", "UDP"):
            udp.close()
        found = check._port(formed(port))
        away = replace(formed(port), nodes=(node_line(1, addresses={"ic": "192.0.2.200"}),))
        assert not check._port(away).ok  # the address is not of this machine
    if kinds == "both":
        assert found.ok
        assert found.found == f"TCP and UDP {port} are listened at on 127.0.0.2"
        return
    deaf = [f"{kind} {port} at 127.0.0.2" for kind in ("TCP", "UDP") if kind != kinds]
    assert not found.ok
    assert found.found == f"nobody listens: {', '.join(deaf)}"


def test_peers_are_told_with_what_reaches_them() -> None:
    """A firewall that lets only one of TCP and UDP through is seen, link by link."""

    def link(name: str, *, up: bool, stream: bool) -> LinkView:
        return LinkView(network=name, up=up, round_trip_ms=0.5, stream=stream)

    good = link("ic", up=True, stream=True)
    assert check._reach(formed(7000, (good,))).ok
    bad = (link("ic", up=True, stream=False), link("ic2", up=False, stream=True))
    assert not any(check._reach(formed(7000, (good, one))).ok for one in bad)
    found = check._reach(formed(7000, (good,), bad, (link("ic", up=False, stream=False),)))
    assert not found.ok
    assert found.found == (
        "n2 on ic: TCP and UDP; n3 on ic: UDP only; n3 on ic2: TCP only; n4 on ic: neither"
    )
    assert "port 7000" in found.fix
    assert check._reach(None).ok


def test_networks_are_told_with_address_and_interface(monkeypatch: Patch) -> None:
    """Before forming what init would take, without virtual addresses; then what is used."""
    monkeypatch.setattr(check, "interface_addresses", lambda: MINE)
    before = check._interconnects(None)
    assert before.ok
    assert before.found.endswith("eth0 (192.0.2.0/24) as lan, eth1 (127.0.0.0/24) as lan2")
    status = formed(7000)
    between, clients = check._interconnects(status), check._clients(status)
    assert (between.ok, between.found) == (False, "ic: 127.0.0.2 on eth1")
    assert (clients.ok, clients.found) == (False, "lan: 192.0.2.1 on eth0 (eth0 is down, here)")
    two = (network("ic", "interconnect"), network("lan", "both"))
    well = replace(status, networks=two)
    assert check._interconnects(well).ok
    assert check._clients(well).found == "lan: 192.0.2.1 on eth0"
    cut = replace(well, networks=(two[0], replace(two[1], up=False, reason="cut")))
    assert not check._interconnects(cut).ok
    assert not check._clients(replace(well, networks=two[:1])).ok


@pytest.mark.parametrize(
    ("tables", "gate", "ok"),
    [(["leitwolf"] * 4, True, True), (["leitwolf"] * 4, False, False), (["filter"], True, False)],
)
def test_the_gate_is_looked_for(
    monkeypatch: Patch, tables: list[str], gate: bool, ok: bool
) -> None:
    """In a cluster it is there, and the guard says so too."""
    monkeypatch.setattr(check.nfnetlink, "table_names", lambda _: tables)
    found = check._nftables(formed(7000, gate=gate))
    assert found.ok is ok
    assert found.found.endswith(f"({len(tables)}); the gate is in {tables.count('leitwolf')}")
    assert check._nftables(None).ok


@pytest.mark.root
def test_the_kernel_lists_tables_only_to_who_may_ask() -> None:
    """A user without CAP_NET_ADMIN opens the socket and is refused by the dump."""
    assert check._nftables(None).ok
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        found = check._nftables(None)
        os._exit(0 if not found.ok and "Operation not permitted" in found.found else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_cgroup_is_made_and_removed(monkeypatch: Patch, tmp_path: Path) -> None:
    """Nothing is left of the trial."""
    monkeypatch.setattr(check, "own_cgroup", lambda: tmp_path)
    assert check._cgroups(None).ok
    assert list(tmp_path.iterdir()) == []


GOT = MachineView(
    user=0,
    realtime=True,
    realtime_wanted=True,
    cgroups=True,
    watchdog="/dev/watchdog1",
    watched=True,
)


def got(**changes: object) -> StatusView:
    """A node in a cluster that got everything but these from the machine."""
    return status_view(machine=replace(GOT, **changes))


SAID: dict[str, tuple[Callable[[StatusView], check.Finding], StatusView, bool, str]] = {
    "root": (lambda view: check._root(view.machine), got(), True, "yes"),
    "another user": (lambda view: check._root(view.machine), got(user=7), False, "no (uid 7)"),
    "real time": (lambda view: check._realtime(view.machine), got(), True, "the guard has it"),
    "no real time": (
        lambda view: check._realtime(view.machine),
        got(realtime=False),
        False,
        "the guard did not get it",
    ),
    "real time not wanted": (
        lambda view: check._realtime(view.machine),
        got(realtime=False, realtime_wanted=False),
        False,
        "switched off by LEITWOLF_REALTIME=no",
    ),
    "cgroups": (lambda view: check._cgroups(view.machine), got(), True, "the host has them"),
    "no cgroups": (
        lambda view: check._cgroups(view.machine),
        got(cgroups=False),
        False,
        "the host uses PID namespaces",
    ),
    "watchdog": (check._watchdog, got(), True, "/dev/watchdog1: the guard feeds it"),
    "watchdog switched off": (
        check._watchdog,
        got(watchdog="none", watched=False),
        False,
        "switched off by LEITWOLF_WATCHDOG=none",
    ),
    "a watchdog that somebody else has": (
        check._watchdog,
        got(watched=False),
        False,
        "/dev/watchdog1: in use by another program",
    ),
    "a watchdog that was refused": (
        check._watchdog,
        got(watchdog="/dev/null", watched=False),
        False,
        "/dev/null: the guard did not get it",
    ),
    "a watchdog of a node in no cluster": (
        check._watchdog,
        replace(got(watchdog="/dev/null", watched=False), formed=False),
        True,
        "/dev/null: free, as far as can be seen",
    ),
}
"""What a node says that it got -> who looks, what the node says, whether that is all, in words."""


@pytest.mark.parametrize("what", SAID)
def test_a_node_that_answers_is_believed_and_not_the_shell(
    monkeypatch: Patch, tmp_path: Path, what: str
) -> None:
    """What this process may do, and what its environment wants, is nothing to the guard."""
    (tmp_path / "watchdog1").mkdir()
    (tmp_path / "watchdog1" / "state").write_text("active\n")
    look, view, ok, said = SAID[what]
    with monkeypatch.context() as patch:
        exists = Path.exists
        patch.setattr(Path, "exists", lambda path: path.name == "watchdog1" or exists(path))
        patch.setattr(check, "_WATCHDOGS", tmp_path)
        patch.setenv("LEITWOLF_WATCHDOG", "/dev/zero")
        patch.setenv("LEITWOLF_REALTIME", "auto" if not ok else "no")
        patch.setattr(os, "geteuid", lambda: 0 if not ok else 1000)
        patch.setattr(os, "sched_setscheduler", (lambda *_: None) if not ok else refuse)
        patch.setattr(check, "own_cgroup", lambda: None if ok else tmp_path)
        found = look(view)
    assert (found.ok, found.found) == (ok, said)


def test_a_node_says_what_its_processes_say_that_they_got(tmp_path: Path) -> None:
    """Nothing, until guard and host are there; also of a node that is in no cluster."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    settings = Settings(runtime=runtime, state=tmp_path, config=tmp_path, watchdog="none")
    page = runtime / "progress.page"
    daemon = DaemonService(settings, Progress(page))
    assert daemon.status().machine is None
    for role, flags in ((Role.GUARD, Flag.REALTIME), (Role.HOST, Flag.CGROUPS)):
        process = Progress(page)
        process.begin(role)
        process.mark(flags)
        assert daemon.status().machine is None
        process.advance(1)
    assert daemon.status().machine == MachineView(
        user=os.geteuid(),
        realtime=True,
        realtime_wanted=True,
        cgroups=True,
        watchdog="none",
        watched=False,
    )


def test_the_guard_is_believed_where_this_user_may_not_look(monkeypatch: Patch) -> None:
    """Who may ask the daemon need not be one whom the kernel tells its tables."""
    monkeypatch.setattr(check.nfnetlink, "table_names", refuse)
    assert check._nftables(formed(7000)).ok
    assert not check._nftables(formed(7000, gate=False)).ok
    assert not check._nftables(None).ok


STRANGER = StrangerView(address="10.0.0.9", count=5)


def broken(one: str, other: str, how: str) -> StatusView:
    """Three nodes of which two do not hear each other; nothing else is wrong."""
    ends = (EndView(node=one, hears=how != "down"), EndView(node=other, hears=False))
    pair = PairView(nodes=(one, other), state=how, reason="", since_wall=0, ends=ends)
    view = example()
    client, interconnect = view.networks
    nodes = tuple(replace(node, up=True, links=()) for node in view.nodes)
    networks = (client, replace(interconnect, pairs=(pair,)))
    return replace(view, nodes=nodes, networks=networks, advice="")


HALVES = FindingView(code="two-forced-halves", text="TWO FORCED HALVES", fix="leitwolf give-up")


@pytest.mark.parametrize(
    ("look", "view", "said"),
    [
        (check._cluster, example(), "links down: n3 by interconnect"),
        (check._cluster, broken("n2", "n3", "down"), "links down: n2–n3 by interconnect"),
        (check._cluster, broken("n1", "n2", "one-way"), "links down: n1–n2 by interconnect"),
        (check._interconnects, example(), "interconnect"),
        (check._strangers, replace(example(), strangers=(STRANGER,)), "10.0.0.9"),
        (check._histories, replace(example(), findings=(HALVES,)), "TWO FORCED HALVES"),
    ],
)
def test_what_is_wrong_with_the_cluster_is_named(
    look: Callable[[StatusView], check.Finding], view: StatusView, said: str
) -> None:
    """A link that is down, one interconnect only, another cluster, two histories."""
    found = look(view)
    assert not found.ok
    assert said in found.found
    assert found.lost
    assert found.fix


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_ends_with_1_when_something_is_lost(tmp_path: Path, form: str) -> None:
    """One line each, and two more for what is lost; JSON has all of it."""
    options = ["--json"] if form == "json" else []
    done = CliRunner().invoke(cli, ["--runtime", str(tmp_path), "check", *options])
    assert done.exit_code == 1, done.output
    if form == "text":
        assert "LOST  daemon: does not answer\n      lost: " in done.output
        assert "      -> systemctl enable --now leitwolf" in done.output
        return
    found = {one["name"]: one for one in json.loads(done.output)}
    assert set(found["daemon"]) == {"name", "ok", "found", "lost", "fix"}
    assert found["daemon"]["ok"] is False
    names = {"root", "kernel", "real-time scheduling", "nftables", "cgroups", "watchdog", "port"}
    names |= {"interconnect", "clients", "peers"}
    assert names <= set(found)
