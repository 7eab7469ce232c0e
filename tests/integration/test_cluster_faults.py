"""Faults of network, kernel and processes on a cluster of five real nodes in namespaces.

A client asks the group's address, an observer beside it watches which machines answer for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lab.cluster import LabCluster
from lab.observer import Observer
from lab.prober import Prober
from lab.world import CLIENT, SWITCH, World
from tests.integration.fault_support import (
    CALM_S,
    GROUP,
    LAB,
    PORT,
    SOON_MS,
    VIP,
    VIP6,
    Calm,
    given_up,
    links_up,
    named,
)

from leitwolf.system.progress import Role

pytestmark = [pytest.mark.root, pytest.mark.gathers]

ALL = (Role.KEEPER, Role.GUARD, Role.DAEMON, Role.HOST)


@pytest.fixture(scope="module")
def calm() -> Iterator[Calm]:
    """A cluster of five with two interconnects and the group ``web``; shared by all tests."""
    with ExitStack() as stack:
        world = stack.enter_context(World(5, interconnects=2))
        cluster = LabCluster(world)
        stack.callback(cluster.close)
        cluster.form()
        prober = stack.enter_context(Prober(world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(world, [VIP, VIP6]))
        calm = Calm(cluster, prober, observer)
        calm.do(
            "group", "add", GROUP, "--address", f"{VIP}/24", "--address", f"{VIP6}/64",
            "--restarts=2", "--run", f"{sys.executable} -S -E {LAB / 'echo.py'} {PORT} web",
        )  # fmt: skip
        yield calm


# --- two faults at once --------------------------------------------------------------------------


def test_leader_and_owner_lose_power_together(calm: Calm) -> None:
    """The three that are left elect a leader, which takes the group over when its lease is over."""
    calm.settle()
    calm.lead("n1")
    calm.place("n2")
    with calm.watch() as seen:
        calm.world.power_off("n1")
        calm.world.power_off("n2")
        assert seen.answers_again()
        assert calm.until_gone("n2") != "n1"
    assert seen.two_owners_ms == 0
    assert seen.outage_ms < SOON_MS


def test_leader_that_owns_the_group_loses_power(calm: Calm) -> None:
    """The next leader places the group with its first entry."""
    calm.settle()
    leader = calm.leader()
    calm.place(leader)
    with calm.watch() as seen:
        calm.world.power_off(leader)
        assert seen.answers_again()
        calm.until_gone(leader)
    assert seen.two_owners_ms == 0
    assert seen.outage_ms < SOON_MS


# --- frozen --------------------------------------------------------------------------------------


def freeze(calm: Calm, node: str, *roles: Role) -> None:
    """Stop these processes of a node, or all of it."""
    calm.world.freeze(node, calm.roles(node, *roles) if roles else None)


def test_frozen_owner_is_silent_and_stays_so_when_it_thaws(calm: Calm) -> None:
    """Its address stops by the kernel alone; thawed, it first stops what it has no lease for."""
    calm.settle()
    owner = calm.owner()
    with calm.watch() as seen:
        freeze(calm, owner)
        calm.until_gone(owner)
        assert seen.answers_again()
        calm.world.thaw(owner)
    assert seen.two_owners_ms == 0
    assert seen.moved(1), seen.story
    assert seen.outages
    assert seen.outage_ms < SOON_MS


def test_frozen_guard_costs_the_node_its_groups(calm: Calm) -> None:
    """Nobody holds the lease any more: the group moves, and the host ends what is left."""
    calm.settle()
    owner = calm.owner()
    with calm.watch() as seen:
        freeze(calm, owner, Role.GUARD)
        calm.until_gone(owner)
        assert seen.answers_again()
        calm.world.thaw(owner)
    assert seen.two_owners_ms == 0
    assert seen.moved(1), seen.story
    assert seen.outages


@pytest.mark.parametrize("leads", [False, True], ids=["follower", "leader"])
def test_frozen_daemon_stops_nothing(calm: Calm, leads: bool) -> None:
    """Its groups go on; a leader's office goes to another node."""
    calm.settle()
    owner = calm.owner()
    calm.lead(owner if leads else calm.other(owner))
    with calm.watch() as seen:
        freeze(calm, owner, Role.DAEMON)
        asker = calm.other(owner)
        calm.until_seen(asker, lambda view: view["quorum"] and view["leader"] != owner, "a leader")
        time.sleep(1.0)
        assert calm.group(node=asker)["owner"] == owner
        calm.world.thaw(owner)
    assert calm.owner() == owner
    assert seen.outage_ms < SOON_MS
    assert seen.two_owners_ms == 0


