import numpy as np
import pytest
from oracles.families import FAMILIES

from perception_node.panoptic import MAX_INSTANCES, UNLABELLED
from perception_node.preprocess import fit
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR, BUS = 0, 1, 2
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0)),
        Category(CAR, "car", (0, 0, 1), thing=True),
        Category(BUS, "bus", (0, 0, 2), thing=True),
    ]
)


def outputs(classes, centers, offset=None, logit=10.0):
    """Network outputs at stride 1: `classes` (H, W) of class ids, `centers` {(y, x): score}, offsets to the nearest."""
    classes = np.array(classes)
    semantic = np.where(np.arange(len(TAXONOMY))[:, None, None] == classes, logit, 0).astype(np.float32)
    center = np.zeros((1, *classes.shape), np.float32)
    for (y, x), score in centers.items():
        center[0, y, x] = score
    if offset is None:
        offset = np.zeros((2, *classes.shape), np.float32)
    return {"semantic": semantic, "center": center, "offset": np.asarray(offset, np.float32)}


def fuse(tensors, image_hw=None, stride=1, input_hw=None, resize="stretch", **options):
    height, width = tensors["semantic"].shape[1:]
    input_hw = input_hw or (height * stride, width * stride)
    geometry = fit(image_hw or input_hw, input_hw, resize)
    options = {"nms_kernel": 3, "stuff_area": 0, **options}
    return FAMILIES["center_offset"].fuse(tensors, geometry, TAXONOMY, stride, **options)


def test_pixels_go_to_the_nearest_centre():
    frame = fuse(outputs([[CAR] * 6], {(0, 1): 0.9, (0, 4): 0.8}))
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 2, 2, 2]])


def test_offsets_are_dy_dx():
    offset = np.zeros((2, 3, 3))
    offset[1, 0, 0] = 2  # the top left pixel points right, to the second centre
    offset[0, 2, 2] = -2  # the bottom right one up, to it too
    frame = fuse(outputs([[CAR, ROAD, CAR], [ROAD] * 3, [CAR, ROAD, CAR]], {(2, 0): 0.9, (0, 2): 0.8}, offset))
    np.testing.assert_array_equal(frame.instance_map, [[1, 0, 1], [0, 0, 0], [2, 0, 1]])


def test_equally_near_centres_the_earlier_pixel_wins():
    frame = fuse(outputs([[CAR] * 5], {(0, 0): 0.5, (0, 4): 0.9}))
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 2, 2]])


def test_an_instance_has_its_majority_class():
    frame = fuse(outputs([[CAR, BUS, BUS, ROAD]], {(0, 1): 0.9}))
    np.testing.assert_array_equal(frame.class_map, [[BUS, BUS, BUS, ROAD]])


def test_a_tied_vote_goes_to_the_lower_class():
    frame = fuse(outputs([[BUS, BUS, CAR, CAR]], {(0, 1): 0.9}))
    np.testing.assert_array_equal(frame.class_map, [[CAR] * 4])


def test_without_a_centre_things_are_unlabelled():
    frame = fuse(outputs([[CAR, ROAD]], {}))
    np.testing.assert_array_equal(frame.class_map, [[UNLABELLED, ROAD]])
    np.testing.assert_array_equal(frame.confidence > 0, [[False, True]])


@pytest.mark.parametrize(("score", "instances"), [(0.25, 0), (np.nextafter(np.float32(0.25), np.float32(1)), 1)])
def test_a_centre_is_above_the_threshold_not_at_it(score, instances):
    assert len(fuse(outputs([[CAR] * 3], {(0, 1): score}), center_threshold=0.25).instances) == instances


@pytest.mark.parametrize(("kernel", "instances"), [(3, 2), (5, 1)])
def test_a_centre_is_the_maximum_of_its_window(kernel, instances):
    tensors = outputs([[CAR] * 8], {(0, 2): 0.9, (0, 4): 0.8})
    assert len(fuse(tensors, nms_kernel=kernel).instances) == instances


