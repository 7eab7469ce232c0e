"""Names of cells, and which containment a node takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from leitwolf.system.containment import (
    CgroupContainment,
    ContainmentUnavailable,
    cell_file_name,
    cell_of_file_name,
    find,
)
from leitwolf.system.pidnamespace import PidNamespaceContainment
from leitwolf.system.settings import Settings


@pytest.mark.parametrize(
    "cell", ["db", "db.check", "../../etc", "a/b", "..", ".", "cgroup.procs", "Büro 1\n", "a.cell"]
)
def test_names_are_escaped_and_read_back(cell: str) -> None:
    """Any name is one path component that is neither hidden knowledge nor a cgroup file."""
    name = cell_file_name(cell)
    assert "/" not in name
    assert name not in (".", "..")
    assert name.isascii()
    assert name.endswith(".cell")
    assert cell_of_file_name(name) == cell


def test_names_differ_when_cells_differ() -> None:
    """Escaping never maps two cells to one file."""
    cells = ["a b", "a%20b", "a+b", "A b"]
    assert len({cell_file_name(cell) for cell in cells}) == len(cells)


@pytest.mark.parametrize("cell", ["", "x" * 300, "ü" * 60])
def test_impossible_names_are_refused(cell: str) -> None:
    """Empty names and names that no file system takes are errors."""
    with pytest.raises(ValueError, match="no name of a cell"):
        cell_file_name(cell)


def test_other_files_are_no_cells() -> None:
    """The kernel's own files in a cgroup are not taken for cells."""
    assert cell_of_file_name("cgroup.procs") is None
    assert cell_of_file_name("db.draft") is None


def writable_cgroup(tmp_path: Path) -> Path:
    base = tmp_path / "cgroup"
    base.mkdir()
    (base / "cgroup.procs").touch()
    return base


def test_nodes_of_one_machine_have_different_cells(tmp_path: Path) -> None:
    """The runtime directory tells nodes apart; the same settings give the same cells."""
    base = writable_cgroup(tmp_path)
    roots = []
    for runtime in ("/run/leitwolf", "/run/a", "/run/b", "/run/a"):
        found = find(Settings(runtime=Path(runtime), cgroup=base))
        assert isinstance(found, CgroupContainment)
        roots.append(found.root)
    assert roots[0] == base / "leitwolf"
    assert roots[1] == roots[3]
    assert len(set(roots)) == 3


def test_a_cgroup_that_is_wanted_and_missing_is_an_error(tmp_path: Path) -> None:
    """No silent change to weaker containment when the operator named a cgroup."""
    for containment in ("auto", "cgroup"):
        with pytest.raises(ContainmentUnavailable, match="Delegate=yes"):
            find(Settings(cgroup=tmp_path / "none", containment=containment))


def test_pid_namespaces_are_taken_when_asked_for(tmp_path: Path) -> None:
    """The setting wins over what the machine has."""
    found = find(Settings(runtime=tmp_path, cgroup=writable_cgroup(tmp_path), containment="pidns"))
    assert isinstance(found, PidNamespaceContainment)
    assert found.directory == tmp_path / "cells"


@pytest.mark.parametrize(("controllers", "enabled"), [("cpu pids\n", "+pids"), ("cpu\n", "")])
def test_a_controller_is_passed_on_and_none_is_enabled_above(
    tmp_path: Path, controllers: str, enabled: str
) -> None:
    """With one enabled above, systemd could not put the next keeper where the last one was."""
    base = writable_cgroup(tmp_path)
    for path in (base, base / "leitwolf"):  # plain files where the kernel would have its own
        path.mkdir(exist_ok=True)
        (path / "cgroup.controllers").write_text(controllers)
        (path / "cgroup.subtree_control").touch()
    CgroupContainment(base / "leitwolf").prepare()
    assert (base / "cgroup.subtree_control").read_text() == ""
    assert (base / "leitwolf" / "cgroup.subtree_control").read_text() == enabled


def test_closing_a_cell_forbids_forks_in_all_of_it(tmp_path: Path) -> None:
    """Cgroups below the cell are closed as well; others stay open."""
    root = tmp_path / "root"
    for name in ("a.cell", "a.cell/inner", "b.cell"):
        (root / name).mkdir(parents=True)
        (root / name / "pids.max").write_text("m")
    CgroupContainment(root).close("a")
    assert (root / "a.cell/pids.max").read_text() == "0"
    assert (root / "a.cell/inner/pids.max").read_text() == "0"
    assert (root / "b.cell/pids.max").read_text() == "m"
