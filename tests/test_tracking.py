"""Hand-made sequences of 8 x 8 pixels, ten frames a second: a letter is an object, "." is road."""

import itertools
import sys
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception_node.device import open_device
from perception_node.errors import UserError
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.panoptic import MAX_INSTANCES, PanopticFrame
from perception_node.pipeline import Pipeline
from perception_node.taxonomy import Category, Taxonomy
from perception_node.tracking import Tracker, TrackingOptions

pytest.importorskip("scipy", reason="tracking needs scipy")

ROAD, CAR, BUS = 0, 1, 2
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0), drivable=True),
        Category(CAR, "car", (0, 0, 1), thing=True),
        Category(BUS, "bus", (0, 1, 0), thing=True),
    ]
)
STEP_NS = 10**8
EMPTY = ("........",) * 8


def frame_of(*rows, confidence=255):
    """Lower case letters are cars, upper case buses. What fusion would number 1, 2, ... is numbered backwards here, so
    that ids which last do not do so by themselves."""
    letters = sorted({letter for row in rows for letter in row} - {"."}, key=str.lower, reverse=True)
    numbers = {letter: number for number, letter in enumerate(letters, start=1)}
    instance_map = np.array([[numbers.get(letter, 0) for letter in row] for row in rows], np.uint16)
    classes = {".": ROAD, **{letter: BUS if letter.isupper() else CAR for letter in letters}}
    class_map = np.array([[classes[letter] for letter in row] for row in rows], np.uint8)
    return PanopticFrame.from_maps(class_map, instance_map, np.full(class_map.shape, confidence, np.uint8))


def make_tracker(next_id=1, **options):
    return Tracker(open_device("cpu", 1), TAXONOMY, TrackingOptions(**options), next_id)


def ids_of(tracker, rows, stamp_ns):
    """Letter -> id, after the frame was followed and checked."""
    frame, tracks = tracker(frame_of(*rows), stamp_ns)
    frame.check(set(TAXONOMY.thing_ids))
    assert [track.id for track in tracks] == [segment.id for segment in frame.instances]
    found = {(letter.lower(), int(id_)) for row, ids in zip(rows, frame.instance_map, strict=True)
             for letter, id_ in zip(row, ids, strict=True) if letter != "."}  # fmt: skip
    assert len(found) == len(dict(found)) == len(tracks)
    return dict(found)


def follow(*frames, tracker=None, **options):
    """[letter -> id] of each frame."""
    tracker = tracker or make_tracker(**options)
    return [ids_of(tracker, rows, index * STEP_NS) for index, rows in enumerate(frames)]


def row(*text):
    """A frame with these rows at the top, at the left."""
    return (*(each.ljust(8, ".") for each in text), *EMPTY[len(text) :])


def test_what_stands_keeps_its_id_whatever_its_number_is():
    both, one = row("aa....bb", "aa....bb"), row("......bb", "......bb")
    first, second, third, again = follow(both, both, one, both)
    assert set(first.values()) == {1, 2}
    assert second == again == first
    assert third == {"b": first["b"]}


def test_crossing_in_front_of_another():
    """a drives to the right in front of b, which drives to the left and is hidden meanwhile."""
    first, *_, last = follow(
        row("aa.....b", "aa.....b"),
        row(".aa...b.", ".aa...b."),
        row("..aa.b..", "..aa.b.."),
        row("...aa...", "...aa..."),
        row("...baa..", "...baa.."),
        row("..b..aa.", "..b..aa."),
        row(".b....aa", ".b....aa"),
    )
    assert last == first


def test_crossing_side_by_side():
    first, *_, last = follow(*(row("." * i + "aa" + "." * (6 - i), "." * (6 - i) + "bb" + "." * i) for i in range(7)))
    assert last == first


def test_hidden_behind_something_for_a_while():
    positions = [0, 1, 2, None, None, None, 6]
    first, *_, last = follow(*(EMPTY if x is None else row("." * x + "aa" + "." * (6 - x)) for x in positions))
    assert last == first


