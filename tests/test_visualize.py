import numpy as np

from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Category, Taxonomy
from perception_node.visualize import DRIVABLE_BGR, draw_overlay

TAXONOMY = Taxonomy([Category(0, "road", (200, 100, 0), drivable=True), Category(1, "car", (0, 0, 200), thing=True)])


def overlay(class_map, instance_map=None, drivable=None):
    """Over an image that is (40, 60, 80) everywhere, BGR."""
    class_map = np.array(class_map, np.uint8)
    nothing = np.zeros(class_map.shape, np.uint8)
    instance_map = nothing.astype(np.uint16) if instance_map is None else instance_map
    image = np.empty((*class_map.shape, 3), np.uint8)
    image[:] = 40, 60, 80
    frame = PanopticFrame.from_maps(class_map, instance_map, nothing)
    return draw_overlay(image, frame, nothing if drivable is None else drivable, TAXONOMY)


def test_class_colours_are_laid_over_the_image_and_unlabelled_pixels_stay():
    # 0.55 of (40, 60, 80) and 0.45 of the road's (0, 100, 200) in OpenCV's order of channels
    assert overlay([[0, UNLABELLED]]).tolist() == [[[22, 78, 134], [40, 60, 80]]]


def test_the_drivable_area_is_outlined():
    drivable = np.zeros((20, 20), np.uint8)
    drivable[5:15, 5:15] = 255
    canvas = overlay(np.zeros((20, 20)), drivable=drivable)
    assert canvas[5, 10].tolist() == canvas[10, 5].tolist() == list(DRIVABLE_BGR)
    assert canvas[10, 10].tolist() == [22, 78, 134]


def test_instances_are_outlined_each_in_its_own_colour():
    class_map, instance_map = np.zeros((20, 40)), np.zeros((20, 40), np.uint16)
    for number, columns in ((1, slice(5, 15)), (2, slice(25, 35))):
        class_map[5:15, columns], instance_map[5:15, columns] = 1, number
    canvas = overlay(class_map, instance_map)
    inside = [112, 33, 44]
    assert canvas[10, 10].tolist() == canvas[10, 30].tolist() == inside
    left, right = canvas[14, 10].tolist(), canvas[14, 30].tolist()
    assert len({tuple(inside), tuple(left), tuple(right)}) == 3
