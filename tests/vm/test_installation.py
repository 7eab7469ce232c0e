"""Installed on a real machine: the unit, what it gets from systemd and the kernel, and removal."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.vm.cluster import ROLES, ROOT, UNIT, Cluster
from tests.vm.machines import NODES

pytestmark = pytest.mark.timeout(500)
SCHED_RR = "2"
CGROUP = "/system.slice/leitwolf.service"


def test_the_unit_runs_as_it_was_written(cluster: Cluster) -> None:
    """Enabled, active, told of by its keeper, watched, delegated; only the keeper is killed."""
    for node in NODES:
        wanted = {
            "Type": "notify",
            "ActiveState": "active",
            "UnitFileState": "enabled",
            "WatchdogUSec": "10s",
            "Delegate": "yes",
            "KillMode": "process",
            "StatusText": "guard and daemon are up",
            "MainPID": str(cluster.pids(node)["keeper"]),
        }
        assert cluster.unit(node, *wanted) == wanted
    assert not cluster.machines.sh(1, f"systemd-analyze verify {UNIT} 2>&1")


def test_the_files_of_an_installation_are_there(cluster: Cluster) -> None:
    """Completion for three shells, the group that may read; the command says its version."""
    cluster.machines.sh(
        1,
        "ls /usr/share/bash-completion/completions/leitwolf "
        "/usr/share/zsh/vendor-completions/_leitwolf "
        "/usr/share/fish/vendor_completions.d/leitwolf.fish && getent group leitwolf && "
        "leitwolf --version",
    )


def test_check_finds_everything_on_a_real_machine(cluster: Cluster) -> None:
    """Nothing is lost here except what an emulated disk is too slow for."""
    found = json.loads(cluster.machines.sh(1, "leitwolf check --json || true"))
    missing = [one for one in found if not one["ok"] and one["name"] != "state directory"]
    assert not missing
    assert "watchdog" in {one["name"] for one in found if one["ok"]}


def test_guard_and_keeper_have_real_time_under_systemd(cluster: Cluster) -> None:
    """SCHED_RR and locked memory, and the daemons know it."""
    pids = cluster.pids(1)
    for role in ROLES[:2]:
        text = cluster.machines.sh(
            1, f"cut -d' ' -f41 /proc/{pids[role]}/stat; grep VmLck /proc/{pids[role]}/status"
        )
        policy, _, locked, _ = text.split()
        assert policy == SCHED_RR, role
        assert int(locked) > 0
    assert "no-realtime" not in cluster.journal(1)


def test_resources_live_in_cgroups_below_the_delegated_one(cluster: Cluster) -> None:
    """Each in one of its own; Leitwolf's processes in the unit's, which has no controllers."""
    owner = cluster.owner()
    pids = cluster.pids(owner)
    text = cluster.machines.sh(
        owner,
        f"cut -d: -f3 /proc/{pids['service']}/cgroup; "
        + "".join(f"cut -d: -f3 /proc/{pids[role]}/cgroup; " for role in ROLES)
        + f"cat /sys/fs/cgroup{CGROUP}/cgroup.subtree_control",
    )
    cell, *rest = text.split()
    assert cell.startswith(f"{CGROUP}/leitwolf/")
    assert cell.endswith(".cell")
    assert rest == [CGROUP] * len(ROLES)


def test_the_journal_has_the_diary(cluster: Cluster) -> None:
    """Lines of the keeper, and lines of JSON of the daemon, under the unit's name."""
    lines = cluster.journal(1).splitlines()
    assert any(line.startswith("leitwolf keeper: guard") for line in lines)
    diary = [json.loads(line) for line in lines if line.startswith("{")]
    assert all(one["event"] and one["level"] and one["timestamp"] for one in diary)
    assert diary


ENVIRONMENT_PACKAGES = (
    "python3-venv",
    "python3.11-venv",
    "python3-distutils",
    "python3-lib2to3",
    "python3-pip-whl",
    "python3-setuptools-whl",
)
"""What `./install` has apt bring to a machine of the lab, with what that needs."""
OFFLINE = """
tar -C /srv -xf /root/checkout.tar && rm -rf /etc/apt/sources.list.d/* &&
echo 'deb [trusted=yes] file:/srv/packages ./' >/etc/apt/sources.list &&
printf '[global]\nno-index = true\nfind-links = /srv/wheels\n' >/etc/pip.conf
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar file: what an administrator checks out, and what machines without the net need beside.

    Needs the package indexes, of Debian and of Python.
    """
    folder = tmp_path_factory.mktemp("checkout")
    wheels, packages = folder / "wheels", folder / "packages"
    (folder / "apt" / "lists" / "partial").mkdir(parents=True)
    packages.mkdir()
    own = [
        f"-oDir::State::lists={folder}/apt/lists",
        f"-oDir::Cache={folder}/apt",
        "-oAPT::Sandbox::User=root",
    ]
    lock = ROOT / "requirements" / "runtime.txt"
    for command in (
        [sys.executable, "-m", "pip", "download", "-q", "-r", lock, "-d", wheels],
        ["apt-get", *own, "-qq", "update"],
        ["apt-get", *own, "-qq", "download", *ENVIRONMENT_PACKAGES],
    ):
        subprocess.run(command, cwd=packages, check=True, capture_output=True, timeout=240)
    with (packages / "Packages").open("w") as index:
        for file in sorted(packages.glob("*.deb")):
            said = subprocess.run(["dpkg-deb", "-f", file], check=True, stdout=subprocess.PIPE)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            index.write(
                f"{said.stdout.decode().strip()}\nFilename: ./{file.name}\n"
                f"Size: {file.stat().st_size}\nSHA256: {digest}\n\n"
            )
    made = folder / "checkout.tar"
    parts = ("install", "src", "requirements", "completion")
    tar = ["tar", "--exclude=__pycache__", "--owner=root", "--group=root", "-cf", made]
    subprocess.run([*tar, "--transform=s,^,leitwolf/,", "-C", ROOT, *parts], check=True, timeout=60)
    tar[-2] = "-rf"
    subprocess.run([*tar, "-C", folder, "wheels", "packages"], check=True, timeout=60)
    return made


@pytest.mark.timeout(900)
def test_removal_leaves_state_and_keys_and_one_command_installs_again(
    cluster: Cluster, checkout: Path
) -> None:
    """The group moves away first; the machine, that has no trace of the program any more, is back
    after the command of the README with what it had.
    """
    cluster.place(3)
    with cluster.watch() as seen:
        cluster.machines.sh(3, "/root/install --uninstall", 200)
        cluster.until_online(not_on=3)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    cluster.machines.sh(3, "! pgrep -f '[l]eitwolf' && ! systemctl cat leitwolf 2>/dev/null")
    left = cluster.machines.sh(
        3, "find / -xdev -iname '*leitwolf*' -not -path '/root/*' -not -path '/sys/*' -prune"
    )
    assert set(left.split()) == {"/etc/leitwolf", "/var/lib/leitwolf"}
    cluster.machines.sh(3, "ls -d /etc/leitwolf/pki && getent group leitwolf")

    cluster.machines.call("put", "3", str(checkout), "/root/checkout.tar")
    cluster.machines.sh(3, OFFLINE)
    said = cluster.machines.sh(3, "cd /srv/leitwolf && ./install 2>&1", 600)
    assert "installing: python3-venv" in said
    assert said.splitlines()[-1] == "installed. Look at this machine with: leitwolf check"
    cluster.machines.sh(3, f"systemctl is-enabled {UNIT}")
    cluster.calm()