def test_the_larger_part_of_what_splits_keeps_the_id():
    first, second = follow(row("aaaaaa..", "aaaaaa.."), row("aaaabb..", "aaaabb.."))
    assert second == {"a": first["a"], "b": 2}


def test_what_merges_is_the_larger_and_both_are_known_when_they_part():
    apart, merged = row("aaaa.bb.", "aaaa.bb."), row("aaaaaaa.", "aaaaaaa.")
    first, _, together, again = follow(apart, apart, merged, apart)
    assert together == {"a": first["a"]}
    assert again == first


def test_leaving_and_coming_back_in_time():
    frames = row("...aa..."), row("....aa.."), row(".....aa."), EMPTY, row("......aa")
    first, *_, last = follow(*frames)
    assert last == first


def test_who_was_away_too_long_is_new():
    frames = [row("aa......"), row("aa......"), *[EMPTY] * 4, row("aa......")]
    assert follow(*frames, max_lost_s=0.5)[-1] == {"a": 1}
    assert follow(*frames, max_lost_s=0.4)[-1] == {"a": 2}


def test_who_was_seen_too_few_times_is_not_remembered():
    frames = row("aa......"), EMPTY, row("aa......")
    assert follow(*frames)[-1] == {"a": 2}
    assert follow(*frames, min_hits=1)[-1] == {"a": 1}


def test_a_small_quick_object_whose_masks_never_meet():
    found = follow(*(row("." * x + "a" + "." * (7 - x)) for x in (0, 2, 4, 6)))
    assert [each["a"] for each in found] == [1] * 4


def test_one_of_another_size_is_another_object():
    first, second = follow(row("aa......"), row(".....aaa", ".....aaa", ".....aaa", ".....aaa"))
    assert second != first


def test_masks_that_overlap_too_little_are_two_objects():
    frames = *[row("aaaaa...")] * 3, row(*["....aaaa"] * 6)  # 1 of 28 pixels, which count half after three frames
    assert follow(*frames)[-1] == {"a": 2}
    assert follow(*frames, min_overlap=0.015)[-1] == {"a": 1}


def test_a_mask_is_looked_for_where_its_motion_leads():
    """At the end a's mask meets b's, not a's own; but both have driven on at the same pace."""
    first, *_, last = follow(*(row("." * x + "aabb" + "." * (4 - x)) for x in (0, 1, 2, 4)))
    assert last == first


def test_the_class_is_the_one_that_was_seen_most():
    """And the class map says so too."""
    tracker = make_tracker()
    for index, letter in enumerate("aaAaa"):
        frame, (track,) = tracker(frame_of(*row(letter * 2)), index * STEP_NS)
        assert (frame.instances[0].id, frame.instances[0].class_id) == (1, CAR)
        assert frame.class_map[0, 0] == CAR
        frame.check(set(TAXONOMY.thing_ids))
    (car, car_score), (bus, bus_score) = track.class_scores
    assert (car, bus) == (CAR, BUS)
    assert car_score + bus_score == pytest.approx(1)
    assert bus_score == pytest.approx(0.81 / (1 + 0.9 + 0.81 + 0.729 + 0.6561))


def test_a_class_that_stays_wins_in_the_end():
    tracker, classes = make_tracker(), []
    for index, letter in enumerate("aaAAAAAA"):
        frame, _ = tracker(frame_of(*row(letter * 2)), index * STEP_NS)
        classes.append(frame.instances[0].class_id)
    assert classes == [CAR] * 3 + [BUS] * 5  # of two and two the newer count more


def test_a_class_never_seen_needs_more_overlap():
    car, bus = row("aaaaaaa."), row("......AA", "......AA")  # 1 of 10 pixels, which count 3/4 after 9 frames
    other_car = row("......aa", "......aa")
    assert follow(*[car] * 9, other_car, min_overlap=0.06)[-1] == {"a": 1}
    assert follow(*[car] * 9, bus, min_overlap=0.06)[-1] == {"a": 2}


def test_classes_that_change_in_every_frame_change_no_id():
    assert [each["a"] for each in follow(*[row("aa", "aa"), row("AA", "AA")] * 5)] == [1] * 10


