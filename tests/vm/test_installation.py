"""Installed on a real machine: the unit, what it gets from systemd and the kernel, and removal."""

from __future__ import annotations

import json

import pytest
from tests.vm.cluster import ROLES, UNIT, Cluster
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


def test_removal_stops_in_order_and_leaves_state_and_keys(cluster: Cluster) -> None:
    """The group moves away first; installed again, the node is back with what it had."""
    cluster.place(3)
    with cluster.watch() as seen:
        cluster.machines.sh(3, "/root/install --uninstall", 200)
        cluster.until_online(not_on=3)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    cluster.machines.sh(
        3,
        "! ls -d /opt/leitwolf /usr/local/bin/leitwolf /etc/systemd/system/leitwolf.service "
        "/usr/share/bash-completion/completions/leitwolf 2>/dev/null && "
        "! systemctl cat leitwolf 2>/dev/null && ls -d /var/lib/leitwolf /etc/leitwolf/pki && "
        "! pgrep -f '[l]eitwolf'",
    )
    cluster.unpack(3)
    cluster.machines.sh(3, f"systemctl enable --now {UNIT}", 150)
    cluster.calm()
