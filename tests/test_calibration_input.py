from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_camera import K, camera, camera_info
from test_transforms import stamped

from perception_node.calibration_input import CalibrationInput, CalibrationOptions, MissingCalibration, path_of_url
from perception_node.errors import BadCalibration, UserError
from perception_node.mounting import Mounting
from perception_node.paths import shipped

AHEAD = (-0.5, 0.5, -0.5, 0.5)  # base <- optical of a camera that looks ahead
BY_PARAMETERS = CalibrationOptions(mounting_height=1.5, mounting_pitch=2.0)


def tf(*edges):
    return SimpleNamespace(transforms=[stamped(*edge) for edge in edges])


def test_everything_by_topic_and_in_any_order():
    known = CalibrationInput(CalibrationOptions())
    assert known.options.needs_camera_info
    assert known.options.needs_transforms
    with pytest.raises(MissingCalibration, match="camera_info: none yet"):
        known.calibration("optical", 640, 480)
    known.take_camera_info(camera_info())
    with pytest.raises(MissingCalibration, match="nothing connects 'base_link' with the image's frame 'optical'"):
        known.calibration("optical", 640, 480)
    known.take_transforms(tf(("camera", "optical", (0, 0, 0), AHEAD)))
    known.take_transforms(tf(("base_link", "camera", (1, 0, 1.5))))
    found = known.calibration("optical", 640, 480)
    np.testing.assert_allclose(found.mounting.rotation, Mounting.from_angles(1).rotation, atol=1e-12)
    assert found.mounting.translation.tolist() == [1, 0, 1.5]
    assert found.camera.frame_id == "optical"
    assert known.calibration("", 640, 480) == found  # the frame of camera_info
    with pytest.raises(MissingCalibration, match="frame 'other'"):
        known.calibration("other", 640, 480)


def test_it_stays_the_same_object_until_it_changes():
    known = CalibrationInput(BY_PARAMETERS)
    known.take_camera_info(camera_info())
    found = known.calibration("optical", 640, 480)
    known.take_camera_info(camera_info())
    known.take_transforms(tf(("base_link", "optical", (1, 0, 3), AHEAD)))
    assert known.calibration("optical", 640, 480) is found
    zoomed = camera_info(k=[600.0, 0, 330, 0, 605, 235, 0, 0, 1])
    known.take_camera_info(zoomed)
    assert known.calibration("optical", 640, 480).camera.K[0, 0] == 600


def test_images_resized_binned_and_cropped():
    known = CalibrationInput(BY_PARAMETERS)
    known.take_camera_info(camera_info())
    assert known.calibration("", 320, 240).camera == known.calibration("", 640, 480).camera.scaled_to(320, 240)
    with pytest.raises(BadCalibration, match="calibrated at 640x480, but the image has 640x360"):
        known.calibration("", 640, 360)
    known.take_camera_info(camera_info(binning_x=2, binning_y=2))
    assert known.calibration("", 320, 240).camera.K[0, 0] == 250
    known.take_camera_info(camera_info(roi={"y_offset": 120, "width": 640, "height": 360}))
    assert known.calibration("", 640, 360).camera.K[1, 2] == 115


def test_a_camera_info_that_is_wrong_counts_until_one_is_right():
    known = CalibrationInput(BY_PARAMETERS)
    known.take_camera_info(camera_info())
    known.take_camera_info(camera_info(k=-K.ravel()))
    with pytest.raises(BadCalibration, match="camera_info: K: focal lengths -500, -505") as caught:
        known.calibration("", 640, 480)
    assert not isinstance(caught.value, MissingCalibration)
    known.take_camera_info(camera_info(k=np.zeros(9)))
    with pytest.raises(MissingCalibration, match="camera_info: K is zero: its camera is not calibrated"):
        known.calibration("", 640, 480)
    known.take_camera_info(camera_info())
    assert known.calibration("", 640, 480)


