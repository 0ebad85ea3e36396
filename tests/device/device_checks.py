"""What every device does alike, as functions of a device: test_cpu.py and test_cuda.py run them.

As a program it runs them and those for the emulated driver alone, on that driver, and prints one line of JSON for each:
what went wrong, or null. test_cuda.py starts it so, since a process has one driver. Arguments: of how many parts it is
to run which, e.g. `0 2`.
"""

import contextlib
import ctypes
import functools
import itertools
import json
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from oracles import noise
from oracles import preprocess as preprocess_oracle
from oracles import tracking as tracking_oracle
from oracles.families import FAMILIES

from perception_node.association import InstanceMaps, motions_of, table
from perception_node.camera import Camera
from perception_node.device import NotRecordable, open_device
from perception_node.device.cuda import used_memory
from perception_node.ground import GridOptions, Ground
from perception_node.image import ENCODINGS, CameraImage
from perception_node.model import InputSpec
from perception_node.mounting import Mounting
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Preprocess, fit
from perception_node.taxonomy import builtin_taxonomy

TINY = Path(__file__).with_name("tiny.cu")
SMALL = np.dtype([(name, np.uint8) for name in "abc"])
SLICE = np.dtype([("values", np.uint64), ("count", np.int32)], align=True)

LAYOUTS = {
    "stride4": ((12, 21), 4, (48, 84), "stretch"),
    "odd": ((23, 17), 2, (61, 43), "letterbox"),
}
"""Output height and width, stride, image height and width, resizing: with tiles of 4 x 4 and 2 x 2 pixels."""


def check_what_is_uploaded_comes_back(device):
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nothing, struct = np.zeros((0, 3), np.uint8), np.array([(1, 2, 3)], SMALL)
    for host in (cube, cube.transpose(2, 0, 1), cube[:, ::2], nothing, struct, cube > 3):
        array = device.upload(host)
        assert (array.shape, array.dtype, array.nbytes) == (host.shape, host.dtype, host.nbytes)
        np.testing.assert_array_equal(device.download(array), host)


def check_a_view_is_a_part_of_the_array(device):
    memory = device.upload(np.arange(32, dtype=np.uint8))
    view = device.view(memory, 8, (2, 2), np.uint16)
    assert (view.shape, view.dtype, view.nbytes) == ((2, 2), np.uint16, 8)
    assert device.address(view) == device.address(memory) + 8
    np.testing.assert_array_equal(device.download(view), [[0x0908, 0x0B0A], [0x0D0C, 0x0F0E]])
    device.zero(view)
    np.testing.assert_array_equal(device.download(memory), [*range(8), *[0] * 8, *range(16, 32)])


def check_a_view_keeps_the_memory(device):
    view = device.view(device.upload(np.full(4, 7, np.uint8)), 0, 4, np.uint8)
    device.upload(np.zeros(4, np.uint8))  # would take the memory if it were free
    np.testing.assert_array_equal(device.download(view), [7] * 4)


def check_a_download_stays(device):
    array = device.upload(np.arange(4))
    first = device.download(array)
    part = first[1:]
    device.zero(array)
    second = device.download(array)
    np.testing.assert_array_equal(first, range(4))
    del first
    device.download(array)  # would take the memory that `part` lies in
    np.testing.assert_array_equal(part, [1, 2, 3])
    np.testing.assert_array_equal(second, [0] * 4)


def check_arguments_arrive(device):
    values = device.upload(np.array([10, 20, 30], np.int32))
    out = device.empty(10, np.float64)
    small, slice_ = np.array((1, 2, 3), SMALL), np.array((device.address(values), 3), SLICE)
    numbers = np.int8(-5), np.float64(1 / 3), np.int16(-300)
    kernels = device.kernels(TINY)
    kernels.each("show_arguments", 1, *numbers, small, slice_, 0.5, np.int64(-(2**40)), None, out)
    expected = [-5, 1 / 3, -300, 1, 2, 3, 30, 0.5, -(2**40), 1]
    np.testing.assert_array_equal(device.download(out), expected)
    kernels.each("show_arguments", 1, *numbers, small, slice_, 0.5, np.int64(-(2**40)), values, out)
    np.testing.assert_array_equal(device.download(out), [*expected[:-1], 0])


def check_each_item_is_visited_once(device):
    kernels = device.kernels(TINY)
    for items in (0, 1, 127, 128, 129, 5000):
        visits = device.upload(np.zeros(5001, np.int32))
        kernels.each("visit", items, visits, items)
        np.testing.assert_array_equal(device.download(visits), [1] * items + [0] * (5001 - items))


