"""Cells with real processes: cgroups, cgroups of old kernels, PID namespaces."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.processes import children_of
from tests.integration import kernel_support as support
from tests.integration.host_support import unified

from leitwolf.system import pidnamespace
from leitwolf.system.containment import (
    CgroupContainment,
    Child,
    Containment,
    Program,
    SpawnRefused,
)
from leitwolf.system.pidnamespace import PidNamespaceContainment

pytestmark = pytest.mark.root

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GREETING": "hello"}
STUBBORN = "trap '' TERM INT HUP; while :; do sleep 0.05; done"


class OldKernelContainment(CgroupContainment):
    """A kernel before 5.14, which has no ``cgroup.kill``."""

    def kill(self, cell: str) -> None:
        self._kill_each(cell)


def make(kind: str, tmp_path: Path) -> Containment:
    if kind == "pidns":
        return PidNamespaceContainment(tmp_path / "cells")
    classes = {"cgroup": CgroupContainment, "cgroup-old": OldKernelContainment}
    return classes[kind](unified() / f"leitwolf-test-{os.getpid()}")


def clear(containment: Containment) -> None:
    for cell in containment.cells():
        kill(containment, cell)
        containment.remove(cell)
    if isinstance(containment, CgroupContainment):
        containment.root.rmdir()


@pytest.fixture(params=["cgroup", "cgroup-old", "pidns"])
def cells(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Containment]:
    containment = make(request.param, tmp_path)
    containment.prepare()
    yield containment
    clear(containment)


def kill(containment: Containment, cell: str) -> None:
    """Do as the guard does: close, then kill again until it is empty."""
    containment.close(cell)
    deadline = time.monotonic() + support.PATIENCE_SECONDS
    while not containment.empty(cell):
        containment.kill(cell)
        assert time.monotonic() < deadline, f"{containment.processes(cell)} live on"


def start(
    containment: Containment,
    cell: str,
    script: str,
    output: Path = Path(os.devnull),
    permitted: Callable[[], bool] = lambda: True,
    user: int | None = None,
    group: int | None = None,
    groups: tuple[int, ...] = (),
) -> Child:
    with output.open("ab") as file:
        program = Program(
            argv=["sh", "-c", script],
            environment=ENVIRONMENT,
            directory="/usr",
            user=user,
            group=group,
            groups=groups,
            output=file.fileno(),
        )
        return containment.spawn(cell, program, permitted)


def wait(child: Child) -> int:
    """Reap a child and return its exit code, or the negative number of its signal."""
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    return os.waitstatus_to_exitcode(status)


def test_program_runs_and_its_exit_code_comes_back(cells: Containment, tmp_path: Path) -> None:
    """Output, environment, directory and exit code are as asked for."""
    output = tmp_path / "output"
    child = start(cells, "db", 'echo "$GREETING $PWD"; echo error >&2; exit 7', output)
    assert wait(child) == 7
    assert output.read_text() == "hello /usr\nerror\n"
    support.eventually(lambda: cells.empty("db"))
    assert cells.cells() == ["db"]
    cells.remove("db")
    assert cells.cells() == []


def test_signals_reach_the_program(cells: Containment, tmp_path: Path) -> None:
    """What is sent to the child's pid is handled by the program; its death by signal shows."""
    output = tmp_path / "output"
    child = start(
        cells, "a", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done", output
    )
    support.eventually(lambda: output.read_text() == "ready\n")
    os.kill(child.pid, signal.SIGTERM)
    assert wait(child) == 5
    child = start(cells, "b", "kill -USR1 $$; sleep 60")
    assert wait(child) == -signal.SIGUSR1


def test_every_signal_that_may_be_named_reaches_the_program(
    cells: Containment, tmp_path: Path
) -> None:
    """Also those that few programs know, and real-time ones; SIGCHLD a shell has all the time."""
    output = tmp_path / "output"
    none = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    numbers = sorted(int(number) for number in signal.valid_signals() - none)
    traps = "; ".join(f"trap 'echo {number}' {number}" for number in numbers)
    child = start(cells, "db", f"{traps}; echo ready; while :; do sleep 0.01; done", output)
    support.eventually(lambda: "ready" in output.read_text())
    for number in numbers:
        os.kill(child.pid, number)
        support.eventually(lambda number=number: str(number) in output.read_text().split())
    kill(cells, "db")
    assert wait(child) == -signal.SIGKILL