def test_frozen_host_stops_nothing_and_obeys_later(calm: Calm) -> None:
    """What runs goes on; an order waits for it, and the group moves once it thaws."""
    calm.settle()
    owner = calm.owner()
    with calm.watch() as seen:
        freeze(calm, owner, Role.HOST)
        target = calm.other(owner)
        calm.do("group", "move", GROUP, target, "--no-wait", node=owner)
        time.sleep(1.0)
        assert calm.group(node=target)["owner"] == owner
        calm.wait_for(
            lambda: "confirm" in calm.do("why", GROUP, node=target)["waits_for"],
            "what it waits for",
        )
        calm.world.thaw(owner)
        calm.until_online(target)
    assert seen.two_owners_ms == 0
    assert seen.outage_ms < SOON_MS


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ALL, ids=[role.name.lower() for role in ALL])
def test_killed_process_of_the_owner_costs_nothing(calm: Calm, role: Role) -> None:
    """It is started again and adopts what runs: the same process serves on."""
    calm.settle()
    owner = calm.owner()
    server = calm.server(owner)
    with calm.watch() as seen:
        before = calm.pid(owner, role)
        calm.kill(owner, role)
        deadline = time.monotonic() + CALM_S
        while not calm.has_other(owner, role, before):
            assert time.monotonic() < deadline, f"no new {role.name}"
            time.sleep(0.05)
        time.sleep(0.5)
    assert calm.owner() == owner
    assert calm.server(owner) == server
    assert seen.outage_ms < SOON_MS
    assert seen.two_owners_ms == 0


def test_all_processes_killed_at_once(calm: Calm) -> None:
    """The kernel's lease shuts the addresses; the next keeper ends what was left."""
    calm.settle()
    owner = calm.owner()
    with calm.watch() as seen:
        calm.kill(owner, *ALL)
        calm.until_gone(owner)
        assert seen.answers_again()
        left = calm.world.run(owner, ["ip", "-br", "addr", "show", "client0"]).stdout
        assert f"{VIP}/" in left, "nobody is there who could remove it"
        calm.server(owner)
        calm.cluster.run(owner)
        calm.settle()
        if calm.owner() != owner:
            left = calm.world.run(owner, ["ip", "-br", "addr", "show", "client0"]).stdout
            assert f"{VIP}/" not in left
            assert not calm.world.run(owner, ["pgrep", "-f", "echo.py"], check=False).stdout
    assert seen.two_owners_ms == 0
    assert seen.moved(1), seen.story
    assert seen.outages


# --- network -------------------------------------------------------------------------------------


def test_partitioned_owner_stops_before_another_starts(calm: Calm) -> None:
    """Cut off from the others but not from clients, the owner falls silent in time."""
    calm.settle()
    owner = calm.owner()
    with calm.watch() as seen:
        calm.world.cut(owner, ["ic0", "ic1"])
        calm.until_gone(owner)
        assert seen.answers_again()

        def alone(view: dict[str, Any]) -> bool:
            told = any("lease over" in line["text"] for line in view["stopped"])
            return told and not view["quorum"]

        with calm.sparing(owner):
            calm.until_seen(owner, alone, "the stop to be told")
        calm.mend()
    assert seen.two_owners_ms == 0
    assert seen.moved(1), seen.story
    assert seen.outages
    assert seen.outage_ms < SOON_MS


