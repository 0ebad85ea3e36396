import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception_node.metrics import (
    Overlaps,
    PanopticCounts,
    PanopticMap,
    SegmentationTrackingQuality,
    VideoPanopticQuality,
)
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR, BUS, V = 0, 1, 2, UNLABELLED
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0)),
        Category(CAR, "car", (0, 0, 1), thing=True),
        Category(BUS, "bus", (0, 1, 0), thing=True),
    ]
)
CROWD = 0


def row(ids, classes=None):
    ids = np.array([ids], np.uint16)
    classes = np.full(ids.shape, CAR) if classes is None else np.array([classes])
    return PanopticMap.from_maps(classes.astype(np.uint8), ids, TAXONOMY)


def stq(*sequences):
    """STQ, AQ, SQ of sequences of (truth, predicted)."""
    quality = SegmentationTrackingQuality(len(TAXONOMY), TAXONOMY.thing_ids)
    for sequence in sequences:
        quality.start_sequence()
        for truth, predicted in sequence:
            quality.add(Overlaps.of(truth, predicted))
    return quality.quality()


def vpq(frames, k):
    quality = VideoPanopticQuality(len(TAXONOMY), windows=(k,))
    for truth, predicted in frames:
        quality.add(Overlaps.of(truth, predicted))
    return quality.counts[k]


@pytest.mark.parametrize(
    ("predicted", "association"),
    [
        ([1, 1, 1, 1, 1], 1.0),
        ([8, 8, 8, 8, 8], 1.0),  # ids need not be the truth's
        ([1, 1, 2, 2, 2], (2 * 2 / 5 + 3 * 3 / 5) / 5),
        ([1, 2, 3, 4, 5], 5 * (1 * 1 / 5) / 5),
        ([1, 2, 1, 2, 2], (2 * 2 / 5 + 3 * 3 / 5) / 5),
    ],
)
def test_association_of_one_car_over_five_frames(predicted, association):
    """Frames of one pixel. AQ sums TPA x TPA / (TPA + FPA + FNA) over the predicted ids, divided by the car's 5."""
    frames = [(row([1]), row([identity])) for identity in predicted]
    assert stq(frames) == pytest.approx((np.sqrt(association), association, 1.0))


def test_ids_of_other_sequences_are_other_objects():
    first, second = [(row([1]), row([1]))] * 3, [(row([1]), row([1]))] * 2
    assert stq(first, second)[1] == 1.0
    moved = [(row([1]), row([2]))] * 3
    assert stq(first, moved)[1] == 1.0
    assert stq(first + moved)[1] == pytest.approx(0.5)  # as one sequence the id changes in the middle
    merged = [(row([1, 2]), row([1, 1]))] * 2
    assert stq(first, merged)[1] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)  # the mean over all three tubes


def test_a_crowd_counts_for_no_tube():
    assert stq([(row([CROWD, 1, 1]), row([1, 1, 1]))]) == (1.0, 1.0, 1.0)
    assert stq([(row([CROWD]), row([1]))]) == (None, None, 1.0)


def test_a_tube_that_is_too_long_is_less():
    """Its third pixel lies on the truth's road: an FPA of the car's tube, and a miss of the road."""
    truth, predicted = row([1, 1, 0], [CAR, CAR, ROAD]), row([1, 1, 1])
    _, aq, sq = stq([(truth, predicted)])
    assert aq == pytest.approx(2 * (2 / 3) / 2)
    assert sq == pytest.approx((0 + 2 / 3) / 2)


def test_another_class_is_another_tube():
    _, aq, sq = stq([(row([1]), row([1])), (row([1]), row([1], [BUS]))])
    assert aq == pytest.approx((1 * 1 / 2 + 1 * 1 / 2) / 2)
    assert sq == pytest.approx((1 / 2 + 0) / 2)


def test_what_the_prediction_leaves_unlabelled_is_a_class_of_its_own_in_sq():
    """As in deeplab2: car 1/2, unlabelled 0."""
    assert stq([(row([1, 1]), row([1, 0], [CAR, V]))])[2] == 0.25


