import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from test_ground_calibration import CAMERAS, mounting_of, seen_lines, seen_points
from test_sources import write_bag

from perception_node.bags import typestore
from perception_node.cli import main
from perception_node.ground_calibration.inputs import read_lines, read_points
from perception_node.ground_calibration.picture import draw_ground
from perception_node.messages import MessageFactory
from perception_node.mounting import Mounting

CAMERA = CAMERAS["plumb_bob"]
TRUTH = mounting_of("car")


@pytest.fixture
def folder(tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), np.full((540, 960, 3), 90, np.uint8))
    CAMERA.to_yaml(tmp_path / "camera.yaml")
    return tmp_path


def run(folder, *arguments, image="image.png"):
    return CliRunner().invoke(
        main, ["calibrate", "ground", str(folder / image), "--camera", str(folder / "camera.yaml"),
               "--out", str(folder / "mounting.yaml"), *map(str, arguments)]
    )  # fmt: skip


def point_rows():
    return np.hstack(seen_points(CAMERA, TRUTH)).tolist()


def test_points_to_a_file_that_is_read_back(folder):
    (folder / "points.csv").write_text("u,v,x,y\n" + "\n".join(",".join(map(repr, row)) for row in point_rows()))
    result = run(folder, "--points", folder / "points.csv")
    assert result.exit_code == 0, result.output
    found = Mounting.from_yaml(folder / "mounting.yaml")
    np.testing.assert_allclose(found.translation, TRUTH.translation, atol=1e-6)
    np.testing.assert_allclose(found.rotation, TRUTH.rotation, atol=1e-6)
    assert "height     1.400 m    found" in result.output
    assert "point 16: 0.00 pixels, 0.000 m on the ground" in result.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "camera.yaml",
        "image.png",
        "mounting.png",
        "mounting.yaml",
        "points.csv",
    ]


def test_lines_as_json(folder):
    lines = [",".join(f"{number:.9f}" for number in line.ravel()) for line in seen_lines(CAMERA, TRUTH, 3, first=-5)]
    result = run(folder, "--lane-width", 3.5, "--json", *(x for line in lines for x in ("--line", line)))
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["height_m"] == pytest.approx(1.4, abs=1e-5)
    assert [found["pitch_deg"], found["roll_deg"], found["yaw_deg"]] == pytest.approx([3, 1, -2], abs=1e-4)
    assert found["assumed"] == ["x", "y"]


def test_the_image_may_have_another_size(folder):
    cv2.imwrite(str(folder / "half.png"), np.zeros((270, 480, 3), np.uint8))
    rows = [((u + 0.5) / 2 - 0.5, (v + 0.5) / 2 - 0.5, x, y) for u, v, x, y in point_rows()]
    points = [option for row in rows for option in ("--point", ",".join(map(repr, row)))]
    assert run(folder, *points, image="half.png").exit_code == 0
    assert Mounting.from_yaml(folder / "mounting.yaml").height_m == pytest.approx(1.4)


def test_the_camera_info_of_a_bag(folder):
    make = MessageFactory.rosbags(typestore())
    header = make.header(5, "camera")
    image = make.image(header, np.zeros((540, 960, 3), np.uint8), "bgr8")
    messages = [("/camera/image_raw", 5, image), ("/camera/camera_info", 6, CAMERA.message(make, header))]
    bag = write_bag(folder / "bag", messages)
    points = [option for row in point_rows() for option in ("--point", ",".join(map(repr, row)))]
    result = CliRunner().invoke(
        main, ["calibrate", "ground", str(bag), "--out", str(folder / "mounting.yaml"), *points]
    )
    assert result.exit_code == 0, result.output
    assert Mounting.from_yaml(folder / "mounting.yaml").height_m == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "points and lines: expected: either of them"),
        (["--point", "1,2,3"], "point '1,2,3': expected: u,v,x,y"),
        (["--line", "1,2,3,4,5"], "line '1,2,3,4,5': expected: u,v,u,v"),
        (["--line", "1,2,3,4", "--point", "1,2,3,4"], "expected: either of them"),
        (["--line", "1,2,3,4", "--frame", "3"], "has no image number 3; it has 1"),
        (["--line", "10,500,300,400", "--line", "900,500,600,400"], "the lane width, or the height"),
        (["--points", "none.csv"], "none.csv: No such file"),
        (["--points", "none.yaml"], "none.yaml: No such file"),
    ],
)
def test_what_a_user_gets_wrong_leaves_nothing(folder, arguments, message):
    result = run(folder, *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert not (folder / "mounting.yaml").exists()
    assert not (folder / "mounting.png").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "u,v,x,y\n1,2,3,4\n5,6,7,8\n"),
        ("p.csv", "# measured on Monday\nx, y, name, U, V\n3,4,kerb,1,2\n\n7,8,cone,5,6"),
        ("p.yaml", "points: [[1, 2, 3, 4], [5, 6, 7, 8]]"),
        ("p.yaml", "who: me\npoints:\n  - [1, 2, 3, 4]\n  - [5, 6, 7, 8.0]\n"),
    ],
)
def test_files_of_points(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_points(tmp_path / name).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "line,u,v\n1,1,2\n1,3,4\n2,5,6\n2,7,8\n2,9,10\n"),
        ("l.yaml", "lines:\n  - [[1, 2], [3, 4]]\n  - [[5, 6], [7, 8], [9, 10]]"),
    ],
)
def test_files_of_lines(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    lines = read_lines(tmp_path / name)
    assert [line.tolist() for line in lines] == [[[1, 2], [3, 4]], [[5, 6], [7, 8], [9, 10]]]


@pytest.mark.parametrize(
    ("read", "name", "text", "message"),
    [
        (read_points, "p.csv", "u,v,x\n1,2,3", "no column y; expected: a first line u,v,x,y"),
        (read_points, "p.csv", "u,v,x,y\n\n1,2,3,four", r"p.csv:3: '1,2,3,four'; expected: numbers"),
        (read_points, "p.csv", "u,v,x,y\n1,2,3", r"p.csv:2: '1,2,3'"),
        (read_points, "p.csv", "", "no column u, v, x, y"),
        (read_points, "p.yaml", "points: [[1, 2, 3]]", r"p.yaml:1: points: 3 numbers; expected: points: \[\[u, v"),
        (read_points, "p.yaml", "lines: 3", "points: missing"),
        (read_lines, "l.yaml", "lines: [[1, 2, 3, 4]]", r"l.yaml:1: lines.0: \[1, 2, 3, 4\]; expected"),
        (read_lines, "l.yaml", "lines: [[[1, 2], [3, .nan]]]", "lines.0: nan"),
    ],
)
def test_files_that_are_something_else(tmp_path, read, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(Exception, match=message):
        read(tmp_path / name)


def test_the_picture_by_hand():
    """A camera 1 m up that looks straight ahead: the horizon is its middle row, and 10 m ahead is 86 rows below it."""
    camera = CAMERAS["pinhole"]
    black = np.zeros((540, 960, 3), np.uint8)
    picture = draw_ground(black, camera, Mounting.from_angles(1.0), (np.array([[485.0, 351]]), np.array([[10.0, 0]])))
    assert (picture[265, [5, 485, 950], 2] > 200).all()  # red
    assert picture[:264].max() == 0
    assert (picture[351, 487] == [0, 200, 255]).all()  # measured, and drawn over what was expected
    assert (picture[500, 485] == [80, 220, 80]).all()  # the vehicle's axis
    assert black.max() == 0
