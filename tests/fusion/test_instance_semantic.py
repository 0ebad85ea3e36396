import numpy as np
import pytest
from oracles.families import FAMILIES

from perception_node.panoptic import UNLABELLED
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Category, Taxonomy

ROAD, SKY, CAR, BUS = range(4)
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0)),
        Category(SKY, "sky", (0, 0, 1)),
        Category(CAR, "car", (0, 0, 2), thing=True),
        Category(BUS, "bus", (0, 0, 3), thing=True),
    ]
)


def fuse(masks, scores, classes=None, semantic=None, image_hw=None, boxes=None, scale_yx=(1.0, 1.0), **options):
    """`masks` (N, W) or (N, H, W); `semantic` (W,) or (H, W) of class ids, ROAD if not given."""
    masks = np.asarray(masks)
    masks = masks[:, None] if masks.ndim == 2 else masks
    if semantic is None:
        semantic = np.full(masks.shape[1:] if image_hw is None else image_hw, ROAD)
    semantic = np.atleast_2d(semantic)
    outputs = {
        "classes": np.array([CAR] * len(masks) if classes is None else classes, np.int32),
        "scores": np.array(scores, np.float32),
        "semantic": np.where(np.arange(len(TAXONOMY))[:, None, None] == semantic, 9, 0).astype(np.float32),
    }
    if boxes is None:
        outputs["masks"] = masks.astype(np.uint8 if masks.dtype.kind in "ib" else np.float32)
    else:
        outputs |= {"masks28": masks.astype(np.float32), "boxes": np.array(boxes, np.float32)}
    options = {"stuff_area": 0, **options}
    geometry = Geometry(image_hw or masks.shape[1:], scale_yx)
    return FAMILIES["instance_semantic"].fuse(outputs, geometry, TAXONOMY, **options)


def boxed(box_xyxy, image_hw=(1, 8), mask=None, **more):
    """Instance map of one 28x28 mask, all 1 if not given, in a box."""
    mask = np.ones((28, 28)) if mask is None else mask
    return fuse([mask], [0.9], image_hw=image_hw, boxes=[box_xyxy], **more).instance_map


def test_the_higher_score_is_on_top_and_gets_the_first_id():
    frame = fuse([[1, 1, 0, 0], [0, 1, 1, 0]], [0.6, 0.9], [CAR, BUS])
    np.testing.assert_array_equal(frame.instance_map, [[2, 1, 1, 0]])
    np.testing.assert_array_equal(frame.class_map, [[CAR, BUS, BUS, ROAD]])
    np.testing.assert_allclose(frame.confidence[0, :3], [0.6 * 255, 0.9 * 255, 0.9 * 255], atol=1)
    np.testing.assert_allclose([s.score for s in frame.instances], [0.9, 0.6], rtol=1e-6)


def test_of_equal_scores_the_earlier_is_on_top():
    np.testing.assert_array_equal(fuse([[1, 1, 0], [0, 1, 1]], [0.9, 0.9]).instance_map, [[1, 1, 2]])


@pytest.mark.parametrize(("score", "stays"), [(0.5, True), (np.nextafter(np.float32(0.5), np.float32(0)), False)])
def test_a_score_at_the_threshold_stays(score, stays):
    assert len(fuse([[1]], [score]).instances) == stays


@pytest.mark.parametrize(("overlap", "stays"), [(0.49, False), (0.5, True)])
def test_an_instance_covered_as_much_as_the_threshold_stays(overlap, stays):
    frame = fuse([[1, 1, 0, 0], [0, 1, 1, 0]], [0.9, 0.8], overlap_threshold=overlap)
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 2 * stays, 0]])


def test_skipped_instances_cover_nothing():
    """The second is skipped; so the third is not covered by it."""
    masks = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(fuse(masks, [0.9, 0.8, 0.7]).instance_map, [[1, 1, 1, 2, 2]])


def test_ids_are_consecutive_where_an_instance_is_empty_covered_or_no_thing():
    masks = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    frame = fuse(masks, [0.9, 0.8, 0.7, 0.6, 0.5], [CAR, CAR, CAR, SKY, CAR], overlap_threshold=1)
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 0, 2]])


@pytest.mark.parametrize(("limit", "label"), [(2, ROAD), (3, UNLABELLED)])
def test_the_area_of_stuff_is_what_instances_leave_of_it(limit, label):
    frame = fuse([[1, 0, 0]], [0.9], stuff_area=limit)
    np.testing.assert_array_equal(frame.class_map, [[CAR, label, label]])


