"""Images of several cameras inferred at once: each has what it has alone. And networks that cannot."""

import queue
import threading
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest
from networks import convolution, write_semantic_model
from onnx import helper

from perception_node.device import open_device
from perception_node.engine import load_engine
from perception_node.errors import BadImage, DeviceError, ModelError, UserError
from perception_node.image import ENCODINGS, CameraImage
from perception_node.model import load_model
from perception_node.pipeline import Pipeline, perceive_together
from perception_node.timing import StageTimer
from perception_node.worker import EngineOptions, Worker

TIMEOUT_S = 60
LAYOUTS = (("bgr8", 8, 8), ("uyvy", 16, 24), ("bayer_rggb8", 9, 5))
ENGINES = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")),
]


@pytest.fixture
def model(tmp_path):
    """A network of one convolution that takes any number of images."""
    return load_model(write_semantic_model(tmp_path / "any", *convolution("first", "image", "semantic"), batch="n"))


def noise(encoding, height, width, seed=0):
    step = width * ENCODINGS[encoding].channels
    data = np.random.default_rng(seed).integers(0, 256, height * step, dtype=np.uint8)
    return CameraImage(data, height, width, step, encoding)


def cameras(model, count=3, **options):
    first = Pipeline(model, max_batch=3, **options)
    return [first, *(first.another() for _ in range(count - 1))]


def assert_same(frame, expected):
    for name in ("class_map", "instance_map", "confidence"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(expected, name), err_msg=name)
    assert frame.segments == expected.segments


@pytest.mark.parametrize("engine", ENGINES)
def test_each_camera_has_what_it_has_alone(model, engine):
    """Of other sizes, encodings and thresholds; they come and go."""
    pipelines, alone = cameras(model, engine=engine), Pipeline(model, engine=engine)
    others = Pipeline(model, engine=engine)
    for pipeline in (pipelines[1], others):
        pipeline.set_fusion(components=True)
    for seed, who in enumerate([(0, 1, 2), (2, 0), (1,), (0, 1, 2)]):
        sent = {pipelines[i]: noise(*LAYOUTS[i], seed=seed) for i in who}
        seen = dict(perceive_together(sent))
        assert list(seen) == list(sent)
        for i in who:
            assert_same(seen[pipelines[i]], (others if i == 1 else alone)(sent[pipelines[i]]))
    assert [len(pipeline.timer.milliseconds("network")) for pipeline in pipelines] == [3, 3, 3]
    of_the_last = [pipeline.timer.milliseconds("network")[-1] for pipeline in pipelines]
    assert len(set(of_the_last)) == 1


def test_outputs_are_those_of_each_image(model):
    pipelines, alone = cameras(model), Pipeline(model)
    sent = {pipeline: noise("bgr8", 8, 8, seed) for seed, pipeline in enumerate(pipelines)}
    dict(perceive_together(sent))
    for pipeline, image in sent.items():
        alone(image)
        np.testing.assert_array_equal(pipeline.outputs()["semantic"], alone.outputs()["semantic"])


def test_nothing_to_perceive():
    assert list(perceive_together({})) == []


@pytest.mark.parametrize("failing_call", [1, 2], ids=["preprocessing", "fusion"])
def test_an_image_that_cannot_be_prepared_costs_the_others_nothing(model, monkeypatch, failing_call):
    pipelines, alone = cameras(model), Pipeline(model)
    dict(perceive_together({pipeline: noise("bgr8", 8, 8) for pipeline in pipelines}))
    compile, calls = pipelines[0]._device.kernels, iter(range(1, 9))

    def kernels(source, **defines):
        if next(calls) >= failing_call:
            raise UserError("no compiler")
        return compile(source, **defines)

    sent = {pipeline: noise("bgr8", 8, 8, seed) for seed, pipeline in enumerate(pipelines)}
    sent[pipelines[1]] = noise("rgba8", 30, 50)
    with monkeypatch.context() as patch:
        patch.setattr(pipelines[0]._device, "kernels", kernels)
        seen = dict(perceive_together(sent))
    assert str(seen.pop(pipelines[1])) == "no compiler"
    for pipeline, frame in seen.items():
        assert_same(frame, alone(sent[pipeline]))
    assert_same(pipelines[1](sent[pipelines[1]]), alone(sent[pipelines[1]]))


# ---- networks that cannot ----


def refused(tmp_path, nodes, weights=None, **options):
    model = load_model(write_semantic_model(tmp_path / "net", nodes, weights, **options))
    Pipeline(model)  # one image at a time is what it takes
    with pytest.raises(ModelError, match=r"perception export --dynamic-batch\), or take 1") as error:
        load_engine(model, open_device(), max_batch=2)
    assert str(error.value).count("\n") == 0
    return str(error.value)