def test_people_in_a_row_who_pass_by():
    """Each is where the next one was a frame before; that the camera moves is known of a car that was there first."""
    frames = []
    for index in range(7):
        rows = [["."] * 60 for _ in range(8)]
        for letter, x, width in (("z", 28, 12), *((letter, 40 + 4 * i, 2) for i, letter in enumerate("abcde"))):
            if letter == "z" or index >= 3:
                for each in rows[: 8 if letter == "z" else 6]:
                    each[x - 4 * index : x - 4 * index + width] = letter * width
        frames.append(["".join(each) for each in rows])
    *_, first, _, _, last = follow(*frames)
    assert last == first


def test_people_in_a_row_who_stand_while_a_car_passes():
    """All that is known when they come into sight is the car, which is no sign that the camera moves."""
    frames = []
    for index in range(9):
        people = "..".join("abcde") if index >= 3 else ""
        frames.append([("." * (3 * index) + "z" * 8).ljust(40, ".")] * 3 + [("." * 12 + people).ljust(40, ".")] * 5)
    *_, first, _, _, _, _, last = follow(*frames)
    assert last == first


def test_who_is_small_and_passes_quickly():
    """No mask meets, whether it stands or goes with the car: then it goes, to where its box is looked for."""
    frames = []
    for index in range(7):
        x = 20 * index
        small = ("." * (60 + x - 80) + "a" * 4).ljust(200, ".") if index >= 4 else "." * 200
        frames.append([("." * x + "z" * 40).ljust(200, ".")] * 5 + [small] * 3)
    assert [each.get("a") for each in follow(*frames)] == [None] * 4 + [2] * 3


def test_who_is_seen_for_the_second_time_may_be_of_another_class():
    """The masks meet by a third, which counts half for another class; but nobody else is there to take them."""
    frames = [row("." * x + ("aa", "AA")[x % 2], "." * x + ("aa", "AA")[x % 2]) for x in range(6)]
    assert [each["a"] for each in follow(*frames)] == [1] * 6


@pytest.mark.parametrize("min_overlap", [0.1, 0.3, 0.5])
def test_what_stands_still_is_followed_though_its_class_flickers(min_overlap):
    frames = [row("aa"), row("AA")] * 3
    assert [each["a"] for each in follow(*frames, min_overlap=min_overlap)] == [1] * 6


def test_who_comes_out_from_behind_something():
    """At first a head alone is seen, then all, farther to the side."""
    head, body, later = row("aa"), row(*["..aa"] * 5), row(*["...aa"] * 5)
    assert [each["a"] for each in follow(head, body, later)] == [1, 1, 1]


def test_what_leaves_the_image_keeps_its_id_to_the_last_pixel():
    positions = (24, 27, 30, 33, 36, 38, 39)
    frames = [["." * x + "a" * min(8, 40 - x) + "." * max(0, 32 - x)] * 6 for x in positions]
    assert [each["a"] for each in follow(*frames)] == [1] * 7


def test_a_pole_in_front_splits_an_object_for_a_while():
    whole, split = row("aaaaaa", "aaaaaa"), row("aaaa.b", "aaaa.b")
    first, *_, last = follow(whole, whole, split, split, whole)
    assert last == first


def test_time_that_jumps_back_ends_all_tracks_but_no_id_is_given_again():
    tracker = make_tracker()
    frame = row("aa....bb")
    assert set(ids_of(tracker, frame, 5 * STEP_NS).values()) == {1, 2}
    assert set(ids_of(tracker, frame, 6 * STEP_NS).values()) == {1, 2}
    assert set(ids_of(tracker, frame, 0).values()) == {3, 4}
    assert set(ids_of(tracker, frame, STEP_NS).values()) == {3, 4}


def test_time_that_jumps_far_ahead_ends_all_tracks():
    tracker = make_tracker(max_lost_s=0)
    stamps = [0, 2.0, 4.1]
    assert [ids_of(tracker, row("aa"), int(seconds * 1e9)) for seconds in stamps] == [{"a": 1}, {"a": 1}, {"a": 2}]
    tracker = make_tracker(max_lost_s=3)
    assert [ids_of(tracker, row("aa"), int(seconds * 1e9)) for seconds in stamps] == [{"a": 1}] * 3