def check_kernels_run_in_order(device):
    kernels, array = device.kernels(TINY), device.upload(np.array([1, 2], np.float32))
    for _ in range(3):
        kernels.each("multiply", 2, array, 2)
    np.testing.assert_array_equal(device.download(array), [8, 16])
    device.zero(array)
    kernels.each("multiply", 2, array, 2)
    np.testing.assert_array_equal(device.download(array), [0, 0])


def check_defines_reach_the_source(device):
    array = device.upload(np.array([1], np.float32))
    device.kernels(TINY, FACTOR=5).each("multiply", 1, array, 1)
    device.kernels(TINY).each("multiply", 1, array, 1)
    np.testing.assert_array_equal(device.download(array), [10])


def check_a_block_shares_its_work(device):
    kernels = device.kernels(TINY)
    for items in (1, 31, 1024, 3001):
        values = np.random.default_rng(items).integers(-9, 9, items).astype(np.int32)
        out = device.empty(items, np.int32)
        kernels.block("running_sum", device.upload(values), items, out)
        np.testing.assert_array_equal(device.download(out), np.cumsum(values))


def check_atomics_add_up(device):
    values = np.random.default_rng(0).integers(0, 20, 4000).astype(np.int32)
    counts, bits, largest = (device.upload(np.zeros(*of)) for of in ((20, np.uint32), (1, np.uint32), (1, np.uint64)))
    device.kernels(TINY).each("histogram", 4000, device.upload(values), 4000, counts, bits, largest)
    np.testing.assert_array_equal(device.download(counts), np.bincount(values))
    assert device.download(bits)[0] == np.bitwise_or.reduce(1 << values)
    assert device.download(largest)[0] == int(values.max()) << 32 | int(np.flatnonzero(values == values.max())[-1])


def check_every_half_has_its_value(device):
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    out = device.empty(65536, np.float32)
    device.kernels(TINY).each("to_float", 65536, device.upload(halves), 65536, out)
    np.testing.assert_array_equal(device.download(out), halves.astype(np.float32))


def check_every_float_is_rounded_to_its_half(device):
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 20000, dtype=np.uint32).view(np.float32)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([bits, halves, between, np.float32([65519, 65520, 65536, np.inf])])
    values = np.concatenate([values, -values])
    out = device.empty(values.size, np.float16)
    device.kernels(TINY).each("to_half", values.size, device.upload(values), values.size, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(device.download(out).view(np.uint16), values.astype(np.float16).view(np.uint16))


def check_an_array_can_be_uploaded_into_again_before_the_first_copy_has_run(device):
    kernels, held = device.kernels(TINY), device.empty(5, np.float16)
    outs = []
    for number in range(4):
        host = np.full(5, number, np.float16)
        array = device.upload(host, into=held)
        assert (array.shape, array.dtype) == (held.shape, held.dtype)
        outs.append(device.empty(5, np.float32))
        kernels.each("to_float", 5, array, 5, outs[-1])
    for number, out in enumerate(outs):
        np.testing.assert_array_equal(device.download(out), [number] * 5)


def check_what_is_uploaded_into_an_array_has_its_size_and_type(device):
    for host in (np.zeros(4, np.uint8), np.zeros(5, np.int8), np.zeros((5, 1), np.uint8)):
        try:
            device.upload(host, into=device.empty(5, np.uint8))
        except ValueError as error:
            assert "does not fit into uint8 (5,)" in str(error)  # noqa: PT017, there is no pytest here
        else:
            raise AssertionError(host)


def check_products_are_rounded_before_they_are_added(device):
    a, b, c = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    c -= a * b  # nearly cancels: a fused multiply-add would show
    out = device.empty(1000, np.float32)
    device.kernels(TINY).each("multiply_add", 1000, *map(device.upload, (a, b, c)), 1000, out)
    np.testing.assert_array_equal(device.download(out), a * b + c)


def check_marks_measure_time(device):
    array = device.upload(np.array([1], np.float32))
    kernels = device.kernels(TINY)
    kernels.each("multiply", 1, array, 1)
    marks = []

    def work():
        marks[:] = [device.mark()]
        kernels.each("multiply", 1, array, 1)
        marks.append(device.mark())

    for run in (work, device.record(work)):
        run()
        values = device.read(array)
        end = device.mark()
        device.wait()
        assert 0 <= device.milliseconds(*marks) <= device.milliseconds(marks[0], end)
    np.testing.assert_array_equal(values, [8])


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}

