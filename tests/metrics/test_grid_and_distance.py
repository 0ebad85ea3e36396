import numpy as np
import pytest

from perception_node.metrics.ground import Grid, distance_summary, free_cells

U, F, X = -1, 0, 100


def grid(cells, resolution=1.0, origin_xy=(0.0, 0.0)):
    return Grid(np.array(cells, np.int8), resolution, origin_xy)


def test_free_cells_where_the_truth_knows():
    counts = free_cells(grid([[F, F, X, X, U]]), grid([[F, U, F, X, F]]), 100)
    assert (counts.tp, counts.fp, counts.fn) == (1, 1, 1)


@pytest.mark.parametrize(("distance", "cells"), [(0.4, 0), (0.5, 1), (1.5, 2), (9, 4)])
def test_cells_within_a_distance(distance, cells):
    """Middles at x = 0.5, 1.5, 2.5, 3.5, y = 0."""
    one = grid([[F] * 4], origin_xy=(0.0, -0.5))
    assert free_cells(one, one, distance).tp == cells


def test_grids_of_other_cells_are_looked_up():
    truth = grid([[F, F], [X, X]], 1.0, (0.0, -1.0))
    finer = grid(np.kron([[F, U], [F, X]], np.ones((2, 2))), 0.5, (0.0, -1.0))
    counts = free_cells(truth, finer, 100)
    assert (counts.tp, counts.fp, counts.fn) == (1, 1, 1)
    moved = grid([[F]], 1.0, (1.0, -1.0))
    counts = free_cells(truth, moved, 100)
    assert (counts.tp, counts.fp, counts.fn) == (1, 0, 1)  # outside of it nothing is known


def test_distance_errors():
    assert distance_summary([0.1, 0.3, 0.2]) == {
        "objects": 3,
        "median": pytest.approx(0.2),
        "p90": pytest.approx(0.28),
        "mean": pytest.approx(0.2),
    }
    assert distance_summary([]) == {"objects": 0, "median": None, "p90": None, "mean": None}
