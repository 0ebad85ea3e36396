import numpy as np
import pytest

from perception_node.model import InputSpec
from perception_node.preprocess import fit, preprocess


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


def test_letterbox_pads_right_or_below_with_the_mean():
    tensor, _ = preprocess(np.full((4, 4, 3), 9, np.uint8), spec(mean=(5, 5, 5)))
    np.testing.assert_allclose(tensor[0, 0], [[4, 4, 0, 0]] * 2)


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 500), (500, 1), (7, 13)])
def test_any_size_fits(image_hw):
    for resize in ("letterbox", "stretch"):
        tensor, _ = preprocess(np.full((*image_hw, 3), 50, np.uint8), spec(resize=resize))
        assert tensor.max() == 50


def test_shrinking_averages_areas():
    columns = np.array([0, 0, 0, 200, 100, 100, 0, 0], np.uint8)  # four of each become one
    tensor, _ = preprocess(np.tile(columns[None, :, None], (8, 1, 3)), spec(size_hw=(2, 2)))
    assert tensor[0, 0].tolist() == [[50, 50], [50, 50]]


def test_growing_interpolates():
    image = np.tile(np.array([0, 100], np.uint8)[None, :, None], (1, 1, 3))
    tensor, _ = preprocess(image, spec(size_hw=(2, 4)))
    assert tensor[0, 0].tolist() == [[0, 25, 75, 100]] * 2


def test_a_letterboxed_image_fills_whole_input_pixels():
    """374 rows shrink to 145, not to 144.5: the way back is by the same factor."""
    assert fit((374, 1242), (360, 480), "letterbox").scale_yx == (374 / 145, 1242 / 480)
