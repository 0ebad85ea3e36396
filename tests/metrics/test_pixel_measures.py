import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception_node.metrics import BinaryCounts, boundary_overlap, class_iou, confusion_matrix, mean_iou
from perception_node.panoptic import UNLABELLED

ROAD, CAR, V = 0, 1, UNLABELLED


def test_confusion_counts_unlabelled_predictions_as_misses():
    confusion = confusion_matrix(np.array([ROAD, ROAD, CAR, V]), np.array([ROAD, V, CAR, CAR]), 2)
    np.testing.assert_array_equal(confusion, [[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(class_iou(confusion), [0.5, 1.0])
    assert mean_iou(confusion) == 0.75


def test_a_class_that_occurs_nowhere_is_not_in_the_mean():
    confusion = confusion_matrix(np.array([ROAD, ROAD]), np.array([ROAD, CAR]), 3)
    assert np.isnan(class_iou(confusion)[2])
    assert mean_iou(confusion) == 0.25  # road 1/2, car 0


def test_the_boundary_of_a_square():
    """In 20x20 pixels the boundary is 1 wide (2 % of 28 is less): of 6x6 pixels 20, of the 4x4 inside none."""
    truth = np.full((20, 20), ROAD, np.uint8)
    truth[5:11, 5:11] = CAR
    np.testing.assert_array_equal(boundary_overlap(truth, truth, 2)[CAR], [20, 20])
    wider = truth.copy()
    wider[5:11, 11] = CAR  # 7x6: a boundary of 22; what was the right side is inside now
    np.testing.assert_array_equal(boundary_overlap(truth, wider, 2)[CAR], [16, 26])


def test_the_image_s_border_is_an_outline_and_void_is_not_counted():
    truth = np.full((4, 4), ROAD, np.uint8)
    np.testing.assert_array_equal(boundary_overlap(truth, truth, 2)[ROAD], [12, 12])
    void = truth.copy()
    void[0] = V
    np.testing.assert_array_equal(boundary_overlap(void, truth, 2)[ROAD], [8, 10])


def in_boundary(mask, y, x, width):
    """Whether a pixel of the mask has, in the square around it, one that is not of the mask, or not of the image."""
    square = [(y + dy, x + dx) for dy in range(-width, width + 1) for dx in range(-width, width + 1)]
    height, columns = mask.shape
    return mask[y, x] and any(not (0 <= v < height and 0 <= u < columns and mask[v, u]) for v, u in square)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_boundaries_pixel_by_pixel(data):
    shape = 12, 95  # a diagonal of 96 pixels: 2 wide
    maps = arrays(np.uint8, (3, 10), elements=st.sampled_from([0, 1, V]))
    truth, predicted = (np.kron(data.draw(maps), np.ones((4, 10), np.uint8))[:, :95] for _ in range(2))
    assert truth.shape == shape
    expected = np.zeros((2, 2), int)
    for class_id in range(2):
        for y, x in zip(*np.nonzero(truth != V), strict=True):
            pair = [in_boundary(one == class_id, y, x, 2) for one in (truth, predicted)]
            expected[class_id] += all(pair), any(pair)
    np.testing.assert_array_equal(boundary_overlap(truth, predicted, 2), expected)


def test_binary_counts():
    truth, predicted = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    counts = BinaryCounts.of(truth, predicted, np.array([1, 1, 1, 1, 0], bool))
    assert (counts.tp, counts.fp, counts.fn) == (1, 1, 1)
    assert counts.summary() == {"iou": 1 / 3, "precision": 0.5, "recall": 0.5}
    assert BinaryCounts().summary() == {"iou": None, "precision": None, "recall": None}


def test_cityscapes_scripts_find_the_same_iou():
    """The official code, if it is there, on random pixels with all of Cityscapes' ids."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    from cityscapesscripts.helpers.labels import labels

    from perception_node.labels import CITYSCAPES_IDS

    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 34, (2, 5000))
    predicted = np.where(rng.uniform(size=5000) < 0.5, truth, predicted)
    matrix = official.generateMatrix(official.args)
    np.add.at(matrix, (truth, predicted), 1)
    class_of = np.full(34, UNLABELLED)
    class_of[list(CITYSCAPES_IDS)] = range(19)
    ours = class_iou(confusion_matrix(class_of[truth], class_of[predicted], 19))
    theirs = [official.getIouScoreForLabel(identity, matrix, official.args) for identity in CITYSCAPES_IDS]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert [label.id for label in labels if not label.ignoreInEval] == list(CITYSCAPES_IDS)
