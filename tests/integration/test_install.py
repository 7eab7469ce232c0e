"""``./install`` and its undoing, below a folder, and as an administrator sees it in a private view.

Needs the package index; the folder and all mounts are the test's own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.root

FILES = (
    "usr/local/bin/leitwolf",
    "etc/systemd/system/leitwolf.service",
    "usr/share/bash-completion/completions/leitwolf",
    "usr/share/zsh/vendor-completions/_leitwolf",
    "usr/share/fish/vendor_completions.d/leitwolf.fish",
)


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "install", *arguments], capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    done = install("--root", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def seen_as_root(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where the installed files stand in their places, in a mount namespace."""
    mounts = (
        f"mount -t tmpfs none /opt && mkdir /opt/leitwolf && "
        f"mount --bind {folder}/opt/leitwolf /opt/leitwolf && "
        f"mount --bind {folder}/usr/local/bin /usr/local/bin && "
    )
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_works_from_its_place(installed: Path) -> None:
    """The link in the path starts the program of the new environment, whatever stands around."""
    done = seen_as_root(
        installed, "cd /tmp && PYTHONPATH=/nowhere /usr/local/bin/leitwolf --version"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("leitwolf, version ")


def test_every_file_is_there_and_the_unit_starts_the_command(installed: Path) -> None:
    """Unit, completion and command are installed; the unit calls the command by its full path."""
    for name in FILES:
        assert os.path.lexists(installed / name), name
    unit = (installed / "etc/systemd/system/leitwolf.service").read_text()
    for line in (
        "Type=notify",
        "ExecStart=/usr/local/bin/leitwolf run",
        "Delegate=yes",
        "KillMode=process",
    ):
        assert line in unit.splitlines()
    assert "WatchdogSec=" in unit


def test_bash_completes_commands(installed: Path) -> None:
    """Completion asks the installed command and offers what fits."""
    script = (
        "bash -c '. "
        f"{installed}/usr/share/bash-completion/completions/leitwolf; "
        'COMP_WORDS=(leitwolf gr) COMP_CWORD=1; _leitwolf_completion leitwolf; echo "$COMPREPLY"\''
    )
    done = seen_as_root(installed, script)
    assert done.stdout.strip() == "group", done.stderr


def test_installing_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A second run is an upgrade: files of the old one are gone, what object stores need stays;
    removal leaves no file."""
    assert install("--objectstore", "--root", str(tmp_path)).returncode == 0
    stray = tmp_path / "opt/leitwolf/stray"
    stray.touch()
    assert install("--root", str(tmp_path)).returncode == 0
    assert not stray.exists()
    assert len(list((tmp_path / "opt/leitwolf").glob("lib/python*/site-packages/obstore"))) == 1
    assert [path.name for path in (tmp_path / "opt").iterdir()] == ["leitwolf"]
    state = tmp_path / "var/lib/leitwolf/kept"
    state.parent.mkdir(parents=True)
    state.touch()
    done = install("--root", str(tmp_path), "--uninstall")
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [state]


def test_an_installation_that_fails_changes_nothing(installed: Path, tmp_path: Path) -> None:
    """Without the package index an upgrade stops and the old version stays."""
    before = sorted(path.name for path in (installed / "opt/leitwolf").iterdir())
    environment = {
        **os.environ,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_CACHE_DIR": "1",
    }
    done = subprocess.run(
        [ROOT / "install", "--root", str(installed)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 1
    assert "cannot be installed" in done.stderr
    assert sorted(path.name for path in (installed / "opt/leitwolf").iterdir()) == before
    assert seen_as_root(installed, "/usr/local/bin/leitwolf --version").returncode == 0


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    """A mistyped option installs nothing."""
    done = install("--rot", str(tmp_path))
    assert done.returncode == 2
    assert "--root" in done.stderr
    assert not list(tmp_path.iterdir())