def test_thing_pixels_of_the_semantic_map_without_an_instance_are_unlabelled():
    frame = fuse([[1, 0, 0]], [0.9], semantic=[CAR, CAR, SKY])
    np.testing.assert_array_equal(frame.class_map, [[CAR, UNLABELLED, SKY]])


def test_scores_that_are_nan_and_classes_that_do_not_exist_are_left_out():
    frame = fuse([[1, 0, 0]] * 4, [np.nan, 0.9, 0.9, 0.6], [CAR, -1, 4, BUS])
    np.testing.assert_array_equal(frame.class_map, [[BUS, ROAD, ROAD]])
    assert len(frame.instances) == 1


def test_an_infinite_score_is_the_highest():
    frame = fuse([[1, 1], [0, 1]], [0.9, np.inf], [CAR, BUS])
    np.testing.assert_array_equal(frame.class_map, [[CAR, BUS]])
    assert frame.confidence[0, 1] == 255


def test_masks_may_be_bool():
    mask = np.array([[[True, False], [False, True]]])
    outputs = {
        "classes": np.array([CAR], np.int32),
        "scores": np.array([0.9], np.float32),
        "semantic": np.zeros((4, 2, 2), np.float32),
        "masks": mask,
    }
    frame = FAMILIES["instance_semantic"].fuse(outputs, Geometry((2, 2), (1.0, 1.0)), TAXONOMY)
    np.testing.assert_array_equal(frame.instance_map, mask[0])


def test_masks_of_the_input_are_interpolated():
    """Two samples, four pixels, values 1, 0.75, 0.25, 0; and 0.5 is inside."""
    frame = fuse([[[1.0, 0.0]] * 2], [0.9], image_hw=(4, 4), stride=2, semantic=np.full((2, 2), ROAD))
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 0, 0]] * 4)
    frame = fuse([[[0.5, np.nextafter(np.float32(0.5), np.float32(0))]]], [0.9])
    np.testing.assert_array_equal(frame.instance_map, [[1, 0]])


def test_a_mask_that_is_nan_is_nowhere():
    np.testing.assert_array_equal(fuse([[[np.nan, np.nan]]], [0.9]).instance_map, [[0, 0]])


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((2, 0, 5, 1), [0, 0, 1, 1, 1, 0, 0, 0]),
        ((1.5, 0, 4.5, 1), [0, 1, 1, 1, 1, 0, 0, 0]),  # pixel centres on both edges: the value there is exactly 0.5
        ((1.6, 0, 4.4, 1), [0, 0, 1, 1, 0, 0, 0, 0]),
        ((-3, -5, 2, 9), [1, 1, 0, 0, 0, 0, 0, 0]),
        ((6, 0, 99, 1), [0, 0, 0, 0, 0, 0, 1, 1]),
        ((3, 0, 3, 1), [0] * 8),
        ((5, 0, 4, 1), [0] * 8),  # left and right exchanged: no box
        ((5, 0, 2, 1), [0] * 8),
        ((np.nan, 0, 3, 1), [0] * 8),
        ((20, 0, 30, 1), [0] * 8),
    ],
)
def test_a_mask_fills_its_box(box, pixels):
    np.testing.assert_array_equal(boxed(box), [pixels])


def test_a_small_mask_is_stretched_over_its_box():
    mask = np.zeros((28, 28))
    mask[14:, :14] = 1  # lower left quarter
    np.testing.assert_array_equal(boxed((0, 0, 4, 4), (4, 4), mask), [[0] * 4] * 2 + [[1, 1, 0, 0]] * 2)


def test_boxes_are_in_input_pixels():
    """The image is twice as wide as the input and three times as high."""
    pixels = boxed((1, 1, 2, 2), (9, 6), scale_yx=(3.0, 2.0), semantic=np.full((3, 3), ROAD))
    expected = np.zeros((9, 6))
    expected[3:6, 2:4] = 1
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["masks", "masks28"])
def test_no_instances(kind):
    boxes = None if kind == "masks" else np.zeros((0, 4))
    frame = fuse(np.zeros((0, 2, 2), np.uint8), [], [], semantic=np.full((2, 2), SKY), image_hw=(2, 2), boxes=boxes)
    np.testing.assert_array_equal(frame.class_map, [[SKY, SKY]] * 2)