def test_stamps_that_stand_still_are_followed_and_the_lost_forgotten():
    tracker = make_tracker(max_lost_s=0.005)
    frames = [row("aa......"), row(".aa....."), row("..aa...."), *[EMPTY] * 6, row("...aa...")]
    assert [ids_of(tracker, rows, 7).get("a") for rows in frames] == [1, 1, 1, *[None] * 6, 2]


def test_an_image_of_another_size_ends_all_tracks():
    tracker = make_tracker()
    assert ids_of(tracker, ["aa..", "aa.."], 0) == {"a": 1}
    assert ids_of(tracker, ["aa", "aa"], 1) == {"a": 2}


def test_no_objects():
    tracker = make_tracker()
    for index in range(3):
        frame, tracks = tracker(frame_of(*EMPTY), index * STEP_NS)
        assert (frame.instances, tracks, frame.instance_map.any()) == ((), (), False)
    assert ids_of(tracker, row("aa......"), 4 * STEP_NS) == {"a": 1}


def many(shift, shape=(50, 70), numbers=None):
    """Objects of 2 x 2 pixels, 3 apart, in all the image."""
    down, right = (size // 3 for size in shape)
    numbers = np.arange(1, down * right + 1) if numbers is None else numbers
    instance_map = np.zeros(shape, np.uint16)
    for index, number in enumerate(numbers):
        y, x = 3 * (index // right), 3 * (index % right) + shift
        instance_map[y : y + 2, x : x + 2] = number
    class_map = np.where(instance_map > 0, np.uint8(CAR), np.uint8(ROAD))
    return PanopticFrame.from_maps(class_map, instance_map, np.full(shape, 200, np.uint8))


def test_more_than_500_objects():
    """They are numbered otherwise in the second frame."""
    tracker = make_tracker()
    rng = np.random.default_rng(0)
    frames = [many(0, (53, 95)), many(1, (53, 95), numbers=1 + rng.permutation(527))]
    assert len(frames[0].instances) == 527
    first, second = (tracker(frame, index * STEP_NS)[0].instance_map for index, frame in enumerate(frames))
    np.testing.assert_array_equal(second[:, 1:], first[:, :-1])


def test_more_objects_than_are_matched():
    """The largest 1000 are followed, here the first of equals; others are new each time. All have ids of their own."""
    tracker = make_tracker()
    frame = many(0, (150, 121))
    n = len(frame.instances)
    assert n == 50 * 40
    for index in range(3):
        tracked, _ = tracker(frame, index * STEP_NS)
        tracked.check(set(TAXONOMY.thing_ids))
        assert tracker.next_id == 1 + n + index * (n - 1000)


def test_velocity_in_pixels():
    tracker = make_tracker()
    for index, x in enumerate((0, 1, 2, 3, 4, 5)):
        _, (track,) = tracker(frame_of(*row("." * x + "aa" + "." * (6 - x))), index * STEP_NS)
        assert (track.hits, track.velocity_px_s is None) == (index + 1, index == 0)
        assert track.age_s == pytest.approx(0.1 * index)
    assert track.velocity_px_s == pytest.approx((10, 0), abs=0.5)
    assert track.velocity_m_s is None


def test_velocity_in_metres_where_positions_are_known():
    tracker = make_tracker()
    for index in range(8):
        tracker(frame_of(*row("aa....bb")), index * STEP_NS)
        a, b = tracker.locate(standing_at(10 + 0.5 * index, -0.2 * index))
        assert a.velocity_px_s is None or a.velocity_px_s == pytest.approx((0, 0), abs=0.1)
        assert (a.velocity_m_s is None) == (index == 0)
        assert b.velocity_m_s is None
    assert a.velocity_m_s == pytest.approx((5, -2), abs=0.1)


def standing_at(x, y, sigma=0.1):
    return {1: np.array([[x, y], [sigma**2, sigma**2]])}


def test_positions_that_were_missing_for_long_say_nothing_of_speed():
    tracker = make_tracker()
    for seconds, is_known in ((0.0, False), (0.5, True), (1.0, True), (2.5, False), (3.0, True)):
        tracker(frame_of(*row("aa......")), int(seconds * 1e9))
        (track,) = tracker.locate(standing_at(10.0, seconds))
        assert (track.velocity_m_s is not None) == is_known


def test_who_is_not_located_moves_on_for_a_second():
    """At 5 m/s ahead, from 2 m on; its speed is less sure by the acceleration's noise, 2² m²/s³."""
    tracker, found = make_tracker(), []
    for index in range(18):
        tracker(frame_of(*row("aa......")), index * STEP_NS)
        found += tracker.locate(standing_at(0.5 * index, 0.0, 0.01) if index <= 4 else {})
    for index in range(4, 15):
        assert found[index].position_m == pytest.approx((0.5 * index, 0), abs=0.02)
        assert found[index].velocity_m_s == pytest.approx((5, 0), abs=0.02)
    growth = np.square(found[14].velocity_sigma_m_s) - np.square(found[4].velocity_sigma_m_s)
    np.testing.assert_allclose(growth, 2**2 * 1.0, rtol=1e-6)
    assert (found[15].position_m, found[15].velocity_m_s, found[15].velocity_sigma_m_s) == (None, None, None)


def test_a_speed_that_is_not_sure_is_not_known():
    """Of two positions a tenth of a second apart, each known to 0.25 m, or to 0.2 m: 3.4 m/s, 2.8 m/s."""
    for sigma, is_known in ((0.25, False), (0.2, True)):
        tracker = make_tracker()
        for index in range(2):
            tracker(frame_of(*row("aa......")), index * STEP_NS)
            (track,) = tracker.locate(standing_at(10.0, 0.0, sigma))
        assert track.position_m == pytest.approx((10, 0))
        assert (track.velocity_m_s is not None) == is_known


def test_after_the_last_id_comes_the_first_that_is_free():
    tracker = make_tracker(next_id=MAX_INSTANCES - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids_of(tracker, row("aa......"), 0) == {"a": 65534}
        assert ids_of(tracker, row("aa.b...."), 1) == {"a": 65534, "b": 65535}
    with pytest.warns(UserWarning, match="all 65535 ids were given"):
        assert ids_of(tracker, row("aa.b.c.."), 2) == {"a": 65534, "b": 65535, "c": 1}
    tracker.next_id = 2 * MAX_INSTANCES - 1  # a round later a, b and c are still there
    assert ids_of(tracker, row("aa.b.c.d"), 3) == {"a": 65534, "b": 65535, "c": 1, "d": 2}


def test_what_is_lost_is_forgotten_before_ids_run_out(monkeypatch):
    monkeypatch.setattr("perception_node.tracking.MAX_INSTANCES", 9)
    tracker = make_tracker(min_hits=1)
    assert set(ids_of(tracker, ["a.b.c.d.", *EMPTY[1:]], 0).values()) == {1, 2, 3, 4}
    assert set(ids_of(tracker, [*EMPTY[1:], "a.b.c.d."], STEP_NS).values()) == {5, 6, 7, 8}
    others = [letter * 8 for letter in "aabbccdd"]
    with pytest.warns(UserWarning, match="begin at 1"):
        assert set(ids_of(tracker, others, 2 * STEP_NS).values()) == {9, 1, 2, 3}


def test_the_frame_that_came_is_left_alone():
    frame, tracker = frame_of(*row("aa....BB")), make_tracker(next_id=50)
    copies = frame.class_map.copy(), frame.instance_map.copy(), frame.segments
    tracked, _ = tracker(frame, 0)
    assert tracked.confidence is frame.confidence
    np.testing.assert_array_equal(frame.class_map, copies[0])
    np.testing.assert_array_equal(frame.instance_map, copies[1])
    assert frame.segments == copies[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_hits": 0}, "min_hits is 0; expected: 1..100"),
        ({"max_lost_s": -1.0}, "max_lost_s is -1.0"),
        ({"max_lost_s": float("nan")}, "max_lost_s is nan"),
        ({"min_overlap": 1.5}, "min_overlap is 1.5"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        TrackingOptions(**options)


def test_without_scipy_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UserError, match="python3-scipy"):
        make_tracker()


frames = st.lists(
    st.tuples(arrays(np.uint8, (8, 8), elements=st.sampled_from([0, 0, 0, 1, 2, 3, 4])), st.integers(-3, 4)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(frames, st.integers(1, 3))
def test_whatever_comes(sequence, min_hits):
    """The pixels stay together as they were, the rules of a frame hold, ids are not given again, and all that twice."""
    trackers = make_tracker(min_hits=min_hits), make_tracker(min_hits=min_hits)
    class_of = np.array([ROAD, CAR, CAR, BUS, BUS], np.uint8)
    given_ids, stamp = set(), 0
    for labels, step in sequence:
        frame = PanopticFrame.from_maps(class_of[labels], labels.astype(np.uint16), np.full((8, 8), 128, np.uint8))
        stamp += step * STEP_NS
        (tracked, tracks), (again, tracks_again) = (tracker(frame, stamp) for tracker in trackers)
        assert tracks == tracks_again
        np.testing.assert_array_equal(tracked.instance_map, again.instance_map)

        tracked.check(set(TAXONOMY.thing_ids))
        pairs = set(zip(labels.ravel().tolist(), tracked.instance_map.ravel().tolist(), strict=True))
        assert len(pairs) == len({label for label, _ in pairs}) == len({id_ for _, id_ in pairs})
        assert (0, 0) in pairs or 0 not in labels
        ids = {segment.id for segment in tracked.instances}
        new = ids - given_ids
        assert not new or min(new) > max(given_ids, default=0)
        assert step >= 0 or ids == new
        given_ids |= ids


lanes = st.lists(st.tuples(st.integers(0, 60), st.integers(3, 9), st.integers(-2, 2)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(lanes, st.lists(st.integers(0, 1), min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_objects_in_lanes_of_their_own_keep_their_ids(objects, shakes, random):
    """Each drives at its pace in 8 rows of its own, all shake with the camera; numbers are others in every frame."""
    tracker, ids = make_tracker(), {}
    for index, shake in enumerate(shakes):
        numbers = random.sample(range(1, 100), len(objects))
        instance_map = np.zeros((64, 96), np.uint16)
        for lane, (number, (x, width, speed)) in enumerate(zip(numbers, objects, strict=True)):
            x += 16 + speed * index + shake
            instance_map[8 * lane + 1 : 8 * lane + 7, max(x, 0) : max(x + width, 0)] = number
        class_map = np.where(instance_map > 0, np.uint8(CAR), np.uint8(ROAD))
        frame = PanopticFrame.from_maps(class_map, instance_map, np.full((64, 96), 255, np.uint8))
        tracked, _ = tracker(frame, index * STEP_NS)
        for lane, number in enumerate(numbers):
            seen = tracked.instance_map[instance_map == number]
            if seen.size:
                assert ids.setdefault(lane, seen[0]) == seen[0]


def test_ids_last_on_a_real_drive(camvid_val):
    """The default model on ten frames: masks that mostly cover each other are one object."""
    model = load_model(DEFAULT_MODEL)
    pipeline, tracker = Pipeline(model), Tracker(open_device("cpu"), model.taxonomy)
    frames = []
    for index, path in enumerate(sorted((camvid_val / "images").iterdir())[:10]):
        frame, tracks = tracker(pipeline(cv2.imread(str(path))), index * STEP_NS * 2 // 3)
        frame.check(set(model.taxonomy.thing_ids))
        assert [track.id for track in tracks] == [segment.id for segment in frame.instances]
        frames.append(frame)
    pairs = 0
    for before, after in itertools.pairwise(frames):
        for a, b in itertools.product(before.instances, after.instances):
            masks = before.instance_map == a.id, after.instance_map == b.id
            if np.count_nonzero(np.logical_and(*masks)) > 0.7 * np.count_nonzero(np.logical_or(*masks)):
                assert a.id == b.id
                pairs += 1
    assert pairs > 20
