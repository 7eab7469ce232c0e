"""One lab and one cluster for all tests here; what went wrong is told with the failure.

With ``LEITWOLF_VM_KEEP=1`` the lab stays up, and the next run goes on with it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.vm.cluster import Cluster
from tests.vm.machines import NODES, MachineError, Machines

_LINES = 60
_running: list[Cluster] = []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three machines with Leitwolf, a group on one of them, watched from outside."""
    tool = Path(os.environ.get("LEITWOLF_VMLAB", ""))
    if not tool.is_file():
        pytest.exit(f"LEITWOLF_VMLAB = '{tool}' is no program; see tests/vm/machines.py", 3)
    machines = Machines(tool.resolve())
    keep = "LEITWOLF_VM_KEEP" in os.environ
    kept = keep and machines.running()
    if not kept:
        machines.up()
    try:
        with Cluster(machines) as made:
            if not kept:
                made.install(tmp_path_factory.mktemp("install"))
                made.form()
            made.calm()
            _running.append(made)
            yield made
    finally:
        _running.clear()
        if not keep:
            machines.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Add what the machines say to the report of a failed test, and leave the next one a chance."""
    report = yield
    if report.failed and _running:
        _running[0].machines.mend()
        for node in NODES:
            report.sections.append((f"node{node}", _diary(_running[0], node)))
    return report


def _diary(cluster: Cluster, node: int) -> str:
    try:
        return cluster.journal(node, f"-n {_LINES}") + cluster.machines.sh(
            node, "leitwolf status; leitwolf log --limit 25", 60
        )
    except MachineError as error:
        return str(error)
