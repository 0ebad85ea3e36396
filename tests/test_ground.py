"""The ground in metres: tables against independent geometry, kernels against loops, frames against exact scenes."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ground as oracle
from oracles.boxes import Box, Scene

from perception_node.camera import Camera
from perception_node.device import open_device
from perception_node.drivable import connected_surface
from perception_node.errors import BadCalibration, UserError
from perception_node.ground import (
    BLOCKED,
    BODY,
    FOOT,
    FREE,
    HIDDEN,
    NO_GROUND,
    OUTSIDE,
    SKYWARD,
    GridOptions,
    Ground,
)
from perception_node.mounting import Mounting
from perception_node.objects import grounded_objects
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import builtin_taxonomy

CAMVID = builtin_taxonomy("camvid")
IDS = {category.name: category.id for category in CAMVID}
DEVICE = open_device("cpu", 1)
ONE_BY_ONE = open_device("cpu", 1)
ONE_BY_ONE.pixels_per_thread = 1  # as on a GPU
LENSES = {
    "plumb_bob": [-0.2, 0.05, 0.001, -0.001, 0.0],
    "rational_polynomial": [0.3, -0.1, 0.0005, 0.0003, 0.01, 0.6, -0.05, 0.02],
    "equidistant": [-0.02, 0.005, -0.002, 0.0005],
}


def pinhole(width=480, height=360, focal=400.0, model="plumb_bob", distortion=()):
    middle = (width - 1) / 2, (height - 1) / 2
    k = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    return Camera(width, height, model, np.array(distortion), k, np.eye(3), np.zeros((3, 4)))


def mounted(height=1.5, pitch=4.0, roll=0.0, yaw=0.0, x=0.0, y=0.0):
    return Mounting.from_angles(height, *np.radians([pitch, roll, yaw]), x, y)


def frame_of(classes, instances=None, confidence=255):
    classes = np.asarray(classes, np.uint8)
    instances = np.zeros(classes.shape, np.uint16) if instances is None else np.asarray(instances, np.uint16)
    return PanopticFrame.from_maps(classes, instances, np.full(classes.shape, confidence, np.uint8))


def sight_of(ground, frame):
    return ground(frame, connected_surface(frame, CAMVID))


# ---- a camera that looks straight down, so that a pixel is a square of ground ----


def from_above(options=None):
    """6x6 pixels of 1 m from 10 m above: pixel (row r, column c) shows x = 2.5 - r, y = 2.5 - c around the camera."""
    options = options or GridOptions(1.0, -3.0, 3.0, 3.0, free_space_bearings=4)
    return Ground(DEVICE, pinhole(6, 6, 10.0), mounted(10.0, 90.0), CAMVID, options)


def as_picture(grid):
    """Rows from far to near, columns from left to right, as the camera sees it."""
    return ["".join({0: ".", 100: "#", -1: "?"}[cell] for cell in row) for row in grid.cells.T[::-1, ::-1]]


def picture(*rows):
    """Letters to a frame: r road, p pavement, s sky, b building, c car 1, d car 2, _ unlabelled."""
    names = {"r": "road", "p": "pavement", "s": "sky", "b": "building", "c": "car", "d": "car"}
    classes = [[IDS[names[letter]] if letter in names else UNLABELLED for letter in row] for row in rows]
    return frame_of(classes, [[{"c": 1, "d": 2}.get(letter, 0) for letter in row] for row in rows])


def test_from_above_every_pixel_is_a_cell():
    ground = from_above()
    np.testing.assert_allclose(ground.ground_xy[0, 0], [2.5, 2.5], atol=1e-6)
    np.testing.assert_allclose(ground.ground_xy[5, 1], [-2.5, 1.5], atol=1e-6)
    np.testing.assert_allclose(ground.footprint, 1, rtol=1e-6)
    sight = sight_of(ground, picture("ssssss", "pppppp", "prrrrp", "prrrrp", "prrrrp", "______"))
    assert as_picture(sight.grid) == ["??????", "######", "#....#", "#....#", "#....#", "??????"]


def test_what_stands_on_the_road_is_occupied_at_its_foot_and_hides_the_rest():
    """The camera is over the picture's middle: the car's lower row is nearer to it."""
    sight = sight_of(from_above(), picture("rccccr", "rccccr", "rrrrrr", "rrrrrr", "rrrrrr", "rrrrrr"))
    assert as_picture(sight.grid) == [".????.", ".####.", "......", "......", "......", "......"]


def test_one_behind_the_other():
    """Of the second car, and of the building behind it, no foot is seen; the first car's hides them."""
    sight = sight_of(from_above(), picture("rrbbrr", "rrddrr", "rrccrr", "rrrrrr", "rrrrrr", "rrrrrr"))
    assert [row[2:4] for row in as_picture(sight.grid)] == ["??", "??", "##", "..", "..", ".."]
    assert sight.sights[:4, 2].tolist() == [BODY, HIDDEN, FOOT, FREE]


