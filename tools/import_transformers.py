"""Mask2Former, OneFormer or EoMT from Hugging Face's transformers, made into a model folder.

python -m tools.import_transformers NAME --size HxW --taxonomy cityscapes --out engines/mine

NAME is a checkpoint on the hub, or a folder with one. The ONNX has the size built in, so that deformable attention
(Mask2Former, OneFormer) becomes GridSample nodes on constant shapes; it needs opset 16 or later.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import optimizer
from transformers import (
    AutoImageProcessor,
    AutoModelForUniversalSegmentation,
    AutoProcessor,
    EomtForUniversalSegmentation,
    OneFormerForUniversalSegmentation,
    PreTrainedModel,
)

from perception_node.errors import UserError, one_line
from perception_node.fuse import parse_size
from perception_node.importing import Imported, Normalisation, import_network
from perception_node.importing.graph import replace_outputs
from perception_node.model import read_taxonomy
from perception_node.taxonomy import Taxonomy

OPSET = 18


class QueryOutputs(torch.nn.Module):
    """A network that takes an image alone and answers with its last layer's queries alone.

    Args:
        network: Mask2Former, OneFormer or EoMT.
        task: OneFormer's task as token ids, int64 (1, T).
    """

    def __init__(self, network: PreTrainedModel, task: torch.Tensor | None = None):
        super().__init__()
        self.network = network
        self.register_buffer("task", task)
        self.eval()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 (1, 3, H, W), normalised -> class logits (1, Q, C + 1), mask logits (1, Q, h, w)."""
        inputs = {} if self.task is None else {"task_inputs": self.task}
        outputs = self.network(pixel_values=image, **inputs)
        return outputs.class_queries_logits, outputs.masks_queries_logits


def import_transformers(
    network: PreTrainedModel,
    image_processor: Any,
    taxonomy: Taxonomy,
    out: Path,
    size_hw: tuple[int, int] | None = None,
    task: torch.Tensor | None = None,
    options: tuple[str, ...] = (),
    force: bool = False,
) -> Imported:
    """Exports the network and makes a model folder of it.

    The fusion's variant is mask2former's own unless `options` say otherwise: the published figures were measured with
    it, and it does not squeeze the masks through a square of 384 pixels, as `variant=transformers` does to give the
    labels of the library's post_process_panoptic_segmentation for Mask2Former.

    Args:
        network: Mask2Former, OneFormer or EoMT, for universal segmentation.
        image_processor: whose image_mean, image_std and rescale_factor hold.
        taxonomy: the classes that it was trained with.
        out: model folder.
        size_hw: height and width of the input; None is EoMT's own.
        task: OneFormer's, see QueryOutputs.
        options, force: see perception_node.importing.import_network.

    Raises:
        UserError: see import_network; or the size is not EoMT's.
    """
    if isinstance(network, EomtForUniversalSegmentation):
        side = network.config.image_size
        size_hw = size_hw or (side, side)
        if size_hw != (side, side):
            raise UserError(f"size {size_hw[0]}x{size_hw[1]}: expected: {side}x{side}, as this EoMT was trained")
    if size_hw is None:
        raise UserError("size: expected: HEIGHTxWIDTH, e.g. 512x1024")
    name = network.config.name_or_path or network.config.model_type
    name = Path(name).name if Path(name).is_dir() else name  # a path says nothing on another machine
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{network.config.model_type}.onnx"
        onnx.save(export(network, size_hw, task), path)
        return import_network(
            path,
            "mask_classification",
            taxonomy,
            out,
            normalisation=normalisation_of(image_processor),
            options=options,
            description=f"{name}, from transformers",
            force=force,
        )


def export(network: PreTrainedModel, size_hw: tuple[int, int], task: torch.Tensor | None = None) -> onnx.ModelProto:
    """The network as ONNX: image -> class_logits, mask_logits; the classes' names in its metadata.

    Raises:
        UserError: an EoMT whose training was not finished.
    """
    if isinstance(network, EomtForUniversalSegmentation):
        _freeze_masked_attention(network)
    image = torch.zeros(1, 3, *size_hw)
    names = {"input_names": ["image"], "output_names": ["class_logits", "mask_logits"], "opset_version": OPSET}
    module = QueryOutputs(network, task)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(network, OneFormerForUniversalSegmentation):
            model = _trace_oneformer(module, image, names)
        else:
            program = torch.onnx.export(module, (image,), dynamo=True, verbose=False, **names)
            program.optimize()
            model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where each layer came from in Python, of no use to an engine
    onnx.helper.set_model_props(model, {"names": str(network.config.id2label)})
    return model


