import types

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_node.bags import typestore
from perception_node.camera import Camera
from perception_node.errors import BadCalibration
from perception_node.messages import MessageFactory
from perception_node.paths import shipped

K = np.array([[500.0, 0, 330], [0, 505, 235], [0, 0, 1]])
LENSES = {
    "pinhole": ("", []),
    "plumb_bob": ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.01]),
    "plumb_bob of 4": ("plumb_bob", [0.1, 0.02, -0.003, 0.001]),
    "a strong barrel": ("plumb_bob", [-0.35, 0.08, 0.001, 0.0005, 0.0]),
    "rational_polynomial": ("rational_polynomial", [0.5, 0.1, 0.001, 0.001, 0.02, 0.8, 0.2, 0.05]),
    "equidistant": ("equidistant", [0.02, -0.01, 0.003, -0.001]),
}


def camera(lens="pinhole", **changes):
    model, coefficients = LENSES[lens]
    values = {"width": 640, "height": 480, "distortion_model": model, "D": coefficients, "K": K}
    return Camera(**{**values, "R": np.eye(3), "P": np.zeros((3, 4)), **changes})


def opencv_project(camera, points):
    """The oracle: float64 (N, 2); right only in front of the camera and where the lens model does not fold."""
    arguments = (points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), camera.K, camera.D)
    if camera.distortion_model == "equidistant":
        return cv2.fisheye.projectPoints(*arguments)[0].reshape(-1, 2)
    return cv2.projectPoints(*arguments)[0].reshape(-1, 2)


def test_a_pinhole_by_hand():
    """A metre to the right at five metres is 500 / 5 pixels right of the middle."""
    pixels = camera().project([[0, 0, 5], [1, 0, 5], [0, -1, 5], [0, 0, -5]])
    np.testing.assert_allclose(pixels[:3], [[330, 235], [430, 235], [330, 134]])
    assert np.isnan(pixels[3]).all()


@pytest.mark.parametrize("lens", LENSES)
def test_every_pixel_looks_where_opencv_projects_to_it(lens):
    seen = camera(lens)
    pixels = seen.pixel_grid()
    rays = seen.rays(pixels)
    assert not np.isnan(rays).any()
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(opencv_project(seen, 7 * rays), pixels, rtol=0, atol=1e-6)
    np.testing.assert_allclose(seen.project(7 * rays), pixels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lens", LENSES)
@given(
    point=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.5, 0.5), st.floats(0.1, 100)),
)
@settings(max_examples=50)
def test_a_projected_point_lies_on_its_pixels_ray(lens, point):
    x, y, z = point
    point = np.array([[x * z, y * z, z]])
    seen = camera(lens)
    np.testing.assert_allclose(seen.project(point), opencv_project(seen, point), rtol=0, atol=1e-6)
    np.testing.assert_allclose(seen.rays(seen.project(point)), point / np.linalg.norm(point), rtol=0, atol=1e-9)


def test_beyond_the_turn_of_the_polynomial_nothing_is_seen():
    """k1 = -0.25: r - 0.25 r³ grows up to r = sqrt(4 / 3), where it is 0.77; OpenCV folds r = 1.9 back to 0.19."""
    folding = camera(D=[-0.25, 0, 0, 0], distortion_model="plumb_bob")
    turn = np.sqrt(4 / 3)
    assert abs(opencv_project(folding, np.array([[1.9, 0, 1]]))[0, 0] - 330) < 100
    pixels = folding.project([[turn - 1e-3, 0, 1], [turn + 1e-3, 0, 1], [1.9, 0, 1]])
    assert np.isnan(pixels).any(1).tolist() == [False, True, True]
    edge = 330 + 500 * (turn - 0.25 * turn**3)
    rays = folding.rays([[edge - 0.01, 235], [edge + 0.01, 235]])
    assert np.isnan(rays).any(1).tolist() == [False, True]
    assert abs(rays[0, 0] / rays[0, 2] - turn) < 0.01


def test_a_pole_of_the_rational_polynomial_is_a_limit():
    """Denominator 1 - r²: from r = 1 on nothing is seen."""
    poled = camera(D=[0, 0, 0, 0, 0, -1, 0, 0], distortion_model="rational_polynomial")
    pixels = poled.project([[0.9, 0, 1], [1.1, 0, 1]])
    assert np.isnan(pixels).any(1).tolist() == [False, True]
    np.testing.assert_allclose(pixels[0, 0], 330 + 500 * 0.9 / (1 - 0.81))
    np.testing.assert_allclose(poled.project(poled.rays(poled.pixel_grid())), poled.pixel_grid(), atol=1e-6)


