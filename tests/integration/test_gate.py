"""The kernel's lease on addresses, with real packets between network namespaces."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from lab.processes import state_of
from tests.integration import kernel_support as support
from tests.integration.kernel_support import OWN4, OWN6, VIRTUAL4, VIRTUAL6, World, inside

from leitwolf.system.gate import ARM_MAXIMUM_MS, ARM_MINIMUM_MS, Gate
from leitwolf.system.rtnetlink import marked_addresses

pytestmark = pytest.mark.root

VIRTUAL = (VIRTUAL4, VIRTUAL6)
PROBES = [(probe, address) for probe in ("ping", "resolve") for address in VIRTUAL]
LONG_MS = 20_000
LEASE = 1 << 62 | 7 << 32 | 5
Probe = Callable[[str], bool]


@pytest.fixture
def net() -> Iterator[World]:
    with support.world() as world:
        yield world


@pytest.fixture
def probes(net: World) -> Iterator[dict[str, Probe]]:
    with net.probes() as probes:
        assert all(probes[probe](address) for probe, address in PROBES), "no gate yet"
        yield probes


@pytest.fixture
def gate(net: World) -> Iterator[Gate]:
    with inside(net.node):
        gate = Gate()
    with gate:
        yield gate


def answering(probes: dict[str, Probe]) -> list[tuple[str, str]]:
    return [(probe, address) for probe, address in PROBES if probes[probe](address)]


def in_node(net: World, *command: str) -> str:
    result = subprocess.run(
        ["ip", "netns", "exec", net.node, *command], check=True, capture_output=True, text=True
    )
    return result.stdout


def test_addresses_answer_only_while_armed(gate: Gate, probes: dict[str, Probe]) -> None:
    """Ping, ARP and neighbour discovery: silent when installed, there when armed, silent again."""
    gate.install(VIRTUAL)
    assert answering(probes) == []
    assert gate.arm(LONG_MS, LEASE, renewal=False)
    assert answering(probes) == PROBES
    gate.disarm()
    assert answering(probes) == []


def test_the_nodes_own_addresses_are_not_touched(gate: Gate, probes: dict[str, Probe]) -> None:
    """What is not managed passes, whatever the lease."""
    gate.install(VIRTUAL)
    for address in (OWN4, OWN6):
        assert probes["ping"](address)
        assert probes["resolve"](address)


def test_managed_addresses_need_to_be_held(gate: Gate, probes: dict[str, Probe]) -> None:
    """An address that this node may not use is silent under a running lease; others answer."""
    gate.install()
    gate.arm(LONG_MS, LEASE, renewal=False)
    assert answering(probes) == PROBES
    gate.manage(VIRTUAL)
    assert answering(probes) == []
    gate.hold([VIRTUAL6])
    assert answering(probes) == [("ping", VIRTUAL6), ("resolve", VIRTUAL6)]
    gate.hold([VIRTUAL4], remove=[VIRTUAL6])
    assert answering(probes) == [("ping", VIRTUAL4), ("resolve", VIRTUAL4)]
    gate.manage(remove=VIRTUAL)
    assert answering(probes) == PROBES


def test_nothing_is_sent_from_a_shut_address(
    gate: Gate, net: World, probes: dict[str, Probe]
) -> None:
    """Sockets of the node cannot send from it, nor can the node reach it over its loopback."""
    gate.install(VIRTUAL)
    with inside(net.node):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, local:
        sender.bind((VIRTUAL4, 0))
        with pytest.raises(PermissionError):
            sender.sendto(b"x", (support.CLIENT4, 9))
        with pytest.raises(PermissionError):
            local.sendto(b"x", (VIRTUAL4, 9))
        gate.arm(LONG_MS, LEASE, renewal=False)
        sender.sendto(b"x", (support.CLIENT4, 9))
        local.sendto(b"x", (VIRTUAL4, 9))


def test_translated_packets_do_not_slip_through(
    gate: Gate, net: World, probes: dict[str, Probe]
) -> None:
    """A node that translates sources to the virtual address sends nothing when it is shut."""
    in_node(
        net,
        "nft",
        "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; };"
        f"add rule ip nat post udp dport 7 snat to {VIRTUAL4}",
    )
    gate.install([VIRTUAL4])
    gate.arm(LONG_MS, LEASE, renewal=False)
    with inside(net.client):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(net.node):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.settimeout(support.PATIENCE_SECONDS)
        receiver.bind((support.CLIENT4, 7))
        sender.bind((OWN4, 0))
        sender.sendto(b"armed", (support.CLIENT4, 7))
        assert receiver.recvfrom(99)[1][0] == VIRTUAL4
        receiver.settimeout(support.SILENCE_SECONDS)
        gate.disarm()
        with pytest.raises(PermissionError):
            sender.sendto(b"shut", (support.CLIENT4, 7))
        with pytest.raises(TimeoutError):
            receiver.recv(99)


def test_a_shut_address_is_not_reached_by_translation_either(
    gate: Gate, net: World, probes: dict[str, Probe]
) -> None:
    """Packets of the node to it are dropped before they could be sent elsewhere."""
    in_node(
        net,
        "nft",
        "add table ip nat; add chain ip nat out { type nat hook output priority -100; };"
        f"add rule ip nat out udp dport 7 dnat to {support.CLIENT4}",
    )
    gate.install([VIRTUAL4])
    with inside(net.node):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        # Otherwise the kernel takes the virtual address as the source too.
        sender.bind((OWN4, 0))
        with pytest.raises(PermissionError):
            sender.sendto(b"shut", (VIRTUAL4, 7))
        gate.arm(LONG_MS, LEASE, renewal=False)
        sender.sendto(b"armed", (VIRTUAL4, 7))


def announced(net: World) -> bool:
    """Announce the virtual address on a packet socket of the node; tell whether it got out."""
    with inside(net.client):
        ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    with inside(net.node):
        mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with ears, mouth:
        ears.settimeout(support.PATIENCE_SECONDS)
        mouth.bind(("eth0", 0x0806))
        own = mouth.getsockname()[4]
        with contextlib.suppress(OSError):  # ENOBUFS: dropped on its way out
            mouth.send(support.arp_frame(own, 1, VIRTUAL4, VIRTUAL4))
        mouth.send(support.arp_frame(own, 1, OWN4, OWN4))  # passes, and is behind the other
        wanted, marker = socket.inet_aton(VIRTUAL4), socket.inet_aton(OWN4)
        heard = b""
        while heard[28:32] != marker:
            heard = ears.recv(2048)
            if heard[28:32] == wanted and heard[6:12] == own:
                return True
    return False


def test_announcements_by_packet_sockets_pass_the_gate(gate: Gate, net: World) -> None:
    """A host that was frozen before its system call announces nothing when it thaws too late."""
    gate.install()
    gate.manage([VIRTUAL4])
    with inside(net.node):
        index = socket.if_nametoindex("eth0")
    assert announced(net), "the interface is not covered yet: this is what would get out"
    assert gate.cover(index, "eth0")
    assert gate.cover(index, "eth0"), "again is no error"
    assert not announced(net)
    gate.hold([VIRTUAL4])
    assert not announced(net)
    gate.arm(LONG_MS, LEASE, renewal=False)
    assert announced(net)
    gate.disarm()
    assert not announced(net)
    assert gate.intact()
    gate.manage(remove=[VIRTUAL4])
    assert announced(net)


def test_rebuilding_covers_the_interfaces_again(gate: Gate, net: World) -> None:
    """After somebody flushed everything, announcements are gated as before."""
    gate.install()
    in_node(net, "nft", "flush", "ruleset")
    assert announced(net)
    with inside(net.node):
        gate.install([VIRTUAL4])
    assert not announced(net)
    gate.arm(LONG_MS, LEASE, renewal=False)
    assert announced(net)


def test_covers_an_interface_that_came_back(gate: Gate, net: World) -> None:
    """An interface that was removed took its chain along; its successor is covered anew."""
    gate.install()
    gate.manage([VIRTUAL4])
    with inside(net.node):
        support.ip("-n", net.node, "link", "add", "name", "spare", "type", "veth")
        assert gate.cover(socket.if_nametoindex("spare"), "spare")
        support.ip("-n", net.node, "link", "delete", "dev", "spare")
        assert gate.intact()
        assert gate.cover(socket.if_nametoindex("eth0"), "eth0")
    assert not announced(net)


@pytest.mark.parametrize(
    ("table", "chain", "send"),
    [
        ("arp", "sender", support.announce_by_arp),
        ("arp", "target", support.ask_by_arp),
        ("ip6", "solicited", support.solicit),
        ("ip6", "advertised", support.advertise),
    ],
)
def test_resolution_is_dropped_where_the_address_stands(
    gate: Gate,
    net: World,
    probes: dict[str, Probe],
    table: str,
    chain: str,
    send: Callable[[World, str], None],
) -> None:
    """Sender and target of ARP, targets of neighbour discovery: each is looked at by itself."""

    def dropped() -> bool:
        return "packets 0 " not in in_node(net, "nft", "list", "chain", table, "leitwolf", chain)

    gate.install(VIRTUAL)
    assert not dropped()
    send(net, VIRTUAL4 if table == "arp" else VIRTUAL6)
    support.eventually(dropped)


@contextlib.contextmanager
def frozen_guard(
    net: World, probes: dict[str, Probe], duration_ms: int
) -> Iterator[tuple[int, int]]:
    """Yield a guard that stands still after it renewed for a while, and what it will write then.

    A machine that stood still itself ends the lease: then it is begun anew.
    """
    reading, writing = os.pipe()

    def guard() -> None:
        with inside(net.node):
            mine = Gate()
        assert mine.arm(duration_ms, LEASE, renewal=False)
        while mine.arm(duration_ms, LEASE, renewal=True):
            time.sleep(0.02)
        os.write(writing, b"refused")

    def refused() -> bool:
        return bool(select.select([reading], [], [], 0)[0])

    pid = 0
    try:
        for _ in range(10):
            pid = support.fork(guard)
            support.eventually(lambda: answering(probes) == PROBES or refused())
            time.sleep(2 * duration_ms / 1000)
            renewed = answering(probes) == PROBES
            os.kill(pid, signal.SIGSTOP)
            support.eventually(lambda pid=pid: state_of(pid) in "TZ")
            if renewed and not refused():
                break
            end(pid)
            pid = 0
            time.sleep(duration_ms / 1000)  # its lease is over
            if refused():
                os.read(reading, 99)
        assert pid, "it is not renewed"
        yield pid, reading
    finally:
        if pid:
            end(pid)
        os.close(reading)
        os.close(writing)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_frozen_node_falls_silent_and_cannot_come_back(
    net: World, gate: Gate, probes: dict[str, Probe]
) -> None:
    """All of user space frozen: the kernel shuts the addresses when the lease is over; the guard
    that wakes up with its renewal ready is refused."""
    gate.install(VIRTUAL)
    with frozen_guard(net, probes, duration_ms=200) as (pid, reading):
        stopped = sent = time.monotonic()
        while probes["ping"](VIRTUAL4):
            assert sent < stopped + 1, "answers beyond its lease"
            sent = time.monotonic()
        assert answering(probes) == []
        os.kill(pid, signal.SIGCONT)
        assert os.read(reading, 99) == b"refused"
        assert answering(probes) == []


def test_renewal_needs_a_running_lease_and_a_start_needs_none(gate: Gate) -> None:
    """Delete and add in one transaction: refused before the first, after the end, after disarm."""
    gate.install()
    assert not gate.arm(LONG_MS, LEASE, renewal=True)
    assert gate.arm(LONG_MS, LEASE, renewal=False)
    assert not gate.arm(LONG_MS, LEASE, renewal=False), "one runs already"
    assert gate.arm(100, LEASE, renewal=True)
    time.sleep(0.15)
    assert not gate.arm(LONG_MS, LEASE, renewal=True), "it ran out"
    assert gate.arm(LONG_MS, LEASE, renewal=False)
    gate.disarm()
    gate.disarm()
    assert not gate.arm(LONG_MS, LEASE, renewal=True)


def test_addresses_are_held_under_the_lease_in_force_only(
    gate: Gate, net: World, probes: dict[str, Probe]
) -> None:
    """A host frozen before its call holds nothing under the lease that began meanwhile."""
    gate.install()
    gate.manage(VIRTUAL)
    with pytest.raises(FileNotFoundError):
        gate.hold(VIRTUAL, lease=LEASE)
    assert gate.lease() == 0, "none is in force yet"
    gate.arm(LONG_MS, LEASE, renewal=False)
    gate.hold([VIRTUAL4], lease=LEASE)
    gate.hold([VIRTUAL4], lease=LEASE)
    assert gate.lease() == LEASE, "deleted and added"
    assert gate.held() == {VIRTUAL4}
    gate.disarm()
    with pytest.raises(FileNotFoundError):
        gate.hold([VIRTUAL6], lease=LEASE)
    gate.arm(LONG_MS, LEASE + 1, renewal=False)
    with pytest.raises(FileNotFoundError):
        gate.hold([VIRTUAL6], lease=LEASE)
    assert gate.held() == {VIRTUAL4}, "all or nothing"
    assert answering(probes) == [("ping", VIRTUAL4), ("resolve", VIRTUAL4)]
    gate.hold([VIRTUAL6], lease=LEASE + 1)
    assert answering(probes) == PROBES
    assert gate.intact()
    shown = in_node(net, "nft", "list", "set", "ip", "leitwolf", "lease")
    assert f"0x{LEASE >> 32:08x} . 0x{LEASE + 1 & 0xFFFFFFFF:08x}" in shown


def test_another_lease_cannot_be_prolonged(gate: Gate, net: World) -> None:
    """The id in force is always that of the lease that runs, for a guard's successor as well."""
    gate.install()
    assert gate.arm(LONG_MS, LEASE, renewal=False)
    assert not gate.arm(LONG_MS, LEASE + 1, renewal=True)
    with inside(net.node):
        successor = Gate()
    with successor:
        assert not successor.arm(LONG_MS, LEASE + 1, renewal=True)
        assert successor.arm(LONG_MS, LEASE, renewal=True)
        assert not successor.arm(LONG_MS, LEASE + 1, renewal=False), "one runs already"
        assert successor.lease() == LEASE
        in_node(net, "nft", "flush", "ruleset")
        assert not successor.arm(LONG_MS, LEASE, renewal=True)
        successor.install()
        assert successor.lease() == 0
        assert successor.arm(LONG_MS, LEASE, renewal=False)
        assert gate.lease() == LEASE


