"""A world of machines on one real machine: nodes, a client and a switch, all of namespaces.

Every machine has its own network, process ids, mounts, host name and IPC, a private /run, /tmp and
/dev (no watchdog), and as root its own tree of cgroups. It is held by its first process and that by
a pipe to this one: whatever ends this process, however hard, ends the world. No name of it can be
seen by others. What it leaves on disk while it lives is one folder; a world that was killed leaves
the folder for the next one to sweep.

Networks: interconnects 10.77.1.0/24 and 10.77.3.0/24 (``ic0``, ``ic1``), clients 10.77.2.0/24 and
fd77:2::/64 (``client0``). Node i has the host number 10 + i, the client 100.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal, Self

from lab.privileges import LabUnavailable
from lab.processes import argv_of, children_of, members_of, parents, state_of, wait_until_stopped

__all__ = ["CLIENT", "SWITCH", "Network", "World"]

CLIENT, SWITCH = "client", "switch"
_CLIENT_HOST = 100
_LAB = Path(__file__).parent
_PREFIX = "leitwolf-lab-"
_LOCK = "alive"
_PLACE = "/var/tmp"  # noqa: S108  # seen by all machines, unlike /tmp
_PASSES_MAX = 50
_START_S = 20.0
_STOP_S = 10.0
Only = Callable[[int, Sequence[str]], bool]
LinkStatus = Literal["up", "blocked", "down", "off"]


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its bridge; ``name`` is also the interface's inside every machine."""

    name: str
    number: int
    prefix4: str
    prefix6: str = ""

    @property
    def bridge(self) -> str:
        """Name of the bridge in the switch."""
        return f"br-{self.name}"


_INTERCONNECTS = (Network("ic0", 1, "10.77.1."), Network("ic1", 3, "10.77.3."))
_INTERCONNECT6 = Network("ic0", 1, "", "fd77:1::")
_CLIENTS = Network("client0", 2, "10.77.2.", "fd77:2::")


@dataclass(slots=True)
class _Machine:
    name: str
    host: int
    networks: tuple[Network, ...]
    generation: int = 0
    holder: subprocess.Popen[bytes] | None = None
    pid: int = 0
    ports: dict[str, str] = field(default_factory=dict)
    status: dict[str, LinkStatus] = field(default_factory=dict)
    frozen: dict[int, int] = field(default_factory=dict)


