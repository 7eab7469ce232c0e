"""Virtual machines, by the verbs of a lab tool: real kernels, systemd as the first process.

The tool is any program with these verbs; NODE is a number from 1, NET one of NETS:

    up N --fast            start nodes 1..N, wait until they are booted
    down                   end them all; status: fails when there are none
    sh NODE CMD            run a command there, by a way that needs no network (--timeout S)
    put NODE FILE PATH     copy a file in
    crash NODE, start NODE power off and on; wait NODE: until it is booted
    pause NODE, resume NODE   stand still with all clocks; go on
    freeze NODE, thaw NODE    stand still while clocks go on; go on
    linkdown NODE NET, linkup NODE NET   pull a cable, plug it in
    lio NODE               make it an iSCSI target with all SCSI-3 reservations, on a disk of 64 MiB
                           that outlives a loss of power; the same again after a boot. Prints
                           "target IQN at ADDRESS:PORT, LUN 0"
    events NODE            what happened to it, a line of JSON each, with "event" and "mono"
    ns CMD                 run a command where the bridges are (br-NET; ports end with NET)
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["NETS", "NODES", "MachineError", "Machines"]

NODES = (1, 2, 3)
NETS = {"interconnect": "ic", "clients": "cl", "second interconnect": "st"}


class MachineError(Exception):
    """The tool, or a command in a machine, failed; has its output."""


class Machines:
    """The lab.

    Args:
        tool: path of the program.
    """

    def __init__(self, tool: Path) -> None:
        self._tool = str(tool)

    def call(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run a verb; return what it prints.

        Raises:
            MachineError: it failed, or took too long.
        """
        try:
            done = subprocess.run(
                [self._tool, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{shlex.join(arguments)}: no end in {timeout_s:g} s") from error
        if done.returncode:
            raise MachineError(
                f"{shlex.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def sh(self, node: int, command: str, timeout_s: float = 60) -> str:
        """Run a shell command in a machine; return what it prints.

        Raises:
            MachineError: it failed, or the machine does not answer.
        """
        return self.call(
            "sh", "--timeout", f"{timeout_s:g}", str(node), command, timeout_s=timeout_s + 10
        )

    def everywhere(self, command: str, timeout_s: float = 120) -> list[str]:
        """Run a shell command in all machines at once."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda node: self.sh(node, command, timeout_s), NODES))

    def enter(self) -> list[str]:
        """Return the command prefix that enters the network of the bridges."""
        return [self._tool, "ns"]

    def up(self) -> None:
        """Start all machines."""
        self.call("up", str(len(NODES)), "--fast", "--nets", ",".join(NETS.values()), timeout_s=600)

    def running(self) -> bool:
        """Tell whether there is a lab."""
        try:
            self.call("status")
        except MachineError:
            return False
        return True

    def down(self) -> None:
        """End all machines."""
        self.call("down")

    def boot(self, node: int) -> None:
        """Switch a machine on and wait until it is booted."""
        self.call("start", str(node))
        self.booted(node)

    def booted(self, node: int) -> None:
        """Wait until a machine is booted."""
        self.call("wait", str(node), timeout_s=240)

    def mend(self) -> None:
        """Have all machines on, going on, with all cables in, whatever a test left behind."""
        for node in NODES:
            for verb in ("thaw", "resume", "start"):
                with contextlib.suppress(MachineError):  # it is as it should be
                    self.call(verb, str(node))
            for net in NETS.values():
                self.call("linkup", str(node), net)

    def boot_id(self, node: int) -> str:
        """Return what names this boot of a machine."""
        return self.sh(node, "cat /proc/sys/kernel/random/boot_id", 5).strip()

    def events(self, node: int, since: float) -> list[dict[str, Any]]:
        """Return what happened to a machine since an instant of the monotonic clock."""
        lines = [json.loads(line) for line in self.call("events", str(node)).splitlines()]
        return [line for line in lines if line["mono"] >= since]

    def until_event(self, node: int, name: str, since: float, timeout_s: float) -> float:
        """Wait for an event; return its instant of the monotonic clock, s.

        Raises:
            MachineError: it did not come.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for event in self.events(node, since):
                if event["event"] == name:
                    return float(event["mono"])
            time.sleep(0.2)
        raise MachineError(f"node{node}: no {name} in {timeout_s:g} s")
