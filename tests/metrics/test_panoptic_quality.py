import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_node.metrics import (
    VOID,
    VOID_INSTANCE,
    Evaluation,
    FrameLabels,
    Overlaps,
    PanopticCounts,
    PanopticMap,
    SegmentLabel,
    instances_from_classes,
    match,
    measure,
)
from perception_node.metrics.panoptic_quality import SizeRecall
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR, V = 0, 1, UNLABELLED
TAXONOMY = Taxonomy([Category(ROAD, "road", (0, 0, 0)), Category(CAR, "car", (0, 0, 1), thing=True)])


def panoptic_map(classes, instances=None):
    classes = np.array([classes], np.uint8)
    instances = (classes == CAR) if instances is None else np.array([instances])
    return PanopticMap.from_maps(classes, instances.astype(np.uint16), TAXONOMY)


def counts(truth, predicted):
    result = PanopticCounts.zeros(2)
    result.add(Overlaps.of(truth, predicted))
    return result


def tp_fp_fn(c, class_id):
    return c.tp[class_id], c.fp[class_id], c.fn[class_id]


def test_a_match():
    c = counts(panoptic_map([ROAD] * 4), panoptic_map([ROAD] * 4))
    assert (*tp_fp_fn(c, ROAD), c.iou[ROAD]) == (1, 0, 0, 1.0)


@pytest.mark.parametrize(("predicted", "matches"), [([ROAD] * 2 + [V] * 2, 0), ([ROAD] * 3 + [V], 1)])
def test_iou_of_exactly_one_half_is_no_match(predicted, matches):
    c = counts(panoptic_map([ROAD] * 4), panoptic_map(predicted))
    assert tp_fp_fn(c, ROAD) == (matches, 1 - matches, 1 - matches)


def test_void_pixels_belong_to_no_union():
    c = counts(panoptic_map([ROAD, ROAD, V, V]), panoptic_map([ROAD] * 4))
    assert (c.tp[ROAD], c.iou[ROAD]) == (1, 1.0)


@pytest.mark.parametrize(
    ("truth", "false_positives"),
    [
        ([V, V, ROAD, ROAD], 1),  # exactly half of the car is void: it counts
        ([V, V, V, ROAD], 0),
    ],
)
def test_a_segment_mostly_on_void_is_no_false_positive(truth, false_positives):
    assert counts(panoptic_map(truth), panoptic_map([CAR] * 4)).fp[CAR] == false_positives


@pytest.mark.parametrize(
    ("classes", "instances", "false_positives"),
    [
        ([CAR, CAR, ROAD, ROAD], [0, 0, 0, 0], 1),  # exactly half of it on the crowd: it counts
        ([CAR, CAR, CAR, ROAD], [0, 0, 0, 0], 0),
        ([CAR, CAR, V, ROAD], [0, 0, 0, 0], 0),  # crowd and void together
    ],
)
def test_a_segment_mostly_on_a_crowd_of_its_class_is_no_false_positive(classes, instances, false_positives):
    c = counts(panoptic_map(classes, instances), panoptic_map([CAR] * 4))
    assert tp_fp_fn(c, CAR) == (0, false_positives, 0)  # and the crowd is not missed


def test_a_crowd_is_matched_by_nothing_and_belongs_to_the_union():
    crowd = panoptic_map([CAR, CAR, CAR], [0, 0, 0])
    assert match(Overlaps.of(crowd, panoptic_map([CAR] * 3))) == {}
    beside = counts(panoptic_map([CAR] * 5, [1, 1, 1, 0, 0]), panoptic_map([CAR] * 5))
    assert (*tp_fp_fn(beside, CAR), beside.iou[CAR]) == (1, 0, 0, 3 / 5)  # void would make it 1


def test_a_crowd_of_another_class_is_no_excuse():
    c = counts(panoptic_map([CAR] * 4, [0] * 4), panoptic_map([ROAD] * 4))
    assert tp_fp_fn(c, ROAD) == (0, 1, 0)


