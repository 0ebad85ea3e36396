import numpy as np
import pytest
from oracles.families import FAMILIES

from perception_node.panoptic import UNLABELLED
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR, BUS = range(3)
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0)),
        Category(CAR, "car", (0, 0, 1), thing=True),
        Category(BUS, "bus", (0, 0, 2), thing=True),
    ]
)


def score(class_id, value=0.9):
    scores = [0.0] * 3
    scores[class_id] = value
    return scores


def fuse(
    boxes, scores, coefficients=None, prototypes=None, semantic=None, image_hw=None, scale_yx=(1.0, 1.0), **options
):
    """One row of 8 pixels and one prototype that is 1 everywhere, if nothing else is said."""
    prototypes = np.ones((1, 1, 8)) if prototypes is None else np.asarray(prototypes)
    outputs = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32).reshape(len(boxes), np.shape(scores)[1]),
        "coefficients": np.array([[1]] * len(boxes) if coefficients is None else coefficients, np.float32),
        "prototypes": prototypes.astype(np.float32),
    }
    outputs["coefficients"] = outputs["coefficients"].reshape(len(boxes), len(prototypes))
    if semantic is not None:
        classes = np.atleast_2d(semantic)
        outputs["semantic"] = np.where(np.arange(3)[:, None, None] == classes, 9, 0).astype(np.float32)
    geometry = Geometry(image_hw or prototypes.shape[1:], scale_yx)
    return FAMILIES["prototype"].fuse(outputs, geometry, TAXONOMY, **{"stuff_area": 0, **options})


@pytest.mark.parametrize(
    ("x0", "x1", "pixels"),
    [
        (2, 5, [0, 0, 1, 1, 1, 0, 0, 0]),
        (2.1, 4.1, [0, 0, 0, 1, 1, 0, 0, 0]),
        (1.9, 3.9, [0, 0, 1, 1, 0, 0, 0, 0]),
        (-9, 1, [1, 0, 0, 0, 0, 0, 0, 0]),
        (7, 99, [0, 0, 0, 0, 0, 0, 0, 1]),
        (3, 3, [0] * 8),
        (5, 3, [0] * 8),
        (-np.inf, np.inf, [1] * 8),
        (np.nan, 8, [0] * 8),
        (1e10, 2e10, [0] * 8),
        (np.inf, np.inf, [0] * 8),
    ],
)
def test_a_mask_is_cropped_to_pixels_from_x0_to_before_x1(x0, x1, pixels):
    np.testing.assert_array_equal(fuse([[x0, 0, x1, 1]], [score(CAR)]).instance_map, [pixels])


def test_boxes_are_in_input_pixels():
    """The image is twice as wide as the input and three times as high."""
    frame = fuse([[1, 1, 2, 2]], [score(CAR)], prototypes=np.ones((1, 3, 3)), image_hw=(9, 6), scale_yx=(3.0, 2.0))
    expected = np.zeros((9, 6))
    expected[3:6, 2:4] = 1
    np.testing.assert_array_equal(frame.instance_map, expected)


def test_a_mask_is_where_the_mixture_is_not_negative():
    prototypes = [[[1, 0, 1, 3]], [[0, 0, 2, 4]]]
    frame = fuse([[0, 0, 4, 1]], [score(CAR)], [[2, -1]], prototypes)  # 2, 0, 0, 2
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 1]])
    frame = fuse([[0, 0, 4, 1]], [score(CAR)], [[-1, 0.5]], prototypes)  # -1, 0, 0, -1
    np.testing.assert_array_equal(frame.instance_map, [[0, 1, 1, 0]])


def test_the_mixture_is_interpolated():
    frame = fuse([[0, 0, 4, 2]], [score(CAR)], prototypes=[[[1, -1]]], image_hw=(2, 4), stride=2)
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 0, 0]] * 2)


def test_without_semantic_logits_the_rest_is_unlabelled():
    frame = fuse([[2, 0, 4, 1]], [score(CAR)])
    np.testing.assert_array_equal(frame.class_map == CAR, frame.instance_map == 1)
    np.testing.assert_array_equal(frame.class_map == UNLABELLED, frame.instance_map == 0)
    np.testing.assert_array_equal(frame.confidence == 0, frame.instance_map == 0)