# ---- a family's frame is the same on every device ----


def same_frame(mode: str, layout: str, dtype: str, device) -> None:
    """Maps and every segment, bit for bit as on the CPU; twice, so that what a frame leaves behind is seen."""
    output_hw, stride, image_hw, resize = LAYOUTS[layout]
    geometry = fit(image_hw, (output_hw[0] * stride, output_hw[1] * stride), resize)
    chosen, cpu = noise.MODES[mode], open_device("cpu", 1)
    fusions = [FAMILIES[chosen.family].fusion(d, chosen.taxonomy, stride, **chosen.options) for d in (device, cpu)]
    for seed in (0, 1):
        outputs = chosen.outputs(np.random.default_rng(seed), output_hw, geometry, stride, np.dtype(dtype))
        frame, expected = (
            fusion({name: d.upload(array) for name, array in outputs.items()}, geometry)
            for d, fusion in zip((device, cpu), fusions, strict=True)
        )
        assert len(expected.segments) > 0
        for name in ("class_map", "instance_map", "confidence"):
            np.testing.assert_array_equal(getattr(frame, name), getattr(expected, name), err_msg=name)
        assert frame.segments == expected.segments


FRAMES = {
    f"{mode}-{layout}-{dtype}": functools.partial(same_frame, mode, layout, dtype)
    for mode, layout, dtype in itertools.product(noise.MODES, LAYOUTS, ("float32", "float16"))
}

# ---- recorded work ----


def recorded_frame(mode: str, device) -> None:
    """The work of a frame, recorded with other outputs in the same place, fuses those that are there when it runs."""
    chosen, geometry = noise.MODES[mode], fit((48, 84), (48, 84), "stretch")
    fusion = FAMILIES[chosen.family].fusion(device, chosen.taxonomy, 4, **chosen.options)
    noisy = chosen.outputs(np.random.default_rng(0), (12, 21), geometry, 4)
    outputs = {name: device.upload(np.zeros_like(array)) for name, array in noisy.items()}
    fusion(outputs, geometry)

    again = device.record(lambda: fusion.start(outputs, geometry))
    for name, array in noisy.items():
        device.upload(array, into=outputs[name])
    again()
    fusion.read()
    device.wait()
    frame = fusion.frame()
    cpu = open_device("cpu", 1)
    expected = FAMILIES[chosen.family].fusion(cpu, chosen.taxonomy, 4, **chosen.options)(noisy, geometry)
    np.testing.assert_array_equal(frame.class_map, expected.class_map)
    np.testing.assert_array_equal(frame.instance_map, expected.instance_map)
    assert frame.segments == expected.segments


RECORDED = {f"recorded-{mode}": functools.partial(recorded_frame, mode) for mode in noise.MODES}


# ---- so is the network's input ----


def same_input(encoding: str, dtype: str, device) -> None:
    """Bit for bit what numpy makes of the image; images of several sizes one after the other."""
    spec = InputSpec("image", (13, 21), "rgb", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "letterbox")
    preprocess = Preprocess(device, spec, np.dtype(dtype))
    rng = np.random.default_rng(0)
    for height, width in ((13, 20), (13, 20), (40, 50), (7, 300), (5, 6)):
        step = width * ENCODINGS[encoding].channels * ENCODINGS[encoding].depth + 3
        data = rng.integers(0, 256, height * step, dtype=np.uint8)
        image = CameraImage(data, height, width, step, encoding)
        tensor, geometry = preprocess(image)
        assert geometry.image_hw == (height, width)
        expected = preprocess_oracle.preprocess(image, spec, np.dtype(dtype))
        np.testing.assert_array_equal(device.download(tensor), expected)


FRAMES |= {
    f"{encoding}-{dtype}": functools.partial(same_input, encoding, dtype)
    for encoding, dtype in itertools.chain(
        itertools.product(("bgr8", "uyvy", "bayer_rggb8"), ("float32", "float16")),
        itertools.product(("rgba8", "mono8", "yuyv", "bayer_gbrg16"), ("float32",)),
    )
}

# ---- so are the joint histogram of two frames' instances, and the maps with other ids ----


