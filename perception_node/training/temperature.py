"""Confidence that means something: temperature scaling (Guo et al., ICML 2017, section 4.2).

The logits are divided by one number, found on validation frames. No pixel changes its class. The last convolution's
weights take the division, so that it costs nothing.
"""

import numpy as np
import torch
import torch.nn.functional as F

from perception_node.metrics import CalibrationCounts


def fit_temperature(logits: np.ndarray, classes: np.ndarray) -> float:
    """The temperature with the least negative log likelihood.

    Args:
        logits: float32 (N, C).
        classes: int64 (N,), the true ones.
    """
    scores, truth = torch.from_numpy(logits), torch.from_numpy(classes)
    sharpness = torch.ones(1, requires_grad=True)  # 1 / temperature, in which the likelihood is convex
    optimizer = torch.optim.LBFGS([sharpness], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(scores * sharpness, truth)
        value.backward()
        return value

    optimizer.step(loss)
    return float(1 / sharpness.detach().clamp(min=1e-2))


def calibration_error(logits: np.ndarray, classes: np.ndarray, temperature: float = 1.0) -> float:
    """Expected calibration error of the likeliest class's probability; arguments as for fit_temperature."""
    probability = torch.from_numpy(logits).div(temperature).softmax(1).max(1)
    counts = CalibrationCounts()
    counts.add(probability.values.numpy(), (probability.indices.numpy() == classes))
    return counts.error() or 0.0
