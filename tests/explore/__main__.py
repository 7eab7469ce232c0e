"""``python -m tests.explore NAME``: search, and tell in words how it goes wrong, if it does.

NAME is a search or a mutant of ``tests/explore/searches.py``; ``--path`` replays a path of choices.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.explore.engine import explore, replay
from tests.explore.searches import MUTANTS, SEARCHES, model, mutated


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.explore")
    parser.add_argument("name", choices=[*SEARCHES, *MUTANTS])
    parser.add_argument("--states", type=int, default=2_000_000, help="stop after so many")
    parser.add_argument("--path", help="replay: numbers of choices, with dots between")
    options = parser.parse_args()
    searched = mutated(options.name) if options.name in MUTANTS else model(SEARCHES[options.name])
    if options.path is not None:
        path = tuple(int(choice) for choice in options.path.split("."))
    else:
        begun = time.monotonic()
        outcome = explore(searched, options.states)
        print(f"{options.name}: {outcome} in {time.monotonic() - begun:.1f} s")
        path = outcome.path
    if not path:
        return 0
    for number, line in enumerate(replay(searched, path), 1):
        print(f"{number:3}  {line}")
    print("replay: python -m tests.explore", options.name, "--path", ".".join(map(str, path)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
