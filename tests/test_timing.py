import pytest

from perception_node import timing
from perception_node.timing import StageTimer, percentiles


def test_stages_are_timed_in_milliseconds(monkeypatch):
    seconds = iter([10.0, 10.25, 20.0, 20.5])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    timer = StageTimer()
    for _ in range(2):
        with timer("network"):
            pass
    assert timer.percentiles() == {"network": {"p50": 375.0, "p95": 487.5, "p99": 497.5}}


def test_only_the_newest_count(monkeypatch):
    seconds = iter([0, 9, 10, 10.001, 20, 20.001])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    timer = StageTimer(window=2)
    for _ in range(3):
        with timer("fusion"):
            pass
    assert timer.percentiles()["fusion"] == {"p50": 1, "p95": 1, "p99": 1}


def test_the_newest_come_in_their_order():
    timer = StageTimer(window=3)
    for milliseconds in (1.0, 2.0, 3.0, 4.0, 5.0):
        timer.add("age", milliseconds)
        assert timer.newest() == {"age": milliseconds}
    assert timer.milliseconds("age") == [3.0, 4.0, 5.0]
    assert timer.milliseconds("network") == []


def test_what_fails_is_not_timed():
    timer = StageTimer()
    with pytest.raises(ValueError, match="bad"), timer("decode"):
        raise ValueError("bad")
    assert timer.percentiles() == {}


def test_percentiles_have_three_decimals():
    assert percentiles([1, 2]) == {"p50": 1.5, "p95": 1.95, "p99": 1.99}
    assert percentiles([1 / 3]) == {"p50": 0.333, "p95": 0.333, "p99": 0.333}


def test_an_inner_stage_is_not_counted_in_the_outer_one(monkeypatch):
    seconds = iter([0.0, 1.0, 1.5, 2.0, 2.25, 4.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    timer = StageTimer()
    with timer("publish"):
        with timer("drivable"):
            pass
        with timer("overlay"):
            pass
    assert {stage: times["p50"] for stage, times in timer.percentiles().items()} == {
        "drivable": 500,
        "overlay": 250,
        "publish": 3250,
    }
