from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_node.errors import BadCalibration
from perception_node.mounting import rotation_of_quaternion
from perception_node.transforms import Transforms

LEFT = (0, 0, np.sqrt(0.5), np.sqrt(0.5))  # a quarter turn about z
NONE = (0, 0, 0, 1)


def stamped(parent, child, translation, quaternion=NONE):
    def fields(names, values):
        return SimpleNamespace(**dict(zip(names, values, strict=True)))

    transform = SimpleNamespace(translation=fields("xyz", translation), rotation=fields("xyzw", quaternion))
    return SimpleNamespace(header=SimpleNamespace(frame_id=parent), child_frame_id=child, transform=transform)


def transforms(*edges):
    tree = Transforms()
    tree.add(SimpleNamespace(transforms=[stamped(*edge) for edge in edges]))
    return tree


def moved(pose, point):
    rotation, translation = pose
    return rotation @ point + translation


def test_a_chain_by_hand():
    """The mast looks left: what is 1 m ahead of the camera is 1 m to the left of the mast."""
    tree = transforms(("base_link", "mast", (2, 0, 1), LEFT), ("mast", "camera", (0, 0, 0.5)))
    np.testing.assert_allclose(moved(tree.lookup("base_link", "camera"), [1, 0, 0]), [2, 1, 1.5], atol=1e-15)
    np.testing.assert_allclose(moved(tree.lookup("camera", "base_link"), [2, 1, 1.5]), [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(moved(tree.lookup("mast", "mast"), [1, 2, 3]), [1, 2, 3])


def test_across_branches():
    tree = transforms(("base", "left", (0, 1, 0)), ("base", "right", (0, -1, 0)), ("right", "lens", (0.1, 0, 0)))
    np.testing.assert_allclose(moved(tree.lookup("left", "lens"), [0, 0, 0]), [0.1, -2, 0])


def test_what_is_not_connected_is_none():
    tree = transforms(("base", "left", (0, 1, 0)), ("map", "odom", (0, 0, 0)))
    assert tree.lookup("base", "odom") is None
    assert tree.lookup("base", "camera") is None
    assert tree.lookup("camera", "base") is None
    tree.add(SimpleNamespace(transforms=[stamped("base", "map", (1, 0, 0))]))
    np.testing.assert_allclose(moved(tree.lookup("base", "odom"), [0, 0, 0]), [1, 0, 0])


def test_the_newest_counts_and_a_slash_does_not():
    tree = transforms(("/base", "/camera", (0, 0, 1)), ("base", "camera", (0, 0, 2)))
    assert tree.lookup("base", "/camera")[1].tolist() == [0, 0, 2]


@given(
    st.lists(st.tuples(*[st.floats(-1, 1)] * 7).filter(lambda n: np.hypot.reduce(n[3:]) > 0.1), min_size=1, max_size=6)
)
def test_there_and_back(steps):
    edges = []
    for i, (x, y, z, *quaternion) in enumerate(steps):
        edges.append((f"f{i}", f"f{i + 1}", (x, y, z), np.array(quaternion) / np.linalg.norm(quaternion)))
    tree = transforms(*edges)
    last = f"f{len(steps)}"
    point = np.array([0.3, -2, 1])
    expected = point
    for _, _, translation, quaternion in reversed(edges):
        expected = rotation_of_quaternion(quaternion) @ expected + translation
    there = moved(tree.lookup("f0", last), point)
    np.testing.assert_allclose(there, expected, atol=1e-12)
    np.testing.assert_allclose(moved(tree.lookup(last, "f0"), there), point, atol=1e-12)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (("other", "camera", (0, 0, 0)), "'camera' has the parent 'mast' already"),
        (("camera", "base", (0, 0, 0)), "'base' is an ancestor of 'camera'; expected: a tree"),
        (("base", "base", (0, 0, 0)), "'base' is an ancestor of 'base'"),
        (("base", "x", (0, np.nan, 0)), "translation"),
        (("base", "x", (0, 0, 0), (0, 0, 0, 0)), "has length 0; expected: length 1"),
        (("base", "x", (0, 0, 0), (0, 0, 0, 2)), "has length 2"),
        (("", "x", (0, 0, 0)), "without a name"),
        (("base", "/", (0, 0, 0)), "without a name"),
    ],
)
def test_what_is_wrong_is_refused_and_the_rest_taken(edge, message):
    tree = transforms(("base", "mast", (0, 0, 1)), ("mast", "camera", (0, 0, 1)))
    with pytest.raises(BadCalibration, match=message):
        tree.add(SimpleNamespace(transforms=[stamped(*edge), stamped("base", "lidar", (0, 0, 3))]))
    assert tree.lookup("base", "camera")[1].tolist() == [0, 0, 2]
    assert tree.lookup("base", "lidar")[1].tolist() == [0, 0, 3]
    assert tree.lookup("base", "x") is None
