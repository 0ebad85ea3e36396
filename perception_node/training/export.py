"""`perception export`: a checkpoint becomes a model folder, its confidence calibrated on validation frames."""

import hashlib
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml

from perception_node.training.config import Config
from perception_node.training.frames import open_frames
from perception_node.training.network import OUTPUT_STRIDE, PanopticDeepLab
from perception_node.training.temperature import calibration_error, fit_temperature
from perception_node.training.train import averaged_weights, build_network, read_checkpoint
from perception_node.training.validation import OUTPUTS, Validation


def export(checkpoint: Path, out: Path, data: Path | None = None, dynamic_batch: bool = False) -> dict[str, Any]:
    """Writes out/model.onnx with the averaged weights, and out/model.yaml with its hash.

    Args:
        checkpoint: checkpoint.pt or best.pt of a training.
        out: model folder, made if missing.
        data: folder that the configuration's validation frames are below, to calibrate the confidence; None leaves the
            logits as they are.
        dynamic_batch: the network takes any number of images at once, else one.

    Returns:
        epoch, megabytes and, with data, temperature, ece_before and ece_after.

    Raises:
        UserError: the checkpoint or the frames cannot be used.
    """
    saved = read_checkpoint(checkpoint)
    config = Config(saved["config"])
    net = build_network(config)
    net.load_state_dict(averaged_weights(saved))
    net.eval()
    summary: dict[str, Any] = {"epoch": saved["epoch"]}
    if data is not None:
        summary |= calibrate(net, config, data)
    out.mkdir(parents=True, exist_ok=True)
    onnx_path, part = out / "model.onnx", out / "model.onnx.part"
    export_onnx(net, config, part, dynamic_batch)
    part.replace(onnx_path)
    manifest_part = out / "model.yaml.part"
    text = yaml.safe_dump(manifest(config, onnx_path), sort_keys=False, default_flow_style=None, width=120)
    manifest_part.write_text(text)
    manifest_part.replace(out / "model.yaml")
    return summary | {"megabytes": round(onnx_path.stat().st_size / 1e6, 1)}


def calibrate(net: PanopticDeepLab, config: Config, data: Path) -> dict[str, float]:
    """Fits the temperature and divides the logits by it, in the last convolution's weights."""
    logits, classes = Validation(open_frames(config, "val", data), config).logits(net)
    temperature = fit_temperature(logits, classes)
    with torch.no_grad():
        for parameter in net.semantic.parameters():
            parameter /= temperature
    return {
        "temperature": round(temperature, 4),
        "ece_before": round(calibration_error(logits, classes), 4),
        "ece_after": round(calibration_error(logits, classes, temperature), 4),
    }


def manifest(config: Config, onnx_path: Path) -> dict[str, Any]:
    """What model.yaml says."""
    given = config["manifest"]
    return {
        "description": given.get("description", "Panoptic-DeepLab"),
        "onnx": onnx_path.name,
        "sha256": hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        "input": given["input"],
        "output": {
            "family": "center_offset",
            "tensors": {name: name for name in OUTPUTS},
            "stride": OUTPUT_STRIDE,
        },
        "fusion": given["fusion"],
        "classes": config.taxonomy.entries(),
    }


def export_onnx(net: PanopticDeepLab, config: Config, path: Path, dynamic_batch: bool = False) -> None:
    """Writes the network, fixed to its input's size and, unless told otherwise, a batch of one, as ONNX opset 18."""
    # What is traced with one image is fixed to one.
    image = torch.zeros(1 + dynamic_batch, 3, *config.input.size_hw)
    names = {"input_names": [config.input.tensor], "output_names": list(OUTPUTS)}
    dynamic = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamic_batch else {}
    program = torch.onnx.export(net, (image,), dynamo=True, opset_version=18, verbose=False, **names, **dynamic)
    program.optimize()
    model = program.model_proto
    for node in model.graph.node:
        # Where each layer came from in Python: half as large as the graph itself, of no use to an engine.
        del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