def test_durations_that_would_mean_for_ever_are_not_armed(
    gate: Gate, probes: dict[str, Probe]
) -> None:
    """Less than a jiffy is no lease (0 would never run out), and an hour is a mistake."""
    gate.install(VIRTUAL)
    for duration_ms in (-5, 0, ARM_MINIMUM_MS - 1):
        assert not gate.arm(duration_ms, LEASE, renewal=False)
    with pytest.raises(ValueError, match="lease of"):
        gate.arm(ARM_MAXIMUM_MS + 1, LEASE, renewal=False)
    assert gate.arm(ARM_MINIMUM_MS, LEASE, renewal=False)
    time.sleep(0.05)
    assert answering(probes) == []


def test_guard_and_host_use_one_gate(net: World, gate: Gate, probes: dict[str, Probe]) -> None:
    """Two processes' gates are one in the kernel, at once and without losing anything."""
    gate.install()
    gate.arm(LONG_MS, LEASE, renewal=False)
    with inside(net.node):
        host = Gate()
    many = [f"198.51.100.{number}" for number in range(1, 101)]
    failed: list[bool] = []
    finish = threading.Event()

    def renew() -> None:
        while not finish.is_set():
            failed.extend([True] * (not gate.arm(LONG_MS, LEASE, renewal=True)))

    renewing = threading.Thread(target=renew)
    renewing.start()
    with host:
        for address in many:
            host.manage([address])
            host.hold([address], remove=[])
        host.manage(remove=many[50:])
        finish.set()
        renewing.join()
        assert not failed
        assert host.managed() == gate.managed() == set(many[:50])
        assert host.held() == set(many[:50]), "what is managed no more is held no more"
        host.manage(VIRTUAL)
        assert host.intact()
        assert gate.intact()
    assert answering(probes) == []
    gate.hold(VIRTUAL)
    assert answering(probes) == PROBES


