import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import tracking as oracle

from perception_node import kalman
from perception_node.association import MOTION, InstanceMaps, Instances, closeness, motions_of, table
from perception_node.camera_motion import speed_at
from perception_node.device import open_device
from perception_node.panoptic import Segment

MAPS = InstanceMaps(open_device("cpu", 2))
STAY = (65536, 32768, 65536, 32768)


def instance_map(*rows):
    return np.array([[int(digit) for digit in row] for row in rows], np.uint16)


def histogram(before, now, motions, n=3):
    """Of instances 1, 2, ..., in that order."""
    ids = np.arange(1, n + 1)
    places = table(np.uint16, ids, ids)
    return MAPS.joint_histogram(before, places, np.array(motions, MOTION), now, places, n + 1).tolist()


BEFORE = instance_map("110", "110", "002")


@pytest.mark.parametrize(
    ("now", "counts"),
    [
        (instance_map("110", "110", "002"), [[0, 4, 0, 0], [0, 0, 1, 0]]),
        (instance_map("220", "330", "000"), [[0, 0, 2, 2], [1, 0, 0, 0]]),
        (instance_map("000", "000", "000"), [[4, 0, 0, 0], [1, 0, 0, 0]]),
    ],
)
def test_the_histogram_of_what_stays_where_it_is(now, counts):
    assert histogram(BEFORE, now, [STAY, STAY]) == counts


@pytest.mark.parametrize(
    ("motion", "counts"),
    [
        ((1, 0), [[1, 3, 0, 0]]),  # one pixel meets no instance
        ((2, 0), [[1, 1, 0, 0]]),  # and a column leaves the image
        ((0, -1), [[0, 2, 0, 0]]),
        ((-3, 0), [[0, 0, 0, 0]]),
    ],
)
def test_an_instance_is_moved_before_it_is_counted(motion, counts):
    before, now = instance_map("110", "110", "000"), instance_map("111", "110", "000")
    x, y = motion
    moved = (65536, 32768 + 65536 * x, 65536, 32768 + 65536 * y)
    assert histogram(before, now, [moved]) == counts


def test_ids_that_are_not_looked_at_are_not_counted():
    rows, columns = table(np.uint16, [2], [1]), table(np.uint16, [7], [1])
    before, now = instance_map("1122", "0000"), instance_map("7778", "0000")
    assert MAPS.joint_histogram(before, rows, np.array([STAY], MOTION), now, columns, 2).tolist() == [[1, 1]]


maps = arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 600)), elements=st.sampled_from([0, 1, 2, 65535]))
motion = st.tuples(*[st.integers(-(2**18), 2**18), st.integers(-(2**24), 2**24)] * 2)


@settings(max_examples=60, deadline=None)
@given(maps, st.data())
def test_the_histogram_is_the_oracles(before, data):
    now = data.draw(arrays(np.uint16, before.shape, elements=st.sampled_from([0, 3, 4, 65535])))
    motions = np.array(data.draw(st.lists(motion, min_size=2, max_size=2)), MOTION)
    row_of, column_of = table(np.uint16, [1, 65535], [2, 1]), table(np.uint16, [3, 65535], [1, 2])
    arguments = before, row_of, motions, now, column_of, 3
    np.testing.assert_array_equal(MAPS.joint_histogram(*arguments), oracle.joint_histogram(*arguments))


@settings(max_examples=30, deadline=None)
@given(maps, st.integers(0, 255))
def test_the_new_maps_are_the_oracles(before, stuff):
    class_map = np.full(before.shape, stuff, np.uint8)
    tables = table(np.uint16, [1, 2, 65535], [65535, 9, 1]), table(np.uint8, [1, 2, 65535], [3, 0, 254])
    for found, expected in zip(
        MAPS.relabel(before, class_map, *tables), oracle.relabel(before, class_map, *tables), strict=True
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


# ---- boxes ----


def test_boxes_are_centres_and_sizes():
    """A pixel's middle has whole coordinates."""
    instances = Instances.of([Segment(7, 2, 0.5, 6, (1, 2, 4, 4), (2.0, 2.5))])
    assert instances.box.tolist() == [[2, 2.5, 3, 2]]
    assert (instances.id, instances.class_id, instances.area, instances.score) == (7, 2, 6, 0.5)
    assert Instances.of([]).box.shape == (0, 4)


def moved(before, now, x, y):
    """Where the pixel goes as its box does, and how the area grows."""
    motions, growth = motions_of(np.array([before], np.float64), np.array([now], np.float64))
    motion = motions[0]
    to = [(int(motion[f"scale_{a}"]) * v + int(motion[f"offset_{a}"])) >> 16 for a, v in (("x", x), ("y", y))]
    return *to, growth[0]


def test_pixels_move_with_their_box():
    box = (10, 10, 4, 4)
    assert moved(box, box, 9, 11) == (9, 11, 1)
    assert moved(box, (12, 7, 4, 4), 9, 11) == (11, 8, 1)
    assert moved(box, (10.4, 10.6, 4, 4), 9, 11) == (9, 12, 1)
    assert moved(box, (10, 10, 8, 4), 9, 11) == (8, 11, 2)
    assert moved(box, (10, 10, -1, 40), 14, 8) == (11, 2, 1)  # at most four times as large, or a fourth


def closeness_of(expected, seen, variance=0.0):
    boxes = kalman.start(np.array([expected], np.float64), np.full((1, 4), variance), np.zeros((1, 4)))
    return closeness(boxes, np.array([seen], np.float64)).item()


def test_close_boxes_are_likelier_than_far_ones_and_beyond_the_gate_nothing_is():
    """Of a box of 20 x 20 pixels each number is known to 1 pixel."""
    box = (50, 50, 20, 20)
    assert closeness_of(box, box) == 1
    assert closeness_of(box, (51, 51, 20, 20)) == pytest.approx(np.exp(-1))
    assert closeness_of(box, (50, 53.03, 20, 20)) > 0
    assert closeness_of(box, (50, 53.04, 20, 20)) == 0
    assert closeness_of(box, (50, 53.04, 20, 20), variance=0.1) > 0


def test_boxes_of_very_different_size_are_not_one_objects():
    box = (50, 50, 20, 20)
    assert closeness_of(box, (50, 50, 20, 10)) == 0.5
    assert closeness_of(box, (50, 50, 20, 3.9)) == 0
    assert closeness_of(box, (50, 50, 101, 20)) == 0


def test_a_new_object_is_as_fast_as_the_others_around_it():
    """The camera turns by 40 pixels a second and drives ahead, which is 100 more at the image's right border."""
    tracks = np.zeros(3, [("hits", np.int64), ("box", kalman.MOVING, (4,))])
    tracks["hits"] = 9
    tracks["box"]["value"] = [(50, 50, 20, 20), (100, 50, 20, 20), (150, 50, 20, 20)]
    tracks["box"]["speed"][:, 0] = [-10, 40, 90]
    boxes = np.array([(200, 50, 4, 20), (100, 50, 4, 20)], np.float64)
    np.testing.assert_allclose(speed_at(boxes, tracks, 200), [(140, 0), (40, 0)], atol=5)
    tracks["hits"] = 2  # may be wrong
    np.testing.assert_array_equal(speed_at(boxes, tracks, 200), np.zeros((2, 2)))
    np.testing.assert_array_equal(speed_at(boxes, tracks[:0], 200), np.zeros((2, 2)))
