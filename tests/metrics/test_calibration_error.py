import numpy as np
import pytest

from perception_node.metrics import CalibrationCounts


def error(confidence, right, n_bins=10):
    counts = CalibrationCounts(n_bins)
    counts.add(np.array(confidence), np.array(right, bool))
    return counts.error()


def test_by_hand():
    """Guo et al., equation 3: bins (0.7, 0.8] with 4 pixels, 2 right, and (0.9, 1] with 2, all right."""
    assert error([0.8] * 4 + [0.95] * 2, [1, 1, 0, 0, 1, 1]) == pytest.approx((4 * 0.3 + 2 * 0.05) / 6)


def test_errors_in_one_bin_cancel():
    assert error([0.75] * 4, [1, 1, 1, 0]) == 0


@pytest.mark.parametrize(("confidence", "bin_index"), [(0.0, 0), (0.1, 0), (0.1001, 1), (1.0, 9)])
def test_bins_hold_their_upper_edge(confidence, bin_index):
    counts = CalibrationCounts(10)
    counts.add(np.array([confidence]), np.array([True]))
    assert np.flatnonzero(counts.pixels).tolist() == [bin_index]


def test_255ths_and_sums_of_frames():
    whole, parts = CalibrationCounts(), [CalibrationCounts(), CalibrationCounts()]
    values, right = np.arange(256, dtype=np.uint8), np.arange(256) % 3 > 0
    whole.add(values / 255, right)
    for part, chosen in zip(parts, (slice(100), slice(100, None)), strict=True):
        part.add(values[chosen], right[chosen])
    parts[0].merge(parts[1])
    assert parts[0].error() == pytest.approx(whole.error(), abs=1e-12)
    assert CalibrationCounts().error() is None