def test_changing_what_is_not_there_is_no_error(gate: Gate) -> None:
    """Adding twice and removing what is not there change nothing; the safe side wins."""
    gate.install([VIRTUAL4])
    gate.manage([VIRTUAL4, VIRTUAL6], remove=[VIRTUAL6, "203.0.113.9"])
    gate.hold([VIRTUAL4, VIRTUAL6], remove=[VIRTUAL6, "203.0.113.9"])
    assert gate.managed() == set(VIRTUAL)
    assert gate.held() == {VIRTUAL4}
    gate.manage()


def test_installing_again_replaces_everything(gate: Gate, probes: dict[str, Probe]) -> None:
    """A new guard begins closed, with just the addresses that it names."""
    gate.install([VIRTUAL4])
    gate.arm(LONG_MS, LEASE, renewal=False)
    gate.install([VIRTUAL6])
    assert gate.managed() == gate.held() == {VIRTUAL6}
    assert not gate.arm(LONG_MS, LEASE, renewal=True)
    assert answering(probes) == [("ping", VIRTUAL4), ("resolve", VIRTUAL4)]


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table arp leitwolf",
        "delete set ip leitwolf lease",
        "flush chain ip leitwolf gate",
        "insert rule ip6 leitwolf gate accept",
        "add rule ip6 leitwolf gate accept",
        "add table ip leitwolf { flags dormant; }",
        "delete chain ip leitwolf postrouting",
        "flush chain ip6 leitwolf source; add rule ip6 leitwolf source counter drop",
    ],
)
def test_foreign_hands_are_noticed_and_repaired(
    gate: Gate, net: World, probes: dict[str, Probe], command: str
) -> None:
    """A firewall reload by somebody else shows; installing again shuts the gate."""
    gate.install(VIRTUAL)
    assert gate.intact()
    assert gate.touched(), "what was before the first look is not known"
    assert not gate.touched()
    in_node(net, "nft", command)
    assert gate.touched()
    assert not gate.intact()
    gate.install(marked_or_managed())
    assert gate.intact()
    assert answering(probes) == []


