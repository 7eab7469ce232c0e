"""The shell of ``./run demo --shell``: ``leitwolf`` on each node, and ``fault`` to break things."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

from lab.cluster import LabCluster

__all__ = ["open_shell"]

_FAULTS = ("kill", "freeze", "thaw", "cut", "heal", "boot")
_HELP = """\
leitwolf ...            on n1;  n1|n2|n3 CMD ...  runs a command on a node,  client CMD ...
fault kill NODE         power loss           fault boot NODE   switch it on again
fault freeze NODE       SIGSTOP to all       fault thaw NODE
fault cut NODE          interconnect cut     fault heal NODE
try:  leitwolf status --watch      leitwolf why web      fault kill n1
exit removes everything"""


def _break(cluster: LabCluster, words: list[str]) -> str:
    world = cluster.world
    if len(words) != 2 or words[0] not in _FAULTS or words[1] not in world.nodes:
        return f"usage: fault {'|'.join(_FAULTS)} {'|'.join(world.nodes)}"
    fault, node = words
    if fault == "boot" and world.pid(node):
        return f"{node} is on"
    if fault != "boot" and not world.pid(node):
        return f"{node} is off (fault boot {node})"
    actions = {
        "kill": lambda: world.power_off(node),
        "freeze": lambda: world.freeze(node),
        "thaw": lambda: world.thaw(node),
        "cut": lambda: world.cut(node, ["ic0"]),
        "heal": lambda: world.heal(node, ["ic0"]),
        "boot": lambda: cluster.boot(node),
    }
    actions[fault]()
    (world.folder / f"{node}.pid").write_text(str(world.pid(node)))
    return f"{fault} {node}: done"


def _serve(cluster: LabCluster, listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed: the shell ended
        with connection:
            try:
                words = connection.recv(1024).decode(errors="replace").split()
                answer = _break(cluster, words)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                answer = f"failed: {error}"
            with contextlib.suppress(OSError):  # nobody waits for it any more
                connection.sendall(answer.encode() + b"\n")


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _commands(cluster: LabCluster, folder: Path) -> None:
    world = cluster.world
    for machine in (*world.nodes, "client"):
        pid_file = world.folder / f"{machine}.pid"
        pid_file.write_text(str(world.pid(machine)))
        enter = f'nsenter --target="$(cat {pid_file})" --net --pid --mount --uts --ipc --'
        environment = {} if machine == "client" else cluster.environment(machine)
        assignments = " ".join(f"{name}={shlex.quote(v)}" for name, v in environment.items())
        off = f"{machine} is off (fault boot {machine})"
        _script(
            folder / machine,
            f'[ "$(cat {pid_file})" = 0 ] && {{ echo "{off}" >&2; exit 1; }}\n'
            f'exec {enter} env {assignments} PATH={shlex.quote(str(folder))}/tools:"$PATH" "$@"',
        )
    tools = folder / "tools"
    tools.mkdir()
    _script(tools / "leitwolf", f'exec {shlex.quote(sys.executable)} -m leitwolf.cli "$@"')
    _script(folder / "leitwolf", f'exec {folder}/{world.nodes[0]} leitwolf "$@"')
    client = "import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);"
    client += (
        "s.sendall((' '.join(sys.argv[2:])+'\\n').encode());print(s.recv(4096).decode(),end='')"
    )
    _script(
        folder / "fault",
        f'exec {shlex.quote(sys.executable)} -S -E -c "{client}" {world.folder}/fault.sock "$@"',
    )


def open_shell(cluster: LabCluster) -> int:
    """Open a shell with all commands; return its exit status when it ends."""
    world = cluster.world
    folder = world.folder / "bin"
    folder.mkdir()
    _commands(cluster, folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(world.folder / "fault.sock"))
    listener.listen()
    threading.Thread(target=_serve, args=(cluster, listener), daemon=True).start()
    sys.stderr.write(_HELP + "\n")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PS1": "leitwolf demo$ "}
    try:
        shell = ["bash", "--norc", "--noprofile"] if Path("/bin/bash").exists() else ["sh"]
        return subprocess.run(shell, env=environment, check=False).returncode
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
