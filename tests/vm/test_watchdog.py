"""A real /dev/watchdog: fed while all is well, and the end of a node on which Leitwolf hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.vm.cluster import ROLES, RUN_S, UNIT, Cluster, eventually

from leitwolf.system.watchdog import timeout_s

pytestmark = pytest.mark.timeout(500)
TIMEOUT_S = timeout_s(int(RUN_S * 1e9))
NOT_PUNCTUAL_S = 3.0
"""Emulated machines on a busy host are so much later, with everything."""
DROP_IN = "/etc/systemd/system/leitwolf.service.d/watchdog.conf"


def device(cluster: Cluster, node: int, number: int = 0) -> dict[str, str]:
    """Return what the kernel says of a watchdog."""
    names = ("identity", "state", "timeout")
    files = " ".join(f"/sys/class/watchdog/watchdog{number}/{name}" for name in names)
    values = cluster.machines.sh(node, f"cat {files}").splitlines()
    return dict(zip(names, values, strict=True))


def hang(cluster: Cluster, node: int) -> float:
    """Stop every process of Leitwolf on a node; return when, s."""
    pids = cluster.pids(node)
    cluster.machines.sh(node, "kill -STOP " + " ".join(str(pids[role]) for role in ROLES))
    return time.monotonic()


def test_the_guard_feeds_it_and_a_stop_disarms_it(cluster: Cluster) -> None:
    """Its timeout covers R and a restart; a new guard goes on feeding it; a stop closes it."""
    cluster.place(1)
    state = device(cluster, 2)
    assert (state["state"], int(state["timeout"])) == ("active", TIMEOUT_S)
    boot, before = cluster.machines.boot_id(2), cluster.pids(2)
    cluster.machines.sh(2, f"kill -STOP {before['guard']}")
    cluster.until_replaced(2, "guard", before["guard"])
    time.sleep(2 * TIMEOUT_S)
    assert cluster.machines.boot_id(2) == boot, "its keeper kills a guard that hangs in time"
    assert device(cluster, 2)["state"] == "active"
    cluster.machines.sh(2, f"systemctl stop {UNIT}", 150)
    assert device(cluster, 2)["state"] == "inactive"
    time.sleep(2 * TIMEOUT_S)
    assert cluster.machines.boot_id(2) == boot
    cluster.machines.sh(2, f"systemctl start {UNIT}", 150)
    cluster.calm()


def test_a_reload_hands_it_over_and_it_still_resets_what_hangs(cluster: Cluster) -> None:
    """The next guard feeds it before its time is up, the service runs on; then all is frozen: the
    address has moved before the watchdog ends the rest.
    """
    cluster.place(2)
    boot, before = cluster.machines.boot_id(2), cluster.pids(2)
    with cluster.watch() as seen:
        cluster.machines.sh(2, f"systemctl reload {UNIT}", 150)
        for role in ROLES[1:]:
            cluster.until_replaced(2, role, before[role])
        time.sleep(2 * TIMEOUT_S)
    after = cluster.pids(2)
    assert cluster.machines.boot_id(2) == boot
    assert (after["keeper"], after["service"]) == (before["keeper"], before["service"])
    assert device(cluster, 2)["state"] == "active"
    assert {one.node for one in seen.of("answers")} == {"node2"}
    check_hang(cluster)


@pytest.fixture
def softdog(cluster: Cluster) -> Iterator[None]:
    """Node2 uses the kernel's software watchdog, as its administrator sets it."""
    cluster.place(2)
    machines = cluster.machines
    with cluster.watch() as seen:
        machines.sh(
            2,
            f"modprobe softdog && mkdir -p $(dirname {DROP_IN}) && "
            f"printf '[Service]\\nEnvironment=LEITWOLF_WATCHDOG=/dev/watchdog1\\n' >{DROP_IN} && "
            f"systemctl daemon-reload && systemctl restart {UNIT}",
            250,
        )
        cluster.until_online(not_on=2)
    assert seen.overlap_s("runs") <= 0
    cluster.calm()
    yield
    machines.sh(
        2,
        f"rm {DROP_IN} && systemctl daemon-reload && systemctl restart {UNIT}",
        250,
    )


def test_the_software_watchdog_does_the_same(cluster: Cluster, softdog: None) -> None:
    """A device that the administrator names; the other one is left alone."""
    used, unused = device(cluster, 2, 1), device(cluster, 2, 0)
    assert used["identity"] == "Software Watchdog"
    assert (used["state"], int(used["timeout"])) == ("active", TIMEOUT_S)
    assert unused["state"] == "inactive"
    check_hang(cluster)


def check_hang(cluster: Cluster) -> None:
    """Have everything of Leitwolf on node2 hang."""
    cluster.place(2)
    boot = cluster.machines.boot_id(2)
    with cluster.watch() as seen:
        hung = hang(cluster, 2)
        reset = cluster.machines.until_event(2, "RESET", hung, TIMEOUT_S + 30) - hung
        cluster.until_online(not_on=2)
        time.sleep(1)
    assert reset < TIMEOUT_S + NOT_PUNCTUAL_S
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("answers") <= 0
    assert seen.overlap_s("runs") < TIMEOUT_S - RUN_S + NOT_PUNCTUAL_S
    eventually(lambda: cluster.machines.boot_id(2) != boot, "another boot", 180)
    cluster.calm()


def test_a_hung_kernel_is_reset(cluster: Cluster) -> None:
    """A panic that stays: nobody feeds the watchdog any more."""
    cluster.place(2)
    boot = cluster.machines.boot_id(2)
    with cluster.watch() as seen:
        cluster.machines.sh(2, "(sleep 0.5; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
        began = time.monotonic()
        reset = cluster.machines.until_event(2, "RESET", began, TIMEOUT_S + 30) - began
        cluster.until_online(not_on=2)
    assert reset < TIMEOUT_S + NOT_PUNCTUAL_S
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    eventually(lambda: cluster.machines.boot_id(2) != boot, "another boot", 180)
    cluster.calm()
