"""Network namespaces, raw packets and throw-away processes for tests of kernel interfaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NEW_USER = 0x10000000
NEW_NETWORK = 0x40000000
PATIENCE_SECONDS = 30.0
"""What surely comes is waited for so long: a busy machine stands still for seconds."""
SILENCE_SECONDS = 0.25
"""What does not come until then does not come, when what was sent after it has come."""
OWN4, OWN6 = "192.0.2.2", "2001:db8::2"
CLIENT4, CLIENT6 = "192.0.2.1", "2001:db8::1"
VIRTUAL4, VIRTUAL6 = "192.0.2.10", "2001:db8::10"

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace; sockets opened there stay there."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        call("setns", there, NEW_NETWORK)
        yield
    finally:
        call("setns", here, NEW_NETWORK)
        os.close(here)
        os.close(there)


def fork(action: Callable[[], None]) -> int:
    """Run ``action`` in a child, which exits with 0, or 1 after printing what was raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(code)


def in_child(action: Callable[[], None]) -> None:
    """Run ``action`` in a child and fail when it fails."""
    _, status = os.waitpid(fork(action), 0)
    assert os.waitstatus_to_exitcode(status) == 0, "failed in the child, see its output"


def become_nobody() -> None:
    """Be an ordinary user."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    # As after an exec: files in /proc belong to the process's user.
    call("prctl", 4, 1, 0, 0, 0)


def eventually(condition: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)
    return value


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal by now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> number - 1 & 1)


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class World:
    """A node with an own and a virtual address per family, and a client beside it.

    The client has fixed neighbour entries, so that pings need neither ARP nor ND.
    """

    node: str
    client: str

    @contextlib.contextmanager
    def probes(self) -> Iterator[dict[str, Callable[[str], bool]]]:
        """Yield probes by name; each tells whether an address answers the client.

        The node's own address, which is asked after it, answers in any case.
        """
        with contextlib.ExitStack() as stack, inside(self.client):
            ping4 = stack.enter_context(
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            )
            ping6 = stack.enter_context(
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            )
            arp = stack.enter_context(
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
            )
            arp.bind(("eth0", 0x0806))
            nd = stack.enter_context(
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            )
            # The node has a fixed neighbour entry for this address, so it can answer at once.
            nd.bind((CLIENT6, 0))
            nd.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            nd.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0")
            )
            yield {
                "ping": lambda address: _ping(ping6 if ":" in address else ping4, address),
                "resolve": lambda address: (
                    _solicit(nd, address) if ":" in address else _ask(arp, address)
                ),
            }


_counter = 0


def _came(
    receiver: socket.socket, wanted: Callable[[bytes], bool], marker: Callable[[bytes], bool]
) -> bool:
    """Tell whether an answer came, once that to the marker did, which was asked for after it."""
    came = marked = False
    while not (came and marked):
        seconds = SILENCE_SECONDS if marked else PATIENCE_SECONDS
        if not select.select([receiver], [], [], seconds)[0]:
            assert marked, "the node's own address does not answer"
            return False
        data = receiver.recv(2048)
        came, marked = came or wanted(data), marked or marker(data)
    return True


def _ping(sender: socket.socket, address: str) -> bool:
    six = sender.family == socket.AF_INET6
    wanted, marker = (_echo(sender, one) for one in (address, OWN6 if six else OWN4))
    return _came(sender, wanted, marker)


def _echo(sender: socket.socket, address: str) -> Callable[[bytes], bool]:
    """Ask for an echo; return what tells that a packet is it."""
    global _counter
    _counter += 1
    six = sender.family == socket.AF_INET6
    body = struct.pack(">HH", os.getpid() & 0xFFFF, _counter & 0xFFFF)
    kind, reply = (128, 129) if six else (8, 0)
    packet = struct.pack(">BBH", kind, 0, 0) + body
    if not six:
        packet = struct.pack(">BBH", kind, 0, _checksum(packet)) + body
    sender.sendto(packet, (address, 0))
    start = 0 if six else 20
    return lambda data: data[start] == reply and data[start + 4 :] == body


def arp_frame(own: bytes, operation: int, sender: str, target: str) -> bytes:
    """Return a broadcast ARP frame."""
    frame = b"\xff" * 6 + own + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, operation)
    return frame + own + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


def _ask(sender: socket.socket, address: str) -> bool:
    wanted, marker = (_ask_one(sender, one) for one in (address, OWN4))
    return _came(sender, wanted, marker)


def _ask_one(sender: socket.socket, address: str) -> Callable[[bytes], bool]:
    wanted = socket.inet_aton(address)
    sender.send(arp_frame(sender.getsockname()[4], 1, CLIENT4, address))
    return lambda data: data[20:22] == b"\0\2" and data[28:32] == wanted


def _solicit(sender: socket.socket, address: str) -> bool:
    wanted, marker = (_solicit_one(sender, one) for one in (address, OWN6))
    return _came(sender, wanted, marker)


def _solicit_one(sender: socket.socket, address: str) -> Callable[[bytes], bool]:
    wanted = socket.inet_pton(socket.AF_INET6, address)
    group = socket.inet_ntop(
        socket.AF_INET6, bytes.fromhex("ff0200000000000000000001ff") + wanted[-3:]
    )
    sender.sendto(struct.pack(">BBHI", 135, 0, 0, 0) + wanted, (group, 0))
    return lambda data: data[0] == 136 and data[8:24] == wanted


def _send_arp(net: World, operation: int, sender: str, target: str) -> None:
    with (
        inside(net.client),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as packets,
    ):
        packets.bind(("eth0", 0x0806))
        packets.send(arp_frame(packets.getsockname()[4], operation, sender, target))


def announce_by_arp(net: World, address: str) -> None:
    """Say that the client has an address, to a third one."""
    _send_arp(net, 2, address, "192.0.2.77")


def ask_by_arp(net: World, address: str) -> None:
    """Ask who has an address."""
    _send_arp(net, 1, CLIENT4, address)


def _send_icmp6(net: World, kind: int, address: str) -> None:
    with (
        inside(net.client),
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as packets,
    ):
        packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        target = socket.inet_pton(socket.AF_INET6, address)
        packets.sendto(struct.pack(">BBHI", kind, 0, 0, 0) + target, (OWN6, 0))


def solicit(net: World, address: str) -> None:
    """Ask the node's own address for the virtual one."""
    _send_icmp6(net, 135, address)


