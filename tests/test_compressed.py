"""What is refused before it is decoded, and what is taken."""

import struct

import cv2
import numpy as np
import pytest
from mad_camera import BOMB_SIDE, jpeg_bomb, png_bomb

from perception_node.compressed import MAX_PIXELS, decode
from perception_node.errors import BadImage

PIXELS = np.full((6, 10, 3), 90, np.uint8)


def encoded(suffix, pixels=PIXELS, *options):
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


THUMBNAIL = encoded(".jpg", np.zeros((99, 99, 3), np.uint8))


def decoded(data):
    return decode(np.frombuffer(data, np.uint8)).bgr()


@pytest.mark.parametrize(
    "data",
    [
        encoded(".jpg"),
        encoded(".jpg", PIXELS, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encoded(".jpg", PIXELS[..., 0]),
        encoded(".png"),
        encoded(".png", PIXELS[..., 0].astype(np.uint16) * 257),
        encoded(".jpg") + bytes(5000),  # drivers fill their buffers up
        # In a segment before the image, after a byte that fills up, another whole one.
        b"\xff\xd8\xff\xff\xe1" + struct.pack(">H", 2 + len(THUMBNAIL)) + THUMBNAIL + encoded(".jpg")[2:],
    ],
    ids=["JPEG", "progressive", "grey", "PNG", "16 bits", "filled up", "thumbnail"],
)
def test_images_of_every_kind_are_decoded(data):
    pixels = decoded(data)
    assert pixels.shape == PIXELS.shape
    np.testing.assert_allclose(pixels, PIXELS, atol=2)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_is_cut_short_is_refused(suffix):
    whole = encoded(suffix, np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8))
    for length in (len(whole) - 1, len(whole) // 2):
        with pytest.raises(BadImage, match=rf"data: (JPEG|PNG) image of 99x99 pixels, cut short after {length} bytes"):
            decoded(whole[:length])


@pytest.mark.parametrize("bomb", [png_bomb, jpeg_bomb])
def test_a_small_file_that_says_it_is_huge_is_not_decoded(bomb, monkeypatch):
    monkeypatch.delattr("cv2.imdecode")
    size = f"{BOMB_SIDE}x{BOMB_SIDE}"
    with pytest.raises(BadImage, match=f"image of {size} pixels; {MAX_PIXELS} pixels are taken at most"):
        decoded(bomb())


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8\xff", encoded(".jpg")[:20], encoded(".png")[:20], encoded(".bmp"), bytes(99)]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(BadImage, match=rf"data: not a JPEG or PNG image \({len(data)} bytes\)"):
        decoded(data)


def test_every_part_of_an_image_may_be_damaged():
    """It is refused or, where the damage cannot be seen, decoded."""
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png"):
        whole = np.frombuffer(encoded(suffix), np.uint8)
        for _ in range(300):
            data = whole.copy()
            data[rng.integers(0, data.size, 3)] = rng.integers(0, 256, 3)
            try:
                pixels = decode(data).bgr()
            except BadImage:
                continue
            assert pixels.size <= 3 * MAX_PIXELS


def test_an_image_is_not_turned():
    """EXIF's orientation is for people who look at it; the calibration is for the camera's rows and columns."""
    # ITU T.81's segment APP1 with EXIF 2.3's header, one TIFF entry: tag 0x112, a short, once, 6 (turn right).
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + encoded(".jpg")[2:]
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (10, 6, 3)
    assert decoded(data).shape == (6, 10, 3)


MOSAIC = np.arange(24, dtype=np.uint8).reshape(4, 6)


@pytest.mark.parametrize("pixels", [MOSAIC, MOSAIC.astype(np.uint16) * 257])
def test_what_a_bayer_camera_gives_is_a_grey_image_with_its_encoding(pixels):
    encoding = f"bayer_rggb{8 * pixels.itemsize}"
    data = np.frombuffer(encoded(".png", pixels), np.uint8)
    image = decode(data, f"{encoding}; png compressed ")
    assert (image.encoding, image.height, image.width) == (encoding, 4, 6)
    np.testing.assert_array_equal(image.data.view(pixels.dtype).reshape(4, 6), pixels)
    other = f"bayer_rggb{24 - 8 * pixels.itemsize}"
    said = f"data: PNG image of 6x4 pixels of {8 * pixels.itemsize} bits a sample; its format says {other}"
    with pytest.raises(BadImage, match=said):
        decode(data, other)


def test_colours_that_were_made_of_a_mosaic_are_colours():
    assert decode(np.frombuffer(encoded(".jpg"), np.uint8), "bayer_grbg8; jpeg compressed bgr8").encoding == "bgr8"


def test_no_image_of_8k_is_too_large():
    assert MAX_PIXELS >= 7680 * 4320
