"""The host adds, announces, watches and removes virtual addresses (a real host process)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.host_support import (
    LEASE,
    HostNode,
    close_order,
    host_node,
    inside,
    start_order,
    stop_order,
)
from tests.integration.kernel_support import PATIENCE_SECONDS, eventually, ip

from leitwolf.model.observations import ResourceReport
from leitwolf.resources import _neighbour as neighbour
from leitwolf.resources.ip_address import HOLD_WAIT_S, PROBES
from leitwolf.system.gate import Gate
from leitwolf.system.rtnetlink import marked_addresses

pytestmark = pytest.mark.root

V4, V6 = "192.0.2.10", "2001:db8:7::10"


class Lan:
    """A node with an interface eth0, and a neighbour behind it."""

    def __init__(self, node: HostNode) -> None:
        self.node = node
        self.namespace = node.namespace
        self.outside = node.namespace + "x"
        ip("netns", "add", self.outside)
        ip(
            "-n", self.namespace, "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", self.outside,
        )  # fmt: skip
        for namespace, number in ((self.namespace, 1), (self.outside, 2)):
            ip("-n", namespace, "link", "set", "eth0", "up")
            self.add(namespace, f"192.0.2.{number}/24")
            self.add(namespace, f"2001:db8:7::{number}/64")
        eventually(lambda: "tentative" not in self.show(self.namespace))
        node.install_gate()
        self.sockets: list[socket.socket] = []

    @staticmethod
    def add(namespace: str, address: str) -> None:
        words = ["-n", namespace, "address", "add", address, "dev", "eth0"]
        ip(*words, *(["nodad"] if ":" in address else []))

    @staticmethod
    def show(namespace: str) -> str:
        return subprocess.run(
            ["ip", "-n", namespace, "address", "show"], check=True, capture_output=True, text=True
        ).stdout

    def has(self, address: str) -> bool:
        return f"{address}/" in self.show(self.namespace)

    def sniff(self) -> socket.socket:
        """Return a socket that hears everything at the neighbour."""
        heard = inside(
            self.outside,
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)),
        )
        heard.settimeout(PATIENCE_SECONDS)
        self.sockets.append(heard)
        return heard

    def mac(self, namespace: str) -> bytes:
        text = subprocess.run(
            ["ip", "netns", "exec", namespace, "cat", "/sys/class/net/eth0/address"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return bytes.fromhex(text.strip().replace(":", ""))

    def reaches(self, address: str) -> bool:
        """Tell whether the neighbour reaches the address: a closed port refuses at once."""

        def connect() -> bool:
            try:
                socket.create_connection((address, 9), timeout=PATIENCE_SECONDS)
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
            return True

        return inside(self.outside, connect)

    def remove(self) -> None:
        for one in self.sockets:
            one.close()
        ip("netns", "del", self.outside)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with host_node(tmp_path / "node") as node:
        made = Lan(node)
        with contextlib.ExitStack() as stack:
            stack.callback(made.remove)
            yield made


def gate() -> tuple[set[str], set[str]]:
    with Gate() as opened:
        return opened.managed(), opened.held()


def claim_in(data: bytes, protocol: int) -> neighbour.Claim | None:
    """Return the claim that a packet of ARP or IPv6 is."""
    if protocol == neighbour.ARP:
        return neighbour.read_arp(data)
    if protocol == neighbour.IPV6 and data[6] == 58:
        return neighbour.read_advertisement(data[40:])
    return None


def claims(heard: socket.socket, address: str, count: int) -> list[neighbour.Claim]:
    """Return the first ``count`` claims to an address that the neighbour hears."""
    found: list[neighbour.Claim] = []
    while len(found) < count:
        data, sender = heard.recvfrom(2048)
        claim = claim_in(data, sender[1])
        if claim is not None and str(claim.address) == address and not claim.probing:
            found.append(claim)
    return found


@pytest.mark.parametrize(("address", "prefix"), [(V4, 24), (V6, 64)])
def test_address_comes_and_goes(lan: Lan, address: str, prefix: int) -> None:
    """An address is added with the mark, announced in a burst, answers, and is removed."""
    daemon = lan.node.start()
    heard = lan.sniff()
    daemon.send(start_order("vip", "ip_address", address=f"{address}/{prefix}"))
    daemon.state("vip", "online")
    burst = claims(heard, address, 6 if prefix == 24 else 3)
    assert {claim.hardware for claim in burst} == {lan.mac(lan.namespace)}
    assert lan.has(address)
    (marked,) = inside(lan.namespace, marked_addresses)
    assert (marked.address, marked.prefix) == (address, prefix)
    assert lan.reaches(address)
    assert inside(lan.namespace, gate) == ({address}, {address})
    daemon.send(stop_order("vip"))
    daemon.state("vip", "offline")
    assert not lan.has(address)
    daemon.send(close_order())
    daemon.attested()
    assert inside(lan.namespace, gate) == (set(), set())


@pytest.mark.parametrize(("address", "prefix"), [(V4, 24), (V6, 64)])
def test_duplicate_is_refused_at_the_first_start_only(lan: Lan, address: str, prefix: int) -> None:
    """The operator's first online probes; a failover takes the address without asking."""
    lan.add(lan.outside, f"{address}/{prefix}")
    daemon = lan.node.start()
    order = start_order("vip", "ip_address", address=f"{address}/{prefix}", first=True)
    daemon.send(order)
    report = daemon.state("vip", "failed")
    assert report.code == "address-conflict"
    assert lan.mac(lan.outside).hex(":") in report.text
    assert not lan.has(address)
    daemon.send(start_order("vip", "ip_address", address=f"{address}/{prefix}", attempt=2))
    daemon.state("vip", "online")


