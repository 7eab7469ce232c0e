"""``./run``: what it says where something is missing. Tools of the machine are played."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the script alone, and a folder for played tools."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "run", folder)
    (folder / "requirements").mkdir()
    for name in ("runtime", "dev"):
        (folder / "requirements" / f"{name}.txt").write_text("# a lock\n")
    (tmp_path / "tools").mkdir()
    play(folder, "dpkg-query", 'echo "install ok installed"')
    play(folder, "id", "echo 1000")
    return folder


def play(checkout: Path, name: str, text: str) -> None:
    tool = checkout.parent / "tools" / name
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)


def run(checkout: Path, *arguments: str, lab: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "run", *arguments],
        env={
            "PATH": f"{checkout.parent}/tools:{os.environ['PATH']}",
            "LEITWOLF_VMLAB": lab,
            "LEITWOLF_PYTHON": "python3.11",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_ordinary_user_is_told_which_packages_are_missing(checkout: Path) -> None:
    """Nothing is installed; the command for root names exactly what is missing; exit code 3."""
    play(checkout, "dpkg-query", '[ "$3" = nftables ] || echo "install ok installed"')
    done = run(checkout, "demo")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].strip() == "apt-get install -y nftables"


def test_root_installs_what_is_missing(checkout: Path) -> None:
    """Root's run installs the missing packages, and only these, before it goes on."""
    play(checkout, "dpkg-query", '[ "$3" = procps ] || echo "install ok installed"')
    play(checkout, "id", "echo 0")
    play(checkout, "apt-get", f'echo "$@" >>{checkout}/asked; exit 0')
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        play(checkout, name, "exit 1")
    done = run(checkout, "demo")
    assert (checkout / "asked").read_text() == "install -y -qq procps\n"
    assert done.returncode == 3
    assert "Python 3.11 or newer is needed" in done.stderr


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_python_that_is_missing_is_installed_or_named(checkout: Path, user: str) -> None:
    """As root it is installed, and the run goes on with it; others are told the packages."""
    play(checkout, "dpkg-query", 'case "$3" in python3*) ;; *) echo "install ok installed" ;; esac')
    play(checkout, "id", f"echo {user}")
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        play(checkout, name, "exit 1")
    suits = checkout.parent / "suits"
    suits.write_text(f'#!/bin/sh\necho "$@" >>{checkout}/asked\n')
    suits.chmod(0o755)
    tool = checkout.parent / "tools" / "python3"
    play(checkout, "apt-get", f'echo "$@" >>{checkout}/asked; cp {suits} {tool}')
    done = run(checkout, "demo")
    if user != "0":
        assert done.returncode == 3
        assert "apt-get install -y python3 python3-venv" in done.stderr
        assert not (checkout / "asked").exists()
        return
    asked = (checkout / "asked").read_text()
    assert asked.startswith("install -y -qq python3 python3-venv\n")
    assert "-m venv .venv" in asked


