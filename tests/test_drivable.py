import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_node.drivable import connected_surface, drivable_area, without_margin
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy(
    [
        Category(0, "road", (0, 0, 0), drivable=True),
        Category(1, "kerb", (0, 0, 1)),
        Category(2, "car", (0, 0, 2), thing=True),
        Category(3, "lane", (0, 0, 3), drivable=True),
    ]
)
SYMBOLS = {"r": 0, "k": 1, "c": 2, "l": 3, ".": UNLABELLED}


def area(*rows):
    """Drivable area of a picture in letters, as rows of # and spaces."""
    class_map = np.array([[SYMBOLS[letter] for letter in row] for row in rows], np.uint8)
    instance_map = np.where(class_map == 2, 1, 0).astype(np.uint16)
    frame = PanopticFrame.from_maps(class_map, instance_map, np.full(class_map.shape, 255, np.uint8))
    mask = drivable_area(frame, TAXONOMY)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}
    return ["".join("#" if pixel else " " for pixel in row) for row in mask]


def test_road_and_lane_are_drivable_kerb_and_cars_are_not():
    assert area("kkkkkk", "krrrlk", "krcclk", "krrrlk") == ["      ", " #### ", " #  # ", " #### "]


def test_a_road_that_does_not_reach_the_ego_vehicle_is_left_out():
    assert area("rkkkkkk", "rkkrkkk", "rkkrkkk", "rkkrkkk") == ["       ", "   #   ", "   #   ", "   #   "]


def test_a_touching_corner_is_no_way_through():
    assert area("rrkkkk", "kkrrrk", "kkrrrk", "kkrrrk") == ["      ", "  ### ", "  ### ", "  ### "]


def test_the_bonnet_does_not_hide_the_road():
    assert area(*["rrrrrrrrrr"] * 8, *["kkkkkkkkkk"] * 2) == ["##########"] * 8 + ["          "] * 2


@pytest.mark.parametrize("row", ["kkkkkk", "......", "cccccc"])
def test_no_road_ahead_is_nothing_drivable(row):
    assert area("rrrrrr", row, row, row) == ["      "] * 4


def test_one_pixel():
    assert area("r") == ["#"]


def test_instances_of_a_drivable_class_are_not_drivable():
    taxonomy = Taxonomy([Category(0, "road", (0, 0, 0), drivable=True), Category(1, "ramp", (0, 0, 1), True, True)])
    class_map = np.array([[0, 1, 0], [0, 0, 0]], np.uint8)
    frame = PanopticFrame.from_maps(class_map, class_map.astype(np.uint16), class_map)
    assert drivable_area(frame, taxonomy).tolist() == [[255, 0, 255], [255, 255, 255]]


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1)
)
def test_many_parts_are_found_as_few_are(shape, share, seed):
    """However many there are, those with a pixel ahead: by labels of the connected components."""
    surface = (np.random.default_rng(seed).random(shape) < share).view(np.uint8)
    frame = PanopticFrame.from_maps(1 - surface, np.zeros(surface.shape, np.uint16), surface)
    height, width = surface.shape
    rows = slice(int(0.7 * height), max(height, int(0.7 * height) + 1))
    columns = slice(int(0.3 * width), max(int(0.7 * width), int(0.3 * width) + 1))
    _, labels = cv2.connectedComponents(surface, connectivity=4)
    ahead = np.setdiff1d(labels[rows, columns], [0])
    np.testing.assert_array_equal(connected_surface(frame, TAXONOMY), np.where(np.isin(labels, ahead), 255, 0))


def test_a_margin_around_instances():
    """A tenth of ten rows is a pixel, along rows and columns alike; classes that are no instances have none."""
    class_map = np.zeros((10, 9), np.uint8)
    class_map[4:6, 3:5], class_map[0] = 2, 1
    frame = PanopticFrame.from_maps(class_map, (class_map == 2).astype(np.uint16), class_map)
    expected = np.full((10, 9), 255)
    expected[3:7, 2:6] = expected[0] = 0
    np.testing.assert_array_equal(drivable_area(frame, TAXONOMY, 0.1), expected)
    np.testing.assert_array_equal(drivable_area(frame, TAXONOMY, 0.0) == 0, class_map > 0)


def test_the_margin_closes_no_way():
    """What is connected is found before: behind a gap between two cars the road goes on."""
    class_map = np.zeros((10, 9), np.uint8)
    class_map[5, :4], class_map[5, 5:] = 2, 2
    frame = PanopticFrame.from_maps(class_map, (class_map == 2).astype(np.uint16), class_map)
    area = without_margin(np.where(class_map == 0, 255, 0).astype(np.uint8), frame, 0.1)
    np.testing.assert_array_equal(area, drivable_area(frame, TAXONOMY, 0.1))
    np.testing.assert_array_equal(area[:, 0], [255] * 4 + [0] * 3 + [255] * 3)
