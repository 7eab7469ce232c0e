"""``./run soak [--minutes N]``: simulated runs on all cores, new seeds, until one fails.

Every run is a world of its own: the seed also picks the number of nodes, the profile, the kind of
quorum, whether votes are dynamic, and the mix of faults, so that one number names a run. Every
other one has five nodes and the default profile; half of all have a quorum of nodes alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from lab.simulate import describe
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.scenario import Outcome, Setting, simulate

__all__ = ["Job", "main", "sweep", "varied"]

Job = tuple[int, Setting]
"""A seed and its setting."""

_TRACE_LINES = 60
_REPORT_S = 10.0
_NODES = (3, 4, 3, 2, 5, 7, 3, 1)
_PROFILES = ("default", "default", "fast", "virtual")
_QUORUMS = (
    *("majority",) * 6,
    *("disk", "disk", "disk-witness", "full-witness", "tag-witness", "engine"),
)
_DYNAMIC_PER_THOUSAND = 250
_MIXES = {
    "majority": (*("all",) * 5, "quorums", "votes", "members"),
    "disk": (*("shared",) * 3, "rotten", "quorums"),
    "disk-witness": (*("shared",) * 3, "rotten", "damaged", "quorums", "votes"),
    "full-witness": (*("shared",) * 3, "stale", "quorums", "votes"),
    "tag-witness": (*("shared",) * 3, "stale", "quorums", "votes"),
    "engine": (*("shared",) * 3, "quorums"),
}
"""By kind of quorum: what it is to bear, and to be well after."""
_DAMAGING = ("damaged", "stale")


def varied(seed: int, chaos_s: float = Setting().chaos_s) -> Setting:
    """Return the setting that belongs to a seed in long sweeps."""
    draw = Entropy(seed)
    usual = seed % 2 == 0
    quorum = draw.choice(_QUORUMS)
    nodes = 5 if usual else draw.choice(_NODES)
    setting = Setting(
        nodes=nodes,
        spares=draw.between(0, 1),
        profile="default" if usual else draw.choice(_PROFILES),
        chaos_s=chaos_s,
        quorum=quorum,
        dynamic=draw.chance(_DYNAMIC_PER_THOUSAND),
        mix=draw.choice(_MIXES[quorum]),
    )
    # A node and a witness are two votes, both needed: damage to one waits for an operator.
    lost = nodes == 1 and setting.mix in _DAMAGING
    return replace(setting, mix="shared") if lost else setting


def _run(job: Job) -> Outcome:
    seed, setting = job
    outcome = simulate(seed, setting)
    return replace(outcome, trace=() if outcome.ok else outcome.trace[-_TRACE_LINES:])


def _calm() -> None:
    """Leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def sweep(jobs: Iterable[Job], workers: int | None = None) -> Iterator[Outcome]:
    """Run jobs on ``workers`` processes (None: one a core); outcomes in any order."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers or os.cpu_count() or 1, initializer=_calm) as pool:
        yield from pool.imap_unordered(_run, jobs)


def _endless(first: int, until: float, chaos_s: float) -> Iterator[Job]:
    seed = first
    while time.monotonic() < until:
        yield seed, varied(seed, chaos_s)
        seed += 1


def _batches(first: int, until: float, chaos_s: float, workers: int) -> Iterator[Outcome]:
    """Sweep in small batches: a pool takes in all of its jobs at once."""
    jobs = _endless(first, until, chaos_s)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_calm) as pool:
        pending = [
            pool.apply_async(_run, (job,)) for _, job in zip(range(workers), jobs, strict=False)
        ]
        while pending:
            yield pending.pop(0).get()
            job = next(jobs, None)
            if job is not None:
                pending.append(pool.apply_async(_run, (job,)))


def say(text: str) -> None:
    """Tell the person in front of the terminal."""
    print(text, flush=True)  # noqa: T201


def main(arguments: list[str]) -> int:
    """Soak for a while; 1: an invariant broke."""
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=Setting().chaos_s, help="of faults a run")
    parser.add_argument("--first-seed", type=int, default=None, help="default: by the clock")
    options = parser.parse_args(arguments)
    workers = os.cpu_count() or 1
    first = time.time_ns() // 1_000_000_000 * 1_000
    if options.first_seed is not None:
        first = options.first_seed
    begun = time.monotonic()
    say(f"seeds from {first} on {workers} cores for {options.minutes:g} minutes")
    runs, simulated, reported = 0, 0.0, begun
    try:
        for outcome in _batches(first, begun + options.minutes * 60, options.seconds, workers):
            runs += 1
            simulated += outcome.simulated_s
            if not outcome.ok:
                say(describe(outcome))
                return 1
            now = time.monotonic()
            if now - reported >= _REPORT_S:
                reported = now
                pace = simulated / (now - begun)
                say(f"{now - begun:6.0f} s: {runs} runs, {simulated:.0f} s simulated, {pace:.0f} x")
    except KeyboardInterrupt:
        say("stopped")
    say(f"{runs} runs, {simulated:.0f} s simulated, no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