def test_top_k_keeps_the_highest_and_among_equals_the_earliest():
    tensors = outputs([[CAR] * 9], {(0, 1): 0.5, (0, 4): 0.9, (0, 7): 0.5})
    frame = fuse(tensors, top_k=2)
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 2, 2, 2, 2, 2, 2]])


def test_ids_are_consecutive_where_a_centre_gets_no_pixel():
    frame = fuse(outputs([[CAR, ROAD, ROAD, ROAD, CAR]], {(0, 0): 0.9, (0, 2): 0.9, (0, 4): 0.9}))
    np.testing.assert_array_equal(frame.instance_map, [[1, 0, 0, 0, 2]])


@pytest.mark.parametrize(("limit", "label"), [(3, ROAD), (4, UNLABELLED)])
def test_stuff_at_the_area_limit_stays(limit, label):
    frame = fuse(outputs([[ROAD, ROAD, ROAD, CAR]], {(0, 3): 0.9}), stuff_area=limit)
    np.testing.assert_array_equal(frame.class_map, [[label] * 3 + [CAR]])


def test_confidence_is_the_softmax_of_the_likeliest_class():
    frame = fuse(outputs([[ROAD]], {}, logit=np.log(3)))  # 3 : 1 : 1
    assert frame.confidence[0, 0] == 0.6 * 255


def test_tied_logits_go_to_the_lower_class():
    frame = fuse(outputs([[ROAD, ROAD]], {(0, 0): 0.9}, logit=0))
    np.testing.assert_array_equal(frame.class_map, [[ROAD, ROAD]])


@pytest.mark.parametrize(
    ("name", "channel", "value", "label"),
    [
        ("semantic", CAR, np.nan, ROAD),
        ("semantic", slice(None), np.nan, UNLABELLED),
        ("semantic", slice(None), -np.inf, UNLABELLED),
        ("semantic", BUS, np.inf, CAR),  # a BUS pixel, outvoted in its instance
        ("semantic", ROAD, np.inf, ROAD),
        ("center", 0, np.nan, CAR),
        ("offset", slice(None), np.nan, CAR),
        ("offset", slice(None), np.inf, CAR),
    ],
)
def test_a_corner_that_is_not_finite(name, channel, value, label):
    """The rest of the image is as it would be without; NaN never wins, and a lost offset leads to the first centre."""
    tensors = outputs([[CAR] * 3] * 3, {(2, 2): 0.9})
    tensors[name][channel, 0, 0] = value
    frame = fuse(tensors)
    assert frame.class_map[0, 0] == label
    np.testing.assert_array_equal(frame.class_map.ravel()[1:], [CAR] * 8)
    np.testing.assert_array_equal(frame.instance_map == 1, frame.class_map == CAR)


def test_an_infinite_centre_is_the_highest():
    tensors = outputs([[CAR] * 3] * 2, {(0, 1): 0.9})
    tensors["center"][0, 0, 0] = np.inf
    np.testing.assert_array_equal(fuse(tensors).instance_map, [[1] * 3] * 2)


def test_upsampling_has_half_pixel_centres_and_clamped_edges():
    """At stride 2 the boundary of two cells lies between pixels 1 and 2, and offsets are in input pixels."""
    frame = fuse(outputs([[CAR, ROAD]], {(0, 0): 1.0}), stride=2)
    np.testing.assert_array_equal(frame.class_map, [[CAR, CAR, ROAD, ROAD]] * 2)


def test_offsets_scale_with_the_image():
    """The image is twice as wide as the input: an offset of 6 input pixels leads 12 image pixels on."""
    offset = np.zeros((2, 1, 8))
    offset[1, 0, 0] = 6
    # Without the 0.2 the two pixels beside the middle of cell 3 would be equally high, and both be centres.
    centers = {(0, 2): 0.2, (0, 3): 0.9, (0, 7): 0.9}
    tensors = outputs([[CAR, ROAD, ROAD, CAR, ROAD, ROAD, ROAD, CAR]], centers, offset)
    small, large = fuse(tensors), fuse(tensors, image_hw=(1, 16))
    assert [small.instance_map[0, x] for x in (0, 3, 7)] == [2, 1, 2]
    assert [large.instance_map[0, x] for x in (0, 7, 15)] == [2, 1, 2]


