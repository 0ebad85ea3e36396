"""The simulated street as a bag and as footage."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("embreex", reason="Embree is not installed: pip install 'perception_node[demo]'")

from perception_node.bags import open_bag
from perception_node.camera import Camera
from perception_node.cli import main
from perception_node.errors import SourceError
from perception_node.messages import camera_image
from perception_node.mounting import Mounting
from perception_node.simulation import Street, cache
from perception_node.simulation.recording import MIN_PIXELS
from perception_node.sources import open_source
from perception_node.topics import CAMERA_INFO, IMAGE
from perception_node.transforms import Transforms

ARGUMENTS = {"seed": 5, "n_frames": 2, "size": (160, 120), "weather": "overcast"}


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(**ARGUMENTS)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "street"
    result = CliRunner().invoke(
        main,
        ["simulate", "--out", str(path), "--seed", "5", "--frames", "2", "--size", "160x120", "--weather", "overcast"],
    )
    assert result.exit_code == 0, result.output
    return path


def test_bag_holds_the_drive(bag, street):
    found = {}
    with open_bag(bag) as reader:
        for connection, time_ns, cdr in reader.messages():
            message = reader.deserialize(cdr, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
        ((static, _, _),) = reader.messages({"/tf_static"})
        assert [profile.durability.name for profile in static.ext.offered_qos_profiles] == ["TRANSIENT_LOCAL"]
    frame = street.frame(1)
    large = [thing for thing in frame.objects if thing.visible_pixels >= MIN_PIXELS]
    small = [thing.id for thing in frame.objects if thing not in large]
    assert large
    assert small
    stamp_ns, image = found["/camera/image_raw"][1]
    assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == stamp_ns
    assert np.array_equal(camera_image(image).bgr(), frame.image)
    assert Camera.from_message(found["/camera/camera_info"][1][1]) == frame.camera
    for topic, dtype, truth in (
        ("class_map", np.uint8, frame.class_map),
        ("instance_map", np.uint16, np.where(np.isin(frame.instance_map, small), 65535, frame.instance_map)),
        ("depth", np.float32, frame.depth),
        ("drivable_area", np.uint8, frame.drivable),
    ):
        message = found[f"/truth/{topic}"][1][1]
        assert np.array_equal(message.data.view(dtype).reshape(120, 160), truth), topic
    transforms = Transforms()
    transforms.add(found["/tf_static"][0][1])
    transforms.add(found["/tf"][1][1])
    mounting = Mounting(*transforms.lookup("base_link", "camera_optical_frame"))
    assert np.allclose(mounting.rotation, frame.mounting.rotation, atol=1e-12)
    assert np.allclose(mounting.translation, frame.mounting.translation)
    rotation, translation = transforms.lookup("odom", "base_link")
    assert np.allclose(translation, [frame.ego.x, frame.ego.y, 0])
    assert np.allclose(rotation @ [1, 0, 0], [np.cos(frame.ego.heading), np.sin(frame.ego.heading), 0])
    grid = found["/truth/drivable_grid"][1][1]
    assert (grid.header.frame_id, grid.info.height, grid.info.width) == ("base_link", *frame.grid.cells.shape)
    assert np.array_equal(np.array(grid.data).reshape(frame.grid.cells.shape), frame.grid.cells)
    objects = found["/truth/objects"][1][1].detections
    assert [int(detection.id) for detection in objects] == [thing.id for thing in large]
    assert objects[0].results[0].pose.pose.position.x == pytest.approx(large[0].foot[0])
    assert [d.id for d in found["/truth/instances"][1][1].detections] == [str(thing.id) for thing in large]
    assert found["/truth/odometry"][1][1].twist.twist.linear.x == pytest.approx(frame.ego.speed)


def test_bag_is_footage(bag, street):
    (_, first), (_, second) = open_source(bag).frames()
    assert np.array_equal(second.bgr(), street.frame(1).image)
    assert not np.array_equal(first.bgr(), second.bgr())


def test_street_is_footage(street):
    source = open_source(Path("street:5,frames=2,size=160x120,weather=overcast"), fps=20, start_ns=10**9)
    items = list(source)
    assert [item.topic for item in items] == [CAMERA_INFO, IMAGE] * 2
    assert items[3].time_ns == 10**9 + 50_000_000
    assert items[3].message.header.frame_id == street.camera.frame_id
    assert items[2].message.header == items[3].message.header
    assert np.array_equal(camera_image(items[1].message).bgr(), street.frame(0).image)


@pytest.mark.parametrize("name", ["street:", "street:x", "street:7,length=3", "street:7,size=12", "street:7,size=1x1"])
def test_bad_street(name):
    with pytest.raises(SourceError, match="street:SEED"):
        open_source(Path(name))


def test_bad_size():
    result = CliRunner().invoke(main, ["simulate", "--out", "x", "--size", "480"])
    assert result.exit_code == 1
    assert "--size '480'" in result.output


def test_a_drive_is_rendered_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drive = {"seed": 5, "n_frames": 1, "size": (32, 24), "reach_m": 20}
    bag = cache.cached_drive(**drive)
    assert bag.is_relative_to(tmp_path)
    assert sum(1 for _ in open_source(bag).frames()) == 1
    monkeypatch.setattr(cache, "write_bag", lambda *_: pytest.fail("rendered again"))
    assert cache.cached_drive(**drive) == bag
    monkeypatch.setattr(cache, "write_bag", lambda street, path, frames: None)
    assert cache.cached_drive(**drive | {"seed": 6}) != bag


def test_processes_make_the_same_frames(monkeypatch):
    monkeypatch.setattr(cache, "FRAMES_PER_TASK", 1)
    drive = {"seed": 5, "n_frames": 2, "size": (32, 24), "reach_m": 20}
    alone = list(Street(**drive).drive())
    together = list(cache.drive_in_processes(drive, workers=2))
    assert [frame.index for frame in together] == [0, 1]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.instance_map, other.instance_map)