def stq_by_pixels(truths, predictions):
    """Section 4 of the paper, of arrays (F, H, W) of (class, id), as it is written there."""
    (true_classes, true_ids), (classes, ids) = truths, predictions
    things = list(TAXONOMY.thing_ids)
    crowd = np.isin(true_classes, things) & (true_ids == CROWD)
    tubes = {(c, i) for c, i in zip(true_classes[~crowd], true_ids[~crowd], strict=True) if c in things}
    seen = {(c, i) for c, i in zip(classes[~crowd], ids[~crowd], strict=True) if c in things}
    total = 0.0
    for c, i in tubes:
        g = (true_classes == c) & (true_ids == i)
        for d, j in seen:
            p = (classes == d) & (ids == j) & ~crowd
            tpa = (g & p).sum()
            total += tpa * (tpa / (g | p).sum()) / g.sum()
    ious = []
    for c in [*range(len(TAXONOMY)), V]:
        g, p = (true_classes == c) & (c != V), (classes == c) & (true_classes != V)
        if (g | p).any():
            ious.append((g & p).sum() / (g | p).sum())
    return total / len(tubes) if tubes else None, np.mean(ious) if ious else None


def videos():
    """Frames (F, 3, 4) of classes and of ids, which are 0 where there is no thing."""
    classes = arrays(np.uint8, (4, 3, 4), elements=st.sampled_from([ROAD, CAR, BUS, V]))
    ids = arrays(np.uint16, (4, 3, 4), elements=st.integers(0, 2))
    return st.tuples(classes, ids).map(lambda pair: (pair[0], pair[1] * np.isin(pair[0], (CAR, BUS))))


def frames_of(video):
    return [PanopticMap.from_maps(classes, ids, TAXONOMY) for classes, ids in zip(*video, strict=True)]


@settings(max_examples=40, deadline=None)
@given(videos(), videos())
def test_stq_pixel_by_pixel(truth, predicted):
    _, aq, sq = stq(list(zip(frames_of(truth), frames_of(predicted), strict=True)))
    expected_aq, expected_sq = stq_by_pixels(truth, predicted)
    assert aq == (None if expected_aq is None else pytest.approx(expected_aq, abs=1e-12))
    assert sq == (None if expected_sq is None else pytest.approx(expected_sq, abs=1e-12))


def test_an_id_that_changes_is_seen_by_longer_windows():
    frames = [(row([1, 1]), row([identity] * 2)) for identity in (5, 5, 6, 6)]
    for k, (tp, fp, fn) in {1: (4, 0, 0), 2: (2, 2, 1), 3: (2, 2, 0), 4: (0, 2, 1)}.items():
        counts = vpq(frames, k)  # of 3 frames in a row, two with the same id have an IoU of 2/3
        assert (counts.tp[CAR], counts.fp[CAR], counts.fn[CAR]) == (tp, fp, fn)
    assert vpq(frames, 3).iou[CAR] == pytest.approx(4 / 3)


def test_a_sequence_shorter_than_the_window_has_none():
    counts = vpq([(row([1]), row([1]))] * 2, 3)
    assert (counts.tp[CAR], counts.fp[CAR], counts.fn[CAR]) == (0, 0, 0)


def test_no_window_reaches_into_the_next_sequence():
    quality = VideoPanopticQuality(len(TAXONOMY), windows=(2,))
    for _ in range(2):
        quality.start_sequence()
        for _ in range(2):
            quality.add(Overlaps.of(row([1]), row([1])))
    assert quality.counts[2].tp[CAR] == 2


@settings(max_examples=40, deadline=None)
@given(videos(), videos(), st.integers(1, 4))
def test_a_window_is_one_wide_image(truth, predicted, k):
    """ViP-DeepLab's way to say it: the frames of a window side by side, and panoptic quality of that."""
    expected = PanopticCounts.zeros(len(TAXONOMY))
    for start in range(4 - k + 1):
        wide = [
            PanopticMap.from_maps(*(np.hstack(maps[start : start + k]).astype(maps.dtype) for maps in video), TAXONOMY)
            for video in (truth, predicted)
        ]
        expected.add(Overlaps.of(*wide))
    counts = vpq(list(zip(frames_of(truth), frames_of(predicted), strict=True)), k)
    for name in ("tp", "fp", "fn", "iou"):
        np.testing.assert_allclose(getattr(counts, name), getattr(expected, name), atol=1e-12)
