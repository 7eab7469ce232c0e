"""House rules that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
BLOB_BYTES_MAX = 256 << 10


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).exists()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_source_keeps_the_house_rules(path: Path) -> None:
    """Functions, modules and statements stay within the limits of the house."""
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES_MAX, "module is too long: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert vanishes under -O"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), "unfinished business"


def test_no_big_blobs() -> None:
    """Nothing large is kept in the repository."""
    for path in tracked():
        assert path.stat().st_size <= BLOB_BYTES_MAX, f"{path} is too big"


def test_no_registry_hosts_in_locks() -> None:
    """Locks name packages and hashes, not where they came from."""
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), f"{path} names a host"


def test_decisions_are_indexed() -> None:
    """Every architecture decision record is listed in the index."""
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"):
        assert path.name in index, f"{path.name} is missing in docs/adr/README.md"


def test_changelog_has_the_version() -> None:
    """The changelog speaks of the present version or of what is unreleased."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    assert "## Unreleased" in text