@pytest.mark.parametrize(("address", "prefix"), [(V4, 24), (V6, 64)])
def test_free_address_passes_the_probe(lan: Lan, address: str, prefix: int) -> None:
    """Nobody answers the probe: the address comes online."""
    daemon = lan.node.start()
    order = start_order("vip", "ip_address", address=f"{address}/{prefix}", first=True)
    daemon.send(order)
    daemon.state("vip", "online")


def test_conflict_is_reported_and_the_address_stays(lan: Lan) -> None:
    """Another MAC that claims the address is named in a report, and answered once."""
    daemon = lan.node.start()
    heard = lan.sniff()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    daemon.state("vip", "online")
    claims(heard, V4, 4)  # now it listens
    stranger = bytes.fromhex("02000000beef")
    packet, _ = neighbour.arp_announcement(1, stranger, ipaddress.IPv4Address(V4))
    heard.sendto(packet, ("eth0", neighbour.ARP, 0, 1, b"\xff" * 6))
    report = daemon.note("vip", "address-conflict")
    assert report.state == "online"
    assert stranger.hex(":") in report.text
    assert lan.has(V4)


def test_conflict_is_heard_in_ipv6(lan: Lan) -> None:
    """An advertisement of the address by another MAC is reported."""
    daemon = lan.node.start()
    heard = lan.sniff()
    daemon.send(start_order("vip", "ip_address", address=f"{V6}/64"))
    daemon.state("vip", "online")
    claims(heard, V6, 2)  # now it listens
    lan.add(lan.outside, f"{V6}/64")

    def advertise() -> None:
        stranger = bytes.fromhex("02000000beef")
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        with raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            packet = neighbour.advertisement(stranger, ipaddress.IPv6Address(V6))
            raw.sendto(packet, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))

    inside(lan.outside, advertise)
    assert daemon.note("vip", "address-conflict").state == "online"


def test_removed_address_fails_the_resource(lan: Lan) -> None:
    """Somebody removes the address: reported at once."""
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    daemon.state("vip", "online")
    ip("-n", lan.namespace, "address", "del", f"{V4}/24", "dev", "eth0")
    assert daemon.state("vip", "failed").code == "address-removed"
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24", attempt=2))
    daemon.state("vip", "online")
    assert lan.has(V4)


def test_lost_carrier_and_removed_interface_fail_the_resource(lan: Lan) -> None:
    """A cable that is pulled and an interface that vanishes are told apart; it can come back."""
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    daemon.state("vip", "online")
    ip("-n", lan.outside, "link", "set", "eth0", "down")
    assert daemon.state("vip", "failed").code == "interface-down"
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24", attempt=2))
    assert daemon.state("vip", "failed").code == "interface-down"
    ip("-n", lan.outside, "link", "set", "eth0", "up")
    eventually(lambda: "LOWER_UP" in lan.show(lan.namespace).split("eth0")[1].split(">")[0])
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24", attempt=3))
    daemon.state("vip", "online")
    ip("-n", lan.namespace, "link", "del", "eth0")
    assert daemon.state("vip", "failed").code == "interface-removed"
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24", attempt=4))
    assert daemon.state("vip", "failed").code == "interface-missing"


def test_address_of_other_hands_is_left_alone(lan: Lan) -> None:
    """An address that an administrator set is neither taken over nor removed."""
    lan.add(lan.namespace, f"{V4}/24")
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    assert daemon.state("vip", "failed").code == "address-in-use"
    daemon.send(stop_order("vip"))
    daemon.state("vip", "offline")
    assert lan.has(V4)


def test_crashed_host_adopts_the_address(lan: Lan) -> None:
    """The address stays while the host is gone; its successor watches it again."""
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    daemon.state("vip", "online")
    lan.node.crash()
    assert lan.has(V4)
    daemon = lan.node.start()
    (report,) = lan.node.inventory.resources
    assert (report.state, report.code) == ("online", "adopted")
    assert lan.reaches(V4)
    ip("-n", lan.namespace, "address", "del", f"{V4}/24", "dev", "eth0")
    assert daemon.state("vip", "failed").code == "address-removed"


