import numpy as np
import pytest
from oracles.families import FAMILIES

from perception_node.panoptic import MAX_INSTANCES, UNLABELLED
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR, BUS = 0, 1, 2
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0)),
        Category(CAR, "car", (0, 0, 1), thing=True),
        Category(BUS, "bus", (0, 0, 2), thing=True),
    ]
)
DRIVABLE = Taxonomy([Category(0, "drivable", (0, 0, 0))])


def fuse(semantic, taxonomy=TAXONOMY, **options):
    semantic = np.asarray(semantic, np.float32)
    geometry = Geometry(semantic.shape[1:], (1.0, 1.0))
    return FAMILIES["semantic"].fuse({"semantic": semantic}, geometry, taxonomy, **options)


def logits(classes):
    return np.where(np.arange(len(TAXONOMY))[:, None, None] == np.array(classes), 10, 0)


def test_things_without_instances_are_unlabelled():
    frame = fuse(logits([[ROAD, CAR, BUS]]))
    np.testing.assert_array_equal(frame.class_map, [[ROAD, UNLABELLED, UNLABELLED]])
    np.testing.assert_array_equal(frame.confidence > 0, [[True, False, False]])


def test_components_of_a_class_touch_at_corners_too_and_are_numbered_by_their_first_pixels():
    classes = [
        [ROAD, BUS, ROAD, CAR],
        [CAR, ROAD, ROAD, CAR],
        [ROAD, CAR, BUS, ROAD],
    ]
    frame = fuse(logits(classes), components=True)
    np.testing.assert_array_equal(frame.class_map, classes)
    np.testing.assert_array_equal(frame.instance_map, [[0, 1, 0, 2], [3, 0, 0, 2], [0, 3, 4, 0]])


def test_a_component_may_turn_back_and_meet_itself():
    """The arms of a U are one component, though they meet only below; so are those of a spiral."""
    picture = [
        "C.C.CCCCC",
        "C.C.C...C",
        "CCC.C.C.C",
        "....C.CCC",
    ]
    frame = fuse(logits([[CAR if c == "C" else ROAD for c in row] for row in picture]), components=True)
    assert [s.area for s in frame.instances] == [7, 14]


def test_more_components_than_ids_are_unlabelled():
    classes = np.full((512, 512), ROAD)
    classes[::2, ::2] = CAR
    frame = fuse(logits(classes), components=True)
    assert len(frame.instances) == MAX_INSTANCES == 256**2 - 1
    assert frame.class_map[510, 510] == UNLABELLED
    assert frame.instance_map[510, 508] == MAX_INSTANCES


@pytest.mark.parametrize(("limit", "label"), [(2, ROAD), (3, UNLABELLED)])
def test_stuff_at_the_area_limit_stays(limit, label):
    frame = fuse(logits([[ROAD, ROAD, CAR]]), stuff_area=limit, components=True)
    np.testing.assert_array_equal(frame.class_map, [[label, label, CAR]])


def test_one_class_is_where_its_sigmoid_is_above_a_half():
    above = np.nextafter(np.float32(0), np.float32(1))
    frame = fuse([[[-1, 0, above, np.log(3)]]], DRIVABLE)
    np.testing.assert_array_equal(frame.class_map == 0, [[False, False, True, True]])
    np.testing.assert_allclose(frame.confidence, [[0, 0, 128, 191]], atol=1)


@pytest.mark.parametrize(("value", "label"), [(np.nan, UNLABELLED), (-np.inf, UNLABELLED), (np.inf, 0)])
def test_one_class_that_is_not_finite_in_the_corner(value, label):
    frame = fuse([[[value, 1], [1, 1]]], DRIVABLE)
    np.testing.assert_array_equal(frame.class_map, [[label, 0], [0, 0]])


def test_the_lower_class_wins_a_tie():
    frame = fuse([[[1, 0]], [[1, 1]], [[1, 1]]], components=True)
    np.testing.assert_array_equal(frame.class_map, [[ROAD, CAR]])


@pytest.mark.parametrize(
    ("corner", "label"),
    [
        ([np.nan, 1, 1], CAR),
        ([np.nan, np.nan, -np.inf], UNLABELLED),
        ([-np.inf, -np.inf, -1e30], BUS),
        ([9, np.inf, np.inf], CAR),
    ],
)
def test_nan_never_wins_and_an_infinite_logit_is_sure(corner, label):
    semantic = np.zeros((3, 2, 2))
    semantic[ROAD] = 1
    semantic[:, 0, 0] = corner
    frame = fuse(semantic, components=True)
    np.testing.assert_array_equal(frame.class_map, [[label, ROAD], [ROAD, ROAD]])
    if label == BUS:
        assert frame.confidence[0, 0] == 255
