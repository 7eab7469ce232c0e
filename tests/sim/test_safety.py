"""Random worlds: no invariant breaks while faults rage, and afterwards everything works again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from lab.simulate import describe, main, parsed, replay_command
from lab.soak import Job, sweep, varied
from tests.effort import RUNS

from leitwolf.sim.forming import QUORUMS
from leitwolf.sim.scenario import Setting, simulate

LONG_CHAOS_S = 26.0
"""With start and settling a run lasts more than 30 simulated seconds."""
FAILURES_SHOWN_MAX = 5


def demand_all_well(jobs: Iterable[Job]) -> None:
    """Run jobs on all cores; show the first failures, each with the command that replays it."""
    failed: list[str] = []
    runs = 0
    for outcome in sweep(jobs):
        runs += 1
        assert outcome.simulated_s >= 30 or not outcome.ok
        if not outcome.ok:
            failed.append(describe(outcome))
            if len(failed) >= FAILURES_SHOWN_MAX:
                break
    assert not failed, f"{len(failed)} of {runs} runs:\n\n" + "\n\n".join(failed)


@pytest.mark.timeout(900)
def test_no_invariant_breaks() -> None:
    """Some thirty worlds of three and five nodes under all faults stay safe and recover."""
    jobs = [
        (seed, Setting(nodes=3 + seed % 2 * 2, spares=seed % 3, chaos_s=26)) for seed in range(30)
    ]
    demand_all_well(jobs)


@pytest.mark.long
@pytest.mark.timeout(2_400)
def test_no_invariant_breaks_in_many_worlds() -> None:
    """Worlds of one to seven nodes, all profiles and kinds of quorum, stay safe and recover."""
    demand_all_well((seed, varied(seed, LONG_CHAOS_S)) for seed in range(10_000, 10_000 + RUNS))


def test_long_sweeps_draw_every_kind_of_world() -> None:
    """Half are five nodes by the default profile; all quorums, mixes and votes are among them."""
    drawn = [varied(seed, LONG_CHAOS_S) for seed in range(10_000, 12_000)]
    usual = [one for one in drawn if (one.nodes, one.profile) == (5, "default")]
    assert len(usual) >= len(drawn) / 2
    assert not any(one.nodes == 1 and one.mix in {"damaged", "stale"} for one in drawn)
    for some in (usual, drawn):
        assert {one.quorum for one in some} == QUORUMS.keys()
        assert {one.dynamic for one in some} == {False, True}
        assert {one.mix for one in some} >= {"all", "shared", "rotten", "damaged", "stale", "votes"}
    assert drawn == [varied(seed, LONG_CHAOS_S) for seed in range(10_000, 12_000)]
    outcome = simulate(1, Setting(nodes=1, chaos_s=0, mix="none", liveness=False))
    for seed, setting in enumerate(drawn[:200], start=10_000):
        command = replay_command(replace(outcome, seed=seed, setting=setting))
        assert parsed(command.split()[3:]) == (seed, setting, False)


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same trace to the last line, another seed another."""
    setting = Setting(nodes=3, chaos_s=5, liveness=False)
    first, second, other = (simulate(seed, setting) for seed in (7, 7, 8))
    assert first == second
    assert first.steps > 1_000
    assert first.trace != other.trace


def test_a_failure_names_its_replay(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that breaks an invariant prints what broke, the end of the trace and one command."""
    arguments = "--nodes 3 --seconds 20 --mix guards --mutant lease-ended-stays-closed"
    seed = next(seed for seed in range(20) if main([f"--seed={seed}", *arguments.split()]) == 1)
    said = capsys.readouterr().out
    assert f"replay: .venv/bin/python -m lab.simulate --seed {seed} --nodes 3 --seconds 20" in said
    assert "--mix guards --mutant lease-ended-stays-closed --trace" in said
    assert " ms  n" in said