def marked_or_managed() -> tuple[str, ...]:
    """Stands for the dump of marked addresses, which iproute2 here cannot mark."""
    return VIRTUAL


def test_renewals_are_no_reason_to_look_and_hide_none(gate: Gate, net: World) -> None:
    """The own renewals do not count; a foreign change in between is seen all the same."""
    gate.install(VIRTUAL)
    gate.touched()
    gate.arm(LONG_MS, LEASE, renewal=False)
    assert gate.arm(LONG_MS, LEASE, renewal=True)
    assert not gate.arm(LONG_MS, LEASE, renewal=False), "one runs already"
    assert not gate.touched()
    gate.arm(LONG_MS, LEASE, renewal=True)
    in_node(net, "nft", f"delete element ip leitwolf managed {{ {VIRTUAL4} }}")
    gate.arm(LONG_MS, LEASE, renewal=True)
    assert gate.touched()
    assert gate.intact()
    assert gate.managed() == {VIRTUAL6}
    assert not gate.touched()


def test_nobody_listens_to_changes_of_rules(gate: Gate, net: World) -> None:
    """A listener makes the kernel hold a processor four times as long during large loads."""
    gate.install(VIRTUAL)
    gate.touched()
    listening = in_node(net, "cat", "/proc/net/netlink").splitlines()[1:]
    groups = [int(line.split()[3], 16) for line in listening if line.split()[1] == "12"]
    assert groups
    assert not any(group & 1 << 6 for group in groups), "NFNLGRP_NFTABLES is number 7"