def test_owner_that_hears_but_is_not_heard(calm: Calm) -> None:
    """Half a cable: without acks no lease is prolonged, so the owner stops in time."""
    calm.settle()
    owner = calm.owner()
    mute = [port for port in calm.ports(owner) if "-ic" in port]
    assert len(mute) == 2, mute
    devices = ", ".join(mute)
    chain = f"{{ type filter hook ingress devices = {{ {devices} }} priority 0; policy drop; }}"
    with calm.watch() as seen:
        nft = f"add table netdev mute; add chain netdev mute in {chain}"
        calm.world.run(SWITCH, ["nft", nft])
        try:
            calm.until_gone(owner)
            assert seen.answers_again()
        finally:
            calm.world.run(SWITCH, ["nft", "delete table netdev mute"])
    assert seen.two_owners_ms == 0
    assert seen.moved(1), seen.story
    assert seen.outages


def test_second_interconnect_takes_over_without_failover(calm: Calm) -> None:
    """One of two links of the owner, then of the leader, is cut: nothing moves, status says so."""
    calm.settle()
    owner = calm.owner()
    with calm.watch() as seen:
        for node, link in ((owner, "ic0"), (calm.leader(), "ic1")):
            calm.world.cut(node, [link])
            asker = calm.other(node)
            for up in (False, True):
                calm.until_seen(
                    asker,
                    lambda view, node=node, up=up: links_up(view, node, up, True),
                    f"{link} of {node} to be up: {up}",
                )
                calm.world.heal(node, [link])
    assert seen.moved(0), seen.story
    assert seen.outage_ms < SOON_MS
    assert seen.two_owners_ms == 0


# --- addresses -----------------------------------------------------------------------------------


def test_an_address_that_a_machine_has_is_not_taken(calm: Calm) -> None:
    """``group add`` says in words who has it and ends with 4; nothing answers for it twice."""
    calm.settle()
    taken = "10.77.2.201"
    calm.world.run(CLIENT, ["ip", "addr", "add", f"{taken}/24", "dev", "client0"])
    try:
        add = ("group", "add", "dup", "--address", f"{taken}/24")
        while (said := calm.refusal(*add, code=4))["code"] == "group-exists":  # one got no answer
            calm.do("group", "remove", "dup", "--force")
        assert said["code"] == "address-conflict"
        assert taken in said["error"]
        assert calm.world.mac(CLIENT) in said["error"]
        assert calm.group("dup")["status"] != "online"
        for node in calm.world.nodes:
            assert taken not in calm.world.run(node, ["ip", "addr"]).stdout
    finally:
        calm.world.run(CLIENT, ["ip", "addr", "del", f"{taken}/24", "dev", "client0"])
        calm.do("group", "remove", "dup", "--force")


def test_a_conflict_that_appears_later_is_reported(calm: Calm) -> None:
    """Somebody else announces the group's address: the log says so, the group stays."""
    calm.settle()
    owner, after = calm.owner(), calm.newest()
    announce = (
        "import socket;s=socket.socket(17,3);s.bind(('client0',0));m=s.getsockname()[4];"
        f"a=socket.inet_aton('{VIP}');"
        "s.send(b'\\xff'*6+m+bytes.fromhex('0806000108000604')+b'\\0\\1'+m+a+bytes(6)+a)"
    )

    def told() -> str:
        calm.world.run(CLIENT, [sys.executable, "-S", "-E", "-c", announce])
        return calm.until_told("address-conflict", after, timeout_s=5)

    line = calm.wait_for(told, "the conflict to be told")
    assert calm.world.mac(CLIENT) in line
    assert calm.owner() == owner


def test_local_services_reach_the_address_only_under_the_lease(calm: Calm) -> None:
    """On the owner itself the address answers over the loopback, until the lease is over."""
    calm.settle()
    owner = calm.owner()
    ask = [
        sys.executable, "-S", "-E", "-c",
        (
            f"import socket;s=socket.create_connection(('{VIP}',{PORT}),0.5);s.send(b'x');"
            "print(s.recv(99))"
        ),
    ]  # fmt: skip

    def until_reached(node: str) -> None:
        calm.wait_for(lambda: "web" in calm.world.run(node, ask, check=False).stdout, "the address")

    until_reached(owner)
    until_reached(calm.other(owner))
    with calm.watch() as seen:
        freeze(calm, owner, *ALL)
        calm.until_gone(owner)
        assert calm.world.run(owner, ask, check=False).returncode != 0
        until_reached(calm.other(owner))
    assert seen.two_owners_ms == 0