class World:
    """Nodes ``n1`` ... ``nN``, ``client``, and a switch between them; a context manager.

    Args:
        nodes: how many nodes, 1..64. They are off until :meth:`start`.
        interconnects: 1 or 2; 6: one that has only IPv6, fd77:1::/64.
        keep: folders that machines must see although they lie in /tmp or /run.

    Raises:
        LabUnavailable: this process may not make namespaces.
    """

    def __init__(
        self, nodes: int = 3, *, interconnects: int = 1, keep: Iterable[Path] = ()
    ) -> None:
        if not (1 <= nodes <= 64 and interconnects in (1, 2, 6)):
            raise ValueError("a world has 1..64 nodes and 1 or 2 interconnects")
        chosen = (_INTERCONNECT6,) if interconnects == 6 else _INTERCONNECTS[:interconnects]
        self.networks = (*chosen, _CLIENTS)
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self._machines = {
            name: _Machine(name, 10 + number, self.networks)
            for number, name in enumerate(self.nodes, 1)
        }
        self._machines[CLIENT] = _Machine(CLIENT, _CLIENT_HOST, (_CLIENTS,))
        self._machines[SWITCH] = _Machine(SWITCH, 0, ())
        self._keep = [str(path) for path in (*keep, _LAB.parent, sys.prefix, sys.base_prefix)]
        self._switch: subprocess.Popen[str] | None = None
        self._switch_lock = threading.Lock()
        self._lifeline: tuple[int, int] | None = None
        self._folder: Path | None = None
        self._lock: IO[bytes] | None = None
        self._cgroup: Path | None = None
        self._former_handler: Any = None
        self._spawned: list[subprocess.Popen[Any]] = []

    # --- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Build switch and client."""
        if os.geteuid() != 0:
            raise LabUnavailable("Only root builds a world; see lab.privileges.ensure_privileges.")
        sweep()
        if threading.current_thread() is threading.main_thread():
            self._former_handler = signal.signal(signal.SIGTERM, _terminate)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything."""
        self.close()

    def _build(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
        self._lock = (self._folder / f"{_LOCK}.new").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self._folder / f"{_LOCK}.new").rename(self._folder / _LOCK)  # never seen unlocked
        self._keep.append(str(self._folder))
        self._lifeline = os.pipe()
        parent = _cgroup_parent()
        if parent is not None:
            self._cgroup = parent / self._folder.name
            self._cgroup.mkdir()
        self._hold(self._machines[SWITCH])
        lines = []
        options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        for network in self.networks:
            lines.append(f"link add {network.bridge} {options}")
            lines.append(f"link set {network.bridge} up")
        self._ip(SWITCH, lines)
        self._switch = subprocess.Popen(
            [*self._enter(SWITCH), sys.executable, "-S", "-E", str(_LAB / "switch.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the world
        )
        self.start(CLIENT)

    def close(self) -> None:
        """Remove everything; a second call does nothing. Interruptions wait until it is done."""
        former = _hold_back_signals()
        try:
            self._close()
        finally:
            _restore_signals(former)
        if self._former_handler is not None:
            signal.signal(signal.SIGTERM, self._former_handler)
            self._former_handler = None

    def _close(self) -> None:
        for machine in self._machines.values():
            if machine.pid or machine.holder is not None:
                _kill(machine, self._spawned)
        while self._spawned:
            process = self._spawned.pop()  # its machine is gone
            process.kill()
            process.wait()
        if self._switch is not None and self._switch.stdin and self._switch.stdout:
            self._switch.stdin.close()
            self._switch.stdout.close()
            self._switch.wait()
            self._switch = None
        if self._lifeline is not None:
            for end in self._lifeline:
                os.close(end)
            self._lifeline = None
        if self._cgroup is not None:
            _remove_cgroups(self._cgroup)
            self._cgroup = None
        if self._lock is not None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()
            self._lock = None

    # --- what there is ---------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """A folder that all machines see, and that survives their power losses."""
        if self._folder is None:
            raise RuntimeError("the world is not built")
        return self._folder

    def address(self, machine: str, network: str = _CLIENTS.name, family: int = 4) -> str:
        """Return the fixed address of a machine on a network."""
        found = next(item for item in self.networks if item.name == network)
        host = self._machines[machine].host
        return f"{found.prefix4}{host}" if family == 4 else f"{found.prefix6}{host:x}"

    def mac(self, machine: str, network: str = _CLIENTS.name) -> str:
        """Return the hardware address of a machine on a network; it survives power losses."""
        found = next(item for item in self.networks if item.name == network)
        return f"02:77:00:{found.number:02x}:00:{self._machines[machine].host:02x}"

    def pid(self, machine: str) -> int:
        """Return the pid of a machine's first process as seen from here, 0: it is off."""
        return self._machines[machine].pid

    def alive(self, machine: str) -> bool:
        """Return whether a machine is on and did not end itself, as one that fences itself does."""
        pid = self._machines[machine].pid
        return bool(pid) and state_of(pid) not in {"X", "Z"}

    @property
    def links(self) -> dict[str, dict[str, LinkStatus]]:
        """State of every cable, by node and network."""
        return {
            name: {
                network.name: machine.status[network.name] if machine.pid else "off"
                for network in machine.networks
            }
            for name, machine in self._machines.items()
            if machine.networks
        }

    # --- power -----------------------------------------------------------------------------------

    def start(self, node: str) -> None:
        """Switch a machine on: nothing runs on it but its first process."""
        machine = self._machines[node]
        if machine.pid:
            raise RuntimeError(f"{node} is on")
        former = list(machine.ports.values())
        machine.generation += 1
        self._hold(machine)
        lines, inside = [], ["link set lo up"]
        for network in machine.networks:
            port = f"{node}-{machine.generation}-{network.name}"[:15]
            machine.ports[network.name], machine.status[network.name] = port, "up"
            peer = f"{network.name} address {self.mac(node, network.name)} netns {machine.pid}"
            lines += [
                f"link add {port} type veth peer name {peer}",
                f"link set {port} master {network.bridge}",
                f"link set {port} up",
            ]
            inside += _inside(network, machine.host)
        self._ip(SWITCH, [f"link del {port}" for port in former], force=True)
        self._ip(SWITCH, lines)
        self._ip(node, inside)

    def power_off(self, node: str) -> int:
        """Cut the power: all cables go dead at once, then every process. Returns when (ns).

        The cables go first, so that nothing that a dying kernel or process says gets out.
        """
        machine = self._machines[node]
        at = time.monotonic_ns()
        if self.alive(node):
            self._order("down", machine, list(machine.ports))
        if machine.pid:
            _kill(machine, self._spawned)
        return at

    def freeze(self, node: str, only: Only | None = None) -> int:
        """Stop all processes of a node (or those that ``only(pid, argv)`` names); returns when.

        Repeats until nothing new is found, as processes may fork meanwhile; returns when all have
        stopped, but for those that wait for a disk.
        """
        machine = self._machines[node]
        at = time.monotonic_ns()
        for _ in range(_PASSES_MAX):
            fresh = [pid for pid in members_of(machine.pid) if pid not in machine.frozen]
            chosen = [pid for pid in fresh if only is None or only(pid, argv_of(pid))]
            if not chosen:
                return at
            for pid in chosen:
                _stop(machine, pid)
            # nsenter stops itself when its child stops; then it is known to do so no more later.
            above, outside = parents(), {process.pid for process in self._spawned}
            outer = outside & {above.get(pid, 0) for pid in chosen}
            wait_until_stopped([*chosen, *outer], _STOP_S)
        raise RuntimeError(f"{node} forks faster than it can be frozen")

    def thaw(self, node: str) -> int:
        """Continue what :meth:`freeze` stopped; returns when."""
        machine = self._machines[node]
        at = time.monotonic_ns()
        for handle in machine.frozen.values():
            with suppress(ProcessLookupError):  # it was killed while it was frozen
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            os.close(handle)
        machine.frozen.clear()
        for process in self._spawned:
            if process.poll() is None and state_of(process.pid) == "T":
                process.send_signal(signal.SIGCONT)
        return at

    # --- cables ----------------------------------------------------------------------------------

    def cut(self, node: str, networks: Iterable[str] = (), *, carrier: bool = True) -> int:
        """Let no frame pass between a machine and networks (none named: all); returns when (ns).

        Args:
            node: whose cables.
            networks: names of networks.
            carrier: the machine still sees a live cable; else its link goes down, too.
        """
        machine, at = self._machines[node], time.monotonic_ns()
        names = list(networks) or [network.name for network in machine.networks]
        self._order("block" if carrier else "down", machine, names)
        return at

    def heal(self, node: str, networks: Iterable[str] = ()) -> int:
        """Undo :meth:`cut`; returns when."""
        machine, at = self._machines[node], time.monotonic_ns()
        names = list(networks) or [network.name for network in machine.networks]
        for status, operation in (("blocked", "unblock"), ("down", "up")):
            self._order(operation, machine, [n for n in names if machine.status[n] == status])
        return at

    def _order(self, operation: str, machine: _Machine, names: Sequence[str]) -> None:
        ports = [machine.ports[name] for name in names]
        with self._switch_lock:
            if self._switch is None or not self._switch.stdin or not self._switch.stdout:
                raise RuntimeError("the switch is gone")
            self._switch.stdin.write(json.dumps({"op": operation, "ports": ports}) + "\n")
            self._switch.stdin.flush()
            answer = json.loads(self._switch.stdout.readline())
        if answer["failed"]:
            raise RuntimeError(f"{operation}: {', '.join(answer['failed'])}")
        status: LinkStatus = {"down": "down", "block": "blocked"}.get(operation, "up")  # type: ignore[assignment]
        for name in names:
            machine.status[name] = status

    # --- processes -------------------------------------------------------------------------------

    def run(
        self, node: str, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine and wait for it.

        Raises:
            subprocess.CalledProcessError: it failed, and ``check`` is set.
            subprocess.TimeoutExpired: it took too long; it is killed.
        """
        process = self.spawn(node, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException:
            self.kill(process)
            process.communicate()
            raise
        if check and process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(argv), output, errors)
        return subprocess.CompletedProcess(list(argv), process.returncode, output, errors)

    def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command on a machine, in its cgroup; ``options`` are those of Popen.

        The returned process stands outside and waits for the command: it ends when the command
        does, with its status. Signals go to the command through :meth:`kill`.
        """
        environment = {**os.environ, **(env or {})}
        process = subprocess.Popen([*self._enter(node), *argv], env=environment, **options)
        self._spawned = [one for one in self._spawned if one.poll() is None]
        self._spawned.append(process)
        return process

    def kill(self, process: subprocess.Popen[Any], number: int = signal.SIGKILL) -> None:
        """Send a signal to a command that :meth:`spawn` started."""
        for pid in children_of(process.pid):
            os.kill(pid, number)

    def inner_pid(self, process: subprocess.Popen[Any]) -> int:
        """Return the pid, as seen from here, of a command that :meth:`spawn` started."""
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            found = children_of(process.pid)
            if found:
                return found[0]
            time.sleep(0.001)
        raise RuntimeError("the command has ended")

    def enter_network(self, machine: str) -> list[str]:
        """Return the command prefix to run something in a machine's network only."""
        return ["nsenter", f"--net=/proc/{self._alive(machine)}/ns/net", "--"]

    def _alive(self, machine: str) -> int:
        pid = self._machines[machine].pid
        if not pid:
            raise RuntimeError(f"{machine} is off")
        return pid

    def _enter(self, machine: str) -> list[str]:
        pid = self._alive(machine)
        enter = ["nsenter", f"--target={pid}", "--net", "--pid", "--mount", "--uts", "--ipc"]
        if self._cgroup is None:
            return [*enter, "--"]
        join = f'echo $$ > {self._cgroup / machine}/cgroup.procs && exec "$@"'
        return ["sh", "-c", join, "sh", *enter, "--cgroup", "--"]

    def _hold(self, machine: _Machine) -> None:
        """Start a machine's namespaces and wait until they are furnished."""
        if self._lifeline is None:
            raise RuntimeError("the world is not built")
        cgroup = ""
        if self._cgroup is not None:
            path = self._cgroup / machine.name
            _remove_cgroups(path)
            path.mkdir()
            cgroup = str(path)
        specification = {
            "hostname": machine.name,
            "cgroup": cgroup,
            "keep": self._keep,
            "lifeline": self._lifeline[0],
        }
        holder = subprocess.Popen(
            [sys.executable, "-S", "-E", str(_LAB / "init.py"), json.dumps(specification)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=(self._lifeline[0],),
            start_new_session=True,
        )
        machine.holder = holder
        with holder.stdout as output:  # type: ignore[union-attr]  # it is a pipe
            first, second = output.readline(), output.readline()
        machine.pid = int(first or 0)
        if second != b"ready\n":
            _kill(machine, self._spawned)
            raise LabUnavailable(f"Machine {machine.name} could not be made; see the error above.")

    def _ip(self, machine: str, lines: Sequence[str], *, force: bool = False) -> None:
        """Run iproute2 commands in a machine's network; ``force``: failures do not matter."""
        if not lines:
            return
        options = ["-force"] if force else []
        done = subprocess.run(
            [*self.enter_network(machine), "ip", *options, "-batch", "-"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and not force:
            raise LabUnavailable(f"ip on {machine}: {done.stderr.strip()}")


def _inside(network: Network, host: int) -> list[str]:
    lines = [f"link set {network.name} up"]
    if network.prefix4:
        lines.append(f"addr add {network.prefix4}{host}/24 brd + dev {network.name}")
    if network.prefix6:
        lines.append(f"addr add {network.prefix6}{host:x}/64 dev {network.name} nodad")
    return lines


def _stop(machine: _Machine, pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
    except ProcessLookupError:
        return
    machine.frozen[pid] = handle


def _kill(machine: _Machine, entered: Sequence[subprocess.Popen[Any]]) -> None:
    """Kill a machine's first process; the kernel kills all others with it. Waits for the end.

    Who ``entered`` from outside has a parent outside, which must reap it before the machine ends;
    that parent is nsenter, which may have stopped itself because its child was frozen.
    """
    holder, machine.holder = machine.holder, None
    if holder is None:
        return
    if machine.pid and holder.poll() is None:
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(machine.pid, signal.SIGKILL)
    elif holder.poll() is None:
        holder.kill()
    while not _ended(holder):
        for process in entered:
            if process.poll() is None and state_of(process.pid) == "T":
                process.send_signal(signal.SIGCONT)
    for handle in machine.frozen.values():
        os.close(handle)
    machine.frozen.clear()
    machine.pid = 0


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=0.1)
    except subprocess.TimeoutExpired:
        return False
    return True


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _hold_back_signals() -> dict[int, Any] | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    numbers = (signal.SIGINT, signal.SIGTERM)
    return {number: signal.signal(number, signal.SIG_IGN) for number in numbers}


def _restore_signals(former: dict[int, Any] | None) -> None:
    for number, handler in (former or {}).items():
        signal.signal(number, handler)


def _cgroup_parent() -> Path | None:
    """Return the folder of this process' own cgroup (version 2), None if it may not be used."""
    root = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            root = Path(target)
    if root is None:
        return None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = root / line[3:].lstrip("/")
            return own if os.access(own / "cgroup.procs", os.W_OK) else None
    return None


def _remove_cgroups(path: Path) -> None:
    """Remove a tree of cgroups without processes; a killed one needs a moment until it is empty."""
    if not path.exists():
        return
    for child in path.iterdir():
        if child.is_dir():
            _remove_cgroups(child)
    deadline = time.monotonic() + _START_S
    while True:
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def sweep() -> None:
    """Remove the folders and cgroups of worlds whose process was killed."""
    parent = _cgroup_parent()
    for folder in Path(_PLACE).glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if parent is not None:
                    _remove_cgroups(parent / folder.name)
                shutil.rmtree(folder)
        except OSError:
            continue  # alive, being made, or another user's