def test_a_fisheye_sees_beyond_90_degrees():
    wide = camera("equidistant", D=[0, 0, 0, 0], K=np.diag([200.0, 200, 1]))
    directions = np.array([[1.0, 0, 0], [1, 0, -1], [0, 1, -0.5], [0, 0, -1]])
    pixels = wide.project(directions)
    np.testing.assert_allclose(
        pixels[:3], [[100 * np.pi, 0], [150 * np.pi, 0], [0, 200 * (np.pi / 2 + np.arctan(0.5))]]
    )
    assert np.isnan(pixels[3]).all()
    np.testing.assert_allclose(
        wide.rays(pixels[:3]), directions[:3] / np.linalg.norm(directions[:3], axis=1)[:, None], atol=1e-12
    )


def test_nan_in_nan_out():
    for lens in LENSES:
        nothing = [[np.nan, 0], [np.inf, 3], [330, 235]]
        assert np.isnan(camera(lens).rays(nothing)).any(1).tolist() == [True, True, False]
        assert np.isnan(camera(lens).project([[np.nan, 0, 1], [0, 0, 0]])).all()


def camera_info(**changes):
    """What rclpy's message has, of the 640x480 camera."""
    roi = {"x_offset": 0, "y_offset": 0, "width": 0, "height": 0, "do_rectify": False} | changes.pop("roi", {})
    values = {
        "header": types.SimpleNamespace(frame_id="optical"),
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [-0.3, 0.1, 0.001, -0.002, 0.01],
        "k": K.ravel(),
        "r": np.eye(3).ravel(),
        "p": [400.0, 0, 320, 0, 0, 400, 240, 0, 0, 0, 1, 0],
        "binning_x": 0,
        "binning_y": 0,
        **changes,
    }
    return types.SimpleNamespace(roi=types.SimpleNamespace(**roi), **values)


def test_region_of_interest_by_hand():
    """Pixel (0, 0) of the window is pixel (100, 50) of the full image."""
    window = Camera.from_message(camera_info(roi={"x_offset": 100, "y_offset": 50, "width": 200, "height": 100}))
    assert (window.width, window.height) == (200, 100)
    assert (window.K[0, 2], window.K[1, 2], window.P[0, 2], window.P[1, 2]) == (230, 185, 220, 190)
    full = Camera.from_message(camera_info())
    np.testing.assert_allclose(window.rays([[0, 0], [7, 9]]), full.rays([[100, 50], [107, 59]]), atol=1e-12)


def test_binning_by_hand():
    """The first pixel of 2x4 binning lies between pixels 0 and 1, and among 0 to 3: its middle is (0.5, 1.5)."""
    binned = Camera.from_message(camera_info(binning_x=2, binning_y=4))
    assert (binned.width, binned.height) == (320, 120)
    assert (binned.K[0, 0], binned.K[1, 1]) == (250, 126.25)
    full = Camera.from_message(camera_info())
    np.testing.assert_allclose(binned.rays([[0, 0], [10, 20]]), full.rays([[0.5, 1.5], [20.5, 81.5]]), atol=1e-12)


def test_binning_of_a_region():
    """Offsets are in pixels before binning."""
    both = Camera.from_message(
        camera_info(binning_x=2, binning_y=2, roi={"x_offset": 100, "y_offset": 40, "width": 400, "height": 200})
    )
    assert (both.width, both.height) == (200, 100)
    np.testing.assert_allclose(both.rays([[0, 0]]), camera("plumb_bob").rays([[100.5, 40.5]]), atol=1e-12)


def test_a_resized_image():
    """As cv2.resize does it: the corners of the image stay its corners."""
    half = camera("plumb_bob").scaled_to(320, 240)
    corners = np.array([[-0.5, -0.5], [319.5, 239.5]])
    np.testing.assert_allclose(half.rays(corners), camera("plumb_bob").rays([[-0.5, -0.5], [639.5, 479.5]]), atol=1e-12)
    assert half.scaled_to(320, 240) is half
    assert camera().scaled_to(427, 320).width == 427  # rounded: 426.67
    with pytest.raises(BadCalibration, match=r"640x480, but the image has 640x360.*roi in camera_info"):
        camera().scaled_to(640, 360)


def test_a_rectified_image_goes_by_R_and_P():
    turn = cv2.Rodrigues(np.array([0, 0.1, 0]))[0]
    info = camera_info(r=turn.ravel(), p=[400.0, 0, 320, -40, 0, 400, 240, 0, 0, 0, 1, 0])
    raw, rectified = Camera.from_message(info), Camera.from_message(info, rectified=True)
    points = np.array([[0.3, -0.2, 2.0], [1, 1, 4]])
    np.testing.assert_allclose(raw.project(points), opencv_project(raw, points), atol=1e-9)
    across = points @ turn.T
    expected = across[:, :2] / across[:, 2:] * 400 + [320, 240]
    np.testing.assert_allclose(rectified.project(points), expected, atol=1e-9)
    # OpenCV makes rectified pixels of raw ones in the same way.
    remapped = cv2.undistortPoints(raw.project(points), raw.K, raw.D, R=turn, P=raw.P).reshape(-1, 2)
    np.testing.assert_allclose(rectified.project(points), remapped, atol=0.01)
    np.testing.assert_allclose(rectified.rays(expected), points / np.linalg.norm(points, axis=1)[:, None], atol=1e-12)
    with pytest.raises(BadCalibration, match="P: all zeros"):
        Camera.from_message(camera_info(p=np.zeros(12)), rectified=True)


