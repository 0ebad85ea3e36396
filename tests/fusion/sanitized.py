"""A program: every kernel on the CPU device, compiled with a sanitizer: images, frames of every family, tracking.

test_sanitizers.py starts it in the environment that a sanitizer wants. Arguments: "guard", what lies between the arrays
of an allocation is made untouchable, too; "wrong", instead of frames a kernel does what the sanitizer has to see.
"""

import ctypes
import functools
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from oracles import noise
from oracles.families import FAMILIES

from perception_node.association import InstanceMaps, motions_of, table
from perception_node.device.cpu import CpuDevice
from perception_node.image import ENCODINGS, CameraImage
from perception_node.model import InputSpec
from perception_node.preprocess import Preprocess, fit

TINY = Path(__file__).parents[1] / "device" / "tiny.cu"
GAP = 256  # arrays within an allocation begin at multiples of it


class GuardedDevice(CpuDevice):
    """AddressSanitizer knows where allocations end; this tells it where the arrays within them do."""

    def __init__(self):
        super().__init__(threads=1)
        self._gaps = {}  # address of an allocation -> the gaps in it
        sanitizer = ctypes.CDLL(None)
        self._close, self._open = (sanitizer[f"__asan_{what}_memory_region"] for what in ("poison", "unpoison"))

    def view(self, array, offset, shape, dtype):
        view = super().view(array, offset, shape, dtype)
        begin = array.ctypes.data + offset + view.nbytes
        end = min(array.ctypes.data + -(-(offset + view.nbytes) // GAP) * GAP, array.ctypes.data + array.nbytes)
        self._gaps.setdefault(array.ctypes.data, []).append((begin, end - begin))
        self._guard(self._close, array)
        return view

    def zero(self, array):
        self._guard(self._open, array)
        super().zero(array)
        self._guard(self._close, array)

    def read(self, array):
        self._guard(self._open, array)
        try:
            return super().read(array)
        finally:
            self._guard(self._close, array)

    def _guard(self, change, array):
        for begin, size in self._gaps.get(array.ctypes.data, ()):
            change(ctypes.c_void_p(begin), ctypes.c_size_t(size))


LAYOUTS = ((11, 9), 4, (43, 37), np.float32), ((7, 13), 2, (14, 25), np.float16)
"""Output height and width, stride, image height and width, type of the logits: odd, so that rows have rests."""


def frames(make_device: Callable[[], CpuDevice]) -> None:
    for name, mode in noise.MODES.items():
        for output_hw, stride, image_hw, dtype in LAYOUTS:
            geometry = fit(image_hw, (output_hw[0] * stride, output_hw[1] * stride), "stretch")
            device = make_device()  # of its own: gaps go by address
            fusion = FAMILIES[mode.family].fusion(device, mode.taxonomy, stride, **mode.options)
            for seed in (0, 1):
                outputs = mode.outputs(np.random.default_rng(seed), output_hw, geometry, stride, dtype)
                if seed:  # and what networks should not, but can say
                    for array in outputs.values():
                        if array.dtype == dtype and array.size > 3:
                            array.flat[:3] = np.nan, np.inf, -np.inf
                fusion(outputs, geometry)
        print(name, flush=True)


IMAGES = {
    "bgr8": ((13, 21), (13, 301), (2, 3000), (40, 20)),
    "mono8": ((1, 1), (1, 500), (500, 1)),
    "uyvy": ((13, 22), (2, 2), (5, 2100), (1, 1030)),
    "bayer_gbrg8": ((13, 21), (2, 2), (3, 2101), (50, 3)),
    "bayer_rggb16": ((13, 1025), (3, 3)),
}
"""Encoding -> heights and widths: of one pixel, with a rest beyond the last vector, wider than what a run holds."""


def inputs(make_device: Callable[[], CpuDevice]) -> None:
    for encoding, sizes in IMAGES.items():
        for (height, width), pixels_per_thread in itertools.product(sizes, (128, 1)):
            step = width * ENCODINGS[encoding].channels * ENCODINGS[encoding].depth
            data = np.ones(height * step, np.uint8)
            device = make_device()
            device.pixels_per_thread = pixels_per_thread
            for size_hw in ((13, 21), (1, 1), (3, 260)):
                for resize in ("stretch", "letterbox"):
                    spec = InputSpec("image", size_hw, "rgb", (0, 0, 0), (1, 1, 1), resize)
                    preprocess = Preprocess(device, spec, np.float16 if encoding == "mono8" else np.float32)
                    preprocess(CameraImage(data, height, width, step, encoding, is_bigendian=True))
        print(encoding, flush=True)


TRACKING = "tracking"


def instance_maps(make_device: Callable[[], CpuDevice]) -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (13, 257), (30, 40)):
        maps = InstanceMaps(make_device())
        before, now = (rng.choice(np.array([0, 1, 2, 65535], np.uint16), shape) for _ in range(2))
        places = table(np.uint16, [1, 2, 65535], [1, 2, 3])
        motions, _ = motions_of(*rng.uniform(1, 40, (2, 3, 4)))
        maps.joint_histogram(before, places, motions, now, places, 4)
        maps.relabel(now, np.zeros(shape, np.uint8), places, table(np.uint8, [1, 2, 65535], 7))
    print(TRACKING, flush=True)


def wrong(device: CpuDevice) -> None:
    """Several blocks write the same sums, and one more than there is room for."""
    out = device.view(device.empty(512, np.uint8), 0, 60, np.int32)
    device.kernels(TINY).each("running_sum", 200, np.ones(61, np.int32), 61, out)


def main(arguments: list[str]) -> None:
    del os.environ["LD_PRELOAD"]  # meant for this process, not for the compiler
    make_device = GuardedDevice if "guard" in arguments else functools.partial(CpuDevice, 1)
    if "wrong" in arguments:
        wrong(make_device())
    else:
        inputs(make_device)
        frames(make_device)
        instance_maps(make_device)


if __name__ == "__main__":
    main(sys.argv[1:])
