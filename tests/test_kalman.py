import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_node import kalman


def test_the_second_of_two_exact_values_gives_the_speed():
    states = kalman.start(np.array([10.0]), np.array([1e-9]), np.array([1e9]))
    kalman.predict(states, 0.5, np.array([0.0]))
    states = kalman.update(states, np.array([13.0]), np.array([1e-9]))
    assert states["value"] == pytest.approx(13)
    assert states["speed"] == pytest.approx(6)


def test_a_value_as_sure_as_the_state_counts_half():
    states = kalman.update(kalman.start(np.array([10.0]), np.array([4.0]), np.array([0.0])), np.array([20.0]), 4.0)
    assert (states["value"], states["vv"], states["speed"]) == (15, 2, 0)


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(-50, 50), st.floats(0.1, 9)), min_size=1, max_size=6))
def test_it_is_the_filter_of_the_textbook(steps):
    """With matrices, as the book has it."""
    noise = 3.0
    states = kalman.start(np.zeros((1, 2)), np.full((1, 2), 4.0), np.full((1, 2), 25.0))
    mean, covariance = np.zeros(2), np.diag([4.0, 25.0])
    for seconds, measured, variance in steps:
        kalman.predict(states, seconds, np.full((1, 2), noise))
        states = kalman.update(states, np.full((1, 2), measured), np.full((1, 2), variance))

        move = np.array([[1, seconds], [0, 1]])
        disturbance = noise * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
        mean, covariance = move @ mean, move @ covariance @ move.T + disturbance
        gain = covariance[:, 0] / (covariance[0, 0] + variance)
        mean = mean + gain * (measured - mean[0])
        covariance = covariance - np.outer(gain, covariance[0])
    for state in states.ravel():
        found = [state[name] for name in ("value", "speed", "vv", "vs", "ss")]
        np.testing.assert_allclose(found, [*mean, *covariance[np.triu_indices(2)]], rtol=1e-6, atol=1e-9)
