"""The host runs, watches, stops and adopts processes under the lease (a real host process)."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.host_support import (
    HostNode,
    alive,
    close_order,
    host_node,
    process_order,
    stop_order,
)
from tests.integration.kernel_support import catches, eventually, ip

from leitwolf.system.progress import Flag, Progress, Role

pytestmark = pytest.mark.root


@pytest.fixture
def node(tmp_path: Path) -> Iterator[HostNode]:
    with host_node(tmp_path / "node") as made:
        yield made


def test_started_process_runs_and_its_output_is_kept(node: HostNode) -> None:
    """A process comes online, knows its generation, writes to its file, and stops on order."""
    daemon = node.start()
    command = "/bin/sh -c 'echo generation $LEITWOLF_GENERATION; exec sleep 1000'"
    daemon.send(process_order("srv", command, generation=3))
    assert daemon.state("srv", "online").code == "started"
    pid = node.pid("srv")
    output = node.state / "output" / "srv.log"
    eventually(lambda: output.read_text() == "generation 3\n")
    daemon.send(stop_order("srv", 3))
    assert daemon.state("srv", "offline").code == "stopped"
    assert not alive(pid)
    assert not (node.runtime / "host" / "srv.json").exists()
    assert Progress(node.runtime / "progress.page").slot(Role.HOST).flags == Flag.CGROUPS


def test_death_is_reported_with_its_status(node: HostNode) -> None:
    """The end of the main process fails the resource at once and says how it ended."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    os.kill(node.pid("srv"), signal.SIGSEGV)
    report = daemon.state("srv", "failed")
    assert (report.code, report.text) == ("exited", "ended by signal 11")


def test_start_that_fails_tells_why(node: HostNode) -> None:
    """A missing program, an early exit and wrong parameters are three different failures."""
    daemon = node.start()
    daemon.send(process_order("a", "/no/such/program"))
    assert daemon.state("a", "failed").code == "system-error"
    daemon.send(process_order("b", "/bin/sh -c 'exit 3'"))
    report = daemon.state("b", "failed")
    assert (report.code, report.text) == ("exited", "exit code 3")
    daemon.send(process_order("c", "sleep 1", user="nobody-of-this-name"))
    assert daemon.state("c", "failed").code == "user-unknown"
    daemon.send(process_order("d", "sleep 1", stop_signal="NONE"))
    assert daemon.state("d", "failed").code == "invalid-parameter"


def test_restart_after_failure_is_a_new_attempt(node: HostNode) -> None:
    """The same attempt is not begun twice; the next one is, and leftovers are killed first."""
    daemon = node.start()
    command = "/bin/sh -c 'sleep 1000 & echo $! > child; exec sleep 1000'"
    order = process_order("srv", command, working_directory=str(node.state))
    daemon.send(order)
    daemon.state("srv", "online")
    told = node.state / "child"
    eventually(lambda: told.exists() and told.read_text().endswith("\n"))
    child = int(told.read_text())
    os.kill(node.pid("srv"), signal.SIGKILL)
    daemon.state("srv", "failed")
    daemon.send(order)
    assert daemon.state("srv", "failed").attempt == 1
    daemon.send(process_order("srv", "sleep 1000", attempt=2))
    assert daemon.state("srv", "online").attempt == 2
    assert not alive(child)


def test_process_that_ignores_the_signal_is_killed(node: HostNode) -> None:
    """After the stop timeout everything in the cell is killed."""
    daemon = node.start()
    command = "/bin/sh -c 'trap : TERM; while :; do sleep 1000; done'"
    daemon.send(process_order("srv", command, stop_timeout_ms=50))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    daemon.send(stop_order("srv"))
    daemon.state("srv", "offline")
    assert not alive(pid)


def test_online_only_when_the_check_passes(node: HostNode) -> None:
    """With a check, the resource is online when it passed first, and failed when it fails."""
    daemon = node.start()
    flag = node.state / "ready"
    order = process_order(
        "srv", "sleep 1000", check_command=f"test -e {flag}", check_interval_ms=20, check_failures=3
    )
    daemon.send(order)
    daemon.state("srv", "online-pending")
    flag.touch()
    daemon.state("srv", "online")
    pid = node.pid("srv")
    flag.unlink()
    report = daemon.state("srv", "failed")
    assert report.code == "check-failed"
    daemon.send(close_order())
    daemon.attested()
    assert not alive(pid)


