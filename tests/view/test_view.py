"""`perception view`: what it writes, read back; and its page in a browser, where there is one."""

import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

rr = pytest.importorskip("rerun", reason="rerun-sdk is not installed: make setup-view")

import cv2  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from perception_node.bags import BagWriter, typestore  # noqa: E402
from perception_node.calibration_input import CalibrationOptions  # noqa: E402
from perception_node.camera import Camera  # noqa: E402
from perception_node.cli import main  # noqa: E402
from perception_node.errors import UserError  # noqa: E402
from perception_node.ground import DrivableGrid, FreeSpace  # noqa: E402
from perception_node.ground_messages import laser_scan, occupancy_grid  # noqa: E402
from perception_node.messages import MessageFactory  # noqa: E402
from perception_node.panoptic import PanopticFrame  # noqa: E402
from perception_node.taxonomy import builtin_taxonomy  # noqa: E402
from perception_node.tracking import Track  # noqa: E402
from perception_node.tracking_messages import track_cloud  # noqa: E402
from perception_node.view.entities import Entities  # noqa: E402
from perception_node.view.layout import layout  # noqa: E402
from perception_node.view.messages import cameras_of, nodes_of  # noqa: E402
from perception_node.view.serve import server  # noqa: E402

SOFTWARE_WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_S = 300
STAMP_NS = 1_700_000_000 * 10**9
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CAMVID = builtin_taxonomy("camvid")
CAR = next(category.id for category in CAMVID if category.name == "car")
ROAD = next(category.id for category in CAMVID if category.name == "road")
IMAGE, NODE = "vehicle/camera/image", "vehicle/camera/perception_node"
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
CAMERA = Camera(64, 48, "plumb_bob", np.zeros(5), K, np.eye(3), np.hstack([K, np.zeros((3, 1))]), "camera")
CALIBRATION = CalibrationOptions(mounting_height=1.5, mounting_pitch=5.0)


def street_messages(n: int) -> list[tuple[str, object]]:
    """A magenta image, 64x48, its lower half road, on it a car that goes one pixel to the right a frame."""
    make = MessageFactory.rosbags(typestore())
    messages = []
    for index in range(n):
        header = make.header(STAMP_NS + index * 10**8, "camera")
        base = make.header(STAMP_NS + index * 10**8, "base_link")
        class_map, instance_map = np.full((48, 64), 255, np.uint8), np.zeros((48, 64), np.uint16)
        class_map[24:] = ROAD
        class_map[20:30, 20 + index : 36 + index] = CAR
        instance_map[20:30, 20 + index : 36 + index] = 7
        frame = PanopticFrame.from_maps(class_map, instance_map, np.full((48, 64), 255, np.uint8))
        cells = np.array([[0, 100, -1], [-1, -1, -1]], np.int8)
        free = FreeSpace(np.float32([-0.1, 0, 0.1]), np.float32([5, 6, 7]), np.uint8([4, 4, 4]), 40.0)
        messages += [
            ("/camera/camera_info", CAMERA.message(make, header)),
            ("/camera/image_raw", make.image(header, np.full((48, 64, 3), (255, 0, 255), np.uint8), "bgr8")),
            ("/perception_node/label_info", make.label_info(header, CAMVID)),
            ("/perception_node/class_map", make.image(header, class_map, "mono8")),
            ("/perception_node/instance_map", make.image(header, instance_map, "16UC1")),
            ("/perception_node/drivable_area", make.image(header, (class_map == ROAD).view(np.uint8) * 255, "mono8")),
            ("/perception_node/instances", make.instances(header, frame)),
            ("/perception_node/tracks", track_cloud(make, base, frame, [car(index)])),
            ("/perception_node/drivable_grid", occupancy_grid(make, base, DrivableGrid(cells, 0.5, (2.0, -1.0)))),
            ("/perception_node/free_space", laser_scan(make, base, free)),
        ]
    return messages


def car(index: int) -> Track:
    """Its speed in metres is known from the third image on."""
    speeds = ((-4.0, 2.0), (0.5, 0.5)) if index > 1 else (None, None)
    return Track(7, ((CAR, 0.9),), 1 + index, 0.1 * index, (10.0, 0.0), (8.0, 1.0), *speeds)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        for index, (topic, message) in enumerate(street_messages(5)):
            cdr = typestore().serialize_cdr(message, message.__msgtype__)
            writer.write(topic, message.__msgtype__, STAMP_NS + index, cdr)
    return path