def test_of_several_crowds_of_a_class_the_last_stands_for_it():
    """As panopticapi has it, which the comparison below covers too."""
    ids = np.array([[1, 1, 1, 2]], np.int32)
    crowds = {1: SegmentLabel(CAR, crowd=True), 2: SegmentLabel(CAR, crowd=True)}
    predicted = panoptic_map([CAR] * 4)
    classes = np.full((1, 4), CAR, np.uint8)
    assert counts(PanopticMap(ids, classes, crowds), predicted).fp[CAR] == 1
    assert counts(PanopticMap(ids, classes, dict(reversed(crowds.items()))), predicted).fp[CAR] == 0


def test_instances_match_one_by_one_whatever_their_ids():
    truth = panoptic_map([CAR] * 6, [1, 1, 1, 2, 2, 2])
    assert counts(truth, panoptic_map([CAR] * 6, [9, 9, 9, 4, 4, 4])).tp[CAR] == 2
    assert tp_fp_fn(counts(truth, panoptic_map([CAR] * 6)), CAR) == (0, 1, 2)  # merged into one


def test_quality():
    c = PanopticCounts(tp=np.array([2, 0]), fp=np.array([1, 0]), fn=np.array([1, 0]), iou=np.array([1.5, 0.0]))
    pq, sq, rq = c.quality()
    assert (pq[0], sq[0], rq[0]) == pytest.approx((0.5, 0.75, 2 / 3))
    assert np.isnan([pq[1], sq[1], rq[1]]).all()


@pytest.mark.parametrize(
    ("area", "size"), [(1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large"), (20000, "large")]
)
def test_recall_by_coco_s_sizes(area, size):
    truth = panoptic_map([CAR] * area + [ROAD] * 5)
    recall = SizeRecall((CAR,))
    recall.add(Overlaps.of(truth, truth))
    recall.add(Overlaps.of(truth, panoptic_map([ROAD] * (area + 5))))
    assert (dict(recall.instances), dict(recall.found)) == ({size: 2}, {size: 1})


def test_instances_are_components_through_corners_too():
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], np.uint8)
    np.testing.assert_array_equal(
        instances_from_classes(labels, [CAR], min_area=2),
        [[1, 0, 0, VOID_INSTANCE], [0, 1, 0, 0], [0, 0, 0, VOID_INSTANCE]],
    )