SERVER = """\
import http.server, os, signal

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        good = self.path == "/health?deep" and os.path.exists(os.environ["READY"])
        self.send_response(204 if good else 503)
        self.end_headers()

def end(number, _):
    open(os.environ["TOLD"], "a").write(signal.Signals(number).name)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, end)
http.server.HTTPServer(("127.0.0.1", 8123), Answer).serve_forever()
"""


def test_web_server_with_an_environment_and_a_signal_of_its_own(node: HostNode) -> None:
    """Asked by HTTP whether it is well; what it needs is in its environment; USR1 ends it."""
    ip("-n", node.namespace, "link", "set", "lo", "up")
    ready, told = node.state / "is ready", node.state / "told"
    (node.state / "server.py").write_text(SERVER)
    order = process_order(
        "srv",
        f"{sys.executable} -S -E {node.state}/server.py",
        environment=f"READY='{ready}' TOLD={told}",
        stop_signal="USR1",
        check_http="http://127.0.0.1:8123/health?deep",
        check_interval_ms=20,
        check_timeout_ms=30_000,
        check_failures=3,
    )
    daemon = node.start()
    daemon.send(order)
    daemon.state("srv", "online-pending")
    ready.touch()
    daemon.state("srv", "online")
    ready.unlink()
    report = daemon.state("srv", "failed")
    assert report.code == "check-failed"
    assert report.text == "3 checks failed: 127.0.0.1:8123: status 503"
    ready.touch()
    daemon.send(msgspec.structs.replace(order, attempt=2))
    daemon.state("srv", "online")
    told.unlink(missing_ok=True)
    daemon.send(stop_order("srv"))
    daemon.state("srv", "offline")
    assert told.read_text() == "SIGUSR1"


def test_stop_interrupts_a_start(node: HostNode) -> None:
    """An order to stop does not wait for a start that never becomes ready."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000", check_command="false", ready_timeout_ms=3600000))
    daemon.state("srv", "online-pending")
    eventually(lambda: "pid" in node.record("srv")["memory"])
    pid = node.pid("srv")
    daemon.send(stop_order("srv"))
    daemon.state("srv", "offline")
    assert not alive(pid)


def test_crashed_host_adopts(node: HostNode) -> None:
    """A killed host's successor reports what runs as online and restarts nothing."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.crash()
    assert alive(pid)
    daemon = node.start()
    (report,) = node.inventory.resources
    assert (report.resource, report.state, report.code) == ("srv", "online", "adopted")
    assert node.pid("srv") == pid
    os.kill(pid, signal.SIGKILL)
    assert daemon.state("srv", "failed").code == "exited"
    node.crash()
    node.start()
    (report,) = node.inventory.resources
    assert report.state == "failed"


def test_exit_status_of_the_adopted_is_known(node: HostNode) -> None:
    """What the keeper reaped is asked for: with a host watching, and when none was there."""
    node.start_under_keeper().send(
        process_order("a", "/bin/sh -c 'trap \"exit 5\" USR1; while :; do sleep 0.01; done'")
    )
    node.daemons[-1].send(process_order("b", "sleep 1000"))
    node.daemons[-1].state("a", "online")
    node.daemons[-1].state("b", "online")
    first, second = node.pid("a"), node.pid("b")
    eventually(lambda: catches(first, signal.SIGUSR1))
    node.tell_keeper("kill")
    node.daemons[-1].hung_up()
    os.kill(second, signal.SIGSEGV)
    eventually(lambda: not alive(second))
    node.tell_keeper("start")
    daemon = node.daemon()
    states = {one.resource: (one.state, one.text) for one in node.inventory.resources}
    assert states["a"][0] == "online"
    assert states["b"] == ("failed", "ended by signal 11 (while no host ran)")
    os.kill(first, signal.SIGUSR1)
    report = daemon.state("a", "failed")
    assert (report.code, report.text) == ("exited", "exit code 5")


