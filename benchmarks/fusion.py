"""Fusion against its oracles and the libraries that published it: python benchmarks/fusion.py [--detectron2 PATH]

For each family, at 512x1024 and 1024x2048 with 19 classes and stride 4, on the made-up street of benchmarks/scene.py:

- milliseconds of a frame, with float32 and float16 outputs: from outputs on the device to the frame on the host
- the same of the numpy oracle (tests/oracles), of detectron2's post-processing (--detectron2: a checkout; nothing of it
  is installed) and of transformers' (where it can be imported), on the same arrays in the same run, in turns; as
  multiples of ours, and the share of pixels with the same class and instance
- bytes: `least` is reading the outputs once and writing the maps once; `handed` counts an array whole for each kernel
  that is given it, so more than what moves; and the milliseconds in which numpy copies the least

Then how the time grows with things (10, 50, 200) and with pixels.
"""

import ast
import contextlib
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import scene as scenes
from scene import STRIDE, TAXONOMY, make_scene

from perception_node.device import open_device
from perception_node.fusion import FAMILIES
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.preprocess import Geometry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import families as oracles

SIZES = ((512, 1024), (1024, 2048))
THINGS = 40
MODES = {
    "center_offset": ("center_offset", scenes.center_offset, {}),
    "mask2former": ("mask_classification", scenes.mask_classification, {}),
    "transformers": ("mask_classification", scenes.mask_classification, {"variant": "transformers"}),
    "kmax": ("mask_classification", scenes.mask_classification, {"variant": "kmax"}),
    "boxed masks": ("instance_semantic", scenes.boxed_masks, {}),
    "whole masks": ("instance_semantic", scenes.whole_masks, {}),
    "prototype": ("prototype", scenes.prototype, {}),
    "semantic": ("semantic", scenes.semantic, {}),
    "components": ("semantic", scenes.semantic, {"components": True}),
}
"""Name -> (family, what makes its outputs, options)."""

Outputs = Mapping[str, np.ndarray]
Maps = tuple[np.ndarray, np.ndarray]
"""Class, UNLABELLED where there is none, and a number for each thing, 0 for others; both int (H, W)."""


