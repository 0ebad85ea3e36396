import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import preprocess as oracle

from perception_node.device import open_device
from perception_node.image import ENCODINGS, CameraImage
from perception_node.model import InputSpec
from perception_node.preprocess import Preprocess, fit, taps

DEVICE = open_device("cpu", 2)
ONE_BY_ONE = open_device("cpu", 2)
ONE_BY_ONE.pixels_per_thread = 1  # as on a GPU
DEVICES = pytest.mark.parametrize("device", [DEVICE, ONE_BY_ONE], ids=["runs", "pixels"])


def spec(**changes):
    defaults = {
        "tensor": "image",
        "size_hw": (2, 4),
        "color": "bgr",
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
        "resize": "letterbox",
    }
    return InputSpec(**{**defaults, **changes})


def preprocess(image, spec, device=DEVICE, dtype=np.float32):
    """Of a camera's image or a BGR array."""
    image = image if isinstance(image, CameraImage) else CameraImage.from_bgr(image)
    return Preprocess(device, spec, dtype)(image)


def camera_image(encoding, height, width, seed=0, padding=0, is_bigendian=False):
    """Noise."""
    step = width * ENCODINGS[encoding].channels * ENCODINGS[encoding].depth + padding
    data = np.random.default_rng(seed).integers(0, 256, height * step, dtype=np.uint8)
    return CameraImage(data, height, width, step, encoding, is_bigendian)


# ---- geometry and tables ----


@pytest.mark.parametrize(
    ("image_hw", "resize", "scale_yx"),
    [
        ((4, 8), "letterbox", (2, 2)),
        ((2, 8), "letterbox", (2, 2)),
        ((4, 4), "letterbox", (2, 2)),
        ((4, 4), "stretch", (2, 1)),
        ((1, 1), "stretch", (0.5, 0.25)),
        ((1, 1), "letterbox", (0.5, 0.5)),
    ],
)
def test_geometry(image_hw, resize, scale_yx):
    assert fit(image_hw, (2, 4), resize).scale_yx == scale_yx


def test_a_letterboxed_image_fills_whole_input_pixels():
    """374 rows shrink to 145, not to 144.5: the way back is by the same factor."""
    assert fit((374, 1242), (360, 480), "letterbox").scale_yx == (374 / 145, 1242 / 480)


@pytest.mark.parametrize(
    ("samples", "pixels", "first", "weight"),
    [
        (3, 3, [0, 1, 2], [[1, 1, 1]]),
        (4, 2, [0, 2], [[0.5, 0.5]] * 2),
        (3, 2, [0, 1], [[43691 / 65536, 21845 / 65536], [21845 / 65536, 43691 / 65536]]),  # thirds
        (2, 4, [0, 0, 0, 0], [[1, 0.75, 0.25, 0], [0, 0.25, 0.75, 1]]),
        (1, 3, [0, 0, 0], [[1, 1, 1]]),
        (3, 1, [0], [[21845 / 65536], [21846 / 65536], [21845 / 65536]]),
    ],
)
def test_taps(samples, pixels, first, weight):
    got_first, got_weight = taps(samples, pixels)
    assert (got_first.dtype, got_weight.dtype) == (np.int32, np.float32)
    assert got_first.tolist() == first
    np.testing.assert_array_equal(got_weight, weight)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_taps_lie_in_the_image_and_their_weights_add_up_to_one(samples, pixels):
    first, weight = taps(samples, pixels)
    assert first.min() >= 0
    assert first.max() + len(weight) <= samples
    assert (weight >= 0).all()
    np.testing.assert_array_equal(weight.sum(axis=0, dtype=np.float64), np.ones(pixels))
    assert len(weight) <= max(2, samples / pixels + 2)


# ---- by hand ----


def test_same_size_is_only_normalised():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor, geometry = preprocess(image, spec(mean=(1, 2, 3), std=(2, 4, 8)))
    assert (tensor.shape, tensor.dtype, geometry.scale_yx) == ((1, 3, 2, 4), np.float32, (1, 1))
    np.testing.assert_allclose(tensor[0, :, 1, 3], [(21 - 1) / 2, (22 - 2) / 4, (23 - 3) / 8], rtol=1e-6)


def test_rgb_networks_get_rgb():
    image = np.zeros((2, 4, 3), np.uint8)
    image[..., 0] = 200  # blue, in OpenCV's order
    tensor, _ = preprocess(image, spec(color="rgb", mean=(0, 0, 100), std=(1, 1, 50)))
    np.testing.assert_allclose(tensor[0, :, 0, 0], [0, 0, 2])