def test_message_round_trip():
    make = MessageFactory.rosbags(typestore())
    sent = Camera.from_message(camera_info())
    message = make_through_cdr(make, sent)
    received = Camera.from_message(message)
    assert received == sent
    assert received.frame_id == "optical"
    assert hash(received) == hash(sent)


def make_through_cdr(make, sent):
    message = sent.message(make, make.header(5, "optical"))
    cdr = typestore().serialize_cdr(message, "sensor_msgs/msg/CameraInfo")
    return typestore().deserialize_cdr(cdr, "sensor_msgs/msg/CameraInfo")


@pytest.mark.ros
def test_message_of_rclpy():
    pytest.importorskip("rclpy")
    make = MessageFactory.rclpy()
    sent = Camera.from_message(camera_info())
    assert Camera.from_message(sent.message(make, make.header(5, "optical"))) == sent


@pytest.mark.parametrize("lens", LENSES)
def test_yaml_round_trip(lens, tmp_path):
    sent = camera(lens, name="front: left")
    sent.to_yaml(tmp_path / "camera.yaml")
    assert Camera.from_yaml(tmp_path / "camera.yaml") == sent
    assert [path.name for path in tmp_path.iterdir()] == ["camera.yaml"]
    document = yaml.safe_load((tmp_path / "camera.yaml").read_text())
    assert list(document) == [
        "image_width",
        "image_height",
        "camera_name",
        "camera_matrix",
        "distortion_model",
        "distortion_coefficients",
        "rectification_matrix",
        "projection_matrix",
    ]
    assert list(document["camera_matrix"]) == ["rows", "cols", "data"]
    assert all(type(number) is float for number in document["distortion_coefficients"]["data"])


ROS_FILE = """\
image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [500.00000,   0.     , 330.     ,
           0.     , 505.     , 235.     ,
           0.     ,   0.     ,   1.     ]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.300000, 0.100000, 0.001000, -0.002000, 0.010000]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1., 0., 0.,
         0., 1., 0.,
         0., 0., 1.]
projection_matrix:
  rows: 3
  cols: 4
  data: [400.,   0., 320.,   0.,
           0., 400., 240.,   0.,
           0.,   0.,   1.,   0.]
"""


def from_text(tmp_path, text, **options):
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    return Camera.from_yaml(path, **options)


