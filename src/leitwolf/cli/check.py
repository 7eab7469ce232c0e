"""What ``leitwolf check`` looks at: each finding names the guarantee that is lost without it."""

from __future__ import annotations

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
from leitwolf.model.views import StatusView

__all__ = ["Finding", "findings"]

_TMPFS_TYPES = ("tmpfs", "ramfs")
_SYNC_MS_MAX = 20.0
"""A slower sync of the log than this endangers the election budget."""
_NETLINK_NETFILTER = 12
_PORT_DEFAULT = 6474


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at: found, and if not ok what is lost and how to get it."""

    name: str
    ok: bool
    found: str
    lost: str = ""
    fix: str = ""


def _root() -> Finding:
    root = os.geteuid() == 0
    return Finding(
        name="root",
        ok=root,
        found="yes" if root else f"no (uid {os.geteuid()})",
        lost="addresses, cgroups and real time need root",
        fix="run the node as root: systemctl enable --now leitwolf",
    )


def _realtime() -> Finding:
    child = os.fork()
    if child == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ok = os.waitstatus_to_exitcode(status) == 0
    return Finding(
        name="real-time scheduling",
        ok=ok,
        found="permitted" if ok else "refused",
        lost="heartbeats stall under load: profiles fast and default are refused",
        fix="run as root; in containers grant CAP_SYS_NICE; or use: leitwolf set --profile virtual",
    )


def _nftables() -> Finding:
    try:
        probe = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        probe.close()
    except OSError as error:
        found, ok = str(error), False
    else:
        found, ok = "the kernel answers", os.geteuid() == 0
    return Finding(
        name="nftables",
        ok=ok,
        found=found,
        lost="a frozen node would go on answering for its addresses (I5)",
        fix="a kernel with nf_tables, and CAP_NET_ADMIN",
    )


def _watchdog() -> Finding:
    devices = [path for path in ("/dev/watchdog", "/dev/watchdog0") if Path(path).exists()]
    return Finding(
        name="watchdog",
        ok=bool(devices),
        found=", ".join(devices) or "none",
        lost="a hung kernel, or processes that cannot be killed, are not rebooted (I5)",
        fix="load a driver: modprobe i6300esb, iTCO_wdt or softdog; add it to /etc/modules",
    )


def _cgroups() -> Finding:
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if Path(root, "cgroup.controllers").exists():
            return Finding(name="cgroups", ok=True, found=f"version 2 at {root}")
    return Finding(
        name="cgroups",
        ok=False,
        found="no cgroup version 2",
        lost="processes of a resource can escape its supervision; PID namespaces are used instead",
        fix="boot with systemd.unified_cgroup_hierarchy=1",
    )


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


def _port(status: StatusView | None) -> Finding:
    if status is not None and status.formed:
        return Finding(name="port", ok=True, found="the daemon listens on TCP and UDP")
    for kind, name in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", _PORT_DEFAULT))
            except OSError as error:
                return Finding(
                    name="port",
                    ok=False,
                    found=f"{name} {_PORT_DEFAULT}: {error.strerror}",
                    lost="nodes cannot talk to each other",
                    fix="free it, or choose another: leitwolf init --port",
                )
    return Finding(
        name="port",
        ok=True,
        found=f"TCP and UDP {_PORT_DEFAULT} are free; open them in the firewall between the nodes",
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
        return Finding(name="interconnect", ok=True, found="chosen by leitwolf init")
    carrying = [net.name for net in status.networks if net.role != "client"]
    return Finding(
        name="interconnect",
        ok=len(carrying) > 1,
        found=", ".join(carrying),
        lost="the failure of one switch or cable cuts the nodes from each other",
        fix="add a second network: leitwolf network set NAME --subnet ... --role interconnect",
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
    state = Path(os.environ.get("LEITWOLF_STATE", "/var/lib/leitwolf"))
    looks: tuple[Callable[[], Finding], ...] = (
        _root,
        _kernel,
        _realtime,
        _nftables,
        _cgroups,
        _watchdog,
        lambda: _runtime(runtime),
        lambda: _state(state),
        lambda: _port(status),
        lambda: _interconnects(status),
        lambda: _strangers(status),
        lambda: _histories(status),
        lambda: _cluster(status),
    )
    return [*(look() for look in looks), *_quorum(client, status)]
