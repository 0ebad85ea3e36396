import numpy as np
import pytest

from perception_node.metrics import (
    VOID_INSTANCE,
    Evaluation,
    PanopticCounts,
    class_iou,
    confusion_matrix,
    instances_from_classes,
    mean_iou,
    truth_from_classes,
)
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR, V = 0, 1, UNLABELLED
TAXONOMY = Taxonomy([Category(ROAD, "road", (0, 0, 0)), Category(CAR, "car", (0, 0, 1), thing=True)])


def frame(classes, instances=None):
    classes = np.array([classes], np.uint8)
    instances = np.zeros(classes.shape, np.uint16) if instances is None else np.array([instances], np.uint16)
    return PanopticFrame.from_maps(classes, instances, np.full(classes.shape, 255, np.uint8))


def counts(truth, predicted):
    result = PanopticCounts.zeros(2)
    result.add(truth, predicted)
    return result


def test_a_match():
    c = counts(frame([ROAD] * 4), frame([ROAD] * 4))
    assert (c.tp[ROAD], c.fp[ROAD], c.fn[ROAD], c.iou[ROAD]) == (1, 0, 0, 1.0)


@pytest.mark.parametrize(("predicted", "matches"), [([ROAD] * 2 + [V] * 2, 0), ([ROAD] * 3 + [V], 1)])
def test_iou_of_exactly_one_half_is_no_match(predicted, matches):
    c = counts(frame([ROAD] * 4), frame(predicted))
    assert (c.tp[ROAD], c.fp[ROAD], c.fn[ROAD]) == (matches, 1 - matches, 1 - matches)


def test_void_pixels_belong_to_no_union():
    c = counts(frame([ROAD, ROAD, V, V]), frame([ROAD] * 4))
    assert (c.tp[ROAD], c.iou[ROAD]) == (1, 1.0)


@pytest.mark.parametrize(
    ("truth", "false_positives"),
    [
        ([V, V, ROAD, ROAD], 1),  # exactly half of the car is void: it counts
        ([V, V, V, ROAD], 0),
    ],
)
def test_a_segment_mostly_on_void_is_no_false_positive(truth, false_positives):
    assert counts(frame(truth), frame([CAR] * 4, [1] * 4)).fp[CAR] == false_positives


def test_instances_match_one_by_one_whatever_their_ids():
    truth = frame([CAR] * 6, [1, 1, 1, 2, 2, 2])
    assert counts(truth, frame([CAR] * 6, [9, 9, 9, 4, 4, 4])).tp[CAR] == 2
    merged = counts(truth, frame([CAR] * 6, [1] * 6))
    assert (merged.tp[CAR], merged.fp[CAR], merged.fn[CAR]) == (0, 1, 2)


def test_quality():
    c = PanopticCounts(tp=np.array([2, 0]), fp=np.array([1, 0]), fn=np.array([1, 0]), iou=np.array([1.5, 0.0]))
    pq, sq, rq = c.quality()
    assert (pq[0], sq[0], rq[0]) == pytest.approx((0.5, 0.75, 2 / 3))
    assert np.isnan([pq[1], sq[1], rq[1]]).all()


def test_confusion_counts_unlabelled_predictions_as_misses():
    confusion = confusion_matrix(np.array([ROAD, ROAD, CAR, V]), np.array([ROAD, V, CAR, CAR]), 2)
    np.testing.assert_array_equal(confusion, [[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(class_iou(confusion), [0.5, 1.0])
    assert mean_iou(confusion) == 0.75


def test_instances_are_components_through_corners_too():
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], np.uint8)
    np.testing.assert_array_equal(
        instances_from_classes(labels, [CAR], min_area=2),
        [[1, 0, 0, VOID_INSTANCE], [0, 1, 0, 0], [0, 0, 0, VOID_INSTANCE]],
    )


@pytest.mark.parametrize(("area", "label"), [(49, UNLABELLED), (50, CAR)])
def test_things_under_50_pixels_are_void_in_the_truth(area, label):
    labels = np.zeros((2, 60), np.uint8)
    labels[0, :area] = CAR
    truth = truth_from_classes(labels, [CAR])
    truth.check({CAR})
    assert (truth.class_map[0, :area] == label).all()
    assert (truth.class_map[1] == ROAD).all()


def test_summary_is_none_where_nothing_was_seen():
    evaluation = Evaluation(TAXONOMY)
    evaluation.add(np.array([[ROAD]], np.uint8), frame([ROAD]), frame([ROAD]))
    summary = evaluation.summary()
    assert (summary["pq"], summary["miou"], summary["pq_things"]) == (1.0, 1.0, None)
    assert summary["classes"]["car"] == {"iou": None, "pq": None, "sq": None, "rq": None}