def advertise(net: World, address: str) -> None:
    """Say to the node's own address that the client has the virtual one."""
    _send_icmp6(net, 136, address)


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Make two connected network namespaces, and remove them at the end."""
    node, client = (f"lwgate{os.getpid()}{end}" for end in "nc")
    for name in (node, client):
        ip("netns", "add", name)
    try:
        wires = ("veth", "peer", "name", "eth0", "netns", client)
        ip("-n", node, "link", "add", "name", "eth0", "type", *wires)
        for name, four, six in ((node, OWN4, OWN6), (client, CLIENT4, CLIENT6)):
            for link in ("lo", "eth0"):
                ip("-n", name, "link", "set", "dev", link, "up")
            ip("-n", name, "address", "add", f"{four}/24", "dev", "eth0")
            ip("-n", name, "address", "add", f"{six}/64", "dev", "eth0", "nodad")
        ip("-n", node, "address", "add", f"{VIRTUAL4}/32", "dev", "eth0")
        ip("-n", node, "address", "add", f"{VIRTUAL6}/128", "dev", "eth0", "nodad")
        with inside(node):
            hardware = _hardware_address("eth0")
        for address in (VIRTUAL4, VIRTUAL6, OWN4, OWN6):
            ip("-n", client, "neigh", "replace", address, "lladdr", hardware, "dev", "eth0")
        with inside(client):
            hardware = _hardware_address("eth0")
        for address in (CLIENT4, CLIENT6):
            ip("-n", node, "neigh", "replace", address, "lladdr", hardware, "dev", "eth0")
        yield World(node, client)
    finally:
        for name in (node, client):
            ip("netns", "delete", name)


def _hardware_address(interface: str) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as probe:
        probe.bind((interface, 0))
        return str(probe.getsockname()[4].hex(":"))