def same_instance_maps(device) -> None:
    rng = np.random.default_rng(0)
    maps = InstanceMaps(device)
    for shape in ((1, 1), (7, 300), (61, 43)):
        before, now = (np.kron(rng.integers(0, 5, shape), np.ones((2, 3))).astype(np.uint16) for _ in range(2))
        class_map = rng.integers(0, 256, before.shape).astype(np.uint8)
        boxes = rng.uniform(1, 40, (2, 4, 4))
        motions, _ = motions_of(*boxes)
        row_of, column_of = table(np.uint16, range(1, 5), [3, 1, 4, 2]), table(np.uint16, [1, 2, 4], [2, 3, 1])
        id_of, class_of = table(np.uint16, range(1, 5), [65535, 7, 1, 9]), table(np.uint8, range(1, 5), 3)
        uploaded = [device.upload(array) for array in (before, now, class_map)]
        counts = maps.joint_histogram(uploaded[0], row_of, motions, uploaded[1], column_of, 4)
        expected = tracking_oracle.joint_histogram(before, row_of, motions, now, column_of, 4)
        np.testing.assert_array_equal(counts, expected)
        found = maps.relabel(uploaded[1], uploaded[2], id_of, class_of)
        expected = tracking_oracle.relabel(now, class_map, id_of, class_of)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


FRAMES["instance-maps"] = same_instance_maps

# ---- and the ground in metres ----


def same_ground(device) -> None:
    """Grid, free space and points, bit for bit as on the CPU."""
    taxonomy = builtin_taxonomy("camvid")
    k = np.array([[70.0, 0, 40], [0, 70.0, 30], [0, 0, 1]])
    camera = Camera(81, 61, "plumb_bob", np.array([-0.1, 0.01, 0, 0, 0]), k, np.eye(3), np.zeros((3, 4)))
    mounting = Mounting.from_angles(1.5, 0.2, 0.05, -0.1, 1.0, 0.2)
    options = GridOptions(0.5, 0.0, 20.0, 8.0, grid_margin=0.6, free_space_bearings=50)
    grounds = [Ground(each, camera, mounting, taxonomy, options) for each in (device, open_device("cpu", 1))]
    rng = np.random.default_rng(0)
    for _ in range(2):
        classes = np.kron(rng.integers(0, 11, (9, 9)), np.ones((7, 9)))[:61, :81].astype(np.uint8)
        classes[rng.random((61, 81)) < 0.3] = 3
        instances = np.where(classes >= 8, classes, 0).astype(np.uint16)
        confidence = rng.integers(90, 256, (61, 81)).astype(np.uint8)
        frame = PanopticFrame.from_maps(classes, instances, confidence)
        found, expected = (ground(frame, np.full((61, 81), 255, np.uint8)) for ground in grounds)
        assert {-1, 0, 100} == set(np.unique(expected.grid.cells).tolist())
        np.testing.assert_array_equal(found.grid.cells, expected.grid.cells)
        np.testing.assert_array_equal(found.points, expected.points)
        np.testing.assert_array_equal(found.free_space.ranges, expected.free_space.ranges)
        np.testing.assert_array_equal(found.free_space.ends, expected.free_space.ends)


FRAMES["ground"] = same_ground

# ---- what only the emulated driver shows ----


def emulated_a_forgotten_wait_is_seen(device):
    """The same code without its wait gets the poison of fresh memory: so the checks above prove that it waits."""

    class Forgetful:
        def record(self, stream):
            pass

        def synchronize(self):
            pass

    array = device.upload(np.arange(16, dtype=np.uint8))
    right, device.context.done = device.context.done, Forgetful()
    np.testing.assert_array_equal(device.download(array), [0xCD] * 16)
    device.context.done = right
    np.testing.assert_array_equal(device.download(array), range(16))


def emulated_an_upload_whose_buffer_is_used_again_too_early_is_seen(device):
    first = device.upload(np.full(24, 1, np.uint8))
    device._uploads.clear()  # the copy has not run yet, and its source is free
    device.upload(np.full(24, 2, np.uint8))
    np.testing.assert_array_equal(device.download(first), [2] * 24)


def emulated_an_upload_is_of_the_moment_it_is_called(device):
    host = np.arange(5, dtype=np.uint8)
    array = device.upload(host)
    host[:] = 9
    np.testing.assert_array_equal(device.download(array), range(5))


def emulated_the_memory_in_use_is_told(device):
    before, odd = used_memory(), 12_345_677
    array = device.empty(odd, np.uint8)
    assert used_memory() - before >= odd
    del array