def test_the_margin_is_around_instances_alone():
    rows = "rrrrrr", "rccrrb", "rrrrrb", "rrrrrr", "rrrrrr", "rrrrrr"
    options = GridOptions(1.0, -3.0, 3.0, 3.0, grid_margin=1.0)
    assert as_picture(sight_of(from_above(), picture(*rows)).grid)[1:4] == [".##..#", ".....#", "......"]
    # The car's foot is half-way to the next row, the margin a metre around it.
    assert as_picture(sight_of(from_above(options), picture(*rows)).grid)[1:4] == [".##..#", ".##..#", "......"]


def test_ground_that_is_not_connected_or_not_sure_is_unknown():
    rows = ["rrrrrr", "pppppp", "rrrrrr", "rrrrrr", "rrrrrr", "rrrrrr"]
    assert as_picture(sight_of(from_above(), picture(*rows)).grid)[:3] == ["??????", "######", "......"]
    frame = picture(*rows)
    frame.confidence[2:, :3] = 127  # 0.498
    assert as_picture(sight_of(from_above(), frame).grid)[1:3] == ["######", "???..."]
    assert np.isfinite(sight_of(from_above(), frame).points).all()  # it is ground all the same


def test_low_confidence_hides_no_obstacle():
    frame = picture("rrrrrr", "rrccrr", "rrrrrr", "rrrrrr", "rrrrrr", "rrrrrr")
    frame.confidence[1, 2:4] = 9
    assert as_picture(sight_of(from_above(), frame).grid)[1] == "..##.."


def test_what_is_thinner_than_a_cell_is_in_one():
    """Half the pixels: a cell has four, and its middle lies at the corner of all."""
    options = GridOptions(2.0, -3.0, 3.0, 3.0)
    sight = sight_of(from_above(options), picture("rrrrrr", "rrrbrr", "rrrrrr", "rrrrrr", "rrrrrr", "rrrrrr"))
    assert as_picture(sight.grid) == [".#.", "...", "..."]