def test_nothing_of_the_starter_is_inherited(cells: Containment, tmp_path: Path) -> None:
    """Signals, mask, descriptors, scheduling, memory protection, session: all as for a new one."""
    output = tmp_path / "output"
    script = (
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' ';"
        "readlink /proc/self/fd/0; umask; cat /proc/self/oom_score_adj;"
        "cut -d' ' -f19,41 /proc/self/stat; read line || echo end of input"
    )

    def starter() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        leak = socket.socket()
        leak.set_inheritable(True)
        os.umask(0o077)
        # Not every root may: in a container the capability is missing.
        with contextlib.suppress(PermissionError):
            Path("/proc/self/oom_score_adj").write_text("-500")
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        os.nice(-5)
        session = os.getsid(0)
        child = start(cells, "a", script, output)
        assert os.getsid(child.pid) not in (session, 0)
        assert wait(child) == 0
        leak.close()

    support.in_child(starter)
    lines = output.read_text().splitlines()
    zero = "0" * 16
    assert [line.split()[1] for line in lines[:2]] == [zero] * 2
    # 3 is the directory that ls reads.
    assert lines[2] == "0 1 2 3 /dev/null"
    assert lines[3:] == ["0022", "0", "0 0", "end of input"]


def test_root_runs_programs_as_another_user(cells: Containment, tmp_path: Path) -> None:
    """User, group and supplementary groups are the ones asked for, and nothing else."""
    output = tmp_path / "output"
    script = "id -u; id -g; id -G"
    assert wait(start(cells, "a", script, output, user=65534, group=1234, groups=(7, 8))) == 0
    assert output.read_text().split() == ["65534", "1234", "1234", "7", "8"]


def test_failing_exec_comes_back_as_its_error(cells: Containment, tmp_path: Path) -> None:
    """A missing program, one that may not be executed, a missing directory; no child is left."""
    before = children_of(os.getpid())

    def spawn(name: str, directory: str = "/") -> None:
        program = Program(
            argv=[name],
            environment=ENVIRONMENT,
            directory=directory,
            user=None,
            group=None,
            groups=(),
            output=2,
        )
        cells.spawn("x", program, lambda: True)

    with pytest.raises(FileNotFoundError, match="no-such-program"):
        spawn("no-such-program")
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(PermissionError, match="plain"):
        spawn(str(plain))
    with pytest.raises(FileNotFoundError, match="no/such"):
        spawn("true", "/no/such/directory")
    assert children_of(os.getpid()) == before
    support.eventually(lambda: cells.empty("x"))


def test_not_permitted_is_never_executed(cells: Containment, tmp_path: Path) -> None:
    """The answer of the last moment counts, and no child is left."""
    before = children_of(os.getpid())
    trace = tmp_path / "trace"
    with pytest.raises(SpawnRefused):
        start(cells, "a", f"touch {trace}", permitted=lambda: False)
    assert not trace.exists()
    assert children_of(os.getpid()) == before
    support.eventually(lambda: cells.empty("a"))


def test_a_broken_permission_is_an_error_not_a_permission(
    cells: Containment, tmp_path: Path
) -> None:
    """An exception while it is read executes nothing and names itself."""
    trace = tmp_path / "trace"

    def broken() -> bool:
        raise RuntimeError("the page is unreadable")

    with pytest.raises(OSError, match="the page is unreadable"):
        start(cells, "a", f"touch {trace}", permitted=broken)
    assert not trace.exists()


def test_permission_is_read_inside_the_cell(cells: Containment) -> None:
    """Who kills the cell while the permission is being read leaves nothing behind: the child is
    in the cell by then."""
    reading, writing = os.pipe()

    def slow() -> bool:
        os.write(writing, b"1")
        time.sleep(30)
        return True

    killed: list[bool] = []

    def guard() -> None:
        os.read(reading, 1)
        # As another process would: by a new object that finds the cell by its name.
        if isinstance(cells, CgroupContainment):
            other: Containment = type(cells)(cells.root)
        else:
            other = PidNamespaceContainment(cells.directory)  # type: ignore[attr-defined]
        assert other.cells() == ["a"]
        kill(other, "a")
        killed.append(True)

    killer = threading.Thread(target=guard)

    def permitted() -> bool:
        return slow()

    killer.start()
    child = start(cells, "a", "exit 3", permitted=permitted)
    assert wait(child) == -signal.SIGKILL
    killer.join()
    assert killed
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(STUBBORN, id="ignores-signals"),
        pytest.param(
            "for i in 1 2 3 4 5 6; do (while :; do (:); done) & done; wait", id="keeps-forking"
        ),
        pytest.param(
            f'for i in 1 2 3; do setsid sh -c "{STUBBORN}" & done; exit 0', id="goes-away"
        ),
        pytest.param("(sleep 99 & sleep 98 & kill -STOP 0); kill -STOP $$", id="stopped"),
    ],
)
def test_everything_in_the_cell_is_killed(cells: Containment, tmp_path: Path, script: str) -> None:
    """Trees that ignore signals, fork all the time, go to the background or are stopped."""
    output = tmp_path / "output"
    child = start(
        cells, "a", f"echo alive; (while :; do echo alive; sleep 0.05; done) & {script}", output
    )
    support.eventually(lambda: len(cells.processes("a")) >= 3)
    time.sleep(0.2)
    assert not cells.empty("a")
    kill(cells, "a")
    assert cells.processes("a") == []
    size = output.stat().st_size
    assert size
    time.sleep(0.2)
    assert output.stat().st_size == size, "something still writes"
    assert wait(child) in (0, -signal.SIGKILL)
    cells.remove("a")


