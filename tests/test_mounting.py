import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_node.errors import BadCalibration
from perception_node.mounting import Mounting
from perception_node.paths import shipped

QUARTER = np.pi / 2


def ahead(mounting):
    return mounting.rotation @ [0, 0, 1]


def up(mounting):
    return mounting.rotation @ [0, -1, 0]


def test_straight_ahead():
    mounting = Mounting.from_angles(1.4, x=2, y=-0.5)
    np.testing.assert_allclose(mounting.rotation @ np.eye(3), [[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    np.testing.assert_allclose(mounting.translation, [2, -0.5, 1.4])
    assert mounting.height_m == 1.4


def test_the_ground_may_be_below_the_origin():
    """A base frame at an axle, 0.3 m above the ground: what is 1.4 m above the ground is 1.1 m above the axle."""
    mounting = Mounting.from_angles(1.4, ground_z=-0.3)
    assert mounting.translation[2] == pytest.approx(1.1)
    assert mounting.height_m == pytest.approx(1.4)
    assert Mounting(mounting.rotation, [0, 0, -0.1], -0.3).height_m == pytest.approx(0.2)
    assert mounting != Mounting(mounting.rotation, mounting.translation)
    with pytest.raises(BadCalibration, match=r"height: -0.1 m above the ground, z = -0.3"):
        Mounting(mounting.rotation, [0, 0, -0.4], -0.3)


def test_a_file_has_heights_above_the_ground(tmp_path):
    Mounting.from_angles(1.4, ground_z=-0.3).to_yaml(tmp_path / "mounting.yaml")
    assert Mounting.from_yaml(tmp_path / "mounting.yaml").translation[2] == pytest.approx(1.4)
    assert Mounting.from_yaml(tmp_path / "mounting.yaml", ground_z=-0.3).translation[2] == pytest.approx(1.1)


def test_what_the_angles_mean():
    np.testing.assert_allclose(ahead(Mounting.from_angles(1, pitch=QUARTER / 3)), [np.sqrt(3) / 2, 0, -0.5])  # down
    np.testing.assert_allclose(ahead(Mounting.from_angles(1, yaw=QUARTER)), [0, 1, 0], atol=1e-15)  # to the left
    np.testing.assert_allclose(up(Mounting.from_angles(1, roll=QUARTER)), [0, -1, 0], atol=1e-15)  # to the right
    # Yaw turns about the vertical, whatever the pitch.
    assert ahead(Mounting.from_angles(1, pitch=0.3, yaw=1.0))[2] == pytest.approx(-np.sin(0.3))


angle = st.floats(-3.1, 3.1)


@given(pitch=st.floats(-1.57, 1.57), roll=angle, yaw=angle)
def test_angles_round_trip(pitch, roll, yaw):
    np.testing.assert_allclose(Mounting.from_angles(1, pitch, roll, yaw).angles(), (pitch, roll, yaw), atol=1e-9)


def test_straight_down_is_a_rotation_still():
    down = Mounting.from_angles(1, QUARTER, 0.2, 0.5)
    again = Mounting.from_angles(1, *down.angles())
    np.testing.assert_allclose(again.rotation, down.rotation, atol=1e-9)


@given(pitch=st.floats(-1.57, 1.57), roll=angle, yaw=angle)
def test_yaml_round_trip(tmp_path_factory, pitch, roll, yaw):
    path = tmp_path_factory.getbasetemp() / "mounting.yaml"
    sent = Mounting.from_angles(1.4, pitch, roll, yaw, -2, 1e-7)
    sent.to_yaml(path, "of a test\nin two lines")
    received = Mounting.from_yaml(path)
    np.testing.assert_allclose(received.rotation, sent.rotation, atol=1e-12)
    np.testing.assert_allclose(received.translation, sent.translation, atol=1e-12)


def test_from_transform():
    """base_link <- optical of a camera that looks ahead, as every URDF has it: rpy (-90, 0, -90) degrees."""
    mounting = Mounting.from_transform([1, 0, 1.5], [-0.5, 0.5, -0.5, 0.5])
    assert mounting == Mounting.from_transform([1, 0, 1.5], [0.5, -0.5, 0.5, -0.5])
    np.testing.assert_allclose(mounting.rotation, Mounting.from_angles(1).rotation, atol=1e-15)
    assert mounting != Mounting.from_angles(1)


def test_a_quaternion_of_nearly_length_1_is_made_so():
    exact = Mounting.from_transform([0, 0, 1], [-0.5, 0.5, -0.5, 0.5])
    nearly = Mounting.from_transform([0, 0, 1], np.array([-0.5, 0.5, -0.5, 0.5]) * 1.005)
    np.testing.assert_allclose(nearly.rotation, exact.rotation, atol=1e-15)


def test_the_example():
    mounting = Mounting.from_yaml(shipped("calibration") / "street_mounting.yaml")
    assert mounting == Mounting.from_angles(1.4, np.radians(2), x=1.5)


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [1, 1, 1, 1], [np.nan, 0, 0, 1], [0, 0, 1]])
def test_other_quaternions_are_refused(quaternion):
    with pytest.raises(BadCalibration, match=r"quaternion: .*expected: length 1"):
        Mounting.from_transform([0, 0, 1], quaternion)


@pytest.mark.parametrize(
    ("height", "angles", "message"),
    [
        (0, {}, "height: 0 m above.*z = 0 of.*above 0"),
        (-1, {}, "height: -1 m"),
        (np.nan, {}, "translation"),
        (1, {"pitch": np.nan}, "pitch: nan"),
        (1, {"roll": np.inf}, "roll: inf"),
        (1, {"x": np.inf}, "translation"),
    ],
)
def test_hostile_angles(height, angles, message):
    with pytest.raises(BadCalibration, match=message):
        Mounting.from_angles(height, **angles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pitch_deg: 3", "height_m: missing; expected: metres"),
        ("height_m: 0", "yaml:1: height_m: 0 m above"),
        ("height_m: high", "height_m: 'high'"),
        ("height_m: 1\npitch_deg: .nan", "yaml:2: pitch_deg: nan"),
        ("height_m: 1\npitch_deg: 200", "pitch_deg: 200; expected: degrees"),
        ("height_m: 1\npitch: 2", "yaml:2: pitch: no such entry; expected: pitch_deg, in degrees"),
        ("- 1", "expected: names with values"),
    ],
)
def test_hostile_files(tmp_path, text, message):
    path = tmp_path / "mounting.yaml"
    path.write_text(text)
    with pytest.raises(BadCalibration, match=message):
        Mounting.from_yaml(path)
