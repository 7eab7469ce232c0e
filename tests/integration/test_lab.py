"""The lab itself: machines of namespaces, their faults, and the instruments that watch them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.observer import Observer
from lab.prober import Prober
from lab.processes import state_of
from lab.world import World, sweep

pytestmark = pytest.mark.root

LAB = Path(__file__).parents[2] / "lab"
VIP, VIP6, PORT = "10.77.2.50", "fd77:2::50", 7000
WAIT_S = 30.0


def namespaces() -> set[str]:
    """Network namespaces that any process holds."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue
    return found


def lab_processes(marker: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(3, interconnects=2) as built:
        for node in built.nodes:
            built.start(node)
            serve(built, node)
        yield built


def serve(world: World, node: str) -> None:
    command = [sys.executable, "-S", "-E", str(LAB / "echo.py"), str(PORT), node]
    server = world.spawn(node, command, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    server.stdout.close()


def own(world: World, node: str) -> None:
    """Take the virtual addresses, as an owner does: without waiting, and telling everybody."""
    world.run(
        node,
        ["sh", "-c", f"ip addr add {VIP}/24 dev client0; ip addr add {VIP6}/64 dev client0 nodad"],
    )
    announce = (
        "import socket;s=socket.socket(17,3);s.bind(('client0',0));m=s.getsockname()[4];"
        f"a=socket.inet_aton('{VIP}');"
        "s.send(b'\\xff'*6+m+bytes.fromhex('0806000108000604')+b'\\0\\1'+m+a+bytes(6)+a)"
    )
    world.run(node, [sys.executable, "-S", "-E", "-c", announce])


def disown(world: World, node: str) -> None:
    world.run(
        node,
        ["sh", "-c", f"ip addr del {VIP}/24 dev client0; ip addr del {VIP6}/64 dev client0"],
        check=False,
    )


def answers(world: World, source: str, address: str) -> bool:
    """Ask an address over UDP from a machine."""
    code = (
        "import socket,sys;a,p=sys.argv[1],int(sys.argv[2]);"
        "s=socket.socket(socket.AF_INET6 if ':' in a else socket.AF_INET,socket.SOCK_DGRAM);"
        "s.settimeout(0.3);ok=1\n"
        "for _ in range(3):\n"
        " try: s.sendto(b'x',(a,p));s.recv(9);ok=0;break\n"
        " except OSError: pass\n"
        "sys.exit(ok)"
    )
    argv = [sys.executable, "-S", "-E", "-c", code, address, str(PORT)]
    return world.run(source, argv, check=False).returncode == 0


def test_machines_see_themselves_and_each_other_only(world: World) -> None:
    """Own host name, processes, /run, /tmp and /dev without watchdog; every network connects."""
    script = "hostname; ls -A /run /tmp; ls /dev; ls /sys/class/net; ls -d /proc/[0-9]*"
    lines = world.run("n1", ["sh", "-c", script]).stdout.splitlines()
    assert lines[0] == "n1"
    assert not any("watchdog" in line or line in {"mem", "vda", "sda"} for line in lines)
    assert {"null", "urandom", "client0", "ic0", "ic1", "lo"} <= set(lines)
    assert len([line for line in lines if line.startswith("/proc/")]) < 10
    for network in ("ic0", "ic1", "client0"):
        assert answers(world, "n1", world.address("n2", network))
    assert answers(world, "client", world.address("n3"))
    assert answers(world, "client", world.address("n3", family=6))
    assert not answers(world, "client", world.address("n3", "ic0"))
    assert world.folder.exists()
    world.run("n1", ["sh", "-c", f"echo kept > {world.folder}/n1; echo gone > /tmp/x"])


def test_files_survive_a_power_loss_and_memory_does_not(world: World) -> None:
    """The folder of the world is the machine's disk."""
    world.run("n2", ["sh", "-c", f"echo kept > {world.folder}/n2; touch /tmp/x /run/x"])
    sleeper = world.spawn("n2", ["sleep", "1000"])
    inner = world.inner_pid(sleeper)
    assert Path(f"/proc/{inner}").exists()
    world.power_off("n2")
    assert sleeper.wait() != 0
    assert not Path(f"/proc/{inner}").exists()
    assert world.links["n2"]["ic0"] == "off"
    assert not answers(world, "n1", world.address("n2", "ic0"))
    world.start("n2")
    serve(world, "n2")
    found = world.run("n2", ["sh", "-c", f"cat {world.folder}/n2; ls /tmp /run"]).stdout.split()
    assert found[:2] == ["kept", "/run:"]
    assert "x" not in found, "memory is gone with the power"
    assert answers(world, "n1", world.address("n2", "ic0"))


def test_nobody_hears_a_machine_die(world: World) -> None:
    """A power loss ends connections in silence: no FIN, no RST, as the cables are dead first."""
    listen = (
        "import socket;s=socket.socket();s.bind(('0.0.0.0',7100));s.listen();"
        "print('ready',flush=True);c,_=s.accept();c.recv(1)"
    )
    connect = (
        f"import socket;s=socket.create_connection(('{world.address('n3')}',7100));"
        "print('connected',flush=True);s.settimeout(0.5)\n"
        "try: print(s.recv(1))\n"
        "except TimeoutError: print('silence')\n"
        "except OSError as e: print(e)"
    )
    python = [sys.executable, "-S", "-E", "-u", "-c"]
    with world.spawn("n3", [*python, listen], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        with world.spawn("client", [*python, connect], stdout=subprocess.PIPE) as connected:
            assert connected.stdout is not None
            assert connected.stdout.readline() == b"connected\n"
            world.power_off("n3")
            assert connected.stdout.read() == b"silence\n"
    world.start("n3")
    serve(world, "n3")


def test_a_cut_cable_may_keep_its_carrier(world: World) -> None:
    """Blocked: frames stop, carrier stays. Down: the machine sees it. Other networks go on."""

    def carrier(network: str) -> str:
        return world.run("n1", ["cat", f"/sys/class/net/{network}/carrier"]).stdout.strip()

    world.cut("n1", ["ic0"])
    assert world.links["n1"] == {"ic0": "blocked", "ic1": "up", "client0": "up"}
    assert carrier("ic0") == "1"
    assert not answers(world, "n1", world.address("n2", "ic0"))
    assert answers(world, "n1", world.address("n2", "ic1"))
    world.heal("n1", ["ic0"])
    assert answers(world, "n1", world.address("n2", "ic0"))
    world.cut("n1", carrier=False)
    assert {carrier(network) for network in ("ic0", "ic1", "client0")} == {"0"}
    world.heal("n1")
    assert carrier("ic1") == "1"
    assert answers(world, "n1", world.address("n2", "ic1"))


def test_freezing_stops_all_or_some_processes(world: World) -> None:
    """Frozen processes keep their state and go on when thawed; others are left alone."""
    one = world.spawn("n1", ["sh", "-c", "sleep 1000; true"])
    two = world.spawn("n1", ["sleep", "2000"])
    pids = [world.inner_pid(one), world.inner_pid(two)]
    world.freeze("n1", only=lambda _, argv: "2000" in argv)
    assert state_of(pids[0]) != "T"
    assert state_of(pids[1]) == "T"
    assert answers(world, "client", world.address("n1"))
    world.thaw("n1")
    assert answers(world, "client", world.address("n1"))
    assert state_of(pids[1]) != "T"
    world.freeze("n1")
    assert [state_of(pid) for pid in pids] == ["T", "T"]
    assert not answers(world, "client", world.address("n1"))
    world.thaw("n1")
    assert answers(world, "client", world.address("n1"))
    for process in (one, two):
        world.kill(process)
        assert process.wait() != 0


def test_instruments_measure_an_outage_and_the_owners(world: World) -> None:
    """A power loss is an outage until the next owner answers; never were there two."""
    own(world, "n1")
    with (
        Observer(world, [VIP, VIP6]) as observer,
        Prober(world, VIP, PORT) as prober,
        Prober(world, VIP6, PORT) as prober6,
        Prober(world, f"{VIP}", PORT, kind="http", interval_us=5000) as browser,
    ):
        instruments = (prober, prober6, browser)
        assert all(one.wait_for_answers(timeout_s=WAIT_S) for one in instruments)
        for one in instruments:
            one.outages()
            one.stall_ms()
        observer.report()
        begun = time.monotonic()
        world.power_off("n1")
        time.sleep(0.2)
        own(world, "n2")
        assert prober.wait_for_answers(timeout_s=WAIT_S)
        assert browser.wait_for_answers(timeout_s=WAIT_S)
        longest_ms = (time.monotonic() - begun) * 1000 + 50
        # Two requests under way at the power loss may see it apart; later ones may be late.
        for one in (prober, browser):
            outage_ms = max(outage.milliseconds for outage in one.outages() if outage.end)
            assert 200 - one.stall_ms() < outage_ms < longest_ms
        assert observer.two_owners_ms() == 0
        deadline = time.monotonic() + WAIT_S
        while (owners := observer.owners().get(VIP)) != ["n2"]:
            assert time.monotonic() < deadline, owners
            time.sleep(0.1)
    disown(world, "n2")
    world.start("n1")
    serve(world, "n1")


def test_the_observer_sees_two_owners(world: World) -> None:
    """Both answer for the address: the time of it is measured, for each family."""
    for addresses in ([VIP], [VIP6]):
        own(world, "n1")
        with Observer(world, addresses) as observer:
            time.sleep(0.3)
            assert observer.two_owners_ms() == 0
            begun, seen_ms = time.monotonic(), 0.0
            own(world, "n2")
            while seen_ms < 300:  # whoever stands still sees nothing
                assert time.monotonic() < begun + WAIT_S, seen_ms
                time.sleep(0.5)
                seen_ms += observer.two_owners_ms()
            disown(world, "n2")
            time.sleep(0.3)
            seen_ms += observer.two_owners_ms()
            assert seen_ms < (time.monotonic() - begun) * 1000
            time.sleep(0.3)
            assert observer.two_owners_ms() == 0
        disown(world, "n1")


def test_a_world_leaves_nothing_behind() -> None:
    """No namespace, process, folder, cgroup or interface remains after the end."""
    interfaces = sorted(Path("/sys/class/net").iterdir())
    with World(2) as world:
        for node in world.nodes:
            world.start(node)
        own_namespaces = {str(Path(f"/proc/{world.pid(n)}/ns/net").readlink()) for n in world.nodes}
        world.spawn("n1", ["sleep", "1000"])
        folder = world.folder
        assert lab_processes(folder.name)
    assert not lab_processes(folder.name)
    assert not folder.exists()
    assert not own_namespaces & namespaces()
    assert sorted(Path("/sys/class/net").iterdir()) == interfaces
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{folder.name}"))


PROGRAM = """
import sys, time
from lab.privileges import ensure_privileges
from lab.world import World
if __name__ == "__main__":
    ensure_privileges()
    with World(2) as world:
        for node in world.nodes:
            world.start(node)
        print(world.folder.name, world.run("n1", ["hostname"]).stdout.strip(), flush=True)
        time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_world_ends_with_its_program(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM clean up; after SIGKILL only a folder waits for the next world."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=LAB.parent,
    )
    assert program.stdout is not None
    name, hostname = program.stdout.readline().split()
    assert hostname == "n1"
    program.send_signal(number)
    program.wait(60)
    program.stdout.close()
    deadline = time.monotonic() + 20
    while lab_processes(name) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lab_processes(name)
    if number is signal.SIGKILL:
        sweep()
    assert not Path("/var/tmp", name).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{name}"))


def test_an_ordinary_user_builds_a_world_in_a_user_namespace(tmp_path: Path) -> None:
    """Without root, the program starts again as root of a user namespace."""
    copy = Path("/var/tmp", f"lab-user-{os.getpid()}")
    shutil.copytree(LAB, copy / "lab")
    try:
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        probe = [*become, "unshare", "--user", "--map-root-user", "true"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("user namespaces are shut")
        python = shutil.which("python3", path="/usr/bin") or sys.executable
        done = subprocess.run(
            [*become, python, "-c", PROGRAM.replace("time.sleep(1000)", "print(world.links)")],
            cwd=copy,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == "n1"
        assert not Path("/var/tmp", done.stdout.split()[0]).exists()
    finally:
        shutil.rmtree(copy)
