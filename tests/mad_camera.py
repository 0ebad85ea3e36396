"""What a camera sends that has gone mad: for tests, and for benchmarks/load.py."""

import itertools
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from perception_node.image import ENCODINGS
from perception_node.messages import MessageFactory

NAN, INFINITE = float("nan"), float("inf")
BOMB_SIDE = 20_000
"""Pixels to a side of an image that takes 1.2 GB, of which a few bytes tell."""


def mad_images(make: MessageFactory, seed: int = 0) -> Iterator[Any]:
    """sensor_msgs/Image without end: of every encoding, of sizes that change each time, and wrong in every field."""
    rng = random.Random(seed)
    for encoding in itertools.cycle(ENCODINGS):
        yield _stamped(make, _image(make, rng, encoding), rng)
        wrong = {
            "encoding": ("", "32FC1", "bgr16", "bayer_rggb12", "jpeg", "é\N{PILE OF POO}" * 9),
            "step": (0, 1, 2**32 - 1),
            "height": (0, 1, 2**32 - 1),
            "width": (0, 2**31, 2**32 - 1),
            "data": ((), (0,), range(256)),
        }
        field, values = rng.choice(list(wrong.items()))
        message = _image(make, rng, encoding)
        value = rng.choice(values)
        setattr(message, field, make.sequence(np.array(value, np.uint8)) if field == "data" else value)
        yield _stamped(make, message, rng)


def mad_pictures(make: MessageFactory, seed: int = 0) -> Iterator[Any]:
    """sensor_msgs/CompressedImage without end: cut short, overwritten, of other kinds, small ones that become huge."""
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    while True:
        pixels = numbers.integers(0, 256, (rng.randint(1, 99), rng.randint(1, 99), 3), np.uint8)
        kind = rng.choice((".jpg", ".png", ".bmp", ".webp"))
        whole = cv2.imencode(kind, pixels)[1].tobytes()
        overwritten = bytearray(whole)
        for _ in range(9):
            overwritten[rng.randrange(len(whole))] = rng.randrange(256)
        deep = cv2.imencode(".png", pixels[..., 0].astype(np.uint16) * 257)[1].tobytes()
        datas = whole, whole[: rng.randrange(len(whole))], bytes(overwritten), deep, b"", rng.randbytes(99)
        for data in (*datas, png_bomb(), jpeg_bomb()):
            message = make.message_class("sensor_msgs/msg/CompressedImage")(
                header=make.header(0, "camera"), format=rng.choice(("jpeg", "png", "", "h264")), data=_bytes(make, data)
            )
            yield _stamped(make, message, rng)


def mad_camera_infos(make: MessageFactory, seed: int = 0) -> Iterator[Any]:
    """sensor_msgs/CameraInfo without end, each another: no numbers, no lens, another size, another camera."""
    rng = random.Random(seed)
    camera_info = make.message_class("sensor_msgs/msg/CameraInfo")
    for wrong in itertools.cycle(
        (
            {"k": [NAN] * 9},
            {"k": [0.0] * 9},
            {"d": [INFINITE] * 5},
            {"d": [1e300] * 3},
            {"distortion_model": "odd"},
            {"p": [NAN] * 12},
            {"r": [2.0] * 9},
            {"width": 0},
            {"width": 2**32 - 1, "height": 1},
            {"binning_x": 2**32 - 1},
            {},
        )
    ):
        focal, width, height = rng.uniform(5, 50), rng.randint(1, 20), rng.randint(1, 20)
        right = {
            "width": width,
            "height": height,
            "distortion_model": "plumb_bob",
            "d": [0.0] * 5,
            "k": [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0],
        }
        yield camera_info(header=make.header(0, "camera"), **{**right, **wrong})


def png_bomb() -> bytes:
    """A PNG image of BOMB_SIDE pixels to a side, with as little as it takes to be believed."""

    def chunk(kind: bytes, data: bytes = b"") -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(BOMB_SIDE + 1) * 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND")


def jpeg_bomb() -> bytes:
    """A JPEG image that says it has BOMB_SIDE pixels to a side."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    frame = data.index(b"\xff\xc0")  # start of frame: length, precision, height, width (ITU T.81, B.2.2)
    data[frame + 5 : frame + 9] = struct.pack(">HH", BOMB_SIDE, BOMB_SIDE)
    return bytes(data)


def _image(make: MessageFactory, rng: random.Random, encoding: str) -> Any:
    """Right, but of a size of its own, with padded rows."""
    width, height = rng.choice(((1, 1), (2, 2), (1, 999), (998, 1), (rng.randint(1, 99), rng.randint(1, 99))))
    step = width * ENCODINGS[encoding].channels * ENCODINGS[encoding].depth + rng.randint(0, 9)
    return make.message_class("sensor_msgs/msg/Image")(
        header=make.header(0, "camera"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=rng.randint(0, 1),
        step=step,
        data=_bytes(make, rng.randbytes(step * height)),
    )


def _bytes(make: MessageFactory, data: bytes) -> Any:
    return make.sequence(np.frombuffer(data, np.uint8))


def _stamped(make: MessageFactory, message: Any, rng: random.Random) -> Any:
    """With a stamp that jumps, and a frame of its own."""
    time = make.message_class("builtin_interfaces/msg/Time")
    sec, nanosec = rng.choice((0, -(2**31), 2**31 - 1, rng.randint(0, 99))), rng.choice((0, 2**32 - 1))
    message.header.stamp, message.header.frame_id = time(sec=sec, nanosec=nanosec), rng.choice(("", "camera", "é" * 99))
    return message
