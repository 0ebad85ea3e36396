import numpy as np
import pytest
from oracles.families import FAMILIES

from perception_node.panoptic import UNLABELLED
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Category, Taxonomy

ROAD, SKY, CAR, BUS, VOID = 0, 1, 2, 3, 4
TAXONOMY = Taxonomy(
    [
        Category(ROAD, "road", (0, 0, 0)),
        Category(SKY, "sky", (0, 0, 1)),
        Category(CAR, "car", (0, 0, 2), thing=True),
        Category(BUS, "bus", (0, 0, 3), thing=True),
    ]
)
VARIANTS = ("mask2former", "transformers", "kmax")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def query(class_id, probability=0.99):
    """Class logits whose softmax gives a class that probability and the others equal shares of the rest."""
    logits = np.full(5, np.log((1 - probability) / 4))
    logits[class_id] = np.log(probability)
    return logits


def fuse(class_logits, masks, variant="mask2former", scale=10, **options):
    """`masks` are logits / scale: (Q, W) of one row of pixels, or (Q, H, W)."""
    mask_logits = scale * np.array(masks, np.float32)
    if mask_logits.ndim == 2:
        mask_logits = mask_logits[:, None]
    outputs = {"class_logits": np.array(class_logits, np.float32), "mask_logits": mask_logits}
    geometry = Geometry(mask_logits.shape[1:], (1.0, 1.0))
    if variant == "transformers":  # a square in which every pixel has as many samples
        options = {"mask_size": 4 * mask_logits.shape[1] * mask_logits.shape[2], **options}
    return FAMILIES["mask_classification"].fuse(outputs, geometry, TAXONOMY, variant=variant, **options)


def rows(frame):
    return frame.class_map[0].tolist(), frame.instance_map[0].tolist()


@every_variant
def test_things_have_ids_and_stuff_of_one_class_is_merged(variant):
    masks = [[1, -1, -1, -1], [-1, 1, -1, -1], [-1, -1, 1, -1], [-1, -1, -1, 1]]
    frame = fuse([query(ROAD), query(CAR, 0.98), query(ROAD, 0.97), query(CAR, 0.96)], masks, variant)
    assert rows(frame) == ([ROAD, CAR, ROAD, CAR], [0, 1, 0, 2])
    np.testing.assert_allclose([s.score for s in frame.segments], [0.99, 0.98, 0.96], atol=1e-5)


def test_ids_follow_the_queries_but_in_kmax_the_painting():
    args = [query(CAR, 0.9), query(CAR, 0.95)], [[1, -1], [-1, 1]]
    assert [fuse(*args, variant).instance_map[0].tolist() for variant in VARIANTS] == [[1, 2], [1, 2], [2, 1]]


@every_variant
def test_no_query_is_kept(variant):
    frame = fuse([query(VOID), query(CAR, 0.4)], [[1, 1], [1, 1]], variant)
    assert rows(frame) == ([UNLABELLED] * 2, [0, 0])
    assert frame.segments == ()


@every_variant
def test_a_score_is_above_the_threshold_not_at_it(variant):
    """Two equal logits, the others -inf: the softmax is exactly a half, and the lower class wins."""
    logits = np.full((1, 5), -np.inf)
    logits[0, [CAR, BUS]] = 0
    below = np.nextafter(np.float32(0.5), np.float32(0))
    for threshold, label in ((0.5, UNLABELLED), (float(below), CAR)):
        key = "thing_threshold" if variant == "kmax" else "score_threshold"
        # Of transformers score * probability must reach 0.5: the mask is sure.
        frame = fuse(logits, [[100, 100]], variant, overlap_threshold=0, **{key: threshold})
        assert rows(frame)[0] == [label] * 2


def test_kmax_has_a_threshold_for_things_and_one_for_stuff():
    frame = fuse([query(CAR, 0.6), query(ROAD, 0.6)], [[1, -1], [-1, 1]], "kmax")
    assert rows(frame)[0] == [UNLABELLED, ROAD]


def test_kmax_ignores_void_when_it_takes_the_best_class():
    logits = [[0.0, 0, np.log(3), 0, np.log(4)]]
    assert rows(fuse(logits, [[1]], "kmax", thing_threshold=0.29))[0] == [CAR]  # 3 of 10
    assert rows(fuse(logits, [[1]], "kmax", thing_threshold=0.31))[0] == [UNLABELLED]


@pytest.mark.parametrize(("overlap", "stays"), [(0.74, True), (0.75, None), (0.76, False)])
@every_variant
def test_a_query_that_won_as_much_as_the_threshold(variant, overlap, stays):
    """The bus won 3 of the 4 pixels of its mask; at the threshold mask2former keeps it, the others do not."""
    stays = variant == "mask2former" if stays is None else stays
    masks = [[1] * 8 + [-1] * 3, [1] + [-1] * 7 + [1] * 3]
    frame = fuse([query(CAR, 0.999), query(BUS, 0.98)], masks, variant, overlap_threshold=overlap)
    assert rows(frame)[0] == [CAR] * 8 + [BUS if stays else UNLABELLED] * 3


def test_four_fifths_reach_the_threshold_of_four_fifths():
    frame = fuse([query(CAR, 0.999), query(BUS, 0.98)], [[1, -1, -1, -1, -1], [1, 1, 1, 1, 1]])
    assert rows(frame)[0] == [CAR, BUS, BUS, BUS, BUS]


def test_pixels_won_below_a_half_do_not_count_and_are_unlabelled():
    frame = fuse([query(CAR)], [[1, -0.01, 0, -1]])
    assert rows(frame) == ([CAR, UNLABELLED, CAR, UNLABELLED], [1, 0, 1, 0])