def test_marked_address_without_record_is_removed(lan: Lan) -> None:
    """An address with our mark that no record knows does not outlive the start of a host."""
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    daemon.state("vip", "online")
    lan.node.crash()
    (lan.node.runtime / "host" / "vip.json").unlink()
    lan.node.start()
    assert not lan.has(V4)


def test_an_address_is_not_held_under_another_lease(lan: Lan) -> None:
    """The page still permits it, as a frozen host would have read; the kernel does not."""

    def exchange(lease: int) -> None:
        with Gate() as gate:
            gate.disarm()
            assert gate.arm(60_000, lease, renewal=False)

    inside(lan.namespace, lambda: exchange(LEASE + 1))
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    assert daemon.state("vip", "failed").code == "lease-over"
    assert inside(lan.namespace, gate) == (set(), set())
    assert not lan.has(V4)
    inside(lan.namespace, lambda: exchange(LEASE))
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24", attempt=2))
    daemon.state("vip", "online")
    assert inside(lan.namespace, gate) == ({V4}, {V4})


def test_an_address_waits_for_a_gate_that_is_being_armed(lan: Lan) -> None:
    """The guard arms, and rebuilds, on a thread of its own: a start comes online right after it."""

    def shut() -> None:
        with Gate() as gate:
            gate.disarm()

    def arm() -> None:
        with Gate() as gate:
            assert gate.arm(60_000, LEASE, renewal=False)

    daemon = lan.node.start()
    for attempt in range(1, 20):
        inside(lan.namespace, shut)
        begun = time.monotonic()

        def late(begun: float = begun) -> bool:
            return time.monotonic() - begun > HOLD_WAIT_S

        daemon.send(start_order("vip", "ip_address", address=f"{V4}/24", attempt=attempt))
        eventually(lambda late=late: late() or lan.has(V4))
        waiting = inside(lan.namespace, gate)
        inside(lan.namespace, arm)
        if not late():
            break
        # It need not have waited so long: this machine was too slow for what is tested.
        daemon.state("vip", "online", "failed")
        daemon.send(stop_order("vip"))
        daemon.state("vip", "offline")
    assert waiting == ({V4}, set())
    daemon.state("vip", "online")
    assert inside(lan.namespace, gate) == ({V4}, {V4})


def test_lease_over_removes_the_address(lan: Lan) -> None:
    """Permission withdrawn: the host removes the address even if the guard does nothing."""
    daemon = lan.node.start()
    daemon.send(start_order("vip", "ip_address", address=f"{V4}/24"))
    daemon.state("vip", "online")
    lan.node.guard.changes = {"gate": False}
    assert daemon.state("vip", "failed").code == "lease-over"
    assert not lan.has(V4)


def test_two_addresses_of_a_subnet_do_not_depend_on_each_other(lan: Lan) -> None:
    """On an interface without another address of the subnet, the second survives the first."""
    daemon = lan.node.start()
    for name, address in (("a", "198.51.100.1/24"), ("b", "198.51.100.2/24")):
        daemon.send(start_order(name, "ip_address", address=address, network="eth0"))
        daemon.state(name, "online")
    daemon.send(stop_order("a"))
    daemon.state("a", "offline")
    assert lan.has("198.51.100.2")
    daemon.send(stop_order("b"))
    reports: list[ResourceReport] = [daemon.state("b", "offline")]
    assert reports[0].code == "stopped"


def asked_before_claims(heard: socket.socket, address: str, count: int) -> int:
    """Return how often the neighbours were asked for an address, until so many claims of it."""
    target, asked = ipaddress.ip_address(address), 0
    while count:
        data, sender = heard.recvfrom(2048)
        claim = claim_in(data, sender[1])
        if sender[1] == neighbour.IPV6 and data[6] == 58:
            asked += data[40] == 135 and data[48:64] == target.packed
        if claim is not None and claim.address == target:
            asked += claim.probing
            count -= not claim.probing
    return asked


@pytest.mark.parametrize(("address", "prefix"), [(V4, 24), (V6, 64)])
def test_failover_asks_nobody(lan: Lan, address: str, prefix: int) -> None:
    """Without ``first`` the first packet about the address is the announcement, no probe."""
    daemon = lan.node.start()
    order = start_order("vip", "ip_address", address=f"{address}/{prefix}")
    for attempt, first, asked in ((1, False, 0), (2, True, PROBES)):
        heard = lan.sniff()
        daemon.send(msgspec.structs.replace(order, attempt=attempt, first=first))
        assert asked_before_claims(heard, address, 2) == asked
        daemon.state("vip", "online")
        daemon.send(stop_order("vip"))
        daemon.state("vip", "offline")
