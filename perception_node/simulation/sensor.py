"""What a camera makes of light: exposure, vignetting, blur, noise and eight bits."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Sensor:
    """
    Attributes:
        gain: of the exposure, beside the light's own.
        contrast: of the tone curve.
        vignetting: light lost in the corners, 0..1.
        blur: of the lens, standard deviation in pixels of a 480 pixel wide image.
        noise: standard deviation of mid-gray, in parts of white.
        tint: float32 (3,), of the white balance, RGB.
        saturation: 1 is true.
    """

    gain: float
    contrast: float
    vignetting: float
    blur: float
    noise: float
    tint: np.ndarray
    saturation: float

    @classmethod
    def make(cls, rng: np.random.Generator) -> "Sensor":
        """One of many."""
        return cls(
            float(rng.uniform(0.85, 1.15)),
            float(rng.uniform(1.05, 1.3)),
            float(rng.uniform(0.05, 0.4)),
            float(rng.uniform(0.2, 0.8)),
            float(rng.uniform(0.004, 0.022)),
            rng.normal(1, 0.03, 3).astype(np.float32),
            float(rng.uniform(0.75, 1.1)),
        )

    def expose(self, light: np.ndarray, exposure: float, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H, W, 3) BGR of linear RGB (H, W, 3) float32."""
        height, width, _ = light.shape
        y, x = np.mgrid[:height, :width].astype(np.float32)
        radius2 = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / (width**2 + height**2) * 4
        charge = light * (self.tint * (exposure * self.gain)) * (1 - self.vignetting * radius2)[..., None]
        charge = cv2.GaussianBlur(charge, (0, 0), max(0.15, self.blur * width / 480))
        gray = charge @ np.float32([0.3, 0.59, 0.11])
        charge = gray[..., None] + self.saturation * (charge - gray[..., None])
        charge = np.maximum(charge, 0)
        # A shoulder instead of clipping, then the eye's gamma.
        tone = (1 - np.exp(-1.5 * charge)) ** np.float32(self.contrast / 2.2)
        shot = np.sqrt(tone + 0.05)[..., None] if tone.ndim == 2 else np.sqrt(tone + 0.05)
        grain = rng.standard_normal((height, width, 1), np.float32) * 0.7
        grain = grain + rng.standard_normal((height, width, 3), np.float32) * 0.7
        tone = tone + self.noise * shot * grain
        return np.ascontiguousarray((np.clip(tone, 0, 1) * 255 + 0.5).astype(np.uint8)[..., ::-1])
