import numpy as np
import pytest

from perception_node.camera import Camera
from perception_node.errors import BadCalibration
from perception_node.ground_calibration.fit import POSE
from perception_node.ground_calibration.lines import calibrate_from_lines
from perception_node.ground_calibration.points import calibrate_from_points
from perception_node.mounting import Mounting

CAMERAS = {
    lens: Camera(960, 540, model, d, [[f, 0, 485], [0, f, 265], [0, 0, 1]], np.eye(3), np.zeros((3, 4)))
    for lens, model, d, f in (
        ("pinhole", "", [], 860),
        ("plumb_bob", "plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.01], 700),
        ("equidistant", "equidistant", [0.02, -0.01, 0.003, -0.001], 400),
    )
}
MOUNTINGS = {  # height in metres, angles in degrees, x and y in metres
    "car": (1.4, 3, 1, -2, 1.5, 0.1),
    "bus": (2.8, 12, -2, 1, 4, -0.5),
    "robot": (0.5, -1, 0, 0, 0.2, 0),
    "looks down": (3.0, 45, 3, 5, 0, 0),
    "looks back": (1.1, 5, 1, 175, -1, 0),
    "looks left": (1.2, 8, -1, 85, 0.5, 0.9),
}


def mounting_of(name):
    height, pitch, roll, yaw, x, y = MOUNTINGS[name]
    return Mounting.from_angles(height, *np.radians([pitch, roll, yaw]), x, y)


def project(camera, mounting, xy):
    return camera.project((np.column_stack([xy, np.zeros(len(xy))]) - mounting.translation) @ mounting.rotation)


def seen_points(camera, mounting):
    """A 4x4 grid of pixels in the lower part of the image, where the ground is, and their places on it."""
    u, v = np.meshgrid(np.linspace(60, 900, 4), np.linspace(400, 520, 4))
    pixels = np.stack([u.ravel(), v.ravel()], 1)
    directions = camera.rays(pixels) @ mounting.rotation.T
    assert (directions[:, 2] < 0).all()
    return pixels, mounting.translation[:2] - mounting.height_m * directions[:, :2] / directions[:, 2:]


def seen_lines(camera, mounting, n, width=3.5, first=-1.9):
    """n lines along the base's x axis, from 4 to 20 m ahead or, of a camera that looks back, behind."""
    ahead = np.sign((mounting.rotation @ [0, 0, 1])[0]) * np.array([4, 6, 10, 20.0])
    foot = mounting.translation[:2]
    places = [np.stack(np.broadcast_arrays(foot[0] + ahead, foot[1] + first + i * width), 1) for i in range(n)]
    return [project(camera, mounting, xy) for xy in places]


def pose(mounting):
    x, y, height = mounting.translation
    return {"height": height, "x": x, "y": y} | mounting.angles()._asdict()


def assert_near(found, truth, tolerances):
    errors = {name: abs(pose(found)[name] - pose(truth)[name]) for name in tolerances}
    assert all(errors[name] <= tolerance for name, tolerance in tolerances.items()), errors


@pytest.mark.parametrize("lens", CAMERAS)
@pytest.mark.parametrize("name", MOUNTINGS)
def test_exact_points_give_the_exact_mounting(lens, name):
    camera, truth = CAMERAS[lens], mounting_of(name)
    pixels, places = seen_points(camera, truth)
    result = calibrate_from_points(camera, pixels, places)
    assert_near(result.mounting, truth, dict.fromkeys(POSE, 1e-6))
    assert result.rms_px < 1e-5
    assert result.residuals_m.max() < 1e-5
    assert (set(result.sigmas), result.given, result.assumed) == (set(POSE), (), ())


@pytest.mark.parametrize("name", MOUNTINGS)
def test_noisy_points_are_off_as_far_as_is_said(name):
    """One pixel of noise: height, pitch and roll within four of the standard deviations that the result states."""
    camera, truth = CAMERAS["plumb_bob"], mounting_of(name)
    pixels, places = seen_points(camera, truth)
    noisy = pixels + np.random.default_rng(0).normal(0, 1, pixels.shape)
    result = calibrate_from_points(camera, noisy, places)
    assert_near(result.mounting, truth, {name: 4 * sigma for name, sigma in result.sigmas.items()})
    assert 0.8 < result.rms_px < 1.9  # of two coordinates: 1.41


def test_what_is_known_stays():
    camera, truth = CAMERAS["pinhole"], mounting_of("car")
    pixels, places = seen_points(camera, truth)
    known = {name: pose(truth)[name] for name in ("x", "y", "yaw")}
    result = calibrate_from_points(camera, pixels[::5], places[::5], known)
    assert_near(result.mounting, truth, dict.fromkeys(POSE, 1e-6))
    assert set(result.sigmas) == {"height", "pitch", "roll"}
    assert result.given == ("x", "y", "yaw")
    wrong = calibrate_from_points(camera, pixels[::5], places[::5], known | {"x": pose(truth)["x"] + 0.1})
    assert wrong.mounting.translation[0] == pose(truth)["x"] + 0.1
    assert wrong.rms_px > 1


@pytest.mark.parametrize("lens", CAMERAS)
@pytest.mark.parametrize("name", ["car", "bus", "robot", "looks back"])
def test_three_lines_and_a_width_give_roll_and_height(lens, name):
    camera, truth = CAMERAS[lens], mounting_of(name)
    facing = pose(truth)["yaw"]
    lines = seen_lines(camera, truth, 3, first=-5)
    for given in (lines, lines[::-1], [line[::-1] for line in lines]):
        result = calibrate_from_lines(camera, given, 3.5, facing=facing)
        assert_near(result.mounting, truth, dict.fromkeys(("height", "pitch", "roll", "yaw"), 1e-6))
        assert result.assumed == ("x", "y")
        assert result.mounting.translation[:2].tolist() == [0, 0]


def test_two_lines_and_a_width_give_the_height_when_the_roll_is_known_or_none():
    camera, truth = CAMERAS["plumb_bob"], mounting_of("car")
    lines = seen_lines(camera, truth, 2)
    known = {"roll": pose(truth)["roll"]}
    result = calibrate_from_lines(camera, lines, 3.5, known)
    assert_near(result.mounting, truth, dict.fromkeys(("height", "pitch", "roll", "yaw"), 1e-6))
    assumed = calibrate_from_lines(camera, lines, 3.5)
    assert assumed.assumed == ("x", "y", "roll")
    assert assumed.mounting.angles().roll == 0
    # A degree of roll that was not there: the width seen is nearly the same, so is the height.
    assert_near(assumed.mounting, truth, {"height": 0.01, "pitch": np.radians(0.2), "yaw": np.radians(0.2)})


def test_two_lines_and_a_height_give_pitch_yaw_and_the_width():
    camera, truth = CAMERAS["plumb_bob"], mounting_of("robot")
    result = calibrate_from_lines(camera, seen_lines(camera, truth, 2), known={"height": 0.5})
    assert_near(result.mounting, truth, dict.fromkeys(("height", "pitch", "yaw"), 1e-6))
    assert (set(result.sigmas), result.given, result.assumed) == ({"pitch", "yaw"}, ("height",), ("x", "y", "roll"))
    assert result.lane_width_m == pytest.approx(3.5)


def test_two_lines_with_width_and_height_give_the_roll_only_where_they_show_it():
    """To the left and right alike, roll makes the one lane narrower by what it makes the other wider."""
    camera = CAMERAS["pinhole"]
    truth = Mounting.from_angles(1.4, 0.05, 0.03, 0.0)
    aside = calibrate_from_lines(camera, seen_lines(camera, truth, 2, first=1), 3.5, {"height": 1.4})
    assert_near(aside.mounting, truth, {"roll": 1e-6})
    assert "roll" in aside.sigmas
    between = calibrate_from_lines(camera, seen_lines(camera, truth, 2, first=-1.75), 3.5, {"height": 1.4})
    assert "roll" in between.assumed


@pytest.mark.parametrize("name", ["car", "bus", "robot"])
def test_noisy_lines_are_off_as_far_as_is_said(name):
    camera, truth = CAMERAS["plumb_bob"], mounting_of(name)
    rng = np.random.default_rng(1)
    lines = [line + rng.normal(0, 0.5, line.shape) for line in seen_lines(camera, truth, 3, first=-5)]
    result = calibrate_from_lines(camera, lines, 3.5)
    assert_near(result.mounting, truth, {name: 4 * sigma for name, sigma in result.sigmas.items()})
    assert set(result.sigmas) == {"height", "pitch", "roll", "yaw"}


CAR = MOUNTINGS["car"]


@pytest.mark.parametrize(
    ("places", "known", "message"),
    [
        ([(8, 1), (10, -1), (12, 0)], {}, "3 points for 6 unknown values.*at least 4"),
        ([(8, 0), (10, 0), (12, 0), (14, 0)], {}, "do not determine .*roll"),
        ([(8, 1), (8, 1), (8, 1), (8, 1)], {}, "do not determine"),
        ([(30, 0.1), (30, -0.1), (31, 0.1), (31, -0.1)], {}, "do not determine height"),
        ([(8, 1)], {"x": 1.5, "y": 0.1, "yaw": 0}, "1 points for 3 unknown"),
        ([(8, 1), (10, -1)], {"tilt": 0}, "tilt: 0"),
        ([(8, 1), (10, -1)], {"height": -1}, "height: -1 m; expected: above 0"),
        ([(8, 1), (10, -1)], {"pitch": np.nan}, "pitch: nan"),
    ],
)
def test_points_that_do_not_do(places, known, message):
    camera, truth = CAMERAS["pinhole"], mounting_of("car")
    with pytest.raises(BadCalibration, match=message):
        calibrate_from_points(camera, project(camera, truth, np.array(places, float)), places, known)


def test_points_in_other_axes_do_not_fit():
    """y to the right instead of the left."""
    camera, truth = CAMERAS["pinhole"], mounting_of("car")
    pixels, places = seen_points(camera, truth)
    with pytest.raises(BadCalibration, match=r"no mounting fits.*y to the left"):
        calibrate_from_points(camera, pixels, places * [1, -1])


def test_a_pixel_beyond_the_lens_model_is_named():
    camera = Camera(
        960, 540, "plumb_bob", [-0.3, 0, 0, 0, 0], np.array([[400, 0, 480], [0, 400, 270], [0, 0, 1]]), np.eye(3),
        np.zeros((3, 4)),
    )  # fmt: skip
    pixels = np.array([[480, 400], [300, 400], [600, 300], [2, 530]])
    with pytest.raises(BadCalibration, match=r"point 4: pixel \(2, 530\) is beyond what the lens model describes"):
        calibrate_from_points(camera, pixels, np.ones((4, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lane_width_m": None}, "no lengths; expected: the lane width, or the height"),
        ({"lane_width_m": 0}, "lane width: 0; expected: metres"),
        ({"lines": lambda lines: lines[:1]}, "1 lines .* at least 2"),
        ({"lines": lambda lines: [lines[0], lines[1][:1]]}, "2 lines .4, 1 points"),
        ({"lines": lambda lines: [lines[0], lines[0]]}, "one and the same"),
        ({"lines": lambda lines: [np.array([[100, 300], [900, 500]]), *lines]}, "no mounting fits them"),
    ],
)
def test_lines_that_do_not_do(changes, message):
    camera, truth = CAMERAS["pinhole"], mounting_of("car")
    lines = changes.pop("lines", lambda lines: lines)(seen_lines(camera, truth, 2))
    with pytest.raises(BadCalibration, match=message):
        calibrate_from_lines(camera, lines, **{"lane_width_m": 3.5, **changes})