@pytest.mark.parametrize(("area", "false_positives"), [(49, 0), (50, 1)])
def test_things_under_50_pixels_are_void_but_for_their_class(area, false_positives):
    labels = np.zeros((2, 60), np.uint8)
    labels[0, :area] = CAR
    truth = PanopticMap.from_classes(labels, TAXONOMY)
    halves = np.zeros((2, 60), np.uint16)  # of the car, neither of which matches
    halves[0, :area] = 1 + (np.arange(area) < area // 2)
    predicted = PanopticMap.from_maps(np.where(halves > 0, CAR, V).astype(np.uint8), halves, TAXONOMY)
    frame = measure(FrameLabels(truth), FrameLabels(predicted), TAXONOMY)
    evaluation = Evaluation(TAXONOMY)
    evaluation.add(frame)
    car = evaluation.summary()["classes"]["car"]
    assert (car["fp"], car["fn"], car["iou"]) == (2 * false_positives, false_positives, 1.0)


def test_what_a_taxonomy_lacks_is_unlabelled_and_stuff_has_no_instances():
    found = panoptic_map([ROAD, ROAD, 7, CAR], [1, 2, 3, 4])
    assert found.ids[0, 0] == found.ids[0, 1] != VOID == found.ids[0, 2]
    assert found.class_map.tolist() == [[ROAD, ROAD, UNLABELLED, CAR]]
    assert [(s.class_id, s.crowd, s.void) for s in found.segments.values()] == [
        (ROAD, False, False),
        (CAR, False, False),
    ]


def test_summary_is_none_where_nothing_was_seen():
    evaluation = Evaluation(TAXONOMY)
    evaluation.add(measure(FrameLabels(panoptic_map([ROAD])), FrameLabels(panoptic_map([ROAD])), TAXONOMY))
    summary = evaluation.summary()
    assert (summary["pq"], summary["miou"], summary["pq_stuff"], summary["pq_things"]) == (1.0, 1.0, 1.0, None)
    assert summary["recall_by_size"]["small"] == {"recall": None, "instances": 0}
    assert set(summary["classes"]["car"].values()) == {None, 0}
    assert not {"drivable", "ece", "grid", "distance", "vpq", "stq"} & set(summary)


CATEGORIES = [
    {"id": 7, "name": "road", "isthing": 0},
    {"id": 21, "name": "tree", "isthing": 0},
    {"id": 24, "name": "person", "isthing": 1},
    {"id": 26, "name": "car", "isthing": 1},
]
FOUR = Taxonomy([Category(i, c["name"], (0, 0, 0), thing=bool(c["isthing"])) for i, c in enumerate(CATEGORIES)])


@st.composite
def coco_images(draw):
    """Truth and prediction of an image: a picture of ids that are few, so that they overlap in all ways, and what each
    id is: (category, crowd)."""
    side = draw(st.integers(2, 6))
    sides = []
    for crowd in (st.booleans(), st.just(False)):
        ids = draw(st.lists(st.integers(0, 5), min_size=side * side, max_size=side * side))
        what = draw(st.lists(st.tuples(st.integers(0, 3), crowd), min_size=6, max_size=6))
        sides.append((np.array(ids).reshape(side, side) * 70000, {i * 70000: what[i] for i in set(ids) - {0}}))
    return sides


@settings(max_examples=60, deadline=None)
@given(st.lists(coco_images(), min_size=1, max_size=4))
def test_panopticapi_counts_the_same(tmp_path_factory, images):
    """The official code itself, on what it reads from files, against ours."""
    folder = tmp_path_factory.getbasetemp()
    evaluation = pytest.importorskip("panopticapi.evaluation")
    ours, theirs = PanopticCounts.zeros(4), evaluation.PQStat()
    for truth, predicted in images:
        theirs += official_counts(evaluation, folder, truth, predicted)
        maps = []
        for ids, what in (truth, predicted):
            classes = np.full(ids.shape, UNLABELLED, np.uint8)
            for identity, (category, _) in what.items():
                classes[ids == identity] = category
            maps.append(PanopticMap(ids.astype(np.int32), classes, {i: SegmentLabel(*w) for i, w in what.items()}))
        ours.add(Overlaps.of(*maps))
    for i, category in enumerate(CATEGORIES):
        official = theirs[category["id"]]
        assert (ours.tp[i], ours.fp[i], ours.fn[i]) == (official.tp, official.fp, official.fn)
        assert ours.iou[i] == pytest.approx(official.iou, abs=1e-12)
    if any(theirs[c["id"]].tp + theirs[c["id"]].fp + theirs[c["id"]].fn for c in CATEGORIES):
        averages, _ = theirs.pq_average({c["id"]: c for c in CATEGORIES}, isthing=None)
        for value, name in zip(ours.quality(), ("pq", "sq", "rq"), strict=True):
            assert np.nanmean(value) == pytest.approx(averages[name], abs=1e-12)


def official_counts(evaluation, folder, truth, predicted):
    """panopticapi's counts of one image."""
    annotations = []
    for name, (ids, what) in (("truth", truth), ("predicted", predicted)):
        bgr = np.dstack([ids >> 16, ids >> 8 & 255, ids & 255]).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), bgr)
        segments = [
            {"id": i, "category_id": CATEGORIES[category]["id"], "iscrowd": int(crowd), "area": int((ids == i).sum())}
            for i, (category, crowd) in what.items()
        ]
        annotations.append({"image_id": 1, "file_name": f"{name}.png", "segments_info": segments})
    return evaluation.pq_compute_single_core(0, [annotations], folder, folder, {c["id"]: c for c in CATEGORIES})