def test_pixels_won_below_a_half_count_if_asked():
    """The car loses half of its mask to the bus, and wins as many pixels that neither covers."""
    masks = [[1, 1, 1, 1, -0.1, -0.1], [2, 2, -1, -1, -1, -1]]
    for count_uncovered, label in ((False, UNLABELLED), (True, CAR)):
        frame = fuse([query(CAR), query(BUS)], masks, count_uncovered=count_uncovered)
        assert rows(frame)[0] == [BUS, BUS, label, label, UNLABELLED, UNLABELLED]


def test_a_query_that_covers_nothing_of_what_it_won_is_none():
    masks = [[-0.1, 1], [-1, 2]]
    frame = fuse([query(CAR), query(BUS)], masks, count_uncovered=True)
    assert rows(frame) == ([UNLABELLED, BUS], [0, 1])


def test_transformers_gives_every_pixel_away():
    frame = fuse([query(CAR)], [[1, -0.2, -1]], "transformers")
    assert rows(frame) == ([CAR] * 3, [1] * 3)


def test_transformers_weighs_the_mask_before_it_compares_with_a_half():
    """Mask 0.6, score 0.8: the product is below a half everywhere, so that there is no mask at all."""
    logit = np.log(0.6 / 0.4)
    for variant, label in (("mask2former", CAR), ("transformers", UNLABELLED)):
        frame = fuse([query(CAR, 0.8)], [[logit] * 2], variant, scale=1, score_threshold=0.5)
        assert rows(frame)[0] == [label] * 2


def test_kmax_paints_the_best_product_of_class_and_mask_first():
    """The first query is surer of its class, the second of its mask: 0.9 * 0.95 > 0.99 * 0.5."""
    frame = fuse([query(CAR), query(BUS, 0.9)], [[0, -1.5], [0, 1.5]], "kmax", scale=2)
    assert rows(frame) == ([BUS, BUS], [1, 1])


def test_kmax_takes_pixels_above_its_confidence():
    logits = np.log([[0.45, 0.55, 0.38], [0.55, 0.45, 0.31], [1e-9, 1e-9, 0.31]])
    frame = fuse([query(CAR), query(VOID), query(VOID)], logits, "kmax", scale=1)
    assert rows(frame) == ([CAR, CAR, UNLABELLED], [1, 1, 0])
    np.testing.assert_allclose(frame.confidence[0], [0.45 * 255, 0.55 * 255, 0], atol=1)


@every_variant
def test_confidence_is_the_winning_value(variant):
    frame = fuse([query(CAR, 0.9), query(VOID)], [[0.2, 0.2], [-0.2, -0.2]], variant, score_threshold=0.5)
    sure = 1 / (1 + np.exp(-4)) if variant == "kmax" else 0.9 / (1 + np.exp(-2))
    np.testing.assert_allclose(frame.confidence, 255 * sure, atol=1)


def test_equal_queries_the_earlier_wins():
    for variant in ("mask2former", "transformers"):
        frame = fuse([query(BUS), query(CAR)], [[1, 1], [1, 1]], variant)
        assert rows(frame)[0] == [BUS, BUS]
    # In kmax they share the softmax, and the first of equals paints first.
    assert rows(fuse([query(BUS), query(CAR)], [[1, 1], [1, 1]], "kmax"))[0] == [BUS, BUS]


@every_variant
def test_a_query_whose_class_logits_are_not_finite_is_not_kept(variant):
    wild = query(CAR)
    for value in (np.nan, np.inf):
        wild[BUS] = value
        assert rows(fuse([wild], [[1, 1]], variant))[0] == [UNLABELLED] * 2


@pytest.mark.parametrize(
    ("value", "label"), [(np.nan, BUS), (-np.inf, BUS), (np.inf, CAR)], ids=["nan", "minus infinity", "infinity"]
)
@every_variant
def test_a_corner_that_is_not_finite(variant, value, label):
    """Two masks, side by side; the first is of a car. NaN never wins, an infinite logit does."""
    masks = np.array([[[1, 1, -1, -1]] * 2, [[-0.1, -1, 1, 1]] * 2])
    masks[0, 0, 0] = value
    frame = fuse([query(CAR), query(BUS, 0.98)], masks, variant, overlap_threshold=0.3)
    if variant == "mask2former" and label == BUS:  # won with a sigmoid below a half
        label = UNLABELLED
    assert frame.class_map[0, 0] == label
    np.testing.assert_array_equal(frame.class_map[:, 2:], [[BUS, BUS]] * 2)
    if variant != "transformers":  # its square spreads NaN to the neighbours
        np.testing.assert_array_equal(frame.class_map[[0, 1, 1], [1, 0, 1]], [CAR] * 3)
    if value == np.inf:
        assert abs(frame.confidence[0, 0] - (255 if variant == "kmax" else 0.99 * 255)) <= 1


def test_kmax_shares_a_pixel_among_queries_that_are_infinitely_sure():
    masks = np.array([[[np.inf, 1], [1, 1]], [[np.inf, -1], [-1, -1]]])
    frame = fuse([query(CAR), query(BUS)], masks, "kmax")
    np.testing.assert_array_equal(frame.class_map, [[CAR, CAR], [CAR, CAR]])


@every_variant
def test_a_mask_that_is_minus_infinity_everywhere_is_nowhere(variant):
    frame = fuse([query(CAR)], [[-np.inf, -np.inf]], variant)
    assert rows(frame)[0] == [UNLABELLED] * 2