def test_killing_one_cell_leaves_the_others(cells: Containment) -> None:
    """Cells do not touch each other, even with odd names."""
    one, other = start(cells, "a/b", STUBBORN), start(cells, "a b", STUBBORN)
    assert sorted(cells.cells()) == ["a b", "a/b"]
    kill(cells, "a/b")
    assert wait(one) == -signal.SIGKILL
    assert not cells.empty("a b")
    assert other.pid in cells.processes("a b")
    kill(cells, "a b")
    wait(other)


def test_second_program_joins_the_cell(cells: Containment, tmp_path: Path) -> None:
    """A cell holds all programs started in it, and is empty when the last one ended."""
    output = tmp_path / "output"
    first = start(cells, "a", "echo $$; exec sleep 60", output)
    pid = support.eventually(output.read_text).strip()
    # It sees the first one by the pid that that one has.
    assert wait(start(cells, "a", f"kill -0 {pid} && exit 4")) == 4
    may_end = tmp_path / "may end"
    second = start(cells, "a", f"while ! test -e '{may_end}'; do sleep 0.02; done; exit 6")
    os.kill(first.pid, signal.SIGTERM)
    assert wait(first) == -signal.SIGTERM
    assert not cells.empty("a")
    may_end.touch()
    assert wait(second) == 6
    support.eventually(lambda: cells.empty("a"))


def test_start_while_the_cell_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace that ends between looking and joining is replaced by a new one."""
    cells = PidNamespaceContainment(tmp_path)
    first = start(cells, "a", STUBBORN)
    init = cells._init("a")
    kill(cells, "a")
    wait(first)
    with monkeypatch.context() as patch:
        patch.setattr(cells, "_init", lambda _: init)
        assert wait(start(cells, "a", "exit 5")) == 5
    support.eventually(lambda: cells.empty("a"))
    for number in range(10):
        assert wait(start(cells, "a", f"exit {number}")) == number


def test_a_cell_does_not_end_while_somebody_joins(tmp_path: Path) -> None:
    """Its end would kill who has just come in; what has ended is entered by nobody."""
    cells = PidNamespaceContainment(tmp_path)
    may_end = tmp_path / "may end"
    first = start(cells, "a", f"while ! test -e '{may_end}'; do sleep 0.02; done")
    with cells._record("a").open() as record:
        fcntl.flock(record, fcntl.LOCK_SH)
        may_end.touch()
        wait(first)
        time.sleep(0.5)  # it looked twice
        assert not cells.empty("a")
        assert wait(start(cells, "a", "exit 7")) == 7
    support.eventually(lambda: cells.empty("a"))
    assert cells._record("a").read_text().splitlines()[-1] == "ending"


def test_the_init_of_a_dead_guide_writes_into_no_later_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends while the next guide makes the same cell, which is neither empty nor ending by it."""
    cells = PidNamespaceContainment(tmp_path / "cells")
    cells.prepare()
    other, done = cells.directory / "a.cell.7.cell.5.draft", tmp_path / "done"
    other.touch()
    init_main, concluded = pidnamespace._init_main, pidnamespace._concluded
    may_end = tmp_path / "may end"

    def late(ledger: int) -> bool:
        support.eventually(may_end.exists)
        over = concluded(ledger)
        done.touch()
        return over

    with monkeypatch.context() as patch:
        patch.setattr(pidnamespace, "_concluded", late)
        patch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert wait(start(cells, "a", "exit 0")) == -signal.SIGKILL

    def slow(*arguments: object) -> None:
        may_end.touch()
        support.eventually(done.exists)
        init_main(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pidnamespace, "_init_main", slow)
        child = start(cells, "a", "exec sleep 60")
    assert not cells.empty("a")
    assert wait(start(cells, "a", "exit 7")) == 7
    kill(cells, "a")
    assert wait(child) == -signal.SIGKILL
    cells.remove("a")
    assert list(cells.directory.iterdir()) == [other], "another cell's, and nothing is left of ours"