def test_points_are_the_pixels_ground_and_of_obstacles_the_foot():
    sight = sight_of(from_above(), picture("rrbbrr", "rrbbrr", "rrrrrr", "rrpprr", "______", "ssssss"))
    seen = np.isfinite(sight.points).all(2)
    assert ["".join(".#"[int(point)] for point in row) for row in seen] == [
        "##..##",
        "######",
        "######",
        "######",
        "......",
        "......",
    ]
    np.testing.assert_allclose(sight.points[3, 2], [-0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(sight.points[1, 2], [1.0, 0.5, 0], atol=0.005)  # half the angle to the road


def test_the_ground_below_the_base_frame_is_the_same_ground():
    """All but z: the camera is as high above it."""
    frame = picture("rrbbrr", "rrbbrr", "rrrrrr", "rrpprr", "rrrrrr", "rrrrrr")
    options = GridOptions(1.0, -3.0, 3.0, 3.0, free_space_bearings=4)
    mountings = (Mounting.from_angles(10.0, 1.5, ground_z=z) for z in (0.0, -0.5))
    one, other = (sight_of(Ground(DEVICE, pinhole(6, 6, 10.0), each, CAMVID, options), frame) for each in mountings)
    np.testing.assert_array_equal(other.grid.cells, one.grid.cells)
    np.testing.assert_array_equal(other.free_space.ranges, one.free_space.ranges)
    np.testing.assert_allclose(other.points, np.add(one.points, [0, 0, -0.5]), atol=1e-6)


def test_free_space_ends_where_something_begins():
    """Each bearing goes from the middle of the picture outwards; pixels are a metre, of which it tells a tenth."""
    options = GridOptions(1.0, -3.0, 3.0, 3.0, free_space_bearings=360)
    sight = sight_of(from_above(options), picture("rrrrrr", "rccccr", "rrrrrr", "prrrrr", "prrrrr", "rrrrrr"))
    free = sight.free_space
    assert free.range_max == pytest.approx(18**0.5)
    degrees = np.degrees(free.angles)

    def along(begin, end):
        chosen = (degrees > begin) & (degrees < end)
        assert chosen.any()
        return free.angles[chosen], free.ranges[chosen], set(free.ends[chosen].tolist())

    angles, ranges, ends = along(-55, 55)  # the car, a metre ahead
    np.testing.assert_allclose(ranges, 1 / np.cos(angles), atol=0.06)
    assert ends == {FOOT}
    angles, ranges, ends = along(95, 130)  # the pavement, two metres to the left
    np.testing.assert_allclose(ranges, 2 / np.sin(angles), atol=0.06)
    assert ends == {BLOCKED}
    angles, ranges, ends = along(-130, -70)  # the image's edge, three metres to the right
    np.testing.assert_allclose(ranges, -3 / np.sin(angles), atol=0.06)
    assert ends == {NO_GROUND}


# ---- tables ----


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize(("pitch", "roll", "yaw"), [(4, 0, 0), (15, -5, 10), (0, 90, 0), (60, 20, -170)])
def test_a_pixels_ground_is_seen_by_the_pixel(model, pitch, roll, yaw):
    camera, mounting = pinhole(96, 72, 80.0, model, LENSES[model]), mounted(1.5, pitch, roll, yaw, 1.2, -0.3)
    options = GridOptions(0.5, -40.0, 40.0, 40.0, max_footprint=5.0)
    ground = Ground(DEVICE, camera, mounting, CAMVID, options)
    sees = np.isfinite(ground.ground_xy).all(2)
    below_horizon = (camera.rays(camera.pixel_grid()) @ mounting.rotation.T)[:, 2] < 0
    assert not (sees.ravel() & ~below_horizon).any()
    points = np.column_stack([ground.ground_xy[sees], np.zeros(sees.sum())])
    pixels = camera.project((points - mounting.translation) @ mounting.rotation)
    near = ground.footprint[sees] < 1  # float32 metres tell fewer of a pixel farther away
    assert near.any()
    np.testing.assert_allclose(pixels[near], np.argwhere(sees)[near][:, ::-1], atol=0.01)


@pytest.mark.parametrize("model", LENSES)
def test_each_nearer_pixel_is_nearer_and_on_the_same_bearing(model):
    camera, mounting = pinhole(96, 72, 60.0, model, LENSES[model]), mounted(1.5, 10, 8, 20, 1.0, 2.0)
    ground = Ground(DEVICE, camera, mounting, CAMVID, GridOptions(max_footprint=1.0))
    away = ground.ground_xy.reshape(-1, 2) - mounting.translation[:2].astype(np.float32)
    nearer = np.asarray(ground.nearer)
    here = np.flatnonzero(nearer >= 0)
    assert (np.hypot(*away[nearer[here]].T) < np.hypot(*away[here].T)).all()
    # A neighbour is up to half a pixel to the side: as seen from above, that is under atan(1/2) off the direction.
    x, y = away[here].T
    nx, ny = away[nearer[here]].T
    aside = np.abs(x * ny - y * nx) / np.hypot(x, y)
    assert (aside <= 0.75 * ground.footprint.ravel()[here]).mean() > 0.99
    no_ground = ~np.isfinite(away).all(1)
    assert (nearer[no_ground] == SKYWARD).all()
    assert (nearer.reshape(72, 96)[-1, 20:-20] == OUTSIDE).all()


def test_the_footprint_is_the_derivative():
    """Straight ahead from height h a row v below the horizon is f h / v away: a pixel more is f h / v² nearer."""
    ground = Ground(DEVICE, pinhole(9, 201, 100.0), mounted(1.5, 0.0), CAMVID, GridOptions())
    v = np.arange(110, 190) - 100
    np.testing.assert_allclose(ground.footprint[110:190, 4], 100 * 1.5 / v**2, rtol=0.02)
    assert np.isinf(ground.footprint[:101]).all()


def test_cells_beyond_the_footprint_and_outside_of_the_view_are_unknown():
    camera, mounting = pinhole(), mounted(1.5, 4.0)
    ground = Ground(DEVICE, camera, mounting, CAMVID, GridOptions(max_footprint=0.5))
    cells = sight_of(ground, frame_of(np.full((360, 480), IDS["road"]))).grid.cells
    x, y = (np.arange(200) + 0.5) * 0.2, (np.arange(150) + 0.5) * 0.2 - 15
    in_view = (np.abs(y)[:, None] < x * 240 / 400 * 0.97) & (x > 4.5)
    assert (cells[in_view & (x < 16)] == 0).all()
    assert (cells[:, x > 18] == -1).all()  # sqrt(0.5 * 400 * 1.5) = 17.3
    assert (cells[np.abs(y)[:, None] > x * 240 / 400 * 1.03] == -1).all()
    assert (cells[:, x < 2] == -1).all()  # below the image


@pytest.mark.parametrize(("pitch", "above"), [(4.0, True), (0.0, True), (-12.0, True), (60.0, False)])
def test_the_horizon_within_and_above_the_image(pitch, above):
    ground = Ground(DEVICE, pinhole(96, 72, 80.0), mounted(1.5, pitch), CAMVID, GridOptions(max_footprint=50.0))
    rows = np.isfinite(ground.ground_xy).all(2).all(1)
    horizon = 35.5 - 80 * np.tan(np.radians(pitch)) if above else -1
    assert rows.tolist() == [row > horizon for row in range(72)]
    cells = sight_of(ground, frame_of(np.full((72, 96), IDS["road"]))).grid.cells
    assert (cells == 0).any()
    assert set(np.unique(cells)) <= {0, -1}


@pytest.mark.parametrize(("pitch", "yaw"), [(-30.0, 0.0), (-90.0, 0.0), (5.0, 180.0), (60.0, 170.0)])
def test_a_camera_that_sees_no_ground_of_the_grid(pitch, yaw):
    with pytest.raises(BadCalibration, match=r"pitch: .*the camera sees no ground within 0.0 to 40.0 m ahead"):
        Ground(DEVICE, pinhole(96, 72, 80.0), mounted(1.5, pitch, 0, yaw), CAMVID)


def test_a_camera_that_looks_back():
    options = GridOptions(grid_x_min=-40.0, grid_x_max=0.0)
    ground = Ground(DEVICE, pinhole(96, 72, 80.0), mounted(1.5, 10, 0, 180), CAMVID, options)
    free = sight_of(ground, frame_of(np.full((72, 96), IDS["road"]))).free_space
    ahead = 80 * np.cos(np.radians(10)) - 35.5 * np.sin(np.radians(10))  # of the lower corners
    aside = np.degrees(np.arctan(47.5 / ahead))
    assert np.degrees(free.angles[[0, -1]]) == pytest.approx([180 - aside, 180 + aside], abs=0.1)
    assert (free.ranges[1:-1] > 3).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grid_resolution", 0.0),
        ("grid_resolution", float("nan")),
        ("grid_resolution", 0.01),
        ("grid_x_max", 0.1),
        ("grid_x_max", float("inf")),
        ("grid_half_width", -1.0),
        ("grid_margin", -0.1),
        ("max_footprint", 0.0),
        ("min_confidence", 1.5),
        ("free_space_bearings", 0),
        ("pitch_sigma", -1.0),
    ],
)
def test_bad_options_name_the_parameter(field, value):
    with pytest.raises(UserError, match=rf"^{field} {value}: .*expected: "):
        GridOptions(**{field: value})