# --- interfaces and rules ------------------------------------------------------------------------


def down(view: dict[str, Any]) -> bool:
    """Return whether a view shows that the clients' network is down, here, and no other one is."""
    found = [(item["role"], item["reason"]) for item in view["networks"] if not item["up"]]
    return found == [("client", "client0 is down, here")]


def test_interface_of_the_owner_goes_down(calm: Calm) -> None:
    """The group leaves the node whose interface is down, and the log says that."""
    calm.settle()
    owner, after = calm.owner(), calm.newest()
    with calm.watch() as seen:
        calm.world.run(owner, ["ip", "link", "set", "client0", "down"])
        try:
            calm.until_gone(owner)
            assert seen.answers_again()
            calm.until_told("client0 is down", after)
            calm.until_seen(owner, down, "the client network, and no other, to be down")
        finally:
            calm.world.run(owner, ["ip", "link", "set", "client0", "up"])
            own6 = f"{calm.world.address(owner, family=6)}/64"  # forgotten with the link
            calm.world.run(owner, ["ip", "addr", "replace", own6, "dev", "client0", "nodad"])
    assert seen.two_owners_ms == 0
    calm.do("group", "recover", GROUP, node=owner)


def test_interface_of_the_owner_is_removed_and_comes_back(calm: Calm) -> None:
    """The group leaves, the log says why, and it can come back to the new interface."""
    calm.settle()
    world, owner, after = calm.world, calm.owner(), calm.newest()
    port = next(port for port in calm.ports(owner) if port.endswith("client0"))
    with calm.watch() as seen:
        world.run(owner, ["ip", "link", "del", "client0"])
        calm.until_gone(owner)
        assert seen.answers_again()
        calm.until_told(f"interface of {VIP} was removed", after)
        mac, bridge = world.mac(owner), "br-client0"
        for machine, command in (
            (SWITCH, f"link add {port} type veth peer name client0 netns {world.pid(owner)}"),
            (SWITCH, f"link set {port} master {bridge} up"),
            (owner, f"link set client0 address {mac} up"),
            (owner, f"addr add {world.address(owner)}/24 dev client0"),
            (owner, f"addr add {world.address(owner, family=6)}/64 dev client0 nodad"),
        ):
            subprocess.run([*world.enter_network(machine), "ip", *command.split()], check=True)
    assert seen.two_owners_ms == 0
    calm.do("group", "recover", GROUP, node=owner)
    calm.place(owner)
    with calm.watch() as seen:  # the new interface is covered by the kernel's lease as well
        calm.wait_for(lambda: "egress" in calm.gate(owner), "the gate of the new interface")
        freeze(calm, owner)
        calm.until_gone(owner)
        world.thaw(owner)
    assert seen.two_owners_ms == 0


@pytest.mark.parametrize("how", ["flush", "reload"])
def test_rules_flushed_by_others_are_built_anew(calm: Calm, how: str) -> None:
    """The address goes on answering; the gate is back at once, reported, and works."""
    calm.settle()
    owner, after = calm.owner(), calm.newest()
    foreign = "flush ruleset\n"
    if how == "reload":
        foreign += "table inet filter { chain input { type filter hook input priority 0; }; }\n"
    rules = calm.world.folder / "foreign.nft"
    rules.write_text(foreign)
    with calm.watch() as seen:
        calm.world.run(owner, ["nft", "-f", str(rules)])
        calm.until_told("gate-rebuilt", after)
        shown = calm.gate(owner)
        assert shown.count("table") >= 4
        assert VIP in shown
        assert "egress" in shown
    assert seen.moved(0), seen.story
    assert seen.outage_ms < SOON_MS
    with calm.watch() as seen:  # it still guards
        freeze(calm, owner)
        calm.until_gone(owner)
        calm.world.thaw(owner)
    assert seen.two_owners_ms == 0
    calm.world.run(owner, ["nft", "delete table inet filter"], check=False)


