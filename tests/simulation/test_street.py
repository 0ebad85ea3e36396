"""The simulated street: the same bytes again, and truth that agrees with itself and with the geometry."""

import numpy as np
import pytest

pytest.importorskip("embreex", reason="Embree is not installed: pip install 'perception_node[demo]'")

from perception_node.camera import Camera
from perception_node.errors import UserError
from perception_node.mounting import Mounting
from perception_node.simulation import Street

SIZE = (160, 120)
FRAMES = (0, 6, 40)


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(seed=7, n_frames=60, size=SIZE, weather="day", reach_m=60)


@pytest.fixture(scope="module")
def frames(street):
    return {index: street.frame(index) for index in FRAMES}


def test_same_seed_same_bytes_in_any_order(street, frames):
    other = Street(seed=7, n_frames=60, size=SIZE, weather="day", reach_m=60)
    for index in (40, 0):  # backwards
        again = other.frame(index)
        for name in ("image", "class_map", "instance_map", "depth", "drivable"):
            assert np.array_equal(getattr(again, name), getattr(frames[index], name)), name
        assert np.array_equal(again.grid.cells, frames[index].grid.cells)
        assert again.objects == frames[index].objects


def test_a_longer_drive_begins_with_the_same_frames():
    short, long = (Street(9, n, size=(96, 72), weather="day", reach_m=40).frame(4) for n in (5, 80))
    assert np.array_equal(short.image, long.image)
    assert np.array_equal(short.instance_map, long.instance_map)


def test_truth_is_a_panoptic_frame(street, frames):
    for frame in frames.values():
        frame.panoptic.check(set(street.taxonomy.thing_ids))
        assert (frame.instance_map > 0).any()
        names = {street.taxonomy[class_id].name for class_id in np.unique(frame.class_map)}
        assert {"sky", "building", "road", "pavement"} <= names


def test_depth_is_where_the_ground_is(street, frames):
    """Road pixels, taken back into the base frame by their depth, lie on z = 0; pavement a kerb's height above."""
    road, pavement = (next(c.id for c in street.taxonomy if c.name == name) for name in ("road", "pavement"))
    for frame in frames.values():
        points = base_points(frame)
        heights = points[..., 2]
        assert np.abs(heights[frame.class_map == road]).max() < 0.02
        assert (np.abs(heights[frame.class_map == pavement]) < 0.07).all()
        assert np.isinf(frame.depth[frame.class_map == 0]).all()


def test_objects_are_where_their_pixels_are(frames):
    """Pixels of an instance, taken back by their depth, are within its box, and the nearest low one is its foot."""
    for frame in frames.values():
        points = base_points(frame)
        assert {thing.id for thing in frame.objects} == set(np.unique(frame.instance_map)) - {0}
        for thing in frame.objects:
            own = points[frame.instance_map == thing.id]
            assert len(own) == thing.visible_pixels
            c, s = np.cos(thing.heading), np.sin(thing.heading)
            local = (own - thing.position) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            assert (np.abs(local) < np.array(thing.size) / 2 + 0.15).all(), thing
            assert np.hypot(*(own[:, :2] - thing.foot).T).min() < 1e-3


def test_ids_last(street, frames):
    """What has the same id six frames later is the same: its size and class, and parked cars stay where they are."""
    before, after = frames[0], frames[6]
    later = {thing.id: thing for thing in after.objects}
    both = [(thing, later[thing.id]) for thing in before.objects if thing.id in later]
    assert len(both) > 3
    for old, new in both:
        assert (old.class_id, old.size) == (new.class_id, new.size)
        if old.id < 10_000:  # parked
            assert np.allclose(in_street(before, old.position), in_street(after, new.position), atol=1e-6)


def test_vehicle_stands_on_drivable_ground(frames):
    for frame in frames.values():
        assert frame.drivable[-1, SIZE[0] // 2] == 255
        assert not (frame.drivable[frame.instance_map > 0]).any()


def test_grid_agrees_with_the_image(street, frames):
    """Cells that are seen are so in the image: the pixel on a free cell's middle is road, but for edges."""
    road = next(c.id for c in street.taxonomy if c.name == "road")
    frame = frames[0]
    grid = frame.grid
    rows, columns = np.nonzero(grid.cells == 0)
    x, y = grid.origin_xy[0] + (columns + 0.5) * grid.resolution, grid.origin_xy[1] + (rows + 0.5) * grid.resolution
    near = x < 12
    assert near.sum() > 100
    optical = (np.column_stack([x, y, 0 * x])[near] - frame.mounting.translation) @ frame.mounting.rotation
    u, v = np.clip(np.rint(frame.camera.project(optical)).astype(int), 0, np.array(SIZE) - 1).T
    assert (frame.class_map[v, u] == road).mean() > 0.97


def test_lights_differ():
    """By day there are shadows, dusk is warm, overcast is gray, rain is darker than an overcast day."""
    images = {w: Street(3, 1, size=(96, 72), weather=w, reach_m=30).frame(0).image for w in ("day", "overcast", "dusk")}
    colors = {weather: image.reshape(-1, 3).mean(0) for weather, image in images.items()}
    warmth = {weather: color[2] / color[0] for weather, color in colors.items()}
    assert warmth["dusk"] > 1.1 * warmth["overcast"]
    spread = {weather: image.mean(-1).std() for weather, image in images.items()}
    assert spread["day"] > spread["overcast"]


def test_seeds_differ():
    one, two = (Street(seed, 1, size=(32, 24), reach_m=20).frame(0).image.astype(int) for seed in (11, 12))
    assert np.abs(one - two).mean() > 10


def test_fisheye_sees_what_it_sees():
    """Any camera: a fisheye's rays are exact too, and pixels that its lens does not fill are unlabelled and black."""
    matrix = np.array([[40.0, 0, 47.5], [0, 40.0, 35.5], [0, 0, 1]])
    fisheye = Camera(96, 72, "equidistant", np.array([-0.3, 0, 0, 0]), matrix, np.eye(3), np.zeros((3, 4)))
    frame = Street(7, 1, camera=fisheye, mounting=Mounting.from_angles(2.0, np.radians(20)), reach_m=30).frame(0)
    blind = ~np.isfinite(fisheye.rays(fisheye.pixel_grid())).all(1).reshape(72, 96)
    assert (frame.class_map[blind] == 255).all()
    assert not frame.image[blind].any()
    road = frame.class_map == 3
    assert np.abs(base_points(frame)[road][:, 2]).max() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": -1}, "seed"), ({"n_frames": 0}, "frames"), ({"fps": 0}, "fps"), ({"weather": "hail"}, "hail")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Street(**arguments)


def test_frame_beyond_the_end(street):
    with pytest.raises(IndexError, match="60"):
        street.frame(60)


def base_points(frame) -> np.ndarray:
    """(H, W, 3): where pixels' depths are in the base frame."""
    rays = frame.camera.rays(frame.camera.pixel_grid()).reshape(*frame.depth.shape, 3)
    with np.errstate(invalid="ignore"):
        optical = rays / rays[..., 2:] * np.where(np.isfinite(frame.depth), frame.depth, 1e6)[..., None]
    return np.nan_to_num(optical) @ frame.mounting.rotation.T + frame.mounting.translation


def in_street(frame, position) -> np.ndarray:
    c, s = np.cos(frame.ego.heading), np.sin(frame.ego.heading)
    return np.array([[c, -s], [s, c]]) @ np.array(position[:2]) + (frame.ego.x, frame.ego.y)