def _trace_oneformer(module: QueryOutputs, image: torch.Tensor, names: dict[str, Any]) -> onnx.ModelProto:
    """OneFormer as ONNX, all sizes fixed.

    It reads the feature maps' sizes out of a tensor: torch.export refuses that, tracing makes constants of it. And of
    attention masks that hide everything it finds the rows with a NonZero, whose size depends on the image, which no
    CUDA graph can hold: here such rows are cleared before, so that what it finds is nothing and can be left out.
    """

    def clear_full_rows(layer: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        return args, kwargs | {"attention_mask": mask & ~mask.all(-1, keepdim=True)}

    layers = module.network.model.transformer_module.decoder.layers
    hooks = [layer.register_forward_pre_hook(clear_full_rows, with_kwargs=True) for layer in layers]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traced.onnx"
            torch.onnx.export(module, (image,), path, dynamo=False, **names)
            model = optimizer.optimize(onnx.load(path))
    finally:
        for hook in hooks:
            hook.remove()
    for node in model.graph.node:
        if node.op_type == "ScatterND":
            node.op_type = "Identity"
            del node.input[1:]
    replace_outputs(model, names["output_names"])
    return model


def normalisation_of(image_processor: Any) -> Normalisation:
    """A processor's mean and std, in 0..255 units."""
    scale = image_processor.rescale_factor if image_processor.do_rescale else 1.0
    if not image_processor.do_normalize:
        return Normalisation((0.0,) * 3, (1 / scale,) * 3)
    mean, std = (
        tuple(round(value / scale, 4) for value in values)
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    return Normalisation(mean, std)


def _freeze_masked_attention(network: EomtForUniversalSegmentation) -> None:
    """Makes plain numbers of the probabilities of masked attention, on which EoMT's forward branches.

    They go from 1 to 0 in training (Kerssies et al., CVPR 2025, section 3.3); in between masks are left out at random.
    """
    probabilities = [float(p) for p in network.attn_mask_probs]
    if not set(probabilities) <= {0.0, 1.0}:
        raise UserError(
            f"attn_mask_probs {probabilities}: this EoMT attends at random; expected: one trained to the end, with 0"
        )
    del network.attn_mask_probs
    network.attn_mask_probs = probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="checkpoint on the hub, or a folder with one")
    parser.add_argument("--taxonomy", required=True, help="cityscapes, camvid, coco, or a YAML file with classes")
    parser.add_argument("--out", type=Path, required=True, help="model folder to make")
    parser.add_argument("--size", metavar="HxW", help="height and width of the input; EoMT has its own")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the fusion")
    parser.add_argument("--force", action="store_true", help="replace the folder")
    args = parser.parse_args()
    try:
        network = AutoModelForUniversalSegmentation.from_pretrained(args.name, attn_implementation="eager")
        processor, task = AutoImageProcessor.from_pretrained(args.name), None
        if isinstance(network, OneFormerForUniversalSegmentation):
            # The processor makes the task's token ids, and only together with an image.
            blank = np.zeros((32, 32, 3), np.uint8)
            task = AutoProcessor.from_pretrained(args.name)([blank], ["panoptic"])["task_inputs"]
        imported = import_transformers(
            network,
            processor,
            read_taxonomy(args.taxonomy),
            args.out,
            parse_size(args.size) if args.size else None,
            task,
            tuple(args.option),
            args.force,
        )
    except (UserError, OSError, ValueError) as error:  # the hub's are ValueErrors
        raise SystemExit(f"Error: {one_line(error)}") from error
    for name, note in imported.notes.items():
        print(f"  {name:<14}{note}")
    print(f"{args.name} -> {args.out}")


if __name__ == "__main__":
    main()
