import cv2
import numpy as np
import pytest
from conftest import tiny_outputs, write_tiny_model

from perception_node.device import open_device
from perception_node.errors import UserError
from perception_node.model import load_model
from perception_node.panoptic import UNLABELLED
from perception_node.pipeline import Pipeline

ROAD, SKY, CAR = 0, 1, 2


def test_the_tiny_network_end_to_end(tiny_model):
    pipeline = Pipeline(load_model(tiny_model))
    frame = pipeline(np.zeros((8, 8, 3), np.uint8))
    frame.check({CAR})
    np.testing.assert_array_equal(np.unique(frame.class_map), [ROAD, SKY, CAR])
    (car,) = frame.instances
    assert (car.id, car.class_id) == (1, CAR)
    assert frame.class_map[0, 0] == SKY
    assert frame.class_map[7, 7] == ROAD
    assert frame.instance_map[4, 4] == 1
    assert list(pipeline.timer.percentiles()) == ["preprocess", "network", "fusion"]


@pytest.mark.parametrize("image_hw", [(1, 1), (8, 16), (16, 8), (33, 57)])
def test_the_frame_has_the_images_size(tiny_model, image_hw):
    frame = Pipeline(load_model(tiny_model))(np.zeros((*image_hw, 3), np.uint8))
    assert frame.class_map.shape == image_hw
    frame.check({CAR})


BOXES = np.array([[[1, 1, 5, 5], [3, 3, 7, 7]]], np.float32)
CAR_SCORES = np.array([[[0, 0, 0.9], [0, 0, 0.8]]], np.float32)
FLAT = np.zeros((1, 3, 4, 4), np.float32)  # all road, the lowest class


@pytest.mark.parametrize("logit", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("family", "outputs", "instances"),
    [
        (
            "mask_classification",
            {
                "class_logits": np.array([[[9.0, 0, 0, 0], [0, 0, 9.0, 0]]]),  # road, car
                "mask_logits": np.stack([np.tile([9.0, 9, -9, -9], (4, 1)), np.tile([-9.0, -9, 9, 9], (4, 1))])[None],
            },
            1,
        ),
        (
            "instance_semantic",
            {
                "semantic": FLAT,
                "classes": np.array([[CAR, CAR]], np.int64),
                "scores": np.array([[0.9, 0.8]], np.float32),
                "boxes": BOXES,
                "masks28": np.ones((1, 2, 28, 28)),
            },
            2,
        ),
        (
            "prototype",
            {
                "boxes": BOXES,
                "scores": CAR_SCORES,
                "coefficients": np.ones((1, 2, 1), np.float32),
                "prototypes": np.ones((1, 1, 4, 4)),
            },
            2,
        ),
        ("semantic", {"semantic": FLAT}, 0),
    ],
)
def test_every_family_from_a_manifest(tmp_path, family, outputs, instances, logit):
    outputs = {name: array.astype(logit) if array.dtype == np.float64 else array for name, array in outputs.items()}
    output = {"family": family, "stride": 2, "tensors": {name: name for name in outputs}}
    pipeline = Pipeline(load_model(write_tiny_model(tmp_path / "model", outputs, output=output, fusion={})))
    frame = pipeline(np.zeros((16, 16, 3), np.uint8))  # twice the input: boxes grow with it
    frame.check({CAR})
    assert len(frame.instances) == instances
    if family in ("instance_semantic", "prototype"):
        assert frame.instances[0].box_xyxy == (2, 2, 10, 10)


def test_warming_up_leaves_no_trace(tiny_model):
    pipeline = Pipeline(load_model(tiny_model))
    pipeline.warm_up()
    assert pipeline.timer.percentiles() == {}


def test_the_default_model_on_real_footage(camvid_val):
    """The rules hold, and the street is seen: most pixels of one frame have the class of the label."""
    pipeline = Pipeline(load_model())
    name = "0016E5_08031"
    image = cv2.imread(str(camvid_val / "images" / f"{name}.jpg"))
    labels = cv2.imread(str(camvid_val / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    frame = pipeline(image)
    frame.check(set(pipeline.model.taxonomy.thing_ids))
    known = labels < len(pipeline.model.taxonomy)
    assert np.mean(frame.class_map[known] == labels[known]) > 0.85
    assert np.mean(frame.class_map == UNLABELLED) < 0.05


def test_the_tiny_network_says_what_the_fixture_says(tiny_model):
    from perception_node.engine import load_engine

    answers = load_engine(load_model(tiny_model), open_device()).infer(np.ones((1, 3, 8, 8), np.float32))
    for name, expected in tiny_outputs().items():
        np.testing.assert_array_equal(answers[name], expected)


@pytest.mark.parametrize("failing_call", [1, 2], ids=["preprocessing", "fusion"])
def test_an_image_that_cannot_be_prepared_for_leaves_the_others_alone(tiny_model, monkeypatch, failing_call):
    pipeline, other = (Pipeline(load_model(tiny_model), threads=1) for _ in range(2))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = other(image)
    pipeline(image)
    compile, calls = pipeline._device.kernels, iter(range(1, 9))

    def kernels(source, **defines):
        if next(calls) >= failing_call:
            raise UserError("no compiler")
        return compile(source, **defines)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline._device, "kernels", kernels)
        with pytest.raises(UserError, match="no compiler"):
            pipeline(np.zeros((32, 48, 3), np.uint8))
    frame = pipeline(image)
    np.testing.assert_array_equal(frame.class_map, expected.class_map)
    assert frame.segments == expected.segments


def test_pipelines_on_one_engine_keep_their_buffers_and_thresholds_apart(tiny_model):
    """They take turns with images of different sizes; what they answer is what they would alone."""
    first = Pipeline(load_model(tiny_model))
    second = first.another()
    assert second._engine is first._engine
    images = [np.zeros((8, 8, 3), np.uint8), np.zeros((16, 24, 3), np.uint8)]
    alone = [Pipeline(load_model(tiny_model))(image) for image in images]
    for _ in range(3):
        for pipeline, image, expected in zip((first, second), images, alone, strict=True):
            np.testing.assert_array_equal(pipeline(image).instance_map, expected.instance_map)
    second.set_fusion(center_threshold=1e6)
    assert [len(pipeline(image).instances) for pipeline, image in zip((first, second), images, strict=True)] == [1, 0]
    assert first.model.fusion["center_threshold"] != second.model.fusion["center_threshold"]
    assert len(second.timer.percentiles()) == 3


@pytest.mark.parametrize("options", [{"nms_kernel": 4}, {"score_threshold": 0.5}, {"top_k": 5, "stuff_area": -1}])
def test_wrong_options_of_the_fusion_change_nothing(tiny_model, options):
    pipeline = Pipeline(load_model(tiny_model))
    before = pipeline.model, pipeline._fusion
    with pytest.raises(UserError, match=r"expected: "):
        pipeline.set_fusion(**options)
    assert (pipeline.model, pipeline._fusion) == before