def test_letterbox_pads_right_or_below_with_the_mean():
    tensor, _ = preprocess(np.full((4, 4, 3), 9, np.uint8), spec(mean=(5, 5, 5)))
    np.testing.assert_allclose(tensor[0, 0], [[4, 4, 0, 0]] * 2)
    tensor, _ = preprocess(np.full((2, 8, 3), 9, np.uint8), spec(mean=(5, 5, 5)))
    np.testing.assert_allclose(tensor[0, 0], [[4] * 4, [0] * 4])


@DEVICES
@pytest.mark.parametrize("image_hw", [(1, 1), (1, 500), (500, 1), (7, 13), (3, 5000)])
def test_any_size_fits(image_hw, device):
    """And what is grey everywhere stays that grey."""
    for resize in ("letterbox", "stretch"):
        tensor, _ = preprocess(np.full((*image_hw, 3), 50, np.uint8), spec(resize=resize), device)
        assert tensor.max() == 50
        assert set(np.unique(tensor)) <= {0, 50}


def test_shrinking_averages_areas():
    columns = np.array([0, 0, 0, 200, 100, 100, 0, 0], np.uint8)  # four of each become one
    tensor, _ = preprocess(np.tile(columns[None, :, None], (8, 1, 3)), spec(size_hw=(2, 2)))
    assert tensor[0, 0].tolist() == [[50, 50], [50, 50]]


def test_growing_interpolates():
    image = np.tile(np.array([0, 100], np.uint8)[None, :, None], (1, 1, 3))
    tensor, _ = preprocess(image, spec(size_hw=(2, 4)))
    assert tensor[0, 0].tolist() == [[0, 25, 75, 100]] * 2


def test_one_axis_can_shrink_and_the_other_grow():
    image = np.array([[0, 0, 80, 80], [40, 40, 40, 40]], np.uint8)[..., None].repeat(3, axis=2)
    tensor, _ = preprocess(image, spec(size_hw=(4, 2), resize="stretch"))
    assert tensor[0, 0].tolist() == [[0, 80], [10, 70], [30, 50], [40, 40]]


def test_16_bit_samples_count_by_their_high_byte():
    mosaic = np.full((2, 4), 0x6401, np.uint16)
    for order, is_bigendian in (("<u2", False), (">u2", True)):
        image = CameraImage(mosaic.astype(order).reshape(-1).view(np.uint8), 2, 4, 8, "bayer_rggb16", is_bigendian)
        assert (preprocess(image, spec())[0] == 0x64).all()


def test_a_mosaic_by_hand():
    """R G R G    Green at the first pixel: beside it 20, below 30, both mirrored. Blue: 40 on all four sides.
    G B G B"""
    image = CameraImage(np.array([10, 20, 10, 20, 30, 40, 30, 40], np.uint8), 2, 4, 4, "bayer_rggb8")
    tensor, _ = preprocess(image, spec(color="rgb"))
    assert tensor[0, :, 0, 0].tolist() == [10, 25, 40]
    assert tensor[0, :, 0, 1].tolist() == [10, 20, 40]
    assert tensor[0, :, 1, 2].tolist() == [10, 30, 40]


def test_what_the_last_image_left_is_not_seen():
    """Size, encoding and padding change from one image to the next."""
    images = [
        camera_image("bgr8", 4, 4),
        camera_image("bgr8", 2, 8, seed=1),
        camera_image("uyvy", 4, 4, seed=2),
        camera_image("uyvy", 4, 4, seed=3),
        camera_image("uyvy", 4, 4, seed=4, padding=3),
    ]
    one, tensor = Preprocess(DEVICE, spec()), np.full((1, 3, *spec().size_hw), np.nan, np.float32)
    for image in images:
        assert one(image, tensor)[0] is tensor
        np.testing.assert_array_equal(tensor, oracle.preprocess(image, spec()))


# ---- beside OpenCV ----

COLOURED = [name for name in ENCODINGS if not name.startswith("bayer") and ENCODINGS[name].channels != 2]


def pixels_of(tensor):
    return tensor[0].transpose(1, 2, 0)


