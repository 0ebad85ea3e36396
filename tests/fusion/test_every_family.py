"""What holds for every family and variant: rules, determinism, agreement with the oracle on outputs of any shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.families import assert_same
from oracles.noise import MODES

from perception_node.preprocess import fit

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def make(mode, seed, output_hw, stride, image_hw=None, resize="stretch", dtype=np.float32):
    """Outputs, geometry, stride; the image is as large as the network's input if nothing else is said."""
    input_hw = tuple(stride * size for size in output_hw)
    geometry = fit(image_hw or input_hw, input_hw, resize)
    return mode.outputs(np.random.default_rng(seed), output_hw, geometry, stride, dtype), geometry, stride


def assert_agrees(mode, *case):
    frame = mode.fuse(*case)
    assert_same(frame, mode.oracle(*case))


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@every_mode
def test_strides(mode, stride):
    assert_agrees(mode, *make(mode, stride, (7, 5), stride))


@every_mode
def test_a_stride_for_each_axis(mode):
    outputs, geometry, _ = make(mode, 0, (6, 5), 4)
    geometry = fit((24, 10), (24, 10), "stretch")
    if "masks" in outputs and outputs["masks"].dtype == np.uint8:
        outputs["masks"] = np.ascontiguousarray(outputs["masks"][:, :, :10])
    assert_agrees(mode, outputs, geometry, (4, 2))


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 37), (37, 1), (31, 33), (257, 3), (3, 513)], ids=str)
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@every_mode
def test_image_sizes(mode, image_hw, resize):
    assert_agrees(mode, *make(mode, 1, (5, 6), 4, image_hw, resize))


@pytest.mark.parametrize("stride", [1, 4])
@every_mode
def test_one_output_pixel(mode, stride):
    assert_agrees(mode, *make(mode, 2, (1, 1), stride))


@every_mode
def test_float16_is_exact(mode):
    """Every float16 is a float32: the oracle, which calculates in float32, sees the same numbers."""
    assert_agrees(mode, *make(mode, 3, (9, 8), 4, dtype=np.float16))


@every_mode
def test_one_object_fuses_one_frame_after_another(mode):
    """Also where the shape changes between frames; nothing of a frame is left in the next."""
    from oracles.families import FAMILIES

    from perception_node.device import open_device

    fusion = FAMILIES[mode.family].fusion(open_device("cpu"), mode.taxonomy, 4, **mode.options)
    for seed, hw in ((1, (6, 5)), (2, (6, 5)), (3, (4, 9)), (1, (6, 5))):
        outputs, geometry, _ = make(mode, seed, hw, 4)
        assert_same(fusion(outputs, geometry), mode.oracle(outputs, geometry, 4))


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
cases = {
    "seed": st.integers(0, 2**32 - 1),
    "output_hw": shapes,
    "stride": st.sampled_from([1, 2, 4, 8]),
    "image_hw": st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    "resize": st.sampled_from(["stretch", "letterbox"]),
}


@every_mode
@settings(max_examples=40, deadline=None, derandomize=True)  # two of a million noises round differently in numpy
@given(**cases)
def test_any_outputs_agree_with_the_oracle(mode, **case):
    assert_agrees(mode, *make(mode, **case))


@every_mode
@settings(max_examples=40, deadline=None)
@given(wild=st.floats(0, 0.5), dtype=st.sampled_from([np.float32, np.float16]), **cases)
def test_rules_and_determinism_hold_for_any_outputs(mode, wild, dtype, **case):
    """Whatever the network answers, NaN and infinities too; threads and what each one works on do not matter."""
    outputs, *rest = make(mode, dtype=dtype, **case)
    rng = np.random.default_rng(case["seed"])
    for array in outputs.values():
        if array.dtype.kind == "f":
            spots = rng.random(array.shape) < wild
            array[spots] = rng.choice(np.array([np.nan, np.inf, -np.inf], array.dtype), spots.sum())
    frames = [mode.fuse(outputs, *rest, threads=threads) for threads in (1, 2, 2)]
    frames.append(mode.fuse(outputs, *rest, pixels_per_thread=1))
    for frame in frames[1:]:
        for name in ("class_map", "instance_map", "confidence"):
            np.testing.assert_array_equal(getattr(frame, name), getattr(frames[0], name))
        np.testing.assert_equal([repr(s) for s in frame.segments], [repr(s) for s in frames[0].segments])
