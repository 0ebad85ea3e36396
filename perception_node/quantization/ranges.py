"""The range of values that int8 has to hold, for each tensor of a network, measured on frames.

Three methods: the largest value (minmax); the one that leaves out a small share (percentile); the one whose quantized
distribution has the least Kullback-Leibler divergence from the true one (entropy: Migacz, "8-bit Inference with
TensorRT", GTC 2017).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from perception_node.engine.network import session
from perception_node.errors import ModelError
from perception_node.quantization.recipe import Recipe

BINS = 2048
LEVELS = 128
"""Of an int8's magnitude."""

_STRIDE = 16
"""Bins between two ranges that entropy tries."""


class Tensors:
    """Runs a network and gives tensors from within it.

    Args:
        graph: the network as an onnx.ModelProto.
        names: of the tensors.
    """

    def __init__(self, graph, names: Sequence[str]):
        copy = type(graph)()
        copy.CopyFrom(graph)
        own = {output.name for output in copy.graph.output}
        self._image = copy.graph.input[0].name
        self._names = list(names)
        # An output without a type: ONNX Runtime infers it.
        copy.graph.output.extend(type(copy.graph.output[0])(name=n) for n in names if n not in own | {self._image})
        self._session = session(copy)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors of a float32 (1, 3, H, W) image, by their names."""
        fetched = [name for name in self._names if name != self._image]
        if not fetched:  # ONNX Runtime would take that for all outputs
            return dict.fromkeys(self._names, image)
        values = dict(zip(fetched, self._session.run(fetched, {self._image: image}), strict=True))
        return {name: image if name == self._image else values[name] for name in self._names}


def measure(
    graph, names: Sequence[str], images: Callable[[], Iterable[np.ndarray]], recipe: Recipe
) -> dict[str, tuple[float, float]]:
    """Ranges of tensors.

    Args:
        graph: the float32 network as an onnx.ModelProto.
        names: of the tensors.
        images: makes an iterator over float32 (1, 3, H, W) images, each time the same.
        recipe: method and percentile.

    Returns:
        Tensor -> its largest absolute value, and the range that int8 shall hold, which is no more.

    Raises:
        ModelError: a tensor has values that are no finite numbers.
    """
    tensors = Tensors(graph, names)
    peaks = dict.fromkeys(names, 0.0)
    for image in images():
        for name, values in tensors(image).items():
            peak = max(float(values.max(initial=0)), -float(values.min(initial=0)))
            if not np.isfinite(peak):
                raise ModelError(f"tensor {name!r}: reaches {peak} on the footage; export the network anew")
            peaks[name] = max(peaks[name], peak)
    if recipe.method == "minmax":
        return {name: (peak, peak) for name, peak in peaks.items()}
    histograms = {name: np.zeros(BINS, np.int64) for name in names}
    for image in images():
        for name, values in tensors(image).items():
            histograms[name] += histogram(values, peaks[name])
    return {name: (peak, peak * _share(histograms[name], recipe)) for name, peak in peaks.items()}


def histogram(values: np.ndarray, peak: float) -> np.ndarray:
    """int64 (BINS,): how many values have an absolute value within each of equal steps from 0 to the peak."""
    scale = BINS / peak if peak else 0.0
    bins = np.minimum(np.abs(values).ravel() * scale, BINS - 1).astype(np.int32)
    return np.bincount(bins, minlength=BINS)


def _share(counts: np.ndarray, recipe: Recipe) -> float:
    return percentile(counts, recipe.percentile) if recipe.method == "percentile" else entropy(counts)


def percentile(counts: np.ndarray, percent: float) -> float:
    """The least share of a histogram's bins, 0..1, that holds so many percent of the values."""
    held = np.cumsum(counts)
    return (int(np.searchsorted(held, held[-1] * percent / 100)) + 1) / len(counts)


def entropy(counts: np.ndarray) -> float:
    """The share of a histogram's bins, 0..1, that makes the best range: with the least divergence once quantized.

    A narrower range has finer steps but clips more. Zeros are exact in any range: what their bin holds, most of the
    values behind a ReLU, would outweigh all others, and counts as much as the next one's.
    """
    counts = np.concatenate([counts[1:2], counts[1:]]).astype(np.float64)
    if not counts.any():
        return 1.0
    best = np.inf, len(counts)
    for width in range(LEVELS, len(counts) + 1, _STRIDE):
        reference = counts[:width].copy()
        reference[-1] += counts[width:].sum()  # what is clipped
        is_filled = counts[:width] > 0
        level = np.arange(width) * LEVELS // width
        filled = np.bincount(level, is_filled, LEVELS)
        mean = np.bincount(level, counts[:width], LEVELS) / np.maximum(filled, 1)
        quantized = np.where(is_filled, mean[level], 0)
        p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1)
        divergence = np.sum(p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], 1e-12)))
        best = min(best, (divergence, width))
    return best[1] / len(counts)


def as_float16(scale: np.ndarray | float) -> np.ndarray:
    """Scales rounded up to float16, which the plan has: float32 ones would be rounded after the weights were."""
    wanted = np.maximum(np.asarray(scale, np.float64), 2.0**-20)
    scales = wanted.astype(np.float16)
    return np.where(scales < wanted, np.nextafter(scales, np.float16(np.inf)), scales).astype(np.float16)