def test_without_a_gate_errors_are_loud(gate: Gate) -> None:
    """Closing or changing a gate that is not there fails; arming is refused."""
    assert not gate.intact()
    assert not gate.arm(LONG_MS, LEASE, renewal=False)
    with pytest.raises(FileNotFoundError):
        gate.disarm()
    with pytest.raises(FileNotFoundError):
        gate.hold([VIRTUAL4])
    gate.install()
    gate.uninstall()
    gate.uninstall()
    assert not gate.intact()


def test_operators_can_read_the_rules(gate: Gate, net: World) -> None:
    """``nft list ruleset`` shows what is meant, and the remaining time."""
    gate.install(VIRTUAL)
    gate.arm(LONG_MS, LEASE, renewal=False)
    shown = in_node(net, "nft", "list", "ruleset")
    assert "Leitwolf: virtual addresses answer only while" in shown
    assert "ip daddr @managed jump destination" in shown
    assert "arp saddr ip @held meta nfproto @run return" in shown
    assert "elements = { ipv4 timeout 20s expires 1" in shown
    assert VIRTUAL6 in shown


def test_thousand_addresses(gate: Gate) -> None:
    """The number of addresses is no limit in practice."""
    addresses = {f"10.1.{i // 250}.{i % 250}" for i in range(1000)}
    gate.install(addresses)
    assert gate.managed() == gate.held() == addresses
    gate.manage(remove=addresses)
    assert gate.managed() == set()


def test_works_for_an_ordinary_user_in_an_own_namespace() -> None:
    """Without root, inside a user and network namespace of its own."""

    def user() -> None:
        support.become_nobody()
        support.call("unshare", support.NEW_USER | support.NEW_NETWORK)
        with Gate() as gate:
            gate.install(VIRTUAL)
            assert gate.intact()
            assert gate.arm(LONG_MS, LEASE, renewal=False)
            assert gate.arm(LONG_MS, LEASE, renewal=True)
            assert gate.managed() == set(VIRTUAL)
            assert gate.touched()
            assert marked_addresses() == []

    support.in_child(user)


def test_arming_is_quick(gate: Gate) -> None:
    """A renewal does not go through all addresses: each of a thousand would cost far more."""
    gate.install(f"10.1.{i // 250}.{i % 250}" for i in range(1000))
    gate.arm(LONG_MS, LEASE, renewal=False)
    begun = time.monotonic()
    for _ in range(300):
        assert gate.arm(LONG_MS, LEASE, renewal=True)
    took = time.monotonic() - begun
    print(f"arm {took / 300 * 1e6:.0f} us")
    assert took < 6
