import cv2
import numpy as np
import pytest
from conftest import tiny_outputs

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

    answers = load_engine(load_model(tiny_model)).infer(np.ones((1, 3, 8, 8), np.float32))
    for name, expected in tiny_outputs().items():
        np.testing.assert_array_equal(answers[name], expected)
