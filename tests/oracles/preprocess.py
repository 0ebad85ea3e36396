"""Preprocessing as plainly as numpy can say it."""

import numpy as np

from perception_node.image import CameraImage
from perception_node.model import InputSpec
from perception_node.preprocess import fit


def preprocess(image: CameraImage, spec: InputSpec, dtype=np.float32) -> np.ndarray:
    """The network's input, (1, 3, *spec.size_hw)."""
    geometry = fit((image.height, image.width), spec.size_hw, spec.resize)
    height, width = (round(size / scale) or 1 for size, scale in zip(geometry.image_hw, geometry.scale_yx, strict=True))
    content = resample(decode(image), height, width)
    if spec.color == "bgr":
        content = content[..., ::-1]
    scale, shift = np.float32(1 / np.float64(spec.std)), np.float32(np.float64(spec.mean) / np.float64(spec.std))
    tensor = np.zeros((1, 3, *spec.size_hw), dtype)
    with np.errstate(over="ignore"):
        tensor[0, :, :height, :width] = (content * scale - shift).transpose(2, 0, 1)
    return tensor


# ---- resampling ----


def resample(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whole numbers (H, W, 3) -> float32 (height, width, 3); first down the columns, then across, sample by sample."""
    pixels = pixels.astype(np.float32)
    down, across = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    columns = np.zeros((height, *pixels.shape[1:]), np.float32)
    for y, row in enumerate(pixels):
        columns += down[:, y, None, None] * row
    result = np.zeros((height, width, 3), np.float32)
    for x in range(pixels.shape[1]):
        result += across[:, x, None] * columns[:, x, None]
    return result


def weights(samples: int, pixels: int) -> np.ndarray:
    """float32 (pixels, samples): what each sample adds to each pixel.

    Where there are fewer pixels than samples, the mean over the pixel's area; else linear between half-pixel centres,
    edges repeated. In steps of 2^-16: the sums over the samples before each are rounded, so that all together are 1.
    """
    if pixels < samples:  # in units of 1 / pixels of a sample
        begin, end = np.arange(pixels) * samples, (np.arange(pixels) + 1) * samples
        left = np.arange(samples) * pixels
        shares = np.minimum(end[:, None], left + pixels) - np.maximum(begin[:, None], left)
    else:  # in units of 1 / (2 * pixels) of a sample
        position = (2 * np.arange(pixels) + 1) * samples - pixels
        position = np.clip(position, 0, (samples - 1) * 2 * pixels)
        shares = 2 * pixels - np.abs(position[:, None] - np.arange(samples) * 2 * pixels)
    before = np.pad(np.cumsum(np.maximum(shares, 0), axis=1), ((0, 0), (1, 0)))
    whole = before[:, -1:]
    steps = (2 * 65536 * before + whole) // (2 * whole)  # rounded
    return (np.diff(steps) / 65536).astype(np.float32)


# ---- decoding ----


def decode(image: CameraImage) -> np.ndarray:
    """int (H, W, 3), red, green, blue, 0..255."""
    rows = image.data.reshape(image.height, image.step).astype(int)
    if image.encoding.startswith("bayer"):
        pattern, depth = image.encoding[6:10], int(image.encoding[10:]) // 8
        high_byte = 0 if image.is_bigendian else depth - 1
        samples = rows[:, : image.width * depth].reshape(image.height, image.width, depth)
        return demosaic(samples[..., high_byte], pattern)
    if "yu" in image.encoding or "uy" in image.encoding:
        pairs = rows[:, : 2 * image.width].reshape(image.height, image.width // 2, 4)
        order = "uyvy" if image.encoding in ("yuv422", "uyvy") else "yuyv"
        first, second = (i for i, letter in enumerate(order) if letter == "y")
        luma = pairs[..., [first, second]].reshape(image.height, image.width)
        u, v = (pairs[..., order.index(letter)].repeat(2, axis=1) for letter in "uv")
        return yuv_to_rgb(luma, u, v)
    letters = {"mono8": "y"}.get(image.encoding, image.encoding.removesuffix("8"))
    pixels = rows[:, : len(letters) * image.width].reshape(image.height, image.width, len(letters))
    return pixels[..., [letters.index(letter) for letter in ("rgb" if letters != "y" else "yyy")]]


def yuv_to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """ITU-R BT.601: luma is 16..235, chroma 16..240; factors in steps of 2^-16, the result rounded and clamped."""
    red, blue = 0.299, 0.114
    green = 1 - red - blue
    y, u, v = np.maximum(y - 16, 0) * _steps(255 / 219), u - 128, v - 128
    of_red, of_blue = 2 * (1 - red) * 255 / 224, 2 * (1 - blue) * 255 / 224
    rgb = (
        y + v * _steps(of_red),
        y - u * _steps(of_blue * blue / green) - v * _steps(of_red * red / green),
        y + u * _steps(of_blue),
    )
    return np.clip((np.stack(rgb, axis=-1) + 2**15) // 2**16, 0, 255)


def _steps(factor: float) -> int:
    return round(factor * 2**16)


def demosaic(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Bilinear: what a pixel lacks is the rounded mean of its nearest neighbours of that colour; edges mirrored."""
    height, width = mosaic.shape
    colours = np.tile(np.array(list(pattern)).reshape(2, 2), (-(-height // 2), -(-width // 2)))[:height, :width]
    values, colours = np.pad(mosaic, 1, mode="reflect"), np.pad(colours, 1, mode="reflect")
    result = np.zeros((height, width, 3), int)
    for y in range(height):
        for x in range(width):
            nine = values[y : y + 3, x : x + 3], colours[y : y + 3, x : x + 3]
            for i, colour in enumerate("rgb"):
                if colours[y + 1, x + 1] == colour:
                    result[y, x, i] = values[y + 1, x + 1]
                    continue
                near = [(v, c) for v, c in zip(*(a.flat[1::2] for a in nine), strict=True) if c == colour]
                near = near or [(v, c) for v, c in zip(*(a.flat[::2] for a in nine), strict=True) if c == colour]
                result[y, x, i] = (sum(v for v, _ in near) + len(near) // 2) // len(near)
    return result