def test_a_network_for_one_image(tmp_path):
    assert "takes one image at a time" in refused(tmp_path, *convolution("first", "image", "semantic"))


def test_a_network_that_fails_with_two(tmp_path, capfd):
    reshape = helper.make_node("Reshape", ["image", "shape"], ["one"])
    (conv,), weights = convolution("first", "one", "semantic")
    weights["shape"] = np.array([1, 3, 8, 8])
    message = refused(tmp_path, [reshape, conv], weights, batch="n")
    assert "has a free batch axis, but fails with several images: " in message


def test_a_network_that_gives_one_answer_for_two(tmp_path):
    mean = helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=1)
    (conv,), weights = convolution("first", "mean", "semantic")
    weights["axes"] = np.array([0])
    assert "gives 'semantic' of shape (1, 3, 8, 8) for 2 images" in refused(tmp_path, [mean, conv], weights, batch="n")


def test_a_network_that_mixes_images(tmp_path):
    """It subtracts the mean of all, as a normalisation left in training mode does."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "part"], ["some"]),
        helper.make_node("Sub", ["image", "some"], ["less"]),
    ]
    (conv,), weights = convolution("first", "less", "semantic")
    weights |= {"axes": np.array([0]), "part": np.float32(0.5)}
    message = refused(tmp_path, [*nodes, conv], weights, batch="n")
    assert "answers for an image what depends on those beside it: 'semantic' of image " in message


# ---- the worker ----


class Camera:
    """Sends images, and remembers what came of them. A word instead of an image is refused."""

    def __init__(self):
        self.timer, self.fusion, self.answers = StageTimer(), {}, queue.Queue()

    def perceive(self, message):
        try:
            if isinstance(message, str):
                raise BadImage("data", message)
            self.answers.put((yield message))
        except UserError as error:
            self.answers.put(error)

    def answer(self):
        return self.answers.get(timeout=TIMEOUT_S)

    def get_logger(self):
        return self

    def error(self, text):
        self.answers.put(text)

    info = error


@contextmanager
def working(model, max_batch, count):
    worker = Worker(EngineOptions(str(model.folder), max_batch=max_batch))
    every = [Camera() for _ in range(count)]
    for camera in every:
        worker.add(camera)
        worker.start(camera, priority=1)
    yield worker, every
    worker.close()


def send_at_once(worker, images):
    """So that all wait when the worker looks."""
    go = threading.Event()
    worker._scheduler.call(lambda: go.wait(TIMEOUT_S))
    for camera, image in images.items():
        worker.ready(camera)
        worker.put(camera, image)
    go.set()


@pytest.mark.parametrize(("max_batch", "batches"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])])
def test_the_worker_takes_what_waits(model, max_batch, batches):
    alone = Pipeline(model)
    with working(model, max_batch, 3) as (worker, every):
        images = {camera: noise(*layout) for camera, layout in zip(every, LAYOUTS, strict=True)}
        send_at_once(worker, images)
        for camera, image in images.items():
            assert_same(camera.answer(), alone(image))
        assert list(worker._batches) == batches
        told = worker.about().get("images at once")
    assert told == (None if max_batch == 1 else 3 / len(batches))


def test_a_bad_image_costs_the_others_of_its_batch_nothing(model):
    alone = Pipeline(model)
    with working(model, 3, 3) as (worker, every):
        images = [noise(*LAYOUTS[0]), "garbage", noise(*LAYOUTS[2])]
        for _ in range(2):
            send_at_once(worker, dict(zip(every, images, strict=True)))
            assert str(every[1].answer()) == "data: garbage"
            for i in (0, 2):
                assert_same(every[i].answer(), alone(images[i]))
        send_at_once(worker, dict.fromkeys(every, "garbage"))
        assert [str(camera.answer()) for camera in every] == ["data: garbage"] * 3
        assert list(worker._batches) == [2, 2]


def test_a_device_that_fails_is_said_to_all_of_the_batch(model, monkeypatch):
    with working(model, 2, 2) as (worker, every):

        def fail(_):
            monkeypatch.undo()
            raise DeviceError("lost")

        monkeypatch.setattr("perception_node.pipeline.start_together", fail)
        send_at_once(worker, {camera: noise(*LAYOUTS[0]) for camera in every})
        for camera in every:
            assert str(camera.answer()) == "lost"
            assert camera.answer() == "lost; making the pipeline anew"
            assert camera.answer() == "the pipeline works again"
        send_at_once(worker, {camera: noise(*LAYOUTS[0]) for camera in every})
        assert all(camera.answer().class_map.shape == (8, 8) for camera in every)
