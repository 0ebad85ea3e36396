import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception_node.panoptic import UNLABELLED, PanopticFrame, Segment

ROAD, SKY, CAR = 0, 1, 2


def literal_frame():
    class_map = np.array([[SKY, SKY, UNLABELLED], [CAR, CAR, ROAD]], np.uint8)
    instance_map = np.array([[0, 0, 0], [5, 5, 0]], np.uint16)
    confidence = np.array([[255, 51, 0], [102, 204, 255]], np.uint8)
    return class_map, instance_map, confidence


def test_segments_of_a_literal_frame():
    frame = PanopticFrame.from_maps(*literal_frame())
    assert frame.segments == (
        Segment(id=0, class_id=ROAD, score=1.0, area=1, box_xyxy=(2, 1, 3, 2), centroid_xy=(2.0, 1.0)),
        Segment(id=0, class_id=SKY, score=0.6, area=2, box_xyxy=(0, 0, 2, 1), centroid_xy=(0.5, 0.0)),
        Segment(id=5, class_id=CAR, score=0.6, area=2, box_xyxy=(0, 1, 2, 2), centroid_xy=(0.5, 1.0)),
    )
    assert frame.instances == frame.segments[2:]
    frame.check({CAR})


@pytest.mark.parametrize(
    ("things", "change", "message"),
    [
        ({CAR}, lambda c, i: i.__setitem__((0, 0), 9), "class 1 has instance id 9"),
        ({CAR}, lambda c, i: i.__setitem__((1, 0), 0), "class 2 has instance id 0"),
        ({CAR, ROAD}, lambda c, i: i.__setitem__((1, 2), 5), "stands for two segments"),
        ({CAR}, lambda c, i: i.__setitem__((0, 2), 4), "class 255 has instance id 4"),
    ],
)
def test_a_broken_rule_is_named(things, change, message):
    class_map, instance_map, confidence = literal_frame()
    change(class_map, instance_map)
    pairs = {(int(c), int(i)) for c, i in zip(class_map.ravel(), instance_map.ravel(), strict=True)} - {(UNLABELLED, 0)}
    segments = tuple(
        Segment(i, c, 1.0, int(((class_map == c) & (instance_map == i)).sum()), (0, 0, 1, 1), (0, 0)) for c, i in pairs
    )
    with pytest.raises(ValueError, match=message):
        PanopticFrame(class_map, instance_map, confidence, segments).check(things)


def test_a_table_that_differs_from_the_maps_is_named():
    frame = PanopticFrame.from_maps(*literal_frame())
    with pytest.raises(ValueError, match="the segments say"):
        PanopticFrame(frame.class_map, frame.instance_map, frame.confidence, frame.segments[1:]).check({CAR})


@given(
    arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 1, 2, 65535])),
    st.randoms(),
)
def test_measured_segments_are_what_a_slow_count_says(instance_map, random):
    stuff = np.array([[random.choice([0, 3, 254, UNLABELLED]) for _ in row] for row in instance_map], np.uint8)
    class_of = {1: 7, 2: 7, 65535: 8}
    class_map = np.where(instance_map > 0, np.vectorize(lambda i: class_of.get(i, 0))(instance_map), stuff).astype(
        np.uint8
    )
    frame = PanopticFrame.from_maps(class_map, instance_map, np.full(class_map.shape, 255, np.uint8))
    frame.check({7, 8})
    for segment in frame.segments:
        ys, xs = np.nonzero((class_map == segment.class_id) & (instance_map == segment.id))
        assert segment.area == len(ys)
        assert segment.box_xyxy == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert segment.centroid_xy == pytest.approx((xs.mean(), ys.mean()))


def test_instances_below_a_score_become_unlabelled():
    class_map = np.uint8([[0, 2, 2], [0, 3, 0]])
    instance_map = np.uint16([[0, 1, 1], [0, 7, 0]])
    confidence = np.uint8([[255, 51, 51], [255, 204, 255]])  # scores 0.2 and 0.8
    frame = PanopticFrame.from_maps(class_map, instance_map, confidence)
    assert frame.without_below(0.2) is frame
    kept = frame.without_below(0.5)
    kept.check({2, 3})
    np.testing.assert_array_equal(kept.class_map, [[0, 255, 255], [0, 3, 0]])
    np.testing.assert_array_equal(kept.instance_map, [[0, 0, 0], [0, 7, 0]])
    np.testing.assert_array_equal(kept.confidence, [[255, 0, 0], [255, 204, 255]])
    assert [segment.id for segment in kept.instances] == [7]
    np.testing.assert_array_equal(frame.class_map, class_map)  # the frame itself stays