def test_the_file_of_ros(tmp_path):
    read = from_text(tmp_path, ROS_FILE)
    assert (read.width, read.height, read.name, read.frame_id) == (640, 480, "narrow_stereo", "")
    np.testing.assert_array_equal(read.K, K)
    np.testing.assert_array_equal(read.D, LENSES["plumb_bob"][1])
    np.testing.assert_array_equal(from_text(tmp_path, ROS_FILE, rectified=True).project([[0, 0, 1]]), [[320, 240]])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("image_width: 640", "image_width: 640.0\nboard: {size: 8x6}"),
        ("distortion_model: plumb_bob\n", ""),
        ("500.00000", "500"),
        (
            "[-0.300000, 0.100000, 0.001000, -0.002000, 0.010000]",
            "\n    - -3e-1\n    - 1e-1\n    - .001\n    - -2e-03\n    - 1.E-2",
        ),
        ("[1., 0., 0.,\n         0., 1., 0.,\n         0., 0., 1.]", "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]"),
        ("rows: 1\n  cols: 5", "rows: 5\n  cols: 1"),
        ("camera_name: narrow_stereo", "camera_name: narrow_stereo  # né à Cambridge"),
    ],
)
def test_files_of_others(tmp_path, old, new):
    assert old in ROS_FILE
    assert from_text(tmp_path, ROS_FILE.replace(old, new)) == from_text(tmp_path, ROS_FILE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("500.00000", "0", r"yaml:7: camera_matrix.data: focal lengths 0, 505; expected: above 0"),
        ("500.00000", "-500", "focal lengths -500, 505"),
        ("500.00000", ".nan", "camera_matrix.data: nan; expected: fx"),
        ("500.00000", ".inf", "camera_matrix.data: inf"),
        ("500.00000", "four", "camera_matrix.data: 'four'"),
        ("500.00000", "true", "camera_matrix.data: True"),
        ("500.00000,   0.", "500.00000,   3.", "skewed"),
        ("image_width: 640", "image_width: 0", r"yaml:1: image_width: 0; expected: the image's"),
        ("image_width: 640", "image_width: 640.5", "image_width: 640.5"),
        ("image_width: 640", "image_width: [640]", r"image_width: \[640\]"),
        ("image_width: 640\n", "", "image_width: missing; expected: the image's width"),
        ("image_width: 640\nimage_height: 480", "image_width: 1280\nimage_height: 960", "about 661x471 pixels"),
        ("image_width: 640\nimage_height: 480", "image_width: 320\nimage_height: 240", "about 661x471 pixels"),
        ("330.", "3300.", "far outside"),
        ("500.00000,   0.     , 330.     ,\n           0.     , 505.", "4.1, 0, 330, 0, 4.1", "not in millimetres"),
        ("-0.300000, ", "", "4 numbers, but rows x cols is 1 x 5"),
        ("cols: 5\n  data: [", "cols: 6\n  data: [0.5, ", "6 coefficients; expected: 4 or 5 of plumb_bob"),
        ("plumb_bob", "equidistant", "5 coefficients; expected: 4 of equidistant"),
        ("plumb_bob", "thin_prism", "'thin_prism'; expected: one of plumb_bob, rational_polynomial, equidistant"),
        ("[1., 0., 0.,", "[1., 0.1, 0.,", "rectification_matrix.data: 1, 0.1, 0.*no rotation"),
        ("[1., 0., 0.,", "[-1., 0., 0.,", "no rotation"),
        ("camera_matrix:", "matrix:", "camera_matrix: missing"),
        ("camera_matrix:", "camera_matrix: 3\nmatrix:", "camera_matrix: 3; expected: fx"),
        ("camera_name: narrow_stereo", "camera_name: {", "not valid YAML"),
        (ROS_FILE, "[1, 2]", "the file: list; expected: names with values"),
        (ROS_FILE, "", "the file: NoneType; expected: names with values"),
        ("camera_name: narrow_stereo", "? [a, b]\n: c", "not valid YAML"),
    ],
)
def test_hostile_files(tmp_path, old, new, message):
    assert old in ROS_FILE
    with pytest.raises(BadCalibration, match=message) as caught:
        from_text(tmp_path, ROS_FILE.replace(old, new, 1))
    assert "camera.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_example_is_the_simulated_streets_camera():
    example = Camera.from_yaml(shipped("calibration") / "street_camera.yaml")
    assert (example.width, example.height, example.name) == (480, 360, "street")
    street = pytest.importorskip("perception_node.simulation.street", reason="needs the simulated street")
    rays = street.default_camera(480, 360).rays(example.pixel_grid())
    np.testing.assert_allclose(example.rays(example.pixel_grid()), rays, atol=1e-9)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadCalibration, match=r"none\.yaml: No such file"):
        Camera.from_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"k": np.zeros(9)}, "K"),
        ({"k": np.full(9, np.nan)}, "K"),
        ({"width": 0}, "width"),
        ({"d": [0.1] * 3}, "D"),
        ({"d": [np.nan] * 5}, "D"),
        ({"distortion_model": ""}, "distortion_model"),
        ({"r": np.ones(9)}, "R"),
        ({"roi": {"x_offset": 600, "width": 100}}, "roi"),
        ({"roi": {"x_offset": 700}}, "roi"),
        ({"binning_x": 1000}, "binning_x"),
    ],
)
def test_hostile_messages(changes, field):
    with pytest.raises(BadCalibration) as caught:
        Camera.from_message(camera_info(**changes))
    assert caught.value.field == field


def test_names_and_zeros_of_others():
    assert camera(distortion_model="fisheye", D=[0.1, 0, 0, 0]).distortion_model == "equidistant"
    assert camera(distortion_model="none", D=[]).D.tolist() == [0] * 5
    assert camera(distortion_model="plumb_bob", D=[0.1, 0, 0, 0, 0, 0, 0, 0]).D.size == 5
    assert camera(distortion_model="rational_polynomial", D=[0.1] * 8 + [0] * 6).D.size == 8
    assert np.array_equal(camera(R=np.zeros((3, 3))).R, np.eye(3))
    with pytest.raises(BadCalibration, match="D: 14 coefficients"):
        camera(distortion_model="rational_polynomial", D=[0.1] * 14)


def test_equal_cameras_have_equal_values():
    assert camera() == camera()
    assert camera() != camera("plumb_bob")
    assert camera() != camera(K=K + np.diag([1, 0, 0]))
    with pytest.raises(ValueError, match="read-only"):
        camera().K[0, 0] = 3
