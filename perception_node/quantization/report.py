"""What a calibration costs: how far int8 is from float32 on held-out frames, and which layers are to blame."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from perception_node.engine.network import session
from perception_node.metrics import Evaluation, FrameLabels, PanopticMap, measure
from perception_node.panoptic import PanopticFrame
from perception_node.pipeline import Pipeline
from perception_node.quantization.frames import Frame
from perception_node.quantization.network import Layer, quantize_to_int8, quantized, weight_scales
from perception_node.quantization.ranges import Tensors, as_float16

OUTLIER = 4.0
"""A range so many times the layers' median is an outlier."""
BLAME = 0.1
"""A layer that alone makes more than this share of an output's noise is recommended for float16."""


def compare(
    fp32: Pipeline,
    int8: Pipeline,
    frames: Sequence[Frame],
    labels: Mapping[str, np.ndarray],
    progress: Callable[..., Iterable],
) -> dict[str, Any]:
    """Runs both pipelines on the frames.

    Args:
        fp32, int8: of the same model; the latter's network is the quantized one.
        frames: held out from calibration.
        labels: name of a frame -> uint8 (H, W) class ids; none, or all.
        progress: shows an iterable's progress, as tqdm does.

    Returns:
        frames: how many; outputs: name -> max and mean absolute difference, on the frames where shapes are the same;
        class_agreement: share of pixels with the same class; instance_agreement: see same_instances, None without
        instances; truth, with labels: miou, pq, pq_things and pq_stuff of "fp32" and "int8".
    """
    largest: dict[str, list[float]] = defaultdict(list)
    mean: dict[str, list[float]] = defaultdict(list)
    same = total = matched = covered = 0
    taxonomy = fp32.model.taxonomy
    evaluations = {name: Evaluation(taxonomy) for name in ("fp32", "int8")}
    for frame in progress(frames, desc="compare with fp32"):
        ours, theirs = int8(frame.image), fp32(frame.image)
        references = fp32.outputs()
        for name, answer in int8.outputs().items():
            reference = references[name]
            if answer.shape == reference.shape:  # as many detections, where the network finds them
                difference = np.abs(answer.astype(np.float64) - reference)
                largest[name].append(float(difference.max(initial=0)))
                mean[name].append(float(difference.mean()) if difference.size else 0.0)
        same += int((ours.class_map == theirs.class_map).sum())
        total += ours.class_map.size
        pixels = same_instances(ours, theirs)
        matched, covered = matched + pixels[0], covered + pixels[1]
        if labels:
            truth = FrameLabels(PanopticMap.from_classes(labels[frame.name], taxonomy))
            for name, seen in (("fp32", theirs), ("int8", ours)):
                predicted = PanopticMap.from_maps(seen.class_map, seen.instance_map, taxonomy)
                evaluations[name].add(measure(truth, FrameLabels(predicted), taxonomy))
    measures = ("miou", "pq", "pq_things", "pq_stuff")
    summaries = {name: evaluation.summary() for name, evaluation in evaluations.items()} if labels else {}
    return {
        "frames": len(frames),
        "outputs": {name: {"max": max(values), "mean": float(np.mean(mean[name]))} for name, values in largest.items()},
        "class_agreement": same / total,
        "instance_agreement": matched / covered if covered else None,
        **({"truth": {name: {m: s[m] for m in measures} for name, s in summaries.items()}} if labels else {}),
    }


def same_instances(one: PanopticFrame, other: PanopticFrame) -> tuple[int, int]:
    """How many pixels have the same instance in both frames, and how many have one in either.

    Ids may differ: instances are the same if their class is and their IoU is above 0.5, as panoptic quality has it.
    """
    classes = [{segment.id: segment.class_id for segment in frame.segments if segment.id} for frame in (one, other)]
    pairs, counts = np.unique(
        one.instance_map.astype(np.uint32) << np.uint32(16) | other.instance_map, return_counts=True
    )
    a, b = (pairs >> 16).tolist(), (pairs & 0xFFFF).tolist()
    areas: tuple[dict[int, int], dict[int, int]] = {}, {}
    for area, ids in zip(areas, (a, b), strict=True):
        for index, count in zip(ids, counts.tolist(), strict=True):
            area[index] = area.get(index, 0) + count
    matched = covered = 0
    for i, j, count in zip(a, b, counts.tolist(), strict=True):
        if i or j:
            covered += count
        if i and j and classes[0].get(i) == classes[1].get(j) and count > (areas[0][i] + areas[1][j] - count) / 2:
            matched += count
    return matched, covered


