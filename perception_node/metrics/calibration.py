"""Expected calibration error (Guo et al., ICML 2017, section 2): does a confidence of 0.8 mean right in 80 of 100?"""

import numpy as np

N_BINS = 15


class CalibrationCounts:
    """Counts pixels by their confidence, in bins of equal width: (0, 1/M], (1/M, 2/M], ... as the paper has them.

    Attributes:
        pixels, right: int64 (M,), pixels and those of them whose class was right.
        confidence: float64 (M,), the sum of the pixels' confidences.
    """

    def __init__(self, n_bins: int = N_BINS):
        self.pixels, self.right = np.zeros(n_bins, np.int64), np.zeros(n_bins, np.int64)
        self.confidence = np.zeros(n_bins)

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Args: confidence, uint8 as 255ths or float as 0..1; right, bool of the same shape."""
        values = confidence.ravel().astype(np.float64)
        if confidence.dtype == np.uint8:
            values /= 255
        n_bins = len(self.pixels)
        bins = np.clip(np.ceil(values * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
        self.pixels += np.bincount(bins, minlength=n_bins)
        self.right += np.bincount(bins[right.ravel()], minlength=n_bins)
        self.confidence += np.bincount(bins, weights=values, minlength=n_bins)

    def merge(self, other: "CalibrationCounts") -> None:
        """Adds what another has counted."""
        self.pixels, self.right = self.pixels + other.pixels, self.right + other.right
        self.confidence = self.confidence + other.confidence

    def error(self) -> float | None:
        """The mean distance of accuracy and confidence, bins weighted by their pixels; None without pixels."""
        total = int(self.pixels.sum())
        return float(np.abs(self.right - self.confidence).sum() / total) if total else None