def test_letterbox_padding_is_cut_off():
    """A 2x4 image in a 4x4 input: the lower half is padding, whatever the network says of it."""
    tensors = outputs([[ROAD] * 4, [ROAD] * 4, [CAR] * 4, [CAR] * 4], {(3, 1): 0.9})
    frame = fuse(tensors, image_hw=(2, 4), resize="letterbox")
    np.testing.assert_array_equal(frame.class_map, [[ROAD] * 4] * 2)


def with_foreground(tensors, foreground):
    return {**tensors, "foreground": np.array([foreground], np.float32)}


def test_with_a_foreground_the_things_are_where_it_is_positive():
    """Inside it stuff joins the nearest instance, but does not vote; outside it things are unlabelled."""
    tensors = outputs([[CAR, ROAD, ROAD, CAR, ROAD]], {(0, 1): 0.9})
    frame = fuse(with_foreground(tensors, [[1, 1, 1, 0, -1]]))
    np.testing.assert_array_equal(frame.class_map, [[CAR, CAR, CAR, UNLABELLED, ROAD]])
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 0, 0]])


def test_a_foreground_without_votes_is_unlabelled():
    frame = fuse(with_foreground(outputs([[ROAD, ROAD, ROAD]], {(0, 0): 0.9}), [[1, 1, 0]]))
    np.testing.assert_array_equal(frame.class_map, [[UNLABELLED, UNLABELLED, ROAD]])


def test_without_a_centre_stuff_in_the_foreground_stays():
    frame = fuse(with_foreground(outputs([[ROAD, CAR, CAR]], {}), [[1, 1, 0]]))
    np.testing.assert_array_equal(frame.class_map, [[ROAD, UNLABELLED, UNLABELLED]])


@pytest.mark.parametrize(("limit", "label"), [(2, ROAD), (3, UNLABELLED)])
def test_the_area_of_stuff_is_what_instances_leave_of_it(limit, label):
    """As in detectron2: stuff pixels that joined an instance do not count."""
    tensors = outputs([[ROAD, ROAD, ROAD, CAR]], {(0, 3): 0.9})
    frame = fuse(with_foreground(tensors, [[1, -1, -1, 1]]), stuff_area=limit)
    np.testing.assert_array_equal(frame.class_map, [[CAR, label, label, CAR]])


def test_as_many_instances_as_there_are_ids():
    """Every pixel of 256x256 is a centre. The last is cut off: its pixel joins the centre above it."""
    tensors = outputs(np.full((64, 64), CAR), {})
    tensors["center"][:] = 1
    frame = fuse(tensors, stride=4, top_k=MAX_INSTANCES)
    expected = np.arange(1, 256**2 + 1)
    expected[-1] -= 256
    np.testing.assert_array_equal(frame.instance_map, expected.reshape(256, 256))
    assert len(frame.segments) == MAX_INSTANCES


@pytest.mark.parametrize("dy", [0.0, 0.01, 0.07, 0.35, 0.99])
def test_equally_near_centres_the_earlier_wins_whatever_the_rounding(dy):
    offset = np.zeros((2, 1, 5))
    offset[0] = dy
    frame = fuse(outputs([[CAR] * 5], {(0, 0): 0.9, (0, 4): 0.8}, offset))
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, 1, 2, 2]])


@pytest.mark.parametrize("size", [20, 40, 80])
def test_a_larger_image_has_no_more_centres(size):
    """Upsampled further, clamped borders and ridges are flat for longer: the window must grow with them."""
    tensors = outputs([[CAR] * 5] * 5, {(2, 3): 0.8, (2, 4): 0.2})
    frame = fuse(tensors, image_hw=(size, size), stride=4, input_hw=(20, 20), nms_kernel=7)
    smallest = fuse(tensors, image_hw=(20, 20), stride=4, input_hw=(20, 20), nms_kernel=7)
    assert len(frame.instances) <= len(smallest.instances)