def judge_layers(
    graph,
    layers: Sequence[Layer],
    ranges: Mapping[str, tuple[float, float]],
    images: Sequence[np.ndarray],
    alone: bool,
    progress: Callable[..., Iterable],
) -> list[dict[str, Any]]:
    """What quantization does to each layer.

    Args:
        graph: the float32 network as an onnx.ModelProto.
        layers: that are quantized.
        ranges: of their tensors, from measure.
        images: float32 (1, 3, H, W), not those that the ranges were measured on.
        alone: whether to run the network with each layer alone quantized, to find its part in the outputs' noise.
        progress: shows an iterable's progress, as tqdm does.

    Returns:
        For each layer: name, operator, tensor; scale (of int8), peak and range of its activations; to_median, that
        range to the layers' median; snr_db, signal to noise of the activations; weights_snr_db, None for an addition;
        and, if alone, noise, its share in each output's noise, all layers having 1 together.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    median = float(np.median([ranges[layer.tensor][1] for layer in layers])) if layers else 0.0
    signals = dict.fromkeys((layer.tensor for layer in layers), (0.0, 0.0))
    tensors = Tensors(graph, list(signals))
    for image in progress(images, desc="signal to noise"):
        for name, values in tensors(image).items():
            scale = as_float16(ranges[name][1] / 127)
            signals[name] = tuple(np.add(signals[name], _powers(values, scale)).tolist())

    entries: list[dict[str, Any]] = []
    for layer in layers:
        peak, limit = ranges[layer.tensor]
        weights_snr = None
        if layer.weights:
            array = numpy_helper.to_array(weights[layer.weights])
            shape = [-1 if index == layer.axis else 1 for index in range(array.ndim)]
            weights_snr = _decibels(*_powers(array, weight_scales(array, layer.axis).reshape(shape)))
        entries.append(
            {
                "name": layer.name,
                "operator": layer.operator,
                "tensor": layer.tensor,
                "scale": float(as_float16(limit / 127)),
                "peak": peak,
                "range": limit,
                "to_median": round(limit / median, 3) if median else 1.0,
                "snr_db": _decibels(*signals[layer.tensor]),
                "weights_snr_db": weights_snr,
            }
        )
    if alone:
        noises = _noise_alone(graph, layers, ranges, images, progress)
        for name in noises[0] if noises else ():
            total = sum(noise[name] for noise in noises)
            for entry, noise in zip(entries, noises, strict=True):
                entry.setdefault("noise", {})[name] = round(noise[name] / total, 5) if total else 0.0
    return entries


def recommend(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Names of the layers with outlying ranges, and of those to keep in float16, both from judge_layers's entries."""
    outliers = [entry["name"] for entry in entries if entry["to_median"] > OUTLIER]
    blamed = [entry["name"] for entry in entries if max(entry.get("noise", {}).values(), default=0) > BLAME]
    return outliers, blamed


def _noise_alone(graph, layers, ranges, images, progress) -> list[dict[str, float]]:
    """For each layer: output -> squared difference, summed, that it makes when it alone is quantized."""
    names = [output.name for output in graph.graph.output]
    source = graph.graph.input[0].name
    plain = session(graph)
    wanted = [plain.run(names, {source: image}) for image in images]
    noises = []
    for layer in progress(layers, desc="each layer alone"):
        one = session(quantized(graph, [layer], ranges))
        noise = dict.fromkeys(names, 0.0)
        for image, references in zip(images, wanted, strict=True):
            for name, array, reference in zip(names, one.run(names, {source: image}), references, strict=True):
                if array.shape == reference.shape:
                    noise[name] += float(np.square(array.astype(np.float64) - reference).sum())
        noises.append(noise)
    return noises


def _powers(values: np.ndarray, scale: np.ndarray) -> tuple[float, float]:
    """Sums of the squares of values and of what int8 makes them differ by."""
    noise = values - quantize_to_int8(values, scale) * scale.astype(np.float32)
    return float(np.square(values, dtype=np.float64).sum()), float(np.square(noise, dtype=np.float64).sum())


def _decibels(signal: float, noise: float) -> float | None:
    """None where there is no noise, or no signal."""
    return round(10 * float(np.log10(signal / noise)), 2) if signal and noise else None


def describe(result: Mapping[str, Any]) -> str:
    """What perception_node.quantization.quantize found, for people."""
    compared, recipe = result["compared"], result["recipe"]
    lines = [f"ranges ({recipe['method']}) from {len(result['frames'])} frames of {result['footage']}"]
    lines.append(f"on {compared['frames']} frames held out, int8 against fp32:")
    for name, difference in compared["outputs"].items():
        lines.append(f"  {name:<14} differs by at most {difference['max']:.4g}, on average {difference['mean']:.4g}")
    lines.append(f"  the same class in {compared['class_agreement']:.3%} of the pixels")
    if compared["instance_agreement"] is not None:
        lines.append(f"  the same instance in {compared['instance_agreement']:.2%} of the pixels that have one")
    for name, measures in compared.get("truth", {}).items():
        shown = "  ".join(f"{m} {'-' if v is None else format(v, '.4f')}" for m, v in measures.items())
        lines.append(f"  {name} against the labels: {shown}")

    entries = result["layers"]
    lines.append(f"{len(entries)} layers in int8; those that make most of the noise:")
    width = max([len("layer"), *(len(entry["name"]) for entry in entries)])
    lines.append(
        f"  {'layer':<{width}}{'scale':>12}{'range/median':>14}{'SNR':>9}{'weights':>9}   share of the noise of"
    )

    def worst(entry: Mapping[str, Any]) -> float:
        return max(entry.get("noise", {}).values(), default=-(entry["snr_db"] or 99))

    for entry in sorted(entries, key=worst, reverse=True)[:10]:
        snrs = "".join("        -" if v is None else f"{v:6.1f} dB" for v in (entry["snr_db"], entry["weights_snr_db"]))
        shares = "  ".join(f"{name} {share:.1%}" for name, share in entry.get("noise", {}).items())
        lines.append(f"  {entry['name']:<{width}}{entry['scale']:>12.4g}{entry['to_median']:>14.2f}{snrs}   {shares}")
    lines.append(f"ranges over {OUTLIER:g} times the median: {', '.join(result['outliers']) or 'none'}")
    if result["recommended"]:
        lines.append(f"over {BLAME:.0%} of an output's noise each; for less noise keep them in float16, in the recipe:")
        lines.append(f"  keep: [{', '.join([*recipe['keep'], *result['recommended']])}]")
    return "\n".join(lines)