@click.command()
@click.option("--mode", "modes", multiple=True, type=click.Choice(list(MODES)), help="Only this; repeatable.")
@click.option("--detectron2", type=click.Path(path_type=Path, exists=True), help="A checkout of detectron2.")
@click.option("--runs", default=11, show_default=True, help="Of the kernels; their median counts.")
@click.option("--peer-runs", default=1, show_default=True, help="Of the oracles and libraries.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=0, show_default=True, help="CPU threads, of the libraries too; 0 takes all cores.")
def main(
    modes: tuple[str, ...],
    detectron2: Path | None,
    runs: int,
    peer_runs: int,
    seed: int,
    device: str,
    threads: int,
) -> None:
    modes = modes or tuple(MODES)
    computes = open_device(device, threads)
    peers = find_peers(detectron2, threads)
    print(f"seed {seed}, {device}, {threads or 'all'} threads, median of {runs} runs, of peers {peer_runs}")
    print("processes that wanted a core in the last minute, before this one:", os.getloadavg()[0])
    for size_hw in SIZES:
        print(f"\n{size_hw[0]}x{size_hw[1]}, {len(TAXONOMY)} classes, stride {STRIDE}, {THINGS} things")
        for mode in modes:
            outputs = outputs_of(mode, make_scene(size_hw, THINGS, seed))
            compare(computes, mode, outputs, size_hw, peers.get(mode, {}), runs, peer_runs)
    grow(computes, modes, runs, seed)


def outputs_of(mode: str, scene: scenes.Scene, logits: Any = np.float32) -> dict[str, np.ndarray]:
    """The network's outputs in the family's types."""
    family, make, _ = MODES[mode]
    types = {name: np.dtype(logits if spec.dtype == "logit" else spec.dtype) for name, spec in inputs_of(family)}
    return {
        name: np.ascontiguousarray(array if array.dtype.kind in "iu" else array.astype(types[name]))
        for name, array in make(scene).items()
    }


def inputs_of(family: str):
    return FAMILIES[family].inputs.items()


def to_half(family: str, outputs: Outputs) -> dict[str, np.ndarray]:
    logits = {name for name, spec in inputs_of(family) if spec.dtype == "logit"}
    return {n: a.astype(np.float16) if n in logits and a.dtype == np.float32 else a for n, a in outputs.items()}


class Ours:
    """A family's kernels with their outputs on the device."""

    def __init__(self, device: Any, mode: str, outputs: Outputs, size_hw: tuple[int, int]):
        family, _, options = MODES[mode]
        self._fusion = FAMILIES[family](device, TAXONOMY, STRIDE, **options)
        self._outputs = {name: device.upload(array) for name, array in outputs.items()}
        self._geometry = Geometry(size_hw, (1.0, 1.0))
        self()

    def __call__(self) -> PanopticFrame:
        return self._fusion(self._outputs, self._geometry)

    def milliseconds(self, runs: int) -> list[float]:
        return [timed(self)[1] for _ in range(runs)]


def timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """Its result and its milliseconds."""
    start = time.perf_counter_ns()
    result = function(*arguments)
    return result, (time.perf_counter_ns() - start) / 1e6


def compare(
    device: Any,
    mode: str,
    outputs: dict[str, np.ndarray],
    size_hw: tuple[int, int],
    peers: Mapping[str, Callable[[Outputs, tuple[int, int]], tuple[Maps, dict[str, float]]]],
    runs: int,
    peer_runs: int,
) -> None:
    """Prints one mode's lines."""
    family, _, options = MODES[mode]
    ours = Ours(device, mode, outputs, size_hw)
    frame, times = ours(), ours.milliseconds(runs)
    maps = maps_of(frame)
    half = Ours(device, mode, to_half(family, outputs), size_hw)
    half_ms, half_same = median(half.milliseconds(runs)), agreement(maps, maps_of(half()))

    rows: dict[str, tuple[list[float], float]] = {}
    oracle, geometry = oracles.FAMILIES[family].oracle, Geometry(size_hw, (1.0, 1.0))
    for _ in range(peer_runs):
        expected, spent = timed(lambda: oracle(outputs, geometry, TAXONOMY, STRIDE, **options))
        rows.setdefault("oracle", ([], agreement(maps, maps_of(expected))))[0].append(spent)
        times += ours.milliseconds(runs)
        for peer in peers.values():
            found, parts = peer(outputs, size_hw)
            for part, spent in parts.items():
                rows.setdefault(part, ([], agreement(maps, found)))[0].append(spent)
            times += ours.milliseconds(runs)
    ms = median(times)
    print(f"{mode:<16}{ms:10.2f} ms   {len(frame.segments)} segments, {len(frame.instances)} things")
    print(f"  {'float16':<34}{half_ms:10.2f} ms {half_ms / ms:8.2f} x  {100 * half_same:9.4f} % the same")
    for name, (spent, same) in rows.items():
        print(f"  {name:<34}{median(spent):10.2f} ms {median(spent) / ms:8.2f} x  {100 * same:9.4f} % the same")
    least = sum(array.nbytes for array in outputs.values()) + 4 * size_hw[0] * size_hw[1]
    counting = CountingDevice(device)
    counted = Ours(counting, mode, outputs, size_hw)
    counting.bytes = 0
    counted()
    source = np.ones(least // 2, np.uint8)  # a copy reads and writes
    target = np.empty_like(source)
    copy_ms = median(timed(np.copyto, target, source)[1] for _ in range(runs))
    print(
        f"  bytes: least {least / 1e6:.1f} MB, handed {counting.bytes / 1e6:.1f} MB ({counting.bytes / least:.1f} x); "
        f"copying the least takes {copy_ms:.2f} ms, ours {ms / copy_ms:.1f} x that"
    )


def grow(device: Any, modes: tuple[str, ...], runs: int, seed: int) -> None:
    """Prints how the time grows with things and with pixels."""

    def measure(size_hw: tuple[int, int], things: int) -> dict[str, float]:
        outputs = {mode: outputs_of(mode, make_scene(size_hw, things, seed)) for mode in modes}
        return {mode: median(Ours(device, mode, outputs[mode], size_hw).milliseconds(runs)) for mode in modes}

    counts = (10, 50, 200)
    print("\nms at 1024x2048 with so many things" + " " * 5 + "".join(f"{n:>10}" for n in counts) + "   last / first")
    by_count = [measure((1024, 2048), n) for n in counts]
    for mode in modes:
        spent = [row[mode] for row in by_count]
        print(f"  {mode:<38}" + "".join(f"{ms:10.2f}" for ms in spent) + f"{spent[-1] / spent[0]:12.2f} x")
    sizes = ((256, 512), (512, 1024), (1024, 2048), (2048, 4096))
    print(f"\nns per pixel, {THINGS} things" + " " * 14 + "".join(f"{f'{h}x{w}':>12}" for h, w in sizes))
    by_size = [measure(size, THINGS) for size in sizes]
    for mode in modes:
        print(
            f"  {mode:<34}"
            + "".join(f"{1e6 * row[mode] / (h * w):12.2f}" for row, (h, w) in zip(by_size, sizes, strict=True))
        )


# ---- agreement ----


def maps_of(frame: PanopticFrame) -> Maps:
    return frame.class_map.astype(np.int64), frame.instance_map.astype(np.int64)


def agreement(a: Maps, b: Maps) -> float:
    """Share of pixels with the same class and instance; instances are the same that overlap each other most."""
    (class_a, id_a), (class_b, id_b) = a, b
    base = int(id_b.max()) + 1
    pairs, areas = np.unique(id_a * base + id_b, return_counts=True)
    ids = np.stack(np.divmod(pairs, base))[:, np.argsort(areas, kind="stable")]
    of_a, of_b = np.full(id_a.max() + 1, -1), np.full(base, -1)
    things = (ids > 0).all(axis=0)
    # In ascending order of area: the last one written, the largest, stays.
    of_a[ids[0, things]], of_b[ids[1, things]] = ids[1, things], ids[0, things]
    of_a[0] = of_b[0] = 0
    same = (class_a == class_b) & (of_a[id_a] == id_b) & (of_b[id_b] == id_a)
    return float(same.mean())


# ---- bytes ----


class CountingDevice:
    """A device that adds up the bytes of what it is handed."""

    def __init__(self, device: Any):
        self._device, self.bytes = device, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def zero(self, array: Any) -> None:
        self.bytes += array.nbytes
        self._device.zero(array)

    def download(self, array: Any) -> np.ndarray:
        self.bytes += 2 * array.nbytes
        return self._device.download(array)

    def kernels(self, *arguments: Any, **defines: Any) -> Any:
        kernels = self._device.kernels(*arguments, **defines)

        def count(start: Callable) -> Callable:
            def counted(*arguments: Any) -> None:
                self.bytes += sum(a.nbytes for a in arguments if getattr(a, "shape", ()))
                start(*arguments)

            return counted

        return SimpleNamespace(each=count(kernels.each), block=count(kernels.block))


# ---- libraries ----


def find_peers(detectron2: Path | None, threads: int) -> dict[str, dict[str, Callable]]:
    """Mode -> name -> function of (outputs, size_hw) that gives maps and the milliseconds of each measured part."""
    peers: dict[str, dict[str, Callable]] = {}
    try:
        import torch
    except ImportError:
        print("without torch there is no detectron2 and no transformers to compare with")
        return peers
    if threads:
        torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", module="torch")
    if detectron2:
        peers["center_offset"] = {"detectron2": detectron2_center_offset(detectron2)}
        peers["whole masks"] = {"detectron2": detectron2_instances(detectron2)}
    with contextlib.suppress(ImportError, RuntimeError):
        from transformers import Mask2FormerImageProcessor

        peers["transformers"] = {"transformers": transformers_queries(Mask2FormerImageProcessor)}
    names = dict.fromkeys(name for found in peers.values() for name in found)
    print(f"compared with: {', '.join(names) or 'no library'}")
    return peers


def interpolate(array: np.ndarray, size_hw: tuple[int, int]):
    import torch

    tensor = torch.from_numpy(array)[None]
    return torch.nn.functional.interpolate(tensor, size=size_hw, mode="bilinear", align_corners=False)[0]


def detectron2_center_offset(checkout: Path) -> Callable:
    path = checkout / "projects/Panoptic-DeepLab/panoptic_deeplab/post_processing.py"
    spec = importlib.util.spec_from_file_location("post_processing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(outputs: Outputs, size_hw: tuple[int, int]) -> tuple[Maps, dict[str, float]]:
        (semantic, center, offset), before = timed(
            lambda: [interpolate(outputs[name], size_hw) for name in ("semantic", "center", "offset")]
        )
        labels, argmax = timed(lambda: semantic.argmax(dim=0, keepdim=True))
        divisor = 100_000
        (panoptic, _), spent = timed(
            lambda: module.get_panoptic_segmentation(
                labels, center, offset, set(TAXONOMY.thing_ids), divisor, stuff_area=2048, void_label=-1
            )
        )
        ids = panoptic[0].numpy()
        classes = np.where(ids < 0, UNLABELLED, ids // divisor)
        things = TAXONOMY.table("thing")[classes]
        parts = {"detectron2, function alone": spent, "detectron2, with interpolation": before + argmax + spent}
        return (classes, number(np.where(things, ids, 0))), parts

    return run


def detectron2_instances(checkout: Path) -> Callable:
    """combine_semantic_and_instance_outputs, without the rest of its module, which needs detectron2 to be built."""
    import torch

    name = "combine_semantic_and_instance_outputs"
    path = checkout / "detectron2/modeling/meta_arch/panoptic_fpn.py"
    functions = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == name]
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module(functions, []), path, "exec"), namespace)
    thing = torch.from_numpy(TAXONOMY.table("thing"))

    def run(outputs: Outputs, size_hw: tuple[int, int]) -> tuple[Maps, dict[str, float]]:
        instances = SimpleNamespace(
            scores=torch.from_numpy(outputs["scores"]),
            pred_masks=torch.from_numpy(outputs["masks"]),
            pred_classes=torch.from_numpy(outputs["classes"]),
        )

        def classify():
            labels = interpolate(outputs["semantic"], size_hw).argmax(dim=0)
            return torch.where(thing[labels], 0, labels + 1)  # its class 0 is all things

        labels, before = timed(classify)
        (ids, infos), spent = timed(namespace[name], instances, labels, 0.5, 4096, 0.5)
        classes = {i["id"]: i["category_id"] - (not i["isthing"]) for i in infos}
        parts = {"detectron2, function alone": spent, "detectron2, with interpolation": before + spent}
        return from_segments(ids.numpy(), classes), parts

    return run


def transformers_queries(processor: Any) -> Callable:
    """Stuff of one class is fused here, not there: there the segment after a fused one takes an id already taken."""
    import torch

    def run(outputs: Outputs, size_hw: tuple[int, int]) -> tuple[Maps, dict[str, float]]:
        tensors = SimpleNamespace(
            class_queries_logits=torch.from_numpy(outputs["class_logits"])[None],
            masks_queries_logits=torch.from_numpy(outputs["mask_logits"])[None],
        )
        post_process = processor().post_process_panoptic_segmentation
        [result], spent = timed(lambda: post_process(tensors, label_ids_to_fuse=set(), target_sizes=[size_hw]))
        classes = {info["id"]: info["label_id"] for info in result["segments_info"]}
        return from_segments(result["segmentation"].numpy().astype(np.int64), classes), {"transformers": spent}

    return run


def from_segments(ids: np.ndarray, classes: Mapping[int, int]) -> Maps:
    """Maps of a segment id for each pixel and the segments' classes."""
    table = np.full(max(0, ids.max()) + 1, UNLABELLED)
    for segment, class_id in classes.items():
        table[segment] = class_id
    class_map = np.where(ids < 0, UNLABELLED, table[ids])
    return class_map, number(np.where(TAXONOMY.table("thing")[class_map], ids, 0))


def number(ids: np.ndarray) -> np.ndarray:
    """1, 2, ... for the positive ids."""
    present, positions = np.unique(ids, return_inverse=True)
    return np.where(present > 0, np.cumsum(present > 0), 0)[positions].reshape(ids.shape)


if __name__ == "__main__":
    main()
