"""Export a checkpoint: python -m training.export training/camvid.yaml --checkpoint FILE --out engines/NAME"""

import argparse
import hashlib
from pathlib import Path

import onnx
import torch
import yaml

from perception_node.training.network import PanopticDeepLab
from perception_node.training.train import build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.pt of training.train")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    args = parser.parse_args()
    export(yaml.safe_load(args.config.read_text()), args.checkpoint, args.out)


def export(config: dict, checkpoint: Path, out: Path) -> None:
    """Writes out/model.onnx with the averaged weights, and out/model.yaml with its hash."""
    net = build_network(config)
    net.load_state_dict(averaged_weights(torch.load(checkpoint, map_location="cpu", weights_only=True)))
    out.mkdir(parents=True, exist_ok=True)
    onnx_path, part = out / "model.onnx", out / "model.onnx.part"
    export_onnx(net.eval(), config["manifest"], part)
    part.replace(onnx_path)
    manifest = {
        "description": config["manifest"]["description"],
        "onnx": onnx_path.name,
        "sha256": hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        **{key: value for key, value in config["manifest"].items() if key != "description"},
    }
    manifest_part = out / "model.yaml.part"
    manifest_part.write_text(yaml.safe_dump(manifest, sort_keys=False, default_flow_style=None, width=120))
    manifest_part.replace(out / "model.yaml")
    print(f"{onnx_path}: {onnx_path.stat().st_size / 1e6:.1f} MB")


def averaged_weights(checkpoint: dict) -> dict:
    """The moving average's weights, by the network's own names."""
    prefix = "module."
    return {
        name.removeprefix(prefix): value for name, value in checkpoint["average"].items() if name.startswith(prefix)
    }


def export_onnx(net: PanopticDeepLab, manifest: dict, path: Path) -> None:
    image = torch.zeros(1, 3, *manifest["input"]["size"])
    names = {"input_names": [manifest["input"]["tensor"]], "output_names": list(manifest["output"]["tensors"].values())}
    program = torch.onnx.export(net, (image,), dynamo=True, opset_version=18, **names)
    program.optimize()
    model = program.model_proto
    for node in model.graph.node:
        # Where each layer came from in Python: half as large as the graph itself, of no use to an engine.
        del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


if __name__ == "__main__":
    main()
