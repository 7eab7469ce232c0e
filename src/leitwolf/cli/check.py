"""What ``leitwolf check`` looks at: each finding names the guarantee that is lost without it."""

from __future__ import annotations

import errno
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.networks import choose_networks
from leitwolf.model.views import MachineView, NetworkView, StatusView
from leitwolf.system import nfnetlink
from leitwolf.system.containment import own_cgroup
from leitwolf.system.interfaces import interface_addresses, lasting
from leitwolf.system.rawnetlink import Channel

__all__ = ["Finding", "findings"]

_TMPFS_TYPES = ("tmpfs", "ramfs")
_SYNC_MS_MAX = 20.0
"""A slower sync of the log than this endangers the election budget."""
_PORT_DEFAULT = 6474
_KINDS = ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP"))
_WATCHDOG = "/dev/watchdog"
"""The device of the settings; the kernel makes it the other name of the first one."""
_WATCHDOGS = Path("/sys/class/watchdog")
_TABLE = "leitwolf"
"""Name of the gate's tables, one for each family of packets."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at: found, and if not ok what is lost and how to get it."""

    name: str
    ok: bool
    found: str
    lost: str = ""
    fix: str = ""


def _root(got: MachineView | None) -> Finding:
    user = os.geteuid() if got is None else got.user
    return Finding(
        name="root",
        ok=user == 0,
        found="yes" if user == 0 else f"no (uid {user})",
        lost="addresses, cgroups and real time need root",
        fix="run the node as root: systemctl enable --now leitwolf",
    )


def _realtime(got: MachineView | None) -> Finding:
    wanted = os.environ.get("LEITWOLF_REALTIME") != "no" if got is None else got.realtime_wanted
    ok = wanted and (_realtime_permitted() if got is None else got.realtime)
    said = ("permitted", "refused")
    if got is not None:
        said = ("the guard has it", "the guard did not get it")
    return Finding(
        name="real-time scheduling",
        ok=ok,
        found=said[not ok] if wanted else "switched off by LEITWOLF_REALTIME=no",
        lost="heartbeats stall under load: profiles fast and default are refused",
        fix="run as root; in containers grant CAP_SYS_NICE; or use: leitwolf set --profile virtual",
    )


def _realtime_permitted() -> bool:
    """Try it in a child: this process goes on as it is."""
    child = os.fork()
    if child == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _nftables(status: StatusView | None) -> Finding:
    lost = "a frozen node would go on answering for its addresses (I5)"
    fix = "see why the guard has no gate: journalctl -u leitwolf"
    proof = status.proof if status is not None and status.formed else None
    try:
        channel = Channel(nfnetlink.NETFILTER)
        try:
            tables = nfnetlink.table_names(channel)
        finally:
            channel.close()
    except OSError as error:
        if proof is not None and error.errno in (errno.EPERM, errno.EACCES):
            return Finding(
                name="nftables",
                ok=proof.address,
                found=f"the guard has {'the' if proof.address else 'no'} gate; "
                "this user may not list the tables of the kernel",
                lost=lost,
                fix=fix,
            )
        return Finding(
            name="nftables",
            ok=False,
            found=f"the kernel does not list its tables: {error.strerror}",
            lost=lost,
            fix="a kernel with nf_tables, and CAP_NET_ADMIN",
        )
    gate = f"the gate is in {tables.count(_TABLE)}" if proof is not None else "no gate is due"
    return Finding(
        name="nftables",
        ok=proof is None or (proof.address and _TABLE in tables),
        found=f"the kernel lists its tables ({len(tables)}); {gate}",
        lost=lost,
        fix=fix,
    )


def _watchdog(status: StatusView | None) -> Finding:
    got = status.machine if status is not None else None
    wanted = os.environ.get("LEITWOLF_WATCHDOG") or _WATCHDOG
    path = wanted if got is None else got.watchdog
    if got is not None and got.watched:
        ok, said = True, "the guard feeds it"
    else:
        lacks = _unavailable(path)
        if status is not None and status.formed and got is not None:
            lacks = lacks or "the guard did not get it"
        ok, said = not lacks, lacks or "free, as far as can be seen"
    return Finding(
        name="watchdog",
        ok=ok,
        found=said if path == "none" else f"{path}: {said}",
        lost="a hung kernel, or processes that cannot be killed, are not rebooted (I5)",
        fix="load a driver: modprobe i6300esb, iTCO_wdt or softdog; add it to /etc/modules; "
        "another device: LEITWOLF_WATCHDOG; one that is in use: let nobody else open it",
    )


