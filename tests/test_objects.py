"""Where instances stand, on pictures of rectangles that can be worked out by hand."""

import numpy as np
import pytest

from perception_node.camera import Camera
from perception_node.device import open_device
from perception_node.drivable import connected_surface
from perception_node.ground import GridOptions, Ground
from perception_node.mounting import Mounting
from perception_node.objects import grounded_objects, positions_to_follow
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import builtin_taxonomy

CAMVID = builtin_taxonomy("camvid")


def pinhole():
    k = np.array([[400.0, 0, 159.5], [0, 400.0, 119.5], [0, 0, 1]])
    return Camera(320, 240, "plumb_bob", np.zeros(5), k, np.eye(3), np.zeros((3, 4)))


GROUND = Ground(open_device("cpu", 1), pinhole(), Mounting.from_angles(1.5, 0.0, x=1.0), CAMVID, GridOptions())


def objects_of(*boxes):
    """Of (x0, y0, x1, y1, class, id) rectangles, later ones in front, on a road below the middle row."""
    classes = np.full((240, 320), 3, np.uint8)
    classes[:120] = 0
    instances = np.zeros((240, 320), np.uint16)
    for x0, y0, x1, y1, class_id, id_ in boxes:
        classes[y0:y1, x0:x1], instances[y0:y1, x0:x1] = class_id, id_
    frame = PanopticFrame.from_maps(classes, instances, np.full((240, 320), 255, np.uint8))
    sight = GROUND(frame, connected_surface(frame, CAMVID))
    return grounded_objects(GROUND, frame, sight.sights)


def test_a_car_ahead():
    """Its lowest row is 169: the contact is at 169.5, 50 below the horizon: 1.5 * 400 / 50 = 12 m away."""
    car = objects_of((130, 130, 190, 170, 8, 1))[1]
    assert car.position_xy == (pytest.approx(13, rel=1e-4), pytest.approx(0, abs=0.02))  # the camera is at x = 1
    assert car.distance == pytest.approx(13, rel=1e-4)
    assert car.width == pytest.approx(60 * 12 / 400, rel=0.01)
    assert car.height == pytest.approx(40 * 12 / 400, rel=0.01)
    pixel, pitch = 12 / 50, np.radians(0.3) * (12**2 + 1.5**2) / 1.5
    assert car.sigma == pytest.approx(np.hypot(pixel, pitch), rel=0.03)
    assert car.covariance[1, 1] == pytest.approx((np.hypot(12, 1.5) / 400) ** 2, rel=0.01)


def test_the_middle_is_followed_of_what_the_image_does_not_cut_off_at_its_sides():
    """Of the second the right half's foot is nearer; the last two are cut off."""
    boxes = (130, 130, 190, 170, 8, 1), (200, 130, 230, 168, 8, 2), (230, 130, 260, 170, 8, 2)
    found = objects_of(*boxes, (0, 130, 20, 160, 8, 3), (300, 130, 320, 160, 8, 4))
    assert set(found) == {1, 2, 3, 4}
    followed = positions_to_follow(found, 320)
    assert set(followed) == {1, 2}
    np.testing.assert_allclose(followed[1], [(13, 0), np.diag(found[1].covariance)], atol=0.02)
    # The middle of 200 to 260 is 70 pixels to the right of the axis; its position is in the right half.
    assert followed[2][0, 1] / (followed[2][0, 0] - 1) == pytest.approx(-70 / 400, rel=0.03)
    assert -100 / 400 < found[2].position_xy[1] / (found[2].position_xy[0] - 1) < -71 / 400


def test_the_wheels_count_not_the_bumper():
    car = objects_of((130, 130, 190, 166, 8, 1), (134, 160, 140, 170, 8, 1), (180, 160, 186, 170, 8, 1))[1]
    assert car.distance == pytest.approx(13, rel=1e-3)
    assert car.position_xy[1] == pytest.approx(0, abs=0.05)


def test_stray_pixels_do_not_count():
    car = objects_of((130, 130, 190, 170, 8, 1), (150, 169, 151, 185, 8, 1))[1]
    assert car.distance == pytest.approx(13, rel=1e-3)


def test_a_foot_that_the_image_cuts_off_is_nowhere():
    assert objects_of((100, 100, 220, 240, 8, 1)) == {}


def test_a_foot_behind_another():
    """Of the second all is seen but the foot; of the third half of the foot: it is less sure where that stands."""
    found = objects_of((130, 122, 190, 160, 8, 2), (200, 125, 240, 150, 9, 3), (120, 130, 220, 170, 8, 1))
    assert set(found) == {1, 3}
    assert found[3].position_xy[0] == pytest.approx(1 + 600 / 30, rel=0.01)
    alone = objects_of((200, 125, 240, 150, 9, 3))[3]
    half = (alone.width / 2) ** 2
    np.testing.assert_allclose(np.diag(found[3].covariance - alone.covariance), [half, half], rtol=0.1)


def test_beyond_the_horizon_is_nowhere():
    assert objects_of((130, 60, 190, 110, 8, 1)) == {}


def test_it_grows_less_sure_with_the_square_of_the_distance():
    near, far = (objects_of((150, 120, 170, row, 8, 1))[1] for row in (170, 145))
    assert far.distance - 1 == pytest.approx(2 * (near.distance - 1), rel=0.05)
    assert far.sigma == pytest.approx(4 * near.sigma, rel=0.1)