def test_start_in_progress_goes_on_after_a_crash(node: HostNode) -> None:
    """A host that dies while a process becomes ready does not cost that process its life."""
    daemon = node.start()
    flag = node.state / "ready"
    daemon.send(process_order("srv", "sleep 1000", check_command=f"test -e {flag}"))
    daemon.state("srv", "online-pending")
    eventually(lambda: "pid" in node.record("srv")["memory"])
    pid = node.pid("srv")
    node.crash()
    daemon = node.start()
    (report,) = node.inventory.resources
    assert report.state == "online-pending"
    flag.touch()
    daemon.state("srv", "online")
    assert node.pid("srv") == pid
    assert alive(pid)


def test_what_died_without_a_host_is_failed(node: HostNode) -> None:
    """A process that ended while no host ran is reported as failed, not as online."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.crash()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    node.start()
    (report,) = node.inventory.resources
    assert (report.state, report.code) == ("failed", "exited")


def test_cell_without_record_is_killed(node: HostNode) -> None:
    """What runs in a cell that no record knows is ended when a host comes."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.crash()
    (node.runtime / "host" / "srv.json").unlink()
    node.start()
    assert node.inventory.resources == ()
    assert not alive(pid)


def test_orderly_end_of_the_host_leaves_resources(node: HostNode) -> None:
    """SIGTERM ends the host with code 0 and touches nothing."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    assert node.terminate() == 0
    assert alive(pid)
    node.start()
    assert node.inventory.resources[0].state == "online"


def test_nothing_starts_without_permission(node: HostNode) -> None:
    """A closed gate, another lease or a page that is no page: no process is made."""
    node.guard.changes = {"gate": False}
    node.guard.pass_once()
    daemon = node.start()
    marker = node.state / "ran"
    daemon.send(process_order("srv", f"touch {marker}"))
    assert daemon.state("srv", "failed").code == "lease-over"
    node.guard.changes = {}
    node.guard.pass_once()
    daemon.send(process_order("srv", f"touch {marker}", lease=6, attempt=2))
    assert daemon.state("srv", "failed").code == "lease-over"
    assert not marker.exists()


def test_withdrawn_permission_kills(node: HostNode) -> None:
    """When the lease is closed in the page, the host kills even if the guard does nothing."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.guard.changes = {"lease": 0, "gate": False}
    assert daemon.state("srv", "failed").code == "lease-over"
    eventually(lambda: not alive(pid))


def test_guard_gone_longer_than_the_lease_kills(node: HostNode) -> None:
    """No guard renews the page: when the lease in it ends, the host kills."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.guard.stop(lease_ms=2_000)
    report = daemon.state("srv", "failed")
    assert report.code == "lease-over"
    assert "lease-ended" in report.text
    eventually(lambda: not alive(pid))


def test_adopting_host_kills_what_has_no_lease(node: HostNode) -> None:
    """A host that comes back under another lease ends what ran under the old one."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.crash()
    node.guard.changes = {"lease": 8}
    node.guard.pass_once()
    node.start()
    (report,) = node.inventory.resources
    assert (report.state, report.code) == ("failed", "lease-over")
    eventually(lambda: not alive(pid))


def test_attested_generation_never_runs_again(node: HostNode) -> None:
    """After an attest the generation is refused, also by the next host; a higher one starts."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000", generation=4))
    daemon.state("srv", "online")
    daemon.send(stop_order("srv", 4))
    daemon.state("srv", "offline")
    daemon.send(close_order(4))
    assert daemon.attested().generation == 4
    daemon.send(process_order("srv", "sleep 1000", generation=4, attempt=2))
    assert daemon.note("srv", "generation-closed").state == "failed"
    node.crash()
    daemon = node.start()
    assert node.inventory.closed == {"web": 4}
    daemon.send(process_order("srv", "sleep 1000", generation=3))
    daemon.note("srv", "generation-closed")
    daemon.send(close_order(4))
    assert daemon.attested().generation == 4
    daemon.send(process_order("srv", "sleep 1000", generation=5))
    daemon.state("srv", "online")


def test_group_that_runs_is_not_attested(node: HostNode) -> None:
    """Closing a group with a running resource is refused with a report, and nothing stops."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    daemon.send(close_order())
    assert daemon.note("srv", "not-stopped").state == "online"
    assert alive(node.pid("srv"))
    daemon.send(stop_order("srv"))
    daemon.send(close_order())
    daemon.attested()