@pytest.mark.parametrize("encoding", COLOURED)
def test_colours_are_exact(encoding):
    image = camera_image(encoding, 31, 57, padding=5)
    tensor, _ = preprocess(image, spec(size_hw=(31, 57)))
    np.testing.assert_array_equal(pixels_of(tensor), image.bgr())


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in COLOURED])
def test_conversions_are_opencvs_within_a_grey_level(encoding):
    image = camera_image(encoding, 40, 300, padding=5)
    tensor, _ = preprocess(image, spec(size_hw=(40, 300)))
    inner = np.s_[1:-1, 1:-1] if encoding.startswith("bayer") else np.s_[:]  # OpenCV repeats what is beside an edge
    np.testing.assert_allclose(pixels_of(tensor)[inner], image.bgr()[inner].astype(int), atol=1)


def test_every_yuv_is_opencvs_within_a_grey_level():
    levels = np.uint8([*range(0, 256, 5), 1, 15, 16, 17, 127, 128, 129, 234, 235, 236, 254])
    u, y, v = np.meshgrid(levels, levels, levels, indexing="ij")
    rows = np.stack([u, y, v, y[:, ::-1]], axis=-1).reshape(len(levels), -1)
    image = CameraImage(rows.reshape(-1), len(levels), rows.shape[1] // 2, rows.shape[1], "uyvy")
    tensor, _ = preprocess(image, spec(size_hw=(image.height, image.width)))
    np.testing.assert_allclose(pixels_of(tensor), image.bgr().astype(int), atol=1)


@pytest.mark.parametrize(
    ("image_hw", "size_hw", "interpolation"),
    [
        ((60, 90), (30, 45), cv2.INTER_AREA),
        ((97, 203), (31, 64), cv2.INTER_AREA),
        ((31, 64), (97, 203), cv2.INTER_LINEAR),
        ((33, 20), (34, 300), cv2.INTER_LINEAR),
    ],
)
def test_resizing_is_opencvs_within_a_grey_level(image_hw, size_hw, interpolation):
    image = camera_image("bgr8", *image_hw)
    tensor, _ = preprocess(image, spec(size_hw=size_hw, resize="stretch"))
    expected = cv2.resize(image.bgr(), size_hw[::-1], interpolation=interpolation).astype(int)
    np.testing.assert_allclose(pixels_of(tensor), expected, atol=1)


# ---- beside the oracle, bit for bit ----

REAL = {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}


def check(image, spec, dtype):
    expected = oracle.preprocess(image, spec, dtype)
    for device in (DEVICE, ONE_BY_ONE):
        tensor, _ = preprocess(image, spec, device, dtype)
        assert tensor.dtype == dtype
        np.testing.assert_array_equal(tensor, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding(encoding, dtype):
    for (image_hw, size_hw), color in zip(
        (((2, 2), (2, 2)), ((9, 34), (9, 34)), ((11, 300), (7, 140)), ((6, 38), (13, 201))),
        itertools.cycle(("bgr", "rgb")),
        strict=False,
    ):
        image = camera_image(encoding, *image_hw, padding=3, is_bigendian=color == "rgb")
        check(image, spec(size_hw=size_hw, color=color, resize="stretch", **REAL), dtype)


@pytest.mark.parametrize("encoding", ["rgba8", "uyvy", "bayer_gbrg8"])
@pytest.mark.parametrize("width", [1024, 1026, 2050, 3000])
def test_windows(encoding, width):
    """A run of pixels can look at more columns than it can hold at a time; so can a single one."""
    image = camera_image(encoding, 3, width)
    for pixels in (1, 2, 3, 70, width):
        check(image, spec(size_hw=(2, pixels), resize="stretch", **REAL), np.float32)


def test_numbers_that_half_cannot_hold():
    image = CameraImage.from_bgr(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    check(image, spec(std=(1e-4, 1e-3, 1e7)), np.float16)


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=150)
@given(
    encoding=st.sampled_from(list(ENCODINGS)),
    image_hw=st.tuples(sides, sides),
    size_hw=st.tuples(sides, sides),
    resize=st.sampled_from(["stretch", "letterbox"]),
    color=st.sampled_from(["bgr", "rgb"]),
    dtype=st.sampled_from([np.float32, np.float16]),
    padding=st.sampled_from([0, 1, 64]),
    is_bigendian=st.booleans(),
    seed=st.integers(0, 9),
)
def test_anything(encoding, image_hw, size_hw, resize, color, dtype, padding, is_bigendian, seed):
    height, width = image_hw
    if encoding.startswith("bayer"):
        height, width = max(height, 2), max(width, 2)
    if ENCODINGS[encoding].channels == 2:
        width += width % 2
    image = camera_image(encoding, height, width, seed, padding, is_bigendian)
    check(image, spec(size_hw=size_hw, resize=resize, color=color, **REAL), dtype)