def _unavailable(path: str) -> str:
    """Return why nobody can take this watchdog, '': nothing is seen against it.

    Opening one starts it, and not every device can be stopped again.
    """
    if path == "none":
        return "switched off by LEITWOLF_WATCHDOG=none"
    if not Path(path).exists():
        return "there is none"
    name = "watchdog0" if path == _WATCHDOG else Path(path).name
    try:
        state = (_WATCHDOGS / name / "state").read_text().strip()
    except OSError:
        return ""
    return "in use by another program" if state == "active" else ""


def _cgroups(got: MachineView | None) -> Finding:
    if got is None:
        found, ok = _cgroups_permitted()
    else:
        ok = got.cgroups
        found = "the host has them" if ok else "the host uses PID namespaces"
    return Finding(
        name="cgroups",
        ok=ok,
        found=found,
        lost="processes of a resource can escape its supervision; PID namespaces are used instead",
        fix="boot with systemd.unified_cgroup_hierarchy=1; run as root, or with Delegate=yes",
    )


def _cgroups_permitted() -> tuple[str, bool]:
    """Try it; return what was found, and whether one can be made."""
    base = own_cgroup()
    if base is None:
        return "no cgroup version 2", False
    probe = base / f"leitwolf-check-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"version 2, but none can be made in {base}: {error.strerror}", False
    return f"version 2, made and removed one in {base}", True


def _kernel() -> Finding:
    release = platform.release()
    digits = [part for part in release.replace("-", ".").split(".")[:2] if part.isdigit()]
    version = tuple(int(part) for part in digits)
    ok = version >= (5, 18)
    return Finding(
        name="kernel",
        ok=ok,
        found=release,
        lost="addresses cannot be marked as ours (IFA_PROTO), the guard needs a list instead",
        fix="Linux 5.18 or newer (Debian 12, Ubuntu 24.04)",
    )


def _mount_type(path: Path) -> str:
    best, kind = "", ""
    with Path("/proc/self/mounts").open() as mounts:
        for line in mounts:
            _, point, fstype, *_ = line.split()
            inside = str(path).startswith(point.rstrip("/") + "/") or str(path) == point
            if inside and len(point) >= len(best):
                best, kind = point, fstype
    return kind


def _runtime(runtime: Path) -> Finding:
    kind = _mount_type(runtime)
    return Finding(
        name="runtime directory",
        ok=kind in _TMPFS_TYPES,
        found=f"{runtime} on {kind or 'nothing'}",
        lost="promises of an earlier boot could be taken for present ones",
        fix="use a directory on a tmpfs, for example /run/leitwolf",
    )


def _state(state: Path) -> Finding:
    folder = state if state.exists() else state.parent
    samples: list[float] = []
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            for _ in range(20):
                begun = time.monotonic()
                os.pwrite(file.fileno(), bytes(512), 0)
                os.fdatasync(file.fileno())
                samples.append((time.monotonic() - begun) * 1e3)
    except OSError as error:
        return Finding(
            name="state directory",
            ok=False,
            found=f"{folder}: {error.strerror}",
            lost="no quorum log can be kept here",
            fix=f"make {state} writable",
        )
    median, worst = statistics.median(samples), max(samples)
    return Finding(
        name="state directory",
        ok=worst <= _SYNC_MS_MAX,
        found=f"{state} on {_mount_type(folder)}, sync {median:.1f} ms, at worst {worst:.1f} ms",
        lost="elections and commits wait for this disk",
        fix="put the state on a faster disk, or choose a slower profile",
    )


