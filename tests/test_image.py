import numpy as np
import pytest

from perception_node.errors import BadImage
from perception_node.image import ENCODINGS, CameraImage


def test_a_bgr_array_is_not_copied():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = CameraImage.from_bgr(pixels)
    assert (image.height, image.width, image.step, image.encoding) == (2, 4, 12, "bgr8")
    assert np.shares_memory(image.data, pixels)
    assert np.shares_memory(image.bgr(), pixels)
    np.testing.assert_array_equal(image.bgr(), pixels)


def test_a_part_of_an_array_is_an_image_too():
    part = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)[1:3, ::-2]
    np.testing.assert_array_equal(CameraImage.from_bgr(part).bgr(), part)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pixels_are_uint8_bgr(encoding):
    row = 4 * ENCODINGS[encoding].channels * ENCODINGS[encoding].depth
    image = CameraImage(np.full(2 * (row + 3), 50, np.uint8), 2, 4, row + 3, encoding)
    assert (image.bgr().dtype, image.bgr().shape) == (np.uint8, (2, 4, 3))


def test_the_data_cannot_be_changed_through_the_pixels():
    pixels = CameraImage.from_bgr(np.zeros((2, 4, 3), np.uint8)).bgr()
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 1


@pytest.mark.parametrize(
    ("pixels", "given"),
    [
        (None, "NoneType"),  # what cv2.imread says of a file that is none
        (np.zeros((2, 4, 3)), r"float64 \(2, 4, 3\)"),
        (np.zeros((2, 4), np.uint8), r"uint8 \(2, 4\)"),
        (np.zeros((2, 4, 4), np.uint8), r"uint8 \(2, 4, 4\)"),
        (np.zeros((1, 2, 4, 3), np.uint8), r"uint8 \(1, 2, 4, 3\)"),
    ],
)
def test_other_arrays_are_none(pixels, given):
    with pytest.raises(ValueError, match=rf"image: {given}; expected: uint8 \(H, W, 3\), BGR"):
        CameraImage.from_bgr(pixels)


@pytest.mark.parametrize(("shape", "field"), [((0, 4, 3), "height"), ((4, 0, 3), "width")])
def test_an_image_has_pixels(shape, field):
    with pytest.raises(BadImage, match=f"^{field}: "):
        CameraImage.from_bgr(np.zeros(shape, np.uint8))