def test_large_rule_loads_by_others_cost_nothing(calm: Calm) -> None:
    """Ten thousand rules, three times: no false failover, the address answers throughout."""
    calm.settle()
    owner = calm.owner()
    lines = ["table inet crowd", "delete table inet crowd", "table inet crowd {", " chain many {"]
    lines += [
        f"  ip saddr 198.18.{i // 250}.{i % 250} tcp dport {i % 60000 + 1} accept"
        for i in range(10_000)
    ]
    rules = calm.world.folder / "crowd.nft"
    rules.write_text("\n".join([*lines, " }", "}"]))
    with calm.watch() as seen:
        for _ in range(3):
            calm.world.run(owner, ["nft", "-f", str(rules)])
    calm.world.run(owner, ["nft", "delete table inet crowd"], check=False)
    assert seen.moved(0), seen.story
    assert seen.outage_ms < SOON_MS
    assert seen.two_owners_ms == 0


# --- the managed process -------------------------------------------------------------------------


def test_killed_process_is_restarted_then_moved_then_given_up(calm: Calm) -> None:
    """One restart in place, then other nodes, then failed; ``group recover`` begins anew."""
    calm.settle()
    calm.add_group("job", "--run", "sleep 7771", "--restarts=1")
    calm.do("group", "set", "job", "--failovers=1")
    group = calm.until_status("job", "online")
    seen = [group["owner"]]
    for _ in range(4):
        owner = group["owner"]
        killed = calm.server(owner, "sleep 7771")
        calm.world.run(owner, ["kill", "-9", str(killed)])

        lasts = given_up("job")

        def settled(
            view: dict[str, Any], owner: str = owner, killed: int = killed, lasts: Any = lasts
        ) -> bool:
            """Given up, or another one runs: that the former one ended may not be known yet."""
            group.update(named(view, "job"))
            seen.append(group["owner"])
            if group["status"] != "online":
                return bool(lasts(view))
            if group["owner"] != owner:
                return True
            return calm.servers(owner, "sleep 7771") not in ([], [killed])

        calm.until(settled, "job to settle")
        if group["status"] == "failed":
            break
    assert calm.group("job")["status"] == "failed"
    owners = [node for node in seen if node]
    places = [node for node, former in zip(owners, ["", *owners], strict=False) if node != former]
    assert len(places) == 2, places
    told = calm.do("why", "job")
    assert "recover" in told["waits_for"]
    calm.until_exit(10)
    calm.do("group", "recover", "job")
    calm.until_status("job", "online")
    calm.do("group", "remove", "job", "--force")


def test_process_that_ignores_sigterm_is_killed_in_time(calm: Calm) -> None:
    """Offline waits for its stop timeout, not longer, and leaves nothing."""
    calm.settle()
    calm.add_group("deaf")
    calm.do(
        "resource", "add", "deaf", "deaf-app", "process",
        "command=sh -c 'trap \"\" TERM; while :; do sleep 7772; done'", "stop_timeout_ms=700",
    )  # fmt: skip
    owner = calm.until_status("deaf", "online")["owner"]
    begun = time.monotonic()
    view = calm.do("group", "offline", "deaf")
    assert view["status"] == "offline"
    assert 0.6 < time.monotonic() - begun < 20
    assert not calm.world.run(owner, ["pgrep", "-f", "sleep 7772"], check=False).stdout
    calm.do("group", "remove", "deaf", "--force")


def test_start_that_never_gets_ready_fails_in_words(calm: Calm) -> None:
    """Its check never succeeds: failed after its time, on every node, and nothing is left."""
    calm.settle()
    calm.add_group("slow", "--restarts=0")
    calm.do("group", "set", "slow", "--failovers=1")
    calm.do(
        "resource", "add", "slow", "slow-app", "process", "command=sleep 7773",
        "check_tcp=127.0.0.1:9", "ready_timeout_ms=500", "--no-wait",
    )  # fmt: skip
    group = named(calm.until(given_up("slow"), "slow to be given up"), "slow")
    assert group["resources"][0]["code"] == "ready-timeout"
    assert "not ready after 500 ms" in group["resources"][0]["reason"]
    for node in calm.world.nodes:
        assert not calm.world.run(node, ["pgrep", "-f", "sleep 7773"], check=False).stdout
    calm.do("group", "remove", "slow", "--force")