def columns(rrd: Path) -> dict[tuple[str, str], list]:
    """(entity, component) -> its values in order of time."""
    from rerun.chunk import RrdReader

    found: dict[tuple[str, str], list] = {}
    for chunk in RrdReader(rrd).stream():
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            if ":" in name:
                values = batch.column(name).to_pylist()
                found.setdefault((chunk.entity_path.strip("/"), name.rpartition(":")[2]), []).extend(values)
    return found


def test_a_bag_is_written_as_entities_that_hold_what_it_holds(bag: Path, tmp_path: Path):
    rrd = tmp_path / "drive.rrd"
    options = ["--save", str(rrd), "--mounting", str(mounting(tmp_path))]
    result = CliRunner().invoke(main, ["view", str(bag), *options])
    assert result.exit_code == 0, result.output
    found = columns(rrd)

    assert len(found[IMAGE, "blob"]) == 5
    image = cv2.imdecode(np.asarray(found[IMAGE, "blob"][0][0], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 64, 3)
    assert np.abs(image[10, 10].astype(int) - (255, 0, 255)).max() < 6

    class_map = np.asarray(found[f"{NODE}/class_map", "buffer"][2][0], np.uint8).reshape(48, 64)
    assert np.unique(class_map).tolist() == sorted([ROAD, CAR, 255])
    assert np.flatnonzero(class_map[22] == CAR).tolist() == list(range(22, 38))

    assert found[f"{NODE}/instances", "labels"] == [["car 7"]] * 5
    # The outline goes through the middles of the outermost pixels, which are half a pixel from their corners.
    (strip,) = found[f"{NODE}/instance_map", "strips"][0]
    assert np.min(strip, 0).tolist() == [20.5, 20.5]
    assert np.max(strip, 0).tolist() == [35.5, 29.5]

    # Half a second's way; the tracks' header names the base frame, what they are of the camera's other messages.
    assert found[f"{NODE}/tracks", "positions"][0] == [[28.5, 25.5]]
    assert found[f"{NODE}/tracks/velocity", "vectors"][0] == [[5.0, 0.0]]
    in_metres = "vehicle/perception_node/tracks/velocity"
    assert found[in_metres, "vectors"] == [[], []] + [[[-2.0, 1.0, 0.0]]] * 3
    assert found[in_metres, "origins"][2] == [[8.0, 1.0, pytest.approx(0.05)]]

    grid = np.asarray(found["vehicle/perception_node/drivable_grid", "data"][0][0], np.uint8).reshape(2, 3, 4)
    assert grid[1, :2, :3].argmax(1).tolist() == [1, 0]  # green is free, red occupied, in the lowest row
    assert not grid[0].any()
    assert not grid[1, 2].any()  # the unknown is not drawn
    assert found["vehicle/camera", "translation"][0][0] == [0.0, 0.0, 1.5]


def mounting(folder: Path) -> Path:
    from perception_node.mounting import Mounting

    path = folder / "mounting.yaml"
    Mounting.from_angles(1.5, 0.1).to_yaml(path)
    return path


def test_what_is_shown_decides_what_the_layout_has():
    entities = Entities(rr.RecordingStream("test"), CALIBRATION)
    assert not any(entities.shown)
    for topic, message in street_messages(1):
        if topic == "/camera/camera_info":
            entities.take_camera_info(message)
        elif topic == "/camera/image_raw":
            entities.show_image(topic, message)
        else:
            entities.show(topic, message)
    assert entities.problem is None
    assert entities.shown == (("camera",), (("camera", "perception_node"),), ("perception_node",), ())
    columns_of_views = layout(entities.shown, live=False).root_container.contents
    names = str([view.name for column in columns_of_views for view in column.contents])
    assert names == "['camera', 'perception_node (camera)', 'perception_node (metres)']"


def test_without_a_calibration_all_in_pixels_is_shown_and_said_why_nothing_is_in_metres():
    entities = Entities(rr.RecordingStream("test"), CalibrationOptions())
    topic, message = street_messages(1)[1]
    entities.show_image(topic, message)
    assert entities.shown.cameras == ("camera",)
    assert "camera_info" in str(entities.problem)


def test_of_several_topics_with_one_frame_the_first_is_shown(tmp_path: Path):
    rrd, recording = tmp_path / "t.rrd", rr.RecordingStream("test")
    recording.save(rrd)
    entities = Entities(recording, CalibrationOptions())
    message = street_messages(1)[1][1]
    for topic in ("/camera/image_raw", "/camera/image_rect", "/camera/image_raw"):
        entities.show_image(topic, message)
    recording.disconnect()
    assert len(columns(rrd)[IMAGE, "blob"]) == 2


def test_times_of_diagnostics_are_plotted(tmp_path: Path):
    rrd, recording = tmp_path / "t.rrd", rr.RecordingStream("test")
    recording.save(rrd)
    entities = Entities(recording, CalibrationOptions())
    values = [SimpleNamespace(key="network p50 ms", value="21.5"), SimpleNamespace(key="received", value="3")]
    status = SimpleNamespace(name="/front/perception_node: perception", values=values)
    stamp = SimpleNamespace(sec=5, nanosec=0)
    entities.show_diagnostics(SimpleNamespace(header=SimpleNamespace(stamp=stamp), status=[status]))
    recording.disconnect()
    assert entities.shown.timed == ("front_perception_node",)
    assert columns(rrd)["timings/front_perception_node/network", "scalars"] == [[21.5]]


def test_topics_are_nodes_or_cameras():
    image, boxes = "sensor_msgs/msg/Image", "vision_msgs/msg/Detection2DArray"
    topics = {"/a/image": image, "/b/image_raw": image, "/a/camera_info": "sensor_msgs/msg/CameraInfo"}
    assert nodes_of(topics) == set()
    assert cameras_of(topics) == ["/a/image"]
    topics |= {"/front/node/class_map": image, "/front/node/confidence": image, "/front/node/instances": boxes}
    assert nodes_of(topics) == {"/front/node"}
    assert cameras_of(topics) == ["/a/image"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--topic", "/nope"], "--topic /nope: no image topic; there are: /camera/image_raw"),
        (["--node", "nope"], "--node /nope: no such node; there are: /perception_node"),
    ],
)
def test_a_name_that_is_not_there_is_said_with_those_that_are(bag: Path, tmp_path: Path, options, expected):
    rrd = tmp_path / "t.rrd"
    result = CliRunner().invoke(main, ["view", str(bag), "--save", str(rrd), *options])
    assert result.exit_code == 1
    assert expected in result.output
    assert not list(tmp_path.glob("*.rrd*"))
    assert not list(tmp_path.glob(".*part"))


