"""Rates and health by a clock of ours."""

import pytest

from perception_node.diagnostics import RECOVERY_S, STUCK_S, Diagnostics, Health, Level, Rate

OK, WARN, ERROR = Level


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_rate_is_of_the_last_seconds(clock):
    rate = Rate(clock, window_s=5.0)
    for _ in range(10):
        rate.add()
        clock.now += 0.5
    assert rate.per_second() == 2.0
    clock.now += 100
    assert rate.per_second() == 0.0


def test_health_gets_worse_at_once_and_better_slowly(clock):
    health = Health(clock)
    assert health.update([]) == (OK, "ok")
    assert health.update([(WARN, "dusty"), (ERROR, "blind")]) == (ERROR, "blind; dusty")
    clock.now += RECOVERY_S / 2
    assert health.update([(WARN, "dusty")]) == (ERROR, "recovering: blind; dusty")
    clock.now += RECOVERY_S
    assert health.update([(WARN, "dusty")]) == (WARN, "dusty")
    clock.now += RECOVERY_S - 0.1
    assert health.update([]) == (WARN, "recovering: dusty")
    assert health.update([(WARN, "dusty again")]) == (WARN, "dusty again")  # and the time starts anew
    clock.now += RECOVERY_S - 0.1
    assert health.update([])[0] == WARN
    clock.now += 0.2
    assert health.update([]) == (OK, "ok")


def test_a_silent_camera_is_an_error_until_it_comes_back(clock):
    figures = Diagnostics(clock)
    figures.activated()
    assert figures.health("/image", 2.0) == (WARN, "no image yet on /image")
    clock.now += 2.5
    assert figures.health("/image", 2.0) == (ERROR, "no image on /image for 2 s")
    figures.received()
    assert figures.health("/image", 2.0)[1].startswith("recovering")
    for _ in range(6):
        clock.now += 1
        figures.received()
    assert figures.health("/image", 2.0) == (OK, "ok")
    clock.now += 3
    assert figures.health("/image", 2.0) == (ERROR, "no image on /image for 3 s")


@pytest.mark.parametrize(
    ("processed", "dropped", "level"),
    [
        (9, {"refused": 1}, WARN),
        (0, {"failed": 1}, ERROR),
        (0, {"stale": 9}, ERROR),
        (1, {"stale": 9}, OK),
        (9, {"superseded": 5, "throttled": 5}, OK),  # that is how it is meant to be
    ],
)
def test_what_is_dropped_decides_how_well_the_node_is(clock, processed, dropped, level):
    figures = Diagnostics(clock)
    for _ in range(processed):
        figures.received()
        figures.processed(age_ms=5.0)
    for reason, count in dropped.items():
        for _ in range(count):
            figures.received()
            figures.dropped(reason)
    assert figures.health("/image", 2.0)[0] == level
    values = figures.values()
    assert values["waiting"] == 0
    assert values["received"] == processed + sum(dropped.values())


def test_only_what_is_new_since_it_was_last_asked_counts(clock):
    figures = Diagnostics(clock)
    figures.received()
    figures.dropped("refused")
    assert figures.health("/image", 100.0)[0] == ERROR
    clock.now += RECOVERY_S + 1
    assert figures.health("/image", 100.0) == (OK, "ok")


def test_an_image_that_is_never_done_with_is_an_error(clock):
    figures = Diagnostics(clock)
    figures.received()
    figures.processed(age_ms=5.0)
    clock.now += 100  # nothing to do
    figures.received()
    clock.now += STUCK_S - 1
    for _ in range(2):
        figures.received()
        figures.dropped("superseded")
    assert figures.health("/image", 2.0) == (OK, "ok")
    clock.now += 2
    figures.received()
    assert figures.health("/image", 2.0) == (ERROR, "images come, and for 11 s none was done with")
    figures.processed(age_ms=5.0)
    assert figures.health("/image", 2.0)[1].startswith("recovering")


def test_the_last_reason_is_said(clock):
    figures = Diagnostics(clock)
    for why in ("step: 7 bytes", "width: 0"):
        figures.received()
        figures.dropped("refused", why)
    figures.dropped("superseded")
    assert figures.health("/image", 2.0) == (ERROR, "every image refused or lost, the last: width: 0")


def test_what_others_find_counts_too(clock):
    figures = Diagnostics(clock)
    figures.received()
    assert figures.health("/image", 2.0, [(WARN, "no calibration")]) == (WARN, "no calibration")