def test_cells_outlive_their_maker_and_are_adopted(cells: Containment) -> None:
    """A later process finds what an earlier one, now dead, has started; and ends it."""

    def maker() -> None:
        start(cells, "a", STUBBORN)
        start(cells, "b", "exit 0")

    support.in_child(maker)
    assert cells.cells() == ["a", "b"]
    assert cells.processes("a")
    support.eventually(lambda: cells.empty("b"))
    kill(cells, "a")
    for cell in ("a", "b"):
        cells.remove(cell)


def test_cells_that_do_not_exist_are_empty(cells: Containment) -> None:
    """Asking, closing, killing and removing what is not there is no error."""
    assert cells.empty("none")
    assert cells.processes("none") == []
    cells.close("none")
    cells.kill("none")
    cells.remove("none")


def test_living_cells_are_not_removed(cells: Containment) -> None:
    """Forgetting a cell in which something runs would lose it."""
    child = start(cells, "a", STUBBORN)
    with pytest.raises(OSError, match="busy") as caught:
        cells.remove("a")
    assert caught.value.errno == errno.EBUSY
    kill(cells, "a")
    wait(child)


def test_closed_cells_open_again(cells: Containment) -> None:
    """A cell that was closed and emptied can be used for the next start."""
    child = start(cells, "a", STUBBORN)
    kill(cells, "a")
    wait(child)
    assert wait(start(cells, "a", "true & wait; exit 9")) == 9


def test_a_record_of_a_reused_pid_kills_nobody(tmp_path: Path) -> None:
    """Pid alone is not enough: start time and boot must be the same."""
    cells = PidNamespaceContainment(tmp_path)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    former = "00000000-0000-4000-8000-000000000000"
    for number, text in enumerate((f"{boot}\ninit {os.getpid()} 1\n", f"{former}\ninit 1 1\n")):
        (tmp_path / f"a{number}.cell").write_text(text)
        assert cells.empty(f"a{number}")
        cells.kill(f"a{number}")
        assert cells.processes(f"a{number}") == []
        cells.remove(f"a{number}")


def test_cgroups_below_a_cell_belong_to_it(tmp_path: Path) -> None:
    """A program that makes cgroups of its own cannot hide in them."""
    cells = make("cgroup", tmp_path)
    assert isinstance(cells, CgroupContainment)
    cells.prepare()
    try:
        inner = cells.root / "a.cell" / "inner" / "most"
        child = start(cells, "a", f"mkdir -p {inner}; echo 0 > {inner}/cgroup.procs; {STUBBORN}")
        support.eventually(lambda: inner.exists() and (inner / "cgroup.procs").read_text())
        assert child.pid in cells.processes("a")
        assert not cells.empty("a")
        kill(cells, "a")
        assert wait(child) == -signal.SIGKILL
        cells.remove("a")
        assert cells.cells() == []
    finally:
        clear(cells)


def test_ordinary_users_contain_with_a_user_namespace(tmp_path: Path) -> None:
    """Without root: started, killed as a whole, and pid 1 in a /proc of its own."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    output = tmp_path / "output"
    output.touch()
    output.chmod(0o666)

    def user() -> None:
        support.become_nobody()
        cells = PidNamespaceContainment(tmp_path / "cells")
        cells.prepare()
        child = start(cells, "a", f"id -u; ls /proc | grep -c '^[0-9]'; {STUBBORN}", output)
        support.eventually(lambda: len(output.read_text().split()) == 2)
        owner, processes = output.read_text().split()
        assert owner == "65534"
        # The init, the shell, ls and grep; or, in a container that hides its /proc, very many.
        assert int(processes) >= 4
        assert child.pid in cells.processes("a")
        assert wait(start(cells, "a", "exit 8")) == 8
        kill(cells, "a")
        assert wait(child) == -signal.SIGKILL
        with pytest.raises(SpawnRefused):
            start(cells, "b", "exit 0", permitted=lambda: False)

    support.in_child(user)


def test_pid_namespaces_that_are_not_permitted_are_named(tmp_path: Path) -> None:
    """Preparing fails with a reason where the machine permits none."""

    def user() -> None:
        support.become_nobody()
        support.call("unshare", support.NEW_USER)
        # Without a mapping the limit of the inner namespace can be closed by its owner only.
        Path("/proc/self/uid_map").write_text("0 65534 1")
        Path("/proc/sys/user/max_pid_namespaces").write_text("0")
        with pytest.raises(OSError, match="no PID namespaces"):
            PidNamespaceContainment(tmp_path / "cells").prepare()

    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    support.in_child(user)
