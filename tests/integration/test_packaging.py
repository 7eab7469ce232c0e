"""The wheel: it builds, holds everything, and declares what it needs."""

from __future__ import annotations

import ast
import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from leitwolf import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", checkout / "src", ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (built,) = (checkout / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    """Nothing of the package is forgotten, nothing of the tests is in it."""
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    packaged = {name for name in names if ".dist-info/" not in name}
    assert sources <= packaged
    assert all(name.startswith("leitwolf/") for name in packaged)
    assert any(name.endswith("LICENSE") for name in names)


def test_the_wheel_names_version_command_and_needs(wheel: Path) -> None:
    """The version is that of the package; the command is declared; nothing unused is required."""
    archive = zipfile.ZipFile(wheel)
    folder = f"leitwolf-{__version__}.dist-info"
    metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    entry = archive.read(f"{folder}/entry_points.txt").decode()
    assert "leitwolf = leitwolf.cli.main:main" in entry


def test_what_is_imported_is_required_and_the_other_way_round(wheel: Path) -> None:
    """No library is missing where only the requirements are, and none is carried along."""
    archive = zipfile.ZipFile(wheel)
    metadata = email.message_from_bytes(archive.read(f"leitwolf-{__version__}.dist-info/METADATA"))
    required = {
        re.split(r"[^\w.-]", item)[0].replace("-", "_")
        for item in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in item or "extra == 'objectstore'" in item.replace('"', "'")
    }
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"leitwolf"}
    assert required - {"httptools"} == foreign  # uvicorn speaks it, by name


def test_the_wheel_runs_without_the_checkout(wheel: Path) -> None:
    """The program starts from the wheel alone."""
    done = subprocess.run(
        [
            sys.executable, "-I", "-c",
            f"import sys; sys.path.insert(0, {str(wheel)!r}); import leitwolf.cli.__main__",
            "--version",
        ],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    assert done.stdout == f"leitwolf, version {__version__}\n", done.stderr