# --- what users do -------------------------------------------------------------------------------


def test_refusals_name_field_value_range_and_what_to_do(calm: Calm) -> None:
    """Bad input ends with 2 (3: no such thing, 4: contradicts the state) and a coded reason."""
    calm.settle()
    outside = calm.refusal("group", "add", "far", "--address", "192.168.7.7/24")
    assert outside["code"] == "address-outside"
    assert "192.168.7.7" in outside["error"]
    assert "10.77.2.0/24" in outside["error"]
    assert outside["field"] == "address"
    assert outside["hint"]
    own = calm.refusal("group", "add", "own", "--address", f"{calm.world.address('n2')}/24", code=4)
    assert own["code"] == "address-in-use"
    circle = calm.refusal("resource", "set", f"{GROUP}-ip", "--after", f"{GROUP}-app")
    assert circle["code"] == "dependency-cycle"
    assert f"{GROUP}-ip -> " in circle["error"] + " -> "
    needed = calm.refusal("resource", "remove", f"{GROUP}-ip", code=4)
    assert f"{GROUP}-app" in needed["error"]
    wrong = calm.refusal("resource", "set", f"{GROUP}-app", "check_interval_ms=5")
    assert wrong["field"] == "check_interval_ms"
    assert "5" in wrong["error"]
    assert "20" in wrong["error"] + wrong["hint"]
    unknown = calm.refusal("resource", "add", GROUP, "more", "process", "comand=true")
    assert "comand" in unknown["error"]
    assert calm.refusal("group", "online", "nothing", code=3)["code"] == "unknown-group"
    assert calm.refusal("group", "move", GROUP, "n9", code=3)["error"]
    lines = calm.ended("group", "add", "far", "--address", "192.168.7.7/24", code=2)
    assert "->" in lines.stderr
    assert not lines.stdout


def test_check_looks_at_what_runs(calm: Calm) -> None:
    """Who listens, which nodes are reached by TCP and by UDP, networks and the gate."""
    calm.settle()
    looked = ("port", "peers", "clients", "nftables")
    found: dict[str, dict[str, Any]] = {}

    def well() -> bool:
        said = json.loads(calm.cluster.command("n1", "check", "--json").stdout)
        found.update((one["name"], one) for one in said)
        return all(found[name]["ok"] for name in looked)

    calm.wait_for(well, f"{looked} to be well")
    links = len(found["interconnect"]["found"].split("; "))
    assert found["peers"]["found"].count("TCP and UDP") == links * (len(calm.world.nodes) - 1)
    assert found["clients"]["found"].endswith(f"{calm.world.address('n1')} on client0")


def test_operator_moves_drains_and_stops(calm: Calm) -> None:
    """Move, pause with drain, resume, offline, online, a resource offline: as a user does it."""
    calm.settle()
    first = calm.owner()
    second = calm.other(first)
    moved = calm.do("group", "move", GROUP, second)
    assert (moved["owner"], moved["status"]) == (second, "online")
    calm.do("node", "pause", second)
    assert calm.owner() != second
    refused = calm.refusal("group", "move", GROUP, second, code=4)
    assert refused["code"] == "node-paused"
    assert "resume" in refused["hint"]
    calm.do("node", "resume", second)
    assert calm.do("group", "move", GROUP, second)["owner"] == second
    assert calm.do("group", "offline", GROUP)["status"] == "offline"
    for node in calm.world.nodes:
        assert VIP not in calm.world.run(node, ["ip", "addr"]).stdout
    calm.until_exit(0)
    assert calm.do("group", "online", GROUP)["status"] == "online"
    calm.do("resource", "offline", f"{GROUP}-app")
    wanted = {f"{GROUP}-ip": "online", f"{GROUP}-ip2": "online", f"{GROUP}-app": "offline"}

    def partial(view: dict[str, Any]) -> bool:
        group = named(view)
        states = {item["id"]: item["state"] for item in group["resources"]}
        return group["status"] == "partially-online" and states == wanted

    calm.until(partial, f"{GROUP} to be partially online")
    calm.do("resource", "online", f"{GROUP}-app")
    calm.until_status(GROUP, "online")
