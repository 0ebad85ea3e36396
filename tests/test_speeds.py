"""Speeds in metres, from masks on: rectangles of 10 images a second, whose places can be worked out by hand."""

import numpy as np
import pytest

from perception_node.bags import typestore
from perception_node.calibration_input import Calibration
from perception_node.camera import Camera
from perception_node.device import open_device
from perception_node.ground import GridOptions, Grounds
from perception_node.image import CameraImage
from perception_node.messages import MessageFactory
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import builtin_taxonomy
from perception_node.topics import Scene
from perception_node.tracking import Tracker

pytest.importorskip("scipy", reason="tracking needs scipy")

CAMVID = builtin_taxonomy("camvid")
SKY, ROAD, CAR = 0, 3, 8
FOCAL, HEIGHT_M = 400.0, 1.5
K = np.array([[FOCAL, 0, 319.5], [0, FOCAL, 119.5], [0, 0, 1]])
CALIBRATION = Calibration(
    Camera(640, 240, "plumb_bob", np.zeros(5), K, np.eye(3), np.zeros((3, 4))), Mounting.from_angles(HEIGHT_M)
)
GROUNDS = Grounds(open_device("cpu", 1), CAMVID, GridOptions(), "base_link")
MAKE = MessageFactory.rosbags(typestore())


def box_at(ahead, left, width=2.0):
    """x0, y0, x1, y1 in whole pixels of a car's rear, as high as the camera, which looks level."""
    middle, half = 320 - FOCAL * left / ahead, FOCAL * width / 2 / ahead
    return round(middle - half), 120, round(middle + half), round(120 + FOCAL * HEIGHT_M / ahead)


def located(places):
    """The car's track in each image. Args: (ahead, left) in metres, one an image."""
    tracker = Tracker(open_device("cpu", 1), CAMVID)
    found = []
    for index, place in enumerate(places):
        classes, ids = np.full((240, 640), SKY, np.uint8), np.zeros((240, 640), np.uint16)
        classes[120:] = ROAD
        x0, y0, x1, y1 = box_at(*place)
        rows, columns = slice(y0, y1), slice(max(0, x0), x1)
        classes[rows, columns], ids[rows, columns] = CAR, 1
        frame = PanopticFrame.from_maps(classes, ids, np.full(ids.shape, 255, np.uint8))
        image = CameraImage.from_bgr(np.zeros((240, 640, 3), np.uint8))
        scene = Scene(MAKE.header(index * 10**8, "cam"), image, frame, CAMVID, calibration=CALIBRATION, grounds=GROUNDS)
        (track,) = scene.tracked(tracker).located
        found.append(track)
    return found


def test_a_car_that_comes_nearer():
    """From 20 m to 10, at 10 m/s."""
    first, second, *_, last = located([(20 - index, 0.0) for index in range(11)])
    assert (first.velocity_m_s, second.velocity_m_s) == (None, None)
    assert last.position_m == pytest.approx((10, 0), abs=0.2)
    assert last.velocity_m_s == pytest.approx((-10, 0), abs=1.0)
    assert max(last.velocity_sigma_m_s) < 3


def test_a_car_that_crosses():
    """10 m ahead, from 4 m on the left to 4 on the right, at 8 m/s."""
    *_, last = located([(10.0, 4 - 0.8 * index) for index in range(11)])
    assert last.position_m == pytest.approx((10, -4), abs=0.2)
    assert last.velocity_m_s == pytest.approx((0, -8), abs=0.8)


def test_a_car_that_is_passed_keeps_its_speed_while_the_image_cuts_it_off():
    """3.5 m on the left, from 12 m to 4.5, at 5 m/s; its left end leaves the image at 5.6 m: from then on its visible
    middle goes to the right of its own."""
    places = [(12 - 0.5 * index, 3.5) for index in range(16)]
    is_cut = [box_at(*place)[0] <= 0 for place in places]
    assert is_cut == [False] * 13 + [True] * 3
    for (ahead, left), track in list(zip(places, located(places), strict=True))[-4:]:
        assert track.position_m == pytest.approx((ahead, left), abs=0.4)
        assert track.velocity_m_s == pytest.approx((-5, 0), abs=0.4)


def test_far_away_it_is_not_said_how_fast():
    """At 60 m a pixel is 6 m: twelve images do not tell."""
    assert located([(60.0, 0.0)] * 12)[-1].velocity_m_s is None