def test_the_grid_covers_what_was_asked_for():
    assert GridOptions(0.2, 0.0, 0.6, 0.3).shape == (3, 3)
    assert GridOptions(0.5, -1.0, 1.2, 0.6).shape == (3, 5)


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(ValueError, match="frame of 4x4; expected: 6x6, the camera's"):
        sight_of(from_above(), frame_of(np.zeros((4, 4))))


# ---- kernels against loops ----


def noise(rng, shape):
    """Patches of every class, some of them instances, some not sure."""
    coarse = rng.integers(0, len(CAMVID) + 1, (-(-shape[0] // 4), -(-shape[1] // 5)))
    classes = np.kron(coarse, np.ones((4, 5), int))[: shape[0], : shape[1]]
    classes = np.where(rng.random(shape) < 0.05, IDS["road"], classes)
    classes = np.where(classes == len(CAMVID), UNLABELLED, classes).astype(np.uint8)
    is_thing = CAMVID.table("thing")[classes]
    instances = np.where(is_thing, 1 + classes + 20 * (np.indices(shape)[1] // 10), 0).astype(np.uint16)
    confidence = np.where(classes == UNLABELLED, 0, rng.choice([100, 127, 128, 255], shape)).astype(np.uint8)
    return PanopticFrame.from_maps(classes, instances, confidence)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.3, 4),
    st.floats(-10, 90),
    st.floats(-180, 180),
    st.floats(-180, 180),
    st.sampled_from(sorted(LENSES)),
    st.sampled_from([0.0, 0.7]),
)
def test_kernels_do_what_the_loops_do(seed, height, pitch, roll, yaw, model, margin):
    rng = np.random.default_rng(seed)
    camera = pinhole(40, 30, 35.0, model, LENSES[model])
    options = GridOptions(0.5, -8.0, 8.0, 8.0, margin, max_footprint=3.0, free_space_bearings=20)
    mounting = mounted(height, pitch, roll, yaw, *rng.normal(size=2))
    frame, connected = noise(rng, (30, 40)), rng.choice([0, 255], (30, 40)).astype(np.uint8)
    for device in (DEVICE, ONE_BY_ONE):
        try:
            ground = Ground(device, camera, mounting, CAMVID, options)
        except BadCalibration:
            return
        sight = ground(frame, connected)
        np.testing.assert_array_equal(sight.sights, oracle.look(ground, frame, connected, CAMVID))
        np.testing.assert_array_equal(sight.grid.cells, oracle.grid(ground, frame, sight.sights))
        np.testing.assert_array_equal(sight.points, oracle.points(ground, sight.sights))
        ranges, ends = oracle.free_space(ground, sight.sights)
        np.testing.assert_array_equal(sight.free_space.ranges, ranges)
        np.testing.assert_array_equal(sight.free_space.ends, ends)


# ---- scenes whose truth is exact ----


def street(seed):
    """Four cars, a pedestrian and a pole on a road between buildings."""
    rng = np.random.default_rng(seed)
    cars = [
        Box("car", x + rng.uniform(-1, 1), y + rng.uniform(-0.1, 0.1), 4.2, 1.8, 1.5, rng.uniform(-0.1, 0.1), id)
        for id, (x, y) in enumerate([(7, -3.0), (12, 2.9), (18, -3.1), (16, 0.5)], 1)
    ]
    return Scene(
        CAMVID,
        (
            *cars,
            Box("pedestrian", rng.uniform(6, 15), rng.uniform(-1.5, 1.5), 0.4, 0.5, 1.75, 0, 9),
            Box("pole", 10, 5, 0.15, 0.15, 5),
            *(Box("building", 20, side, 30, 6, 8) for side in (12, -12)),
        ),
        half_road=5.0,
        bend=rng.uniform(-0.003, 0.003),
    )


CAMERAS = {
    "480x360": pinhole(distortion=[-0.1, 0.02, 0, 0, 0]),
    "560x420": pinhole(560, 420, 420.0, "rational_polynomial", LENSES["rational_polynomial"]),
    "fisheye": pinhole(560, 420, 300.0, "equidistant", LENSES["equidistant"]),
}
MOUNTINGS = {
    "low": mounted(1.2, 0.0),
    "rolled": mounted(1.5, 4.0, 3.0, -4.0, 1.5, 0.2),
    "high": mounted(2.5, 10.0, -3.0),
}


@functools.cache
def ground_of(camera, mounting):
    return Ground(DEVICE, CAMERAS[camera], MOUNTINGS[mounting], CAMVID)


def middles_of(ground):
    """Of the cells, float (cells, 2)."""
    options = ground.options
    rows, columns = options.shape
    x = options.grid_x_min + (np.arange(columns) + 0.5) * options.grid_resolution
    y = (np.arange(rows) + 0.5) * options.grid_resolution - options.grid_half_width
    return np.array([(a, b) for b in y for a in x])


@pytest.mark.parametrize(
    ("camera", "mounting", "seed"),
    [
        ("480x360", "low", 0),
        ("480x360", "rolled", 1),
        ("480x360", "high", 2),
        ("560x420", "low", 3),
        ("fisheye", "rolled", 0),
    ],
)
def test_the_grid_and_the_objects_from_true_masks(camera, mounting, seed):
    ground, scene = ground_of(camera, mounting), street(seed)
    place = ground.mounting.translation[:2]
    frame = scene.frame(ground.camera, ground.mounting)
    sight = sight_of(ground, frame)
    middles = middles_of(ground)
    within = np.hypot(*middles.T) <= 25
    truth = scene.free(ground.camera, ground.mounting, middles) & within
    found = (sight.grid.cells.ravel() == 0) & within
    assert truth.sum() > 1000
    assert (truth & found).sum() / (truth | found).sum() >= 0.975

    objects = grounded_objects(ground, frame, sight.sights)
    errors, sigmas = [], []
    for box in scene.boxes:
        if box.id in objects:
            true = np.hypot(*(box.nearest(place) - place))
            errors.append(np.hypot(*(np.array(objects[box.id].position_xy) - place)) - true)
            sigmas.append(objects[box.id].sigma)
            if 5 <= true <= 30:
                assert abs(errors[-1]) < 0.03 * true
    assert len(errors) >= 4
    assert (np.abs(errors) < 3 * np.array(sigmas)).all()


def test_what_is_hidden_is_not_said_to_be_free():
    """A wall across the road: all cells behind it are unknown, and those along its foot occupied."""
    ground, scene = ground_of("480x360", "low"), Scene(CAMVID, (Box("building", 12, 0, 1.0, 60, 4),))
    cells = sight_of(ground, scene.frame(ground.camera, ground.mounting)).grid.cells
    assert (cells[:, 60:] == -1).all()  # from 12 m
    middle = cells[73:77]
    assert (middle[:, 57] == 100).all()  # 11.4 to 11.6 m
    assert (middle[:, 30:56] == 0).all()


def test_a_pole_thinner_than_a_cell_is_not_lost():
    ground = ground_of("480x360", "low")
    for x, y in ((6.0, 0.0), (8.1, 0.7), (11.05, -1.05)):
        scene = Scene(CAMVID, (Box("pole", x, y, 0.06, 0.06, 3),))
        cells = sight_of(ground, scene.frame(ground.camera, ground.mounting)).grid.cells
        occupied = np.argwhere(cells[25:125] == 100) * 0.2 + (25 * 0.2 - 15 + 0.1, 0.1)
        on_road = occupied[np.abs(occupied[:, 0]) < 3.5]
        assert len(on_road) > 0
        assert np.abs(on_road - (y, x)).max() < 0.5


def test_a_sign_above_the_camera_covers_no_ground():
    ground = ground_of("480x360", "rolled")
    plain, under_a_sign = (
        sight_of(ground, Scene(CAMVID, boxes).frame(ground.camera, ground.mounting))
        for boxes in ((), (Box("sign", 12, 0, 0.2, 3, 1, bottom=4.0),))
    )
    assert (under_a_sign.sights == BODY).sum() > 100
    np.testing.assert_array_equal(under_a_sign.grid.cells, plain.grid.cells)


def test_free_space_from_true_masks():
    """Straight ahead there is a wall; to the sides the kerb."""
    ground, scene = ground_of("480x360", "high"), Scene(CAMVID, (Box("building", 20.5, 0, 1.0, 60, 4),), half_road=4.0)
    free = sight_of(ground, scene.frame(ground.camera, ground.mounting)).free_space
    kerb = 4 / np.abs(np.sin(free.angles))
    wall = 20 / np.cos(free.angles)
    error = (free.ranges / np.minimum(kerb, wall) - 1)[free.ends != NO_GROUND]  # the outer ones leave the view before
    assert len(error) > 150
    assert np.median(np.abs(error)) < 0.01
    assert np.abs(error).max() < 0.04
    assert set(free.ends[kerb < 0.9 * wall].tolist()) == {BLOCKED, NO_GROUND}
    assert set(free.ends[kerb > 1.1 * wall].tolist()) == {FOOT}


def test_a_camera_that_is_turned_sees_the_ground_turned():
    camera, frame = pinhole(96, 72, 80.0), noise(np.random.default_rng(1), (72, 96))
    options = GridOptions(grid_x_min=-40.0)
    mountings = (mounted(1.5, 14.0, 2.0, yaw) for yaw in (0, 90))
    ahead, left = (sight_of(Ground(DEVICE, camera, each, CAMVID, options), frame).points for each in mountings)
    np.testing.assert_allclose(left, np.stack([-ahead[..., 1], ahead[..., 0], ahead[..., 2]], 2), atol=1e-4)
