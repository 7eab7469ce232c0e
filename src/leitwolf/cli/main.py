"""The program ``leitwolf``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the start of a node waits for no other command's imports."""
    if sys.argv[1:2] == ["run"]:
        from leitwolf.cli.run import run  # noqa: PLC0415 — this command alone

        run(sys.argv[2:], prog_name="leitwolf run")
    else:
        from leitwolf.cli.commands import cli  # noqa: PLC0415 — all of them

        cli(prog_name="leitwolf")
