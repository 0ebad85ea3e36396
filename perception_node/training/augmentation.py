"""What varies between two looks at a training frame: where it is seen from, its colours, the weather.

Everything is drawn from a numpy Generator, so that a frame's variation is repeatable.
"""

import cv2
import numpy as np

from perception_node.metrics import VOID_INSTANCE
from perception_node.panoptic import UNLABELLED

GREY = (127, 127, 127)


def augment_geometry(rng, image, semantic, instance, size, crop=None, scales=(0.5, 2.0)):
    """Scale, crop or pad, flip; image and both label maps alike. Padding is mid-grey and void.

    Args:
        rng: numpy Generator.
        image: uint8 (H, W, 3); semantic: uint8 (H, W); instance: uint16 (H, W).
        size: (height, width) that the network's input has; at scale 1 the whole image fills it.
        crop: (height, width) of what is returned; default `size`.
        scales: smallest and largest scale, drawn evenly on a logarithmic scale.
    """
    (height, width), (crop_h, crop_w) = size, crop or size
    factor = np.exp(rng.uniform(*np.log(scales)))
    aspect = np.exp(rng.uniform(-0.1, 0.1))
    scale_y, scale_x = height * factor / image.shape[0], width * factor * aspect / image.shape[1]
    # The whole image at its scale, its corner placed at random: outside a large one, inside a small one.
    top = rng.uniform() * (crop_h - scale_y * image.shape[0])
    left = rng.uniform() * (crop_w - scale_x * image.shape[1])
    # Pixel centres lie at half pixels from the corner.
    matrix = np.float32(
        [[scale_x, 0, left + scale_x / 2 - 0.5], [0, scale_y, top + scale_y / 2 - 0.5]],
    )
    if rng.uniform() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += crop_w - 1

    def warp(array, interpolation, fill):
        return cv2.warpAffine(array, matrix, (crop_w, crop_h), flags=interpolation, borderValue=fill)

    image = warp(image, cv2.INTER_LINEAR, GREY)
    return image, warp(semantic, cv2.INTER_NEAREST, UNLABELLED), warp(instance, cv2.INTER_NEAREST, VOID_INSTANCE)


def letterbox(rng, image, semantic, instance):
    """Turns up to 40 % of the frame, below or at the right, into padding, in place.

    So an image of another shape lies in the network's input; without it what lies above the padding is taken for cars.
    """
    height, width = semantic.shape
    padded = np.s_[round(height * rng.uniform(0.6, 0.95)) :] if rng.uniform() < 0.7 else None
    padded = padded or np.s_[:, round(width * rng.uniform(0.6, 0.95)) :]
    image[padded], semantic[padded], instance[padded] = GREY, UNLABELLED, VOID_INSTANCE


def augment_colour(rng, image):
    """Exposure, contrast, saturation, hue, colour temperature; sometimes blur or noise, seldom grey."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue = ((np.arange(256) + rng.uniform(-8, 8)) % 180).astype(np.uint8)
    saturation = np.clip(np.arange(256) * (0 if rng.uniform() < 0.03 else rng.uniform(0.4, 1.6)), 0, 255)
    tables = np.stack([hue, saturation.astype(np.uint8), np.arange(256, dtype=np.uint8)], 1)
    image = cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)
    ramp = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.5, 0.5)) * 255
    middle = ramp[int(image.mean())]  # contrast turns about it: a dark image does not go black
    ramp = (ramp - middle) * rng.uniform(0.65, 1.35) + middle + rng.uniform(-25, 25)
    table = np.clip(ramp[:, None] * rng.uniform(0.88, 1.12, 3), 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    if rng.uniform() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.uniform() < 0.2:
        noise = np.empty(image.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, 0, rng.uniform(2, 10))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def augment_weather(rng, image, chance=0.25):
    """Sometimes fog, rain, a cast shadow or the sun's glare; uint8 (H, W, 3) RGB in and out."""
    if rng.uniform() >= chance:
        return image
    kind = rng.choice([fog, rain, shadow, glare])
    return kind(rng, image)


def _blend(image, color, amount):
    """`color` (a number or one a channel) over `image` to `amount` (H, W) of 0..1."""
    amount = amount[..., None].astype(np.float32)
    return (image * (1 - amount) + np.float32(color) * amount + 0.5).astype(np.uint8)


def fog(rng, image):
    """Bright haze, densest at a horizon: there is where distances are greatest."""
    height, width = image.shape[:2]
    horizon = rng.uniform(0.2, 0.6) * height
    distance = 1 / (0.08 + np.abs(np.arange(height) - horizon) / height)
    amount = rng.uniform(0.3, 0.8) * (1 - np.exp(-rng.uniform(0.1, 0.5) * distance))
    return _blend(image, rng.uniform(170, 235), np.repeat(amount[:, None], width, 1))


def rain(rng, image):
    """Slanted bright streaks on a darker, less contrasted image."""
    height, width = image.shape[:2]
    drops = (rng.uniform(size=(height, width)) > rng.uniform(0.985, 0.997)).astype(np.float32)
    length, slant = int(rng.integers(7, 20)), rng.uniform(-0.4, 0.4)
    streak = np.zeros((length, length), np.float32)
    middle = length // 2
    end = int(slant * middle)
    cv2.line(streak, (middle - end, 0), (middle + end, length - 1), 1.0)
    streaks = np.clip(cv2.filter2D(drops, -1, streak) * rng.uniform(0.2, 0.5), 0, 0.6)
    dull = cv2.convertScaleAbs(image, alpha=rng.uniform(0.6, 0.9), beta=rng.uniform(0, 25))
    return _blend(dull, 200, streaks)


def shadow(rng, image):
    """A dark polygon across the image, as of a bridge, a tree or a building."""
    height, width = image.shape[:2]
    corners = rng.uniform(-0.2, 1.2, (4, 2)) * (width, height)
    mask = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.float32)).astype(np.int32), 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 4))
    return _blend(image, rng.uniform(0, 25), mask * rng.uniform(0.3, 0.65))


def glare(rng, image):
    """A bright disc that fades, as of a low sun."""
    height, width = image.shape[:2]
    y, x = rng.uniform(-0.1, 0.5) * height, rng.uniform(0, 1) * width
    distance = np.hypot(np.arange(height)[:, None] - y, np.arange(width)[None] - x)
    amount = rng.uniform(0.5, 1) * np.exp(-((distance / (rng.uniform(0.1, 0.5) * width)) ** 2))
    return _blend(image, (255, 250, 235), amount)
