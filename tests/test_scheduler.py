"""Turns, taken on this thread as the worker would."""

import contextlib
import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from perception_node.scheduler import Scheduler

TIMEOUT_S = 60


class Turns:
    """A scheduler whose cameras are words, and what was done in their turns, each of which takes a second."""

    def __init__(self, max_batch=1, **priorities):
        self.now, self.done = 0, []
        self.scheduler = Scheduler(self.do, max_batch, clock=lambda: self.now)
        for camera, priority in priorities.items():
            self.scheduler.add(camera, priority)

    def do(self, turns):
        self.done += turns
        self.now += len(turns)

    def take(self):
        work = self.scheduler.take(timeout_s=0)
        if work is not None:
            work()
        return work


def test_newest_frame_wins():
    turns = Turns(front=1)
    assert [turns.scheduler.put("front", message) for message in "abc"] == [False, True, True]
    turns.take()
    assert turns.done == [("front", "c")]
    assert turns.take() is None


def test_a_camera_has_its_next_turn_when_it_is_ready():
    turns = Turns(front=1)
    turns.scheduler.put("front", "a")
    turns.take()
    turns.scheduler.put("front", "b")
    assert turns.take() is None
    turns.scheduler.ready("front")
    turns.take()
    assert turns.done == [("front", "a"), ("front", "b")]


def test_cameras_take_turns():
    turns = Turns(front=1, rear=1)
    for round_ in range(3):
        for camera in ("rear", "front"):
            turns.scheduler.put(camera, round_)
        for camera in ("front", "rear"):
            turns.take()
            turns.scheduler.ready(camera)
    assert turns.done == [(camera, round_) for round_ in range(3) for camera in ("front", "rear")]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_of_cameras_that_always_wait_each_gets_turns_by_its_priority(priorities):
    cameras = {f"camera {index}": priority for index, priority in enumerate(priorities)}
    turns = Turns(**cameras)
    for _ in range(10 * sum(priorities)):
        for camera in cameras:
            turns.scheduler.put(camera, "image")
            turns.scheduler.ready(camera)
        turns.take()
    got = Counter(camera for camera, _ in turns.done)
    for camera, priority in cameras.items():
        assert abs(got[camera] - 10 * priority) <= len(cameras)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=5))
def test_whose_turns_take_longer_gets_fewer(cameras):
    """(priority, seconds of a turn): each camera gets its share of the time, to within the longest turn."""
    turns, taken = Turns(), Counter()

    def do(work):
        ((_, seconds),) = work
        taken[seconds] += seconds[1]
        turns.now += seconds[1]

    turns.scheduler = Scheduler(do, clock=lambda: turns.now)
    names = {f"camera {index}": (index, seconds) for index, (_, seconds) in enumerate(cameras)}
    for (priority, _), name in zip(cameras, names, strict=True):
        turns.scheduler.add(name, priority)
    while turns.now < 2000:
        for name, message in names.items():
            turns.scheduler.put(name, message)
            turns.scheduler.ready(name)
        turns.take()
    shares = [taken[message] / priority for (priority, _), message in zip(cameras, names.values(), strict=True)]
    assert max(shares) - min(shares) <= max(seconds / priority for priority, seconds in cameras) + 1e-6


def test_a_turn_that_fails_counts_too():
    turns = Turns()

    def fail(work):
        turns.do(work)
        if work[0][0] == "rear":
            turns.now += 4
            raise ZeroDivisionError

    turns.scheduler = Scheduler(fail, clock=lambda: turns.now)
    for camera in ("front", "rear"):
        turns.scheduler.add(camera)
    for _ in range(12):
        for camera in ("front", "rear"):
            turns.scheduler.put(camera, "image")
            turns.scheduler.ready(camera)
        with contextlib.suppress(ZeroDivisionError):
            turns.take()
    assert Counter(camera for camera, _ in turns.done) == {"front": 10, "rear": 2}


def take_batches(turns, count, *cameras):
    """Who had a turn together, while all cameras always have an image."""
    batches = []
    for _ in range(count):
        for camera in cameras:
            turns.scheduler.put(camera, "image")
            turns.scheduler.ready(camera)
        turns.take()
        batches.append("".join(camera for camera, _ in turns.done))
        turns.done.clear()
    return batches


def test_several_cameras_have_their_turn_together():
    assert take_batches(Turns(max_batch=2, a=1, b=1, c=1), 3, "a", "b", "c") == ["ab", "ca", "bc"]
    assert take_batches(Turns(max_batch=4, a=1, b=1, c=1), 2, "a", "b", "c") == ["abc", "abc"]


