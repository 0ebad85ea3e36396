"""Whether a network does with several images at once what it does with each alone. Learnt by running it.

That the batch axis is free does not mean that it works: exporters leave numbers in a graph (a Reshape to 1 image, a
Resize to a fixed shape), and what such a network then answers can be an error, or another image's.
"""

from collections.abc import Mapping

import numpy as np

from perception_node.device import Device
from perception_node.engine import Engine
from perception_node.errors import DeviceError, one_line
from perception_node.model import Model

SAME = 0.1
"""An answer is an image's own if it differs from that to the image alone by less than this part of what another image
makes of it: far more than rounding does, in float16 too, and far less than a mix of two images."""


def check_batch(model: Model, device: Device, engine: Engine, max_batch: int) -> None:
    """Raises ModelError if the network cannot take so many images, or does not answer for each as if it were alone."""
    remedy = "export it with a batch axis that is free throughout (perception export --dynamic-batch), or take 1"
    what = f"max_batch {max_batch}: {model.onnx_path}"
    if engine.inputs[0].shape[0] is not None:
        raise model.error("input.tensor", f"{what} takes one image at a time", remedy)
    images = random_images(model, max_batch)
    try:
        together = _run(device, engine, images)
    except DeviceError:
        raise
    except Exception as error:  # the libraries' exceptions share no base class
        problem = f"{what} has a free batch axis, but fails with several images: {one_line(error)}"
        raise model.error("input.tensor", problem, remedy) from error
    alone = [_run(device, engine, images[index : index + 1]) for index in range(max_batch)]
    for name in sorted(model.tensors.values()):
        shapes = {(max_batch, *answers[name].shape[1:]) for answers in alone}
        if shapes != {together[name].shape}:
            problem = f"{what} gives {name!r} of shape {together[name].shape} for {max_batch} images"
            raise model.error("input.tensor", problem, remedy)
        for index in range(max_batch):
            own, other = alone[index][name][0], alone[index - 1][name][0]
            if not _difference(together[name][index], own) <= SAME * _difference(other, own):
                problem = f"{what} answers for an image what depends on those beside it: {name!r} of image {index}"
                raise model.error("input.tensor", problem, remedy)


def random_images(model: Model, count: int) -> np.ndarray:
    """Noise, float32 (count, 3, H, W) normalised as the manifest says; of 0..255, each darker than the one before."""
    peaks = np.linspace(255, 0, count, endpoint=False).reshape(-1, 1, 1, 1)
    pixels = np.random.default_rng(0).uniform(0, 1, (count, *model.input.size_hw, 3)) * peaks
    normal = (pixels - model.input.mean) / model.input.std
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)


def _run(device: Device, engine: Engine, images: np.ndarray) -> Mapping[str, np.ndarray]:
    return {name: device.download(array) for name, array in engine.infer(device.upload(images)).items()}


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute one; equal infinities have none."""
    with np.errstate(invalid="ignore"):
        return float(np.mean(np.where(one == other, 0, np.abs(one.astype(np.float64) - other))))
