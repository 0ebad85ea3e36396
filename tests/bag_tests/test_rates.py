import numpy as np
import pytest

from perception_node.bag_tests.rates import offer, peak, rate_name, rate_of


@pytest.mark.parametrize(
    ("milliseconds", "hz", "loss", "processed_hz", "p95"),
    [
        ([20], 10, 0, 10, 20),  # done long before the next comes
        ([100], 10, 0, 10, 100),  # just in time
        ([150], 10, 1 / 3, 6.667, 200),  # two of three; they wait 0 and 50 ms by turns
        ([200], 10, 0.5, 5, 200),  # every other
        ([50, 150], 10, 0, 10, 150),  # the long one makes the next wait, but nobody is lost
    ],
)
def test_what_becomes_of_images_at_a_rate(milliseconds, hz, loss, processed_hz, p95):
    found = offer(milliseconds, hz)
    assert found["loss"] == pytest.approx(loss, abs=0.002)
    assert found["processed_hz"] == pytest.approx(processed_hz, rel=0.002)
    assert found["p95"] == pytest.approx(p95)


def test_the_newest_image_wins():
    """Images at 0, 10, 20, ...; the first takes 35 ms: those of 10 and 20 are lost, that of 30 has waited 5 ms."""
    found = offer([35] + [1] * 999, 100)
    assert found["loss"] == pytest.approx(2 / 1000)
    assert found["p99"] == 1


@pytest.mark.parametrize("milliseconds", [[40], [40, 41, 39, 40], list(np.linspace(20, 60, 50)), [10] * 99 + [500]])
def test_the_peak_rate_is_where_five_in_a_hundred_are_lost(milliseconds):
    found = peak(milliseconds)
    assert found["loss"] <= 0.05
    assert offer(milliseconds, found["hz"] * 1.02)["loss"] > 0.05


def test_the_peak_rate_of_a_steady_machine():
    """40 ms each are 25 a second; those are 95 % of 26.3."""
    assert peak([40])["hz"] == pytest.approx(25 / 0.95, rel=0.01)


def test_names_of_rates():
    assert [rate_name(hz) for hz in (10.0, 7.5)] == ["10hz", "7.5hz"]
    assert [rate_of(name) for name in ("10hz", "7.5hz", "0hz", "network", "hz", "peak")] == [10, 7.5, *[None] * 4]