def _refusal(kind: int, port: int, address: str = "") -> OSError | None:
    """Return why a port cannot be had at an address, None: it is free."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as probe:
        try:
            probe.bind((address, port))
        except OSError as error:
            return error
    return None


def _port(status: StatusView | None) -> Finding:
    if status is not None and status.formed:
        return _listening(status)
    for kind, name in _KINDS:
        fault = _refusal(kind, _PORT_DEFAULT)
        if fault is not None:
            return Finding(
                name="port",
                ok=False,
                found=f"{name} {_PORT_DEFAULT}: {fault.strerror}",
                lost="nodes cannot talk to each other",
                fix="free it, or choose another: leitwolf init --port",
            )
    return Finding(
        name="port",
        ok=True,
        found=f"TCP and UDP {_PORT_DEFAULT} are free; open them in the firewall between the nodes",
    )


def _listening(status: StatusView) -> Finding:
    """Look whether somebody listens at this node's addresses: no other can listen there then."""
    addresses = _interconnect_addresses(status)
    deaf = []
    for address in addresses:
        for kind, name in _KINDS:
            refused = _refusal(kind, status.port, address)
            if refused is None or refused.errno != errno.EADDRINUSE:
                deaf.append(f"{name} {status.port} at {address}")
    return Finding(
        name="port",
        ok=not deaf,
        found=f"nobody listens: {', '.join(deaf)}"
        if deaf
        else f"TCP and UDP {status.port} are listened at on {', '.join(addresses)}",
        lost="nodes cannot talk to each other",
        fix="see what the guard (UDP) and the daemon (TCP) say: journalctl -u leitwolf",
    )


def _interconnect_addresses(status: StatusView) -> list[str]:
    own = next((node.addresses for node in status.nodes if node.here), {})
    return [own[net.name] for net in status.networks if net.role != "client" and net.name in own]


def _reach(status: StatusView | None) -> Finding:
    """Say which peers are reached by what: a firewall may let one of the two through."""
    if status is None or not status.formed:
        return Finding(name="peers", ok=True, found="none before a cluster is formed")
    ways = {(True, True): "TCP and UDP", (True, False): "TCP only", (False, True): "UDP only"}
    told = [
        f"{node.name} on {link.network}: {ways.get((link.stream, link.up), 'neither')}"
        for node in status.nodes
        for link in node.links
    ]
    return Finding(
        name="peers",
        ok=all(link.stream and link.up for node in status.nodes for link in node.links),
        found="; ".join(told) or "no other node has an address that this one could reach",
        lost="a link that lets only one of them through carries no cluster",
        fix=f"open port {status.port}, TCP and UDP, in every firewall between the nodes",
    )


def _cluster(status: StatusView | None) -> Finding:
    if status is None:
        return Finding(
            name="daemon",
            ok=False,
            found="does not answer",
            lost="nothing is kept available by this machine",
            fix="systemctl enable --now leitwolf",
        )
    if not status.formed:
        return Finding(name="daemon", ok=True, found="runs, in no cluster yet")
    down = [
        f"{node.name} by {link.network}"
        for node in status.nodes
        for link in node.links
        if not link.up
    ]
    told = {line.name for line in status.nodes if line.here or not line.up}
    down += [
        f"{'–'.join(pair.nodes)} by {net.name}"
        for net in status.networks
        for pair in net.pairs
        if pair.state == "one-way" or (pair.state == "down" and told.isdisjoint(pair.nodes))
    ]
    return Finding(
        name="cluster",
        ok=status.quorum and not status.advice and not down,
        found=f"{status.cluster}, {len(status.nodes)} nodes, quorum "
        + ("yes" if status.quorum else "NO")
        + (f"; links down: {', '.join(down)}" if down else ""),
        lost=status.advice or "one more broken link or node may stop services",
        fix="leitwolf status; open the port (TCP and UDP) in every firewall between the nodes",
    )


def _strangers(status: StatusView | None) -> Finding:
    found = ", ".join(one.address for one in status.strangers) if status is not None else ""
    return Finding(
        name="strangers",
        ok=not found,
        found=f"heartbeats of another cluster from {found}" if found else "no other cluster heard",
        lost="somebody there takes an address of this node for a member of its own cluster",
        fix="there: leitwolf status; evict the node that has this address, or leitwolf destroy",
    )


def _histories(status: StatusView | None) -> Finding:
    """Report two forced halves and forces that are stuck."""
    told = status.findings if status is not None else ()
    bad = [one for one in told if one.code in ("two-forced-halves", "force-unfinished")]
    return Finding(
        name="histories",
        ok=not bad,
        found=bad[0].text if bad else "one history",
        lost="both halves may run the same groups, and what one of them decides will be given up",
        fix=bad[0].fix if bad else "",
    )


