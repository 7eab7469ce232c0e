"""``python -m leitwolf.cli``."""

from __future__ import annotations

from leitwolf.cli.main import main

main()
