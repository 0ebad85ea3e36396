"""`perception convert`: a network in another precision as a model folder."""

import numpy as np
import pytest
from click.testing import CliRunner

from perception_node.cli import main
from perception_node.engine.convert import convert
from perception_node.errors import ModelError, UserError
from perception_node.model import load_model
from perception_node.pipeline import Pipeline

onnx = pytest.importorskip("onnx", reason="converting needs onnx")


def test_a_network_in_fp16_sees_the_same(tiny_model, tmp_path):
    out = tmp_path / "half"
    result = CliRunner().invoke(main, ["convert", str(tiny_model), "--precision", "fp16", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "largest difference" in result.output
    half, model = load_model(out), load_model(tiny_model)
    assert (half.taxonomy, half.input, half.tensors) == (model.taxonomy, model.input, model.tensors)
    types = {tensor.data_type for tensor in onnx.load(half.onnx_path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types
    image = np.zeros((8, 8, 3), np.uint8)
    ours, theirs = (Pipeline(one)(image) for one in (half, model))
    np.testing.assert_array_equal(ours.class_map, theirs.class_map)
    np.testing.assert_array_equal(ours.instance_map, theirs.instance_map)


def test_what_cannot_be_converted_leaves_nothing(tiny_model, tmp_path):
    model = load_model(tiny_model)
    with pytest.raises(ModelError, match="perception quantize"):
        convert(model, "int8", tmp_path / "out")
    with pytest.raises(UserError, match="there are fp32, fp16, int8"):
        convert(model, "fp8", tmp_path / "out")
    with pytest.raises(UserError, match="the model's own folder"):
        convert(model, "fp16", model.folder)
    assert not (tmp_path / "out").exists()