def test_nobody_waits_for_a_camera_that_has_no_image():
    turns = Turns(max_batch=3, a=1, b=1, c=1)
    assert take_batches(turns, 2, "a", "c") == ["ac", "ac"]
    assert take_batches(turns, 1, "a", "b", "c") == ["bac"]  # it has no turns saved up, but is the longest without one


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 6))
def test_of_several_at_once_each_gets_its_share_as_far_as_it_can_have_it(priorities, max_batch):
    """A camera has one image in a batch, so its share is at most one turn of each; the others divide the rest."""
    cameras = {chr(ord("a") + index): priority for index, priority in enumerate(priorities)}
    batches = take_batches(Turns(max_batch, **cameras), 100, *cameras)
    assert {len(batch) for batch in batches} == {min(max_batch, len(cameras))}
    assert all(len(set(batch)) == len(batch) for batch in batches)
    got = Counter("".join(batches))
    left, rest = min(max_batch, len(cameras)), dict(cameras)
    while rest:
        camera = max(rest, key=rest.get)
        share = min(1.0, left * rest[camera] / sum(rest.values()))
        assert abs(got[camera] - 100 * share) <= len(cameras)
        left -= share
        del rest[camera]


def test_who_had_a_turn_in_every_batch_has_saved_none_up():
    """And its priority goes down: the others do not have to make up for what it could not have."""
    turns = Turns(max_batch=2, a=9, b=1, c=1)
    take_batches(turns, 50, "a", "b", "c")
    turns.scheduler.set_priority("a", 1)
    assert Counter("".join(take_batches(turns, 30, "a", "b", "c"))) == {"a": 21, "b": 20, "c": 19}


def test_a_camera_that_was_silent_has_saved_no_turns_up():
    turns = Turns(front=1, rear=1)
    for _ in range(100):
        turns.scheduler.put("front", "image")
        turns.take()
        turns.scheduler.ready("front")
    turns.done.clear()
    for _ in range(10):
        for camera in ("front", "rear"):
            turns.scheduler.put(camera, "image")
            turns.scheduler.ready(camera)
        turns.take()
    assert Counter(camera for camera, _ in turns.done) == {"front": 5, "rear": 5}


def test_a_slow_camera_holds_up_no_other():
    turns = Turns(slow=9, fast=1)
    turns.scheduler.put("slow", 0)
    turns.take()  # and is not ready again
    for number in range(5):
        turns.scheduler.put("slow", number)
        turns.scheduler.put("fast", number)
        turns.take()
        turns.scheduler.ready("fast")
    assert turns.done == [("slow", 0), *(("fast", number) for number in range(5))]


def test_a_priority_can_change():
    turns = Turns(front=1, rear=1)
    turns.scheduler.set_priority("rear", 3)
    for _ in range(8):
        for camera in ("front", "rear"):
            turns.scheduler.put(camera, "image")
            turns.scheduler.ready(camera)
        turns.take()
    assert Counter(camera for camera, _ in turns.done) == {"front": 2, "rear": 6}


def test_calls_come_before_images():
    turns = Turns(front=1)
    turns.scheduler.put("front", "image")
    turns.scheduler.call(lambda: turns.done.append("call"))
    turns.take()
    turns.take()
    assert turns.done == ["call", ("front", "image")]


def test_removing_a_camera_waits_for_its_turn_to_end():
    turns = Turns(front=1)
    turns.scheduler.put("front", "a")
    assert turns.scheduler.take(timeout_s=0) is not None  # at work
    turns.scheduler.put("front", "b")
    lost = []
    remover = threading.Thread(target=lambda: lost.append(turns.scheduler.remove("front")))
    remover.start()
    while "front" in turns.scheduler._slots:
        remover.join(0.001)
    assert lost == []
    assert turns.take() is None  # the worker comes back: its turn has ended
    remover.join(TIMEOUT_S)
    assert lost == [True]
    turns.scheduler.ready("front")  # of what is still being published: no matter


def test_who_waits_for_work_is_let_go_at_the_end():
    scheduler, got = Scheduler(print), []
    waiter = threading.Thread(target=lambda: got.append(scheduler.take()))
    waiter.start()
    scheduler.close()
    waiter.join(TIMEOUT_S)
    assert got == [None]
    assert scheduler.is_closed