def test_files(tmp_path):
    camera("plumb_bob").to_yaml(tmp_path / "camera.yaml")
    Mounting.from_angles(1.4, 0.05).to_yaml(tmp_path / "mounting.yaml")
    options = CalibrationOptions(
        camera_info_url=f"file://{tmp_path}/camera.yaml", mounting_url=str(tmp_path / "mounting.yaml")
    )
    known = CalibrationInput(CalibrationOptions())
    known.take_camera_info(camera_info(k=np.zeros(9)))
    known.set_options(options)  # the file goes before the topic
    found = known.calibration("whatever", 640, 480)
    assert found.camera == camera("plumb_bob")
    assert found.mounting.angles().pitch == pytest.approx(0.05)
    by_number = CalibrationInput(replace(options, mounting_height=2.0, mounting_roll=10.0))
    assert by_number.calibration("", 640, 480).mounting.angles().roll == pytest.approx(np.radians(10))
    rectified = CalibrationInput(replace(options, rectified=True))
    assert rectified.calibration("", 640, 480).camera.rectified


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_info_url": "/nowhere/camera.yaml"}, "/nowhere/camera.yaml: No such file"),
        ({"camera_info_url": "http://host/camera.yaml"}, "URL 'http://host/camera.yaml': expected: file:///PATH"),
        ({"camera_info_url": "package://no_such_package/camera.yaml"}, "package 'no_such_package': not found"),
        ({"mounting_url": "/nowhere/mounting.yaml"}, "mounting.yaml: No such file"),
        ({"mounting_height": -1.0}, "height: -1 m"),
        ({"mounting_height": 1.5, "mounting_pitch": np.nan}, "pitch: nan"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_asked_for(changes, message):
    known = CalibrationInput(CalibrationOptions(**changes))
    known.take_camera_info(camera_info())
    with pytest.raises(BadCalibration, match=message) as caught:
        known.calibration("optical", 640, 480)
    assert not isinstance(caught.value, MissingCalibration)


def test_changed_options_keep_what_messages_told():
    known = CalibrationInput(CalibrationOptions())
    known.take_camera_info(camera_info())
    known.take_transforms(tf(("base_link", "optical", (1, 0, 1.5), AHEAD), ("ground", "base_link", (0, 0, 0.3))))
    assert known.calibration("optical", 640, 480).mounting.height_m == 1.5
    known.set_options(CalibrationOptions(base_frame="ground"))
    assert known.calibration("optical", 640, 480).mounting.height_m == pytest.approx(1.8)
    known.set_options(replace(BY_PARAMETERS, rectified=True))
    assert known.calibration("optical", 640, 480).camera.rectified
    assert known.calibration("optical", 640, 480).mounting == Mounting.from_angles(1.5, np.radians(2))


def test_the_ground_below_the_base_frame():
    """Its origin is 0.3 m above the ground. TF is of the frame; a height is of the ground, wherever it stands."""
    known = CalibrationInput(CalibrationOptions(ground_z=-0.3))
    known.take_camera_info(camera_info())
    known.take_transforms(tf(("base_link", "optical", (1, 0, 1.5), AHEAD)))
    from_tf = known.calibration("optical", 640, 480).mounting
    assert (from_tf.height_m, from_tf.translation[2], from_tf.ground_z) == (1.8, 1.5, -0.3)
    known.set_options(replace(BY_PARAMETERS, ground_z=-0.3))
    by_parameters = known.calibration("optical", 640, 480).mounting
    assert (by_parameters.height_m, by_parameters.translation[2], by_parameters.ground_z) == (1.5, 1.2, -0.3)


def test_transforms_that_are_wrong():
    known = CalibrationInput(CalibrationOptions(base_frame="ground"))
    known.take_camera_info(camera_info())
    known.take_transforms(tf(("ground", "optical", (0, 0, 1), (0, 0, 0, 0))))
    with pytest.raises(BadCalibration, match=r"nothing connects 'ground' .*on TF: .*has length 0"):
        known.calibration("optical", 640, 480)
    known.take_transforms(tf(("ground", "optical", (0, 0, -1), AHEAD)))
    with pytest.raises(BadCalibration, match="TF from 'ground' to 'optical': height: -1 m"):
        known.calibration("optical", 640, 480)
    known.take_transforms(tf(("ground", "optical", (0, 0, 1), AHEAD)))
    assert known.calibration("optical", 640, 480).mounting.height_m == 1


def test_urls(tmp_path):
    assert str(path_of_url("~/camera.yaml")).endswith("/camera.yaml")
    assert str(path_of_url("file:///a%20b/camera.yaml")) == "/a b/camera.yaml"
    assert (
        path_of_url("package://perception_node/calibration/mounting.yaml") == shipped("calibration") / "mounting.yaml"
    )
    for url in ("file://host/x.yaml", "package:///x.yaml"):
        with pytest.raises(UserError, match="URL"):
            path_of_url(url)
