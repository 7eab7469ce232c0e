"""The arithmetic of the benchmarks: a figure that is not measured is never a good one."""

from __future__ import annotations

import importlib
import json
import math

import pytest
from benchmarks import peers
from benchmarks.crowd import Answers
from benchmarks.rows import Row, median, percentile, table


def test_median_is_the_middle_or_the_mean_of_two() -> None:
    """Order does not matter; of an even number it is the mean of the two in the middle."""
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 3, 2]) == 2.5
    assert math.isnan(median([]))


def test_percentile_is_a_value_that_was_measured() -> None:
    """At least so many percent of the values are not above it."""
    values = list(range(1, 201))
    assert percentile(values, 50) == 100
    assert percentile(values, 99) == 198
    assert percentile(values, 100) == 200
    assert percentile([7], 99) == 7
    assert math.isnan(percentile([], 50))


def test_a_goal_is_met_from_the_right_side() -> None:
    """Outages shall be small, speeds large; the goal itself is good enough."""
    assert Row("outage", 10, "ms", 10).met is True
    assert Row("outage", 10.1, "ms", 10).met is False
    assert Row("speed", 50, "x", 50, at_least=True).met is True
    assert Row("speed", 49, "x", 50, at_least=True).met is False
    assert Row("told only", 1, "ms").met is None


def test_what_could_not_be_measured_is_not_met() -> None:
    """Neither a missing value nor an outage without end reaches a goal."""
    assert Row("outage", math.nan, "ms", 10).met is False
    assert Row("speed", math.nan, "x", 1, at_least=True).met is False
    assert Row("outage", math.inf, "ms", 10).met is False


def test_the_ratio_is_told_only_with_a_peer() -> None:
    """Without a peer, or without a value, there is nothing to compare."""
    assert Row("commit", 3, "ms", peer=2).ratio == 1.5
    assert Row("commit", 3, "ms").ratio is None
    assert Row("commit", 3, "ms", peer=0).ratio is None
    assert Row("commit", math.nan, "ms", peer=2).ratio is None


def test_a_peer_of_another_run_is_named_as_such() -> None:
    """Ratio and note are there, and what the row said before; no peer stands without a name."""
    row = peers.beside(Row("outage", 428, "ms", 450, note="worst 447"), peers.CRASH)
    assert row.document()["peer"] == 295
    assert row.document()["ratio"] == 1.45
    assert row.met is True
    assert row.note == "worst 447; peer, not in this run: keepalived; Pacemaker 773"
    bare = peers.beside(Row("two owners", 0, "ms", 0), peers.FROZEN_TWO)
    assert bare.ratio == 0
    assert bare.note.startswith("peer, not in this run: Pacemaker")


def test_documents_are_strict_json() -> None:
    """Values without number become null: NaN and infinity are no JSON."""
    rows = [Row("a", math.nan, "ms", 1), Row("b", math.inf, "ms", 1), Row("c", 1.23456, "ms")]
    documents = [row.document() for row in rows]
    json.dumps(documents, allow_nan=False)
    assert [document["value"] for document in documents] == [None, None, 1.235]
    assert set(documents[0]) >= {"name", "value", "unit", "goal", "met", "peer", "ratio"}


def test_the_table_shouts_what_is_missed() -> None:
    """A missed goal stands out; every row has its line."""
    text = table([Row("good", 1, "ms", 2), Row("bad", 3, "ms", 2), Row("told", 4, "ms")])
    lines = text.splitlines()
    assert len(lines) == 4
    assert "yes" in lines[1]
    assert "NO" in lines[2]
    assert "yes" not in lines[3]
    assert "NO" not in lines[3]


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_answers_are_counted_when_they_are_whole() -> None:
    """However the bytes come in, an answer counts once, and not before its last byte."""
    answers = Answers()
    assert [len(answers.push(bytes([byte]))) for byte in ANSWER] == [0] * (len(ANSWER) - 1) + [1]
    assert answers.push(ANSWER + ANSWER + ANSWER[:-1]) == [ANSWER, ANSWER]
    assert answers.push(b"}") == [ANSWER]


@pytest.mark.parametrize(
    "wrong",
    [
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_refusals_are_never_counted(wrong: bytes) -> None:
    """A server that refuses quickly is not a quick one."""
    with pytest.raises(RuntimeError):
        Answers().push(wrong)


def test_the_program_that_measures_can_be_loaded() -> None:
    """What it uses of the product is still there; it runs too seldom to find out only then."""
    assert callable(importlib.import_module("benchmarks.__main__").main)