def emulated_fresh_memory_is_poison(device):
    np.testing.assert_array_equal(device.download(device.empty(3001, np.uint8)), [0xCD] * 3001)


def emulated_a_frame_waits_and_copies_once_and_allocates_nothing(device):
    driver = ctypes.CDLL("libcuda.so.1")
    kinds = ("waits", "copies to host", "copies to device", "pageable copies", "allocations", "launches")
    for name, mode in noise.MODES.items():
        geometry = fit((48, 84), (48, 84), "stretch")
        outputs = mode.outputs(np.random.default_rng(0), (12, 21), geometry, 4)
        on_device = {name: device.upload(array) for name, array in outputs.items()}
        fusion = FAMILIES[mode.family].fusion(device, mode.taxonomy, 4, **mode.options)
        fusion(on_device, geometry)
        before = [driver.emulated_count(kind.encode()) for kind in kinds]
        fusion(on_device, geometry)
        after = [driver.emulated_count(kind.encode()) for kind in kinds]
        *what, launches = (b - a for a, b in zip(before, after, strict=True))
        assert what == [1, 1, 0, 0, 0], (name, dict(zip(kinds, what, strict=False)))
        assert launches > 3


def emulated_what_cannot_be_recorded_is_said_and_the_device_goes_on(device):
    array = device.upload(np.arange(3))
    device.download(array)

    def works_for_a_while():
        device.zero(array)
        raise ValueError("no more")

    with pytest.raises(NotRecordable, match="CUDA error 900"):  # CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        device.record(lambda: device.download(array))  # waits
    with pytest.raises(NotRecordable, match="no more"):
        device.record(works_for_a_while)
    np.testing.assert_array_equal(device.download(array), range(3))


def emulated_preprocessing_waits_for_nothing_and_allocates_nothing(device):
    driver = ctypes.CDLL("libcuda.so.1")
    kinds = ("waits", "copies to host", "copies to device", "pageable copies", "allocations", "launches")
    preprocess = Preprocess(device, InputSpec("image", (8, 8), "rgb", (0, 0, 0), (1, 1, 1), "stretch"))
    image = CameraImage.from_bgr(np.zeros((16, 16, 3), np.uint8))
    for _ in range(2):
        device.download(preprocess(image)[0])  # what a frame does at its end, too
    before = [driver.emulated_count(kind.encode()) for kind in kinds]
    preprocess(image)
    after = [driver.emulated_count(kind.encode()) for kind in kinds]
    counts = {kind: b - a for kind, a, b in zip(kinds, before, after, strict=True)}
    assert counts == {**dict.fromkeys(kinds, 0), "copies to device": 1, "launches": 1}


def emulated_recorded_preprocessing_takes_the_new_image(device):
    spec = InputSpec("image", (5, 7), "rgb", (0, 0, 0), (1, 1, 1), "letterbox")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    first, *others = map(CameraImage.from_bgr, pixels)
    preprocess = Preprocess(device, spec)
    tensor, _ = preprocess(first)
    again = device.record(functools.partial(preprocess.start, tensor))
    for image in others:
        preprocess.upload(image)
        again()
        np.testing.assert_array_equal(device.download(tensor), preprocess_oracle.preprocess(image, spec))


def emulated_it_can_be_called_from_another_thread(device):
    import threading

    failed = []

    def work():
        try:
            check_kernels_run_in_order(device)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed, failed


def emulated_memory_is_used_again(device):
    driver = ctypes.CDLL("libcuda.so.1")
    device.download(device.upload(np.zeros(777, np.uint8)))
    before = driver.emulated_count(b"allocations")
    for _ in range(5):
        device.download(device.upload(np.zeros(777, np.uint8)))
    assert driver.emulated_count(b"allocations") == before


EMULATED = {
    name.removeprefix("emulated_"): check for name, check in list(globals().items()) if name.startswith("emulated_")
}


def main(part: int, parts: int) -> None:
    ctypes.CDLL("libcuda.so.1").emulated_count  # noqa: B018, raises on a real driver: this is not for a GPU
    device = open_device("cuda")
    for name, check in itertools.islice({**CHECKS, **FRAMES, **RECORDED, **EMULATED}.items(), part, None, parts):
        failure = None
        try:
            with contextlib.redirect_stdout(sys.stderr):
                check(device)
        except Exception:
            failure = traceback.format_exc()
        print(json.dumps([name, failure]), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
