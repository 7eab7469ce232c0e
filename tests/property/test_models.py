"""The Promela models of ``spec/``: complete without an error, and wrong without any one rule."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
tools = pytest.mark.needs("spin", "gcc")

SPEC = Path(__file__).parents[2] / "spec"
MUTANTS = {
    "disk": ("NO_REREAD", "NO_ADOPT", "ONE_COPY", "NO_MEND", "ACK_FIRST", "EARLY_COPY"),
    "lease": ("NO_REREAD", "NO_CHECK", "FROM_END", "SHORT", "NO_WAIT"),
    "witness": ("KEEP", "NO_WAIT", "NO_PROMISE", "SHORT", "BLIND"),
}


def checked(folder: Path, model: str, *macros: str) -> str:
    """Return what spin's verifier says of a model."""
    for command in (
        ["spin", *(f"-D{macro}" for macro in macros), "-a", str(SPEC / f"{model}.pml")],
        ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4000", "-o", "pan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    done = subprocess.run(
        ["./pan", "-m400000"], cwd=folder, check=False, capture_output=True, timeout=700, text=True
    )
    print(done.stdout)
    return done.stdout


@tools
@pytest.mark.parametrize("model", sorted(MUTANTS))
def test_a_model_is_right(tmp_path: Path, model: str) -> None:
    """All states were seen, none breaks what must hold, and there were many of them."""
    said = checked(tmp_path, model)
    assert "errors: 0" in said
    assert "max search depth too small" not in said
    assert "Search not completed" not in said
    states = re.search(r"(\d+) states, stored", said)
    assert states is not None
    assert int(states[1]) > 1_000_000


@tools
@pytest.mark.parametrize(
    ("model", "macro"), [(model, macro) for model in sorted(MUTANTS) for macro in MUTANTS[model]]
)
def test_a_model_without_a_rule_is_wrong(tmp_path: Path, model: str, macro: str) -> None:
    """The verifier finds a run in which an assertion fails."""
    said = checked(tmp_path, model, macro)
    assert "errors: 1" in said
    assert "assertion violated" in said


def test_the_table_names_every_mutant() -> None:
    """What the README says is shown is what is checked, and every macro is in its model."""
    table = (SPEC / "README.md").read_text()
    for model, macros in MUTANTS.items():
        text = (SPEC / f"{model}.pml").read_text()
        for macro in macros:
            assert f"| {model} | `{macro}` |" in table
            assert f"-D{macro}" in text