def test_close_waits_for_a_stop_under_way(node: HostNode) -> None:
    """A close that comes while a resource still stops is answered when that is done."""
    daemon = node.start()
    command = "/bin/sh -c 'trap : TERM; while :; do sleep 1000; done'"
    daemon.send(process_order("srv", command, stop_timeout_ms=300))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    daemon.send(stop_order("srv"))
    daemon.send(close_order())
    daemon.attested()
    assert not alive(pid)


def test_newer_daemon_replaces_the_older(node: HostNode) -> None:
    """The newest connection gets the inventory and the reports; the former one is closed."""
    first = node.start()
    first.send(process_order("srv", "sleep 1000"))
    first.state("srv", "online")
    second = node.daemon()
    assert node.inventory.resources[0].state == "online"
    first.hung_up()
    second.send(stop_order("srv"))
    second.state("srv", "offline")


def test_rubbish_costs_only_the_connection(node: HostNode) -> None:
    """A peer that sends no order is disconnected; resources and host go on."""
    daemon = node.start()
    daemon.send(process_order("srv", "sleep 1000"))
    daemon.state("srv", "online")
    daemon._socket.send(b"\xc1rubbish")
    daemon.hung_up()
    node.daemon()
    assert node.inventory.resources[0].state == "online"


def test_output_stays_bounded(node: HostNode) -> None:
    """A process that writes for ever fills neither the disk nor more than its bound at rest."""
    daemon = node.start()
    command = (
        "/bin/sh -c 'while :; do echo 0123456789012345678901234567890123456789; sleep 0.001; done'"
    )
    daemon.send(process_order("srv", command, output_bytes_max=8192))
    daemon.state("srv", "online")
    old = node.state / "output" / "srv.log.1"
    eventually(lambda: old.exists() and old.stat().st_size)
    assert old.stat().st_size <= 4096
    before = time.monotonic()
    daemon.send(stop_order("srv"))
    daemon.state("srv", "offline")
    assert time.monotonic() >= before
    current = node.state / "output" / "srv.log"
    assert current.stat().st_size + old.stat().st_size <= 8192


def test_output_stays_bounded_while_it_starts_and_while_it_stops(node: HostNode) -> None:
    """Both may last an hour, and what a process writes meanwhile must not fill the disk."""
    daemon = node.start()
    script = "trap : TERM; while :; do echo 0123456789012345678901234567890123456789; done"
    daemon.send(
        process_order(
            "srv",
            f"/bin/sh -c '{script}'",
            output_bytes_max=8192,
            check_command="/bin/false",
            ready_timeout_ms=60_000,
            stop_timeout_ms=60_000,
        )
    )
    daemon.state("srv", "online-pending")
    old = node.state / "output" / "srv.log.1"
    eventually(lambda: old.exists() and old.stat().st_size)
    assert old.stat().st_size <= 4096
    daemon.send(stop_order("srv"))
    daemon.state("srv", "offline-pending")
    old.unlink(missing_ok=True)
    eventually(lambda: old.exists() and old.stat().st_size)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[HostNode]:
    with host_node(tmp_path / "node") as made:
        made.containment = "pidns"
        yield made


def test_pid_namespaces_contain_and_are_adopted(unprivileged: HostNode) -> None:
    """With PID namespaces instead of cgroups: the same life, adoption and stop."""
    node = unprivileged
    daemon = node.start()
    assert Progress(node.runtime / "progress.page").slot(Role.HOST).flags == Flag(0)
    command = "/bin/sh -c 'sleep 1000 & exec sleep 2000'"
    daemon.send(process_order("srv", command))
    daemon.state("srv", "online")
    pid = node.pid("srv")
    node.crash()
    daemon = node.start()
    (report,) = node.inventory.resources
    assert (report.state, report.code) == ("online", "adopted")
    assert node.pid("srv") == pid
    daemon.send(stop_order("srv"))
    daemon.state("srv", "offline")
    daemon.send(close_order())
    daemon.attested()
    assert not alive(pid)
    daemon.send(process_order("srv", "/bin/sh -c 'exit 4'", generation=2))
    assert daemon.state("srv", "failed").text == "exit code 4"