@pytest.mark.parametrize(("limit", "label"), [(6, ROAD), (7, UNLABELLED)])
def test_the_area_of_stuff_is_what_instances_leave_of_it(limit, label):
    frame = fuse([[0, 0, 2, 1]], [score(CAR)], semantic=[ROAD] * 8, stuff_area=limit)
    np.testing.assert_array_equal(frame.class_map, [[CAR] * 2 + [label] * 6])


def test_a_box_is_of_its_best_thing_class():
    """Of all classes, or of the two thing classes alone; the score of a stuff class does not count, ties go low."""
    box = [[0, 0, 8, 1]]
    for scores, label, value in (
        ([1.0, 0.6, 0.7], BUS, 0.7),
        ([0.0, 0.6, 0.6], CAR, 0.6),
        ([0.6, 0.7], BUS, 0.7),
        ([np.nan, 0.7], BUS, 0.7),
    ):
        (segment,) = fuse(box, [scores]).segments
        assert segment.class_id == label
        assert segment.score == pytest.approx(value)


@pytest.mark.parametrize(("value", "stays"), [(0.5, True), (np.nextafter(np.float32(0.5), np.float32(0)), False)])
def test_a_score_at_the_threshold_stays(value, stays):
    assert len(fuse([[0, 0, 8, 1]], [score(CAR, value)]).instances) == stays


@pytest.mark.parametrize(("threshold", "instances"), [(0.49, 1), (0.5, 2), (None, 2)])
def test_boxes_that_overlap_as_much_as_the_threshold_both_stay(threshold, instances):
    """4 of 8 pixels are common; the second mask is only half covered."""
    boxes = [[0, 0, 6, 1], [2, 0, 8, 1]]
    frame = fuse(boxes, [score(CAR), score(CAR, 0.8)], nms_threshold=threshold, overlap_threshold=1)
    assert len(frame.instances) == instances


def test_boxes_of_different_classes_do_not_suppress_each_other():
    boxes, options = [[0, 0, 8, 1], [0, 0, 7, 1]], {"overlap_threshold": 1, "coefficients": [[1, -1], [0, 1]]}
    prototypes = [[[1] * 8], [[-1] * 4 + [2] * 4]]
    for second, instances in ((CAR, 1), (BUS, 2)):
        frame = fuse(boxes, [score(CAR), score(second, 0.8)], prototypes=prototypes, **options)
        assert len(frame.instances) == instances


def test_a_suppressed_box_suppresses_none():
    """Each overlaps the next: the first suppresses the second, the third stays."""
    boxes = [[0, 0, 4, 1], [1, 0, 5, 1], [3, 0, 7, 1]]
    frame = fuse(boxes, [score(CAR, s) for s in (0.9, 0.8, 0.7)], nms_threshold=0.3)
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 1, 2, 2, 2, 0]])


def test_of_equal_scores_the_earlier_stays():
    frame = fuse([[0, 0, 4, 1], [0, 0, 5, 1]], [score(CAR)] * 2)
    np.testing.assert_array_equal(frame.instance_map, [[1] * 4 + [0] * 4])


def test_masks_are_painted_by_score_and_skipped_where_covered():
    boxes = [[0, 0, 4, 1], [2, 0, 6, 1], [3, 0, 6, 1]]
    frame = fuse(boxes, [score(CAR, 0.7), score(CAR), score(CAR, 0.6)], nms_threshold=None)
    np.testing.assert_array_equal(frame.instance_map, [[2, 2, 1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize(("value", "first"), [(np.nan, 0), (-np.inf, 0), (np.inf, 1)])
def test_a_corner_of_a_prototype_that_is_not_finite(value, first):
    prototypes = np.ones((1, 2, 2))
    prototypes[0, 0, 0] = value
    frame = fuse([[0, 0, 2, 2]], [score(CAR)], prototypes=prototypes)
    np.testing.assert_array_equal(frame.instance_map, [[first, 1], [1, 1]])


def test_no_boxes():
    frame = fuse(np.zeros((0, 4)), np.zeros((0, 3)), semantic=[ROAD] * 8)
    np.testing.assert_array_equal(frame.class_map, [[ROAD] * 8])
    assert (fuse(np.zeros((0, 4)), np.zeros((0, 3))).class_map == UNLABELLED).all()