def test_an_installation_needs_python_and_its_environments(checkout: Path) -> None:
    """They are installed with nftables; what cannot be is named, and nothing is changed."""
    shutil.copy(ROOT / "install", checkout)
    play(checkout, "dpkg-query", "exit 1")
    play(checkout, "id", "echo 0")
    play(checkout, "apt-get", "exit 100")
    done = subprocess.run(
        [checkout / "install"],
        env={"PATH": f"{checkout.parent}/tools:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("by hand: nftables python3 python3-venv")


def test_a_venv_without_ensurepip_names_its_package(checkout: Path) -> None:
    """Debian's Python without its venv package: the package is named."""
    play(checkout, "dpkg-query", '[ "$3" = python3-venv ] || echo "install ok installed"')
    play(checkout, "python3.11", 'case "$2" in *ensurepip*) exit 1 ;; esac; exit 0')
    done = run(checkout, "demo")
    assert done.returncode == 3
    assert "apt-get install -y python3-venv" in done.stderr


def test_the_interpreter_may_be_named(checkout: Path) -> None:
    """Who names one gets that one, not the distribution's, as long as it is new enough."""
    play(checkout, "python3.11", f'echo "$@" >>{checkout}/asked; exit 0')
    run(checkout, "demo")
    assert "-m venv .venv" in (checkout / "asked").read_text()


def environment(checkout: Path, place: Path, more: str = "") -> Path:
    """Make what a finished installation leaves; its Python only tells what it is asked for."""
    folder = checkout / ".venv"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@"\n{more}\n')
    python.chmod(0o755)
    for name in ("runtime", "dev"):
        shutil.copy(checkout / f"requirements/{name}.txt", folder / f".stamp-{name}")
    (folder / ".place").write_text(f"{place}\n")
    return folder


def test_a_ready_environment_is_used_at_once(checkout: Path) -> None:
    """Nothing is made or installed again; arguments are passed on."""
    environment(checkout, checkout)
    done = run(checkout, "demo", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-m lab.demo --json\n", "")


def test_a_moved_checkout_gets_a_new_environment(checkout: Path) -> None:
    """An environment knows its place; in another it is made again."""
    folder = environment(checkout, Path("/elsewhere"))
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        play(checkout, name, "exit 1")
    done = run(checkout, "demo")
    assert done.returncode == 3
    assert "moved or copied" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("tool", ["", "/nowhere/lab"])
def test_virtual_machines_need_a_lab_tool(checkout: Path, tool: str) -> None:
    """Nothing is installed without one; the text names the variable, its value and the page."""
    done = run(checkout, "vm", lab=tool)
    assert done.returncode == 3
    assert f"LEITWOLF_VMLAB = '{tool}'" in done.stderr
    assert "tests/vm/machines.py" in done.stderr


def test_virtual_machines_are_tested_by_the_tool_that_is_named(checkout: Path) -> None:
    """The folder that no other verb collects; options are passed on."""
    environment(checkout, checkout)
    done = run(checkout, "vm", "-x", lab=str(checkout / "run"))
    assert (done.returncode, done.stdout) == (0, "-m pytest tests/vm -x\n")


def test_a_check_keeps_the_house_rules_too(checkout: Path) -> None:
    """Style, form, types, layers, then what no linter knows; the first that fails ends it."""
    folder = environment(checkout, checkout)
    for tool in ("ruff", "mypy", "lint-imports"):
        (folder / "bin" / tool).write_text('#!/bin/sh\necho "${0##*/}" "$@"\n')
        (folder / "bin" / tool).chmod(0o755)
    done = run(checkout, "check")
    assert done.stdout.splitlines() == [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports",
        "-m pytest -q tests/unit/test_tidy.py",
    ]
    (folder / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    assert run(checkout, "check").returncode == 1


def test_tests_that_compute_are_shown_before_those_that_watch_nodes(checkout: Path) -> None:
    """Two runs with the same options; those of the caller come last, so that they count."""
    environment(checkout, checkout)
    done = run(checkout, "test", "-x", "-k", "disk", "-m", "root")
    options = "-m not long -x -k disk -m root"
    computing = "tests/golden tests/property tests/sim tests/unit"
    assert done.stdout.splitlines() == [
        f"-m pytest -n auto --dist worksteal {options} {computing}",
        f"-m pytest --color=auto {options} tests/integration",
    ]
    done = run(checkout, "test-all")
    assert [line.rpartition(" ")[2] for line in done.stdout.splitlines()] == [
        "tests/unit",
        "tests/integration",
    ]


def test_what_computes_takes_what_the_others_leave(checkout: Path) -> None:
    """Both run at once: one waits here for the other; its policy is SCHED_IDLE (5)."""
    policy = "python3 -c 'import os; print(os.sched_getscheduler(0))'"
    more = f"""{policy}
case "$*" in
*integration) : >{checkout}/watched ;;
*) while [ ! -e {checkout}/watched ]; do sleep 0.05; done ;;
esac"""
    environment(checkout, checkout, more)
    said = run(checkout, "test").stdout.splitlines()
    assert (said[1], said[3]) == ("5", str(os.sched_getscheduler(0)))


@pytest.mark.parametrize(
    "path",
    ["tests", "tests/unit", "./tests/sim/", "tests/unit/test_x.py::test_y[1]", f"{ROOT}/tests/sim"],
)
def test_tests_that_are_named_are_all_that_runs(checkout: Path, path: str) -> None:
    """In one run, whatever options stand before and after the path."""
    environment(checkout, checkout)
    done = run(checkout, "test", "-x", path, "-k", "disk")
    assert done.stdout == f"-m pytest -m not long -x {path} -k disk\n"


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(0, 0, 0), (5, 0, 0), (0, 5, 0), (5, 5, 5), (5, 1, 1), (0, 1, 1), (1, 0, 1), (1, 5, 1)],
)
def test_a_failure_in_either_run_is_the_result(
    checkout: Path, first: int, second: int, status: int
) -> None:
    """Status 5 of one run only says that the options selected nothing there."""
    more = f'case "$*" in *integration) exit {second} ;; esac; exit {first}'
    environment(checkout, checkout, more)
    done = run(checkout, "test")
    assert (done.returncode, len(done.stdout.splitlines())) == (status, 2)
    assert ("what computes has failed" in done.stderr) == (first == 1)


def test_an_unknown_verb_is_refused(checkout: Path) -> None:
    """Exit code 2, and the verbs on stderr; without a verb they are on stdout."""
    done = run(checkout, "dmeo")
    assert done.returncode == 2
    assert "./run demo" in done.stderr
    help_text = run(checkout)
    assert help_text.returncode == 0
    assert "./run demo" in help_text.stdout