def _interconnects(status: StatusView | None) -> Finding:
    if status is None or not status.formed:
        return _chosen()
    carrying = [net for net in status.networks if net.role != "client"]
    return Finding(
        name="interconnect",
        ok=len(carrying) > 1 and all(net.up for net in carrying),
        found="; ".join(_network(status, net) for net in carrying),
        lost="the failure of one switch or cable cuts the nodes from each other",
        fix="mend what is down, or add a second network: "
        "leitwolf network set NAME --subnet ... --role interconnect",
    )


def _clients(status: StatusView | None) -> Finding:
    if status is None or not status.formed:
        return Finding(name="clients", ok=True, found="chosen by leitwolf init, see interconnect")
    facing = [net for net in status.networks if net.role != "interconnect"]
    return Finding(
        name="clients",
        ok=bool(facing) and all(net.up for net in facing),
        found="; ".join(_network(status, net) for net in facing) or "no network of clients",
        lost="this node can serve nobody by a network that is down here",
        fix="mend it; leitwolf network list; leitwolf network set NAME --subnet ... --role client",
    )


def _network(status: StatusView, network: NetworkView) -> str:
    """Say by which address and interface a network is used, and what is wrong with it."""
    own = next((node.addresses for node in status.nodes if node.here), {})
    address = own.get(network.name, "")
    try:
        found = [item.interface for item in interface_addresses() if item.address == address]
    except OSError:
        found = []
    where = f"{address} on {found[0]}" if found else address or "no address here"
    return f"{network.name}: {where}" + ("" if network.up else f" ({network.reason})")


def _chosen() -> Finding:
    """Say which networks leitwolf init would take by itself."""
    lost = "the failure of one switch or cable cuts the nodes from each other"
    try:
        addresses = lasting(interface_addresses())
        chosen = choose_networks(addresses, (), ())
    except (LeitwolfError, OSError) as error:
        return Finding(
            name="interconnect",
            ok=False,
            found=str(error),
            lost="nodes cannot talk to each other",
            fix="give the machine an address, for example: ip addr add 10.0.0.1/24 dev eth1",
        )
    told = [
        f"{next(item.interface for item in addresses if item.subnet in net.subnets)} "
        f"({', '.join(net.subnets)}) as {net.name}"
        for net in chosen
    ]
    return Finding(
        name="interconnect",
        ok=len(chosen) > 1,
        found=f"leitwolf init would take, for nodes and clients: {', '.join(told)}",
        lost=lost,
        fix="a second network; leitwolf init --interconnect ... --client ... names others",
    )


def _quorum(client: Client, status: StatusView | None) -> list[Finding]:
    """Say what the daemon knows of disks and witnesses."""
    if status is None or not status.formed:
        return []
    try:
        found = client.quorum().findings
    except LeitwolfError:
        return []
    if not found:
        return [Finding(name="quorum", ok=True, found="nothing is wrong with disks or witnesses")]
    return [
        Finding(name="quorum", ok=False, found=one.code, lost=one.text, fix=one.fix)
        for one in found
    ]


def findings(runtime: Path | None) -> list[Finding]:
    """Look at this machine and, when its daemon answers, at the cluster."""
    status: StatusView | None
    client = Client(runtime, timeout_s=5)
    try:
        status = client.status()
    except LeitwolfError:
        status = None
    runtime = runtime or Path(os.environ.get("LEITWOLF_RUNTIME", "/run/leitwolf"))
    got = status.machine if status is not None else None
    state = Path(os.environ.get("LEITWOLF_STATE", "/var/lib/leitwolf"))
    looks: tuple[Callable[[], Finding], ...] = (
        lambda: _root(got),
        _kernel,
        lambda: _realtime(got),
        lambda: _nftables(status),
        lambda: _cgroups(got),
        lambda: _watchdog(status),
        lambda: _runtime(runtime),
        lambda: _state(state),
        lambda: _port(status),
        lambda: _interconnects(status),
        lambda: _clients(status),
        lambda: _reach(status),
        lambda: _strangers(status),
        lambda: _histories(status),
        lambda: _cluster(status),
    )
    return [*(look() for look in looks), *_quorum(client, status)]