def two_free_ports() -> int:
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


def test_a_port_that_is_taken_is_said_with_the_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: .*--port"), server("127.0.0.1", port, "100MB"):
            pass


def test_the_page_may_load_nothing_from_elsewhere():
    from urllib.request import urlopen

    port = two_free_ports()
    with server("127.0.0.1", port, "100MB") as (page, _), urlopen(page) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "re_viewer.js" in answer.read().decode()
    assert "default-src 'self'" in policy
    assert "https:" not in policy
    with pytest.raises(OSError, match="refused"):
        urlopen(page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
def test_a_browser_shows_camera_classes_and_grid(bag: Path, tmp_path: Path):
    """Slow where a processor draws: it waits for what it looks for, as long as that may take."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-view")
    rrd, seen = tmp_path / "t.rrd", tmp_path / "seen.png"
    CliRunner().invoke(main, ["view", str(bag), "--save", str(rrd), "--mounting", str(mounting(tmp_path))])
    port, elsewhere = two_free_ports(), []
    with server("127.0.0.1", port, "100MB", rrd), playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_WEBGL)
        page = browser.new_page(viewport={"width": 800, "height": 500})
        page.on("requestfinished", lambda request: elsewhere.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S * 1000)
        end = time.monotonic() + PATIENCE_S
        while True:
            page.screenshot(path=seen, timeout=PATIENCE_S * 1000)
            amounts = amounts_of_colors(cv2.imread(str(seen)))
            if min(amounts.values()) > 30 or time.monotonic() > end:
                break
            page.wait_for_timeout(1000)
        browser.close()
    assert min(amounts.values()) > 30, amounts
    assert [url for url in elsewhere if "//127.0.0.1:" not in url and not url.startswith(("data:", "blob:"))] == []


def amounts_of_colors(bgr: np.ndarray) -> dict[str, int]:
    """Pixels of the colours that only the camera's image, the classes laid over it, and the free cell have."""
    road = np.array(CAMVID[ROAD].color[::-1], float)
    free = np.array((90, 200, 60), float)
    wanted = {"image": (255, 0, 255), "road": 0.6 * np.array((255, 0, 255)) + 0.4 * road, "free": free}
    return {name: int((np.abs(bgr - color).max(2) < 40).sum()) for name, color in wanted.items()}
