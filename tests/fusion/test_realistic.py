"""Agreement with the oracles on outputs as large as a real camera's: 1024x2048, 19 classes, 40 things, stride 4."""

import numpy as np
import pytest
from oracles import street
from oracles.families import FAMILIES, assert_same, different

AT_MOST_FP16 = 50
"""Pixels, of 2 million, that may change where the network's outputs are float16; measured: 4 (center_offset) to 40."""


@pytest.fixture(scope="module", params=street.MODES)
def mode(request):
    """Name, float32 outputs and the oracle's frame of them."""
    family, _, options = street.MODES[request.param]
    outputs = street.outputs(request.param)
    oracle = FAMILIES[family].oracle
    return request.param, outputs, oracle(outputs, street.GEOMETRY, street.TAXONOMY, street.STRIDE, **options)


def fuse(name, outputs, **more):
    family, _, options = street.MODES[name]
    return FAMILIES[family].fuse(outputs, street.GEOMETRY, street.TAXONOMY, street.STRIDE, **options, **more)


def test_no_pixel_differs_from_the_oracle(mode):
    name, outputs, expected = mode
    assert_same(fuse(name, outputs, threads=2), expected)


def test_the_scene_has_many_segments(mode):
    name, _, expected = mode
    things = len(expected.instances)
    assert things == 0 if name == "semantic" else things >= 20
    assert len(expected.segments) - things >= 5 or name == "prototype"


def test_float16_changes_few_pixels(mode):
    name, _, expected = mode
    frame = fuse(name, street.outputs(name, np.float16), threads=2)
    assert different(frame, expected) <= AT_MOST_FP16
