"""What a pipeline does with TensorRT, as functions: on the emulated driver, with a stand-in for the library.

As a program it runs them and prints one line of JSON for each: what went wrong, or null. test_tensorrt.py starts it,
since a process has one driver.
"""

import contextlib
import ctypes
import gc
import hashlib
import itertools
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt as stand_in
import yaml
from conftest import TINY_CLASSES
from onnx import TensorProto, helper, numpy_helper

from perception_node.device import open_device
from perception_node.engine import PlanOptions, TensorSpec
from perception_node.engine.plan import PlanKey, Sidecar, find_plan, write_plan
from perception_node.engine.trt import open_library
from perception_node.errors import DeviceError, ModelError, PlanError, UserError
from perception_node.model import load_model
from perception_node.pipeline import Pipeline, perceive_together
from perception_node.worker import EngineOptions, Worker

TINY_KERNELS = Path(__file__).parents[1] / "device" / "tiny.cu"
SIZE = (24, 32)
PLAN = PlanOptions("fp32")
KINDS = ("waits", "copies to host", "copies to device", "pageable copies", "allocations", "launches", "graphs")


def write_model(folder: Path, sizes=SIZE, batch=1) -> Path:
    """A network of one 3x3 convolution: of every pixel's neighbourhood its class; connected cars are instances."""
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["semantic"], pads=[1, 1, 1, 1])],
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *sizes])],
        [helper.make_tensor_value_info("semantic", TensorProto.FLOAT, [batch, 3, *sizes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    manifest = {
        "onnx": "model.onnx",
        "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "input": {"tensor": "image", "size": list(SIZE), "std": [64, 64, 64]},
        "output": {"family": "semantic", "stride": 1, "tensors": {"semantic": "semantic"}},
        "fusion": {"components": True},
        "classes": TINY_CLASSES,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@contextlib.contextmanager
def a_model(max_batch=1, **sizes):
    """A model with a plan for the stand-in."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(write_model(Path(folder) / "model", **sizes))
        library = open_library("tensorrt")
        versions = {"library": library.name, "library_version": library.version}
        key = PlanKey.of(model, max_batch, precision="fp32", calibration=None, **versions, **library.target())
        plan = stand_in.MAGIC + model.onnx_path.read_bytes()
        specs = [TensorSpec("image", (1, 3, *SIZE), "float32")], [TensorSpec("semantic", (1, 3, *SIZE), "float32")]
        sha256 = hashlib.sha256(plan).hexdigest()
        write_plan(
            model.folder / "plans",
            plan,
            Sidecar(key, *map(tuple, specs), sha256, len(plan), "", 0, 1, {}, None, 0.0, "", {}),
        )
        yield model


@contextlib.contextmanager
def failing(what):
    """The stand-in's calls of that kind fail."""
    os.environ[stand_in.FAIL] = what
    try:
        yield
    finally:
        del os.environ[stand_in.FAIL]


@contextlib.contextmanager
def no_kernels(device, failing_call):
    """From that call on nothing can be compiled."""
    compile, calls = device.kernels, itertools.count(1)

    def kernels(source, **defines):
        if next(calls) >= failing_call:
            raise UserError("no compiler")
        return compile(source, **defines)

    device.kernels = kernels
    yield
    del device.kernels


def images(count, seed=0, size=SIZE):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return coarse.repeat(size[0] // 6, axis=1).repeat(size[1] // 8, axis=2)


def assert_same(frame, expected):
    for name in ("class_map", "instance_map", "confidence"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(expected, name), err_msg=name)
    assert frame.segments == expected.segments


def counts():
    driver = ctypes.CDLL("libcuda.so.1")
    return dict(zip(KINDS, (driver.emulated_count(kind.encode()) for kind in KINDS), strict=True))


def check_frames_are_those_of_the_cpu():
    with a_model() as model:
        pipeline, cpu = Pipeline(model, "cuda", plan=PLAN), Pipeline(model, threads=1)
        shapes = [SIZE] * 4 + [(48, 64)] * 4 + [SIZE] * 3  # direct, recorded, replayed; and so on
        for seed, size in enumerate(shapes):
            (image,) = images(1, seed, size)
            expected = cpu(image)
            assert len(expected.instances) > 0
            assert_same(pipeline(image), expected)
        stages = pipeline.timer.percentiles()
        assert list(stages) == ["preprocess", "network", "fusion"]


def check_a_steady_frame_copies_and_waits_once_and_is_one_graph():
    with a_model() as model:
        pipeline = Pipeline(model, "cuda", plan=PLAN)
        for image in images(4):
            pipeline(image)
        before = counts()
        pipeline(images(1, 5)[0])
        after = counts()
    spent = {kind: after[kind] - before[kind] for kind in KINDS}
    assert spent == {**dict.fromkeys(KINDS, 0), "waits": 1, "copies to host": 1, "copies to device": 1, "graphs": 1}


def check_nothing_waits_until_a_frame_is_finished():
    with a_model() as model:
        pipeline = Pipeline(model, "cuda", plan=PLAN)
        for image in images(3):
            pipeline(image)
        waits = counts()["waits"]
        pipeline.start(images(1)[0])
        assert counts()["waits"] == waits
        pipeline.finish()


def check_two_pipelines_have_two_frames_in_flight():
    with a_model() as model:
        pair, cpu = [Pipeline(model, "cuda", plan=PLAN) for _ in range(2)], Pipeline(model, threads=1)
        assert pair[0]._engine._plan is pair[1]._engine._plan
        frames, pending = [], []
        sequence = images(9)
        for number, image in enumerate(sequence):
            if len(pending) == 2:
                frames.append(pending.pop(0).finish())
            pair[number % 2].start(image)
            pending.append(pair[number % 2])
        frames += [pipeline.finish() for pipeline in pending]
        for frame, image in zip(frames, sequence, strict=True):
            assert_same(frame, cpu(image))


def cameras(model, count):
    """Pipelines on one engine that takes three images at once."""
    first = Pipeline(model, "cuda", plan=PLAN, max_batch=3)
    return [first, *(first.another() for _ in range(count - 1))]


def check_images_of_several_cameras_are_inferred_at_once():
    """Cameras of different sizes come and go; each has what it has alone, recorded or not."""
    with a_model(3, batch="batch") as model:
        pipelines, cpu = cameras(model, 3), Pipeline(model, threads=1)
        sizes = SIZE, (48, 64), (12, 8)
        for seed, who in enumerate([(0, 1, 2), (0,), (1, 2), (0,), (2, 0), (0,), (1,), (0, 1, 2), (0, 2), (0,)]):
            sent = {pipelines[i]: images(1, 10 * seed + i, sizes[i])[0] for i in who}
            seen = dict(perceive_together(sent))
            assert list(seen) == list(sent)
            for pipeline, image in sent.items():
                assert_same(seen[pipeline], cpu(image))
        assert pipelines[0]._recorded is not None


def check_a_steady_batch_copies_each_image_once_and_allocates_nothing():
    with a_model(3, batch="batch") as model:
        pipelines = cameras(model, 3)
        for seed in range(3):
            dict(perceive_together(dict(zip(pipelines, images(3, seed), strict=True))))
        before = counts()
        dict(perceive_together(dict(zip(pipelines, images(3, 5), strict=True))))
        spent = {kind: count - before[kind] for kind, count in counts().items()}
    assert (spent["copies to device"], spent["copies to host"]) == (3, 3)
    assert (spent["allocations"], spent["pageable copies"], spent["graphs"]) == (0, 0, 0)


def check_an_image_that_cannot_be_prepared_costs_the_others_of_its_batch_nothing():
    with a_model(3, batch="batch") as model:
        pipelines, cpu = cameras(model, 3), Pipeline(model, threads=1)
        dict(perceive_together(dict(zip(pipelines, images(3), strict=True))))
        for failing_call in (1, 2):  # of preprocessing, of fusion
            sent = dict(zip(pipelines, images(3, failing_call), strict=True))
            sent[pipelines[1]] = images(1, 1, (48, 64))[0]
            with no_kernels(pipelines[0]._device, failing_call):
                seen = dict(perceive_together(sent))
            assert str(seen[pipelines[1]]) == "no compiler"
            for pipeline in (pipelines[0], pipelines[2]):
                assert_same(seen[pipeline], cpu(sent[pipeline]))


def check_a_plan_without_the_profile_is_said():
    with a_model(3, batch="batch") as model, failing("profile"), pytest.raises(ModelError, match="has no profile 0"):
        cameras(model, 1)


def check_a_plan_for_one_image_is_not_taken_for_several():
    with a_model(batch="batch") as model, pytest.raises(PlanError, match="--precision fp32 --max-batch 3"):
        cameras(model, 1)


def check_what_cannot_be_recorded_runs_as_it_is():
    with a_model() as model, failing("capture"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline, cpu = Pipeline(model, "cuda", plan=PLAN), Pipeline(model, threads=1)
        for image in images(4):
            assert_same(pipeline(image), cpu(image))
    (warning,) = caught
    assert "runs without a CUDA graph" in str(warning.message)


def check_a_plan_that_cannot_be_read_is_said():
    with (
        a_model() as model,
        failing("deserialize"),
        pytest.raises(ModelError, match="cannot read it: the plan does not"),
    ):
        Pipeline(model, "cuda", plan=PLAN)


def check_a_context_that_does_not_fit_is_said():
    with a_model() as model, failing("context"), pytest.raises(ModelError, match="the GPU cannot hold it"):
        Pipeline(model, "cuda", plan=PLAN)


def check_an_address_that_is_refused_is_said():
    with (
        a_model() as model,
        failing("address"),
        pytest.raises(ModelError, match="does not take the memory of 'semantic'"),
    ):
        Pipeline(model, "cuda", plan=PLAN)


def check_a_network_that_does_not_start_is_an_error_of_the_device():
    with a_model() as model:
        pipeline = Pipeline(model, "cuda", plan=PLAN)
        with failing("enqueue"), pytest.raises(DeviceError, match="TensorRT could not start it"):
            pipeline(images(1)[0])


def check_sizes_that_are_not_known_before_are_refused():
    with a_model(sizes=("height", "width")) as model, pytest.raises(ModelError, match="export the network with fixed"):
        Pipeline(model, "cuda", plan=PLAN)


def check_a_plan_of_another_precision_is_not_taken():
    with a_model() as model, pytest.raises(PlanError, match="precision: built with fp32, but here is fp16"):
        Pipeline(model, "cuda")


def check_a_plan_that_others_may_write_is_not_run():
    with a_model() as model:
        library = open_library("tensorrt")
        versions = {"library": library.name, "library_version": library.version}
        key = PlanKey.of(model, precision="fp32", calibration=None, **versions, **library.target())
        find_plan(model, key).chmod(0o664)
        with pytest.raises(PlanError, match="others may write it"):
            Pipeline(model, "cuda", plan=PLAN)
        with pytest.warns(UserWarning, match="a plan is code"):
            Pipeline(model, "cuda", plan=PlanOptions("fp32", allow_unverified=True))(images(1)[0])


def check_a_wrong_binding_is_seen():
    """The check above would fail if the engine bound another array."""
    with a_model() as model:
        pipeline, cpu = Pipeline(model, "cuda", plan=PLAN), Pipeline(model, threads=1)
        (image,) = images(1)
        pipeline._engine._alone._bind("semantic", open_device("cuda").empty((1, 3, *SIZE), np.float32))
        with pytest.raises(AssertionError):
            assert_same(pipeline(image), cpu(image))


def check_a_forgotten_wait_is_seen():
    with a_model() as model:
        pipeline, cpu = Pipeline(model, "cuda", plan=PLAN), Pipeline(model, threads=1)
        (image,) = images(1)
        pipeline.start(image)
        with pytest.raises(AssertionError):
            assert_same(pipeline._fusion.frame(), cpu(image))
        pipeline.finish()


def check_a_worker_tells_how_much_memory_is_in_use():
    """From its thread, as it does when it rests; diagnostics have it from there."""
    with a_model() as model:
        worker = Worker(EngineOptions(str(model.folder), "cuda", plan=PLAN))
        try:
            worker._call(worker._rest)
            held = open_device("cuda").empty(100 * 2**20, np.uint8)
            before = worker.about()["device memory MiB"]
            worker._call(worker._rest)
            assert worker.about()["device memory MiB"] == before + 100
            del held
        finally:
            worker.close()


def check_a_layout_that_cannot_be_prepared_leaves_the_others_alone():
    with a_model() as model:
        pipeline, cpu = Pipeline(model, "cuda", plan=PLAN), Pipeline(model, threads=1)
        for image in images(3):
            pipeline(image)
        for failing_call in (1, 2):  # of preprocessing, of fusion
            with no_kernels(pipeline._device, failing_call), pytest.raises(UserError, match="no compiler"):
                pipeline(images(1, 1, (48, 64))[0])
            for image in images(3, failing_call):
                assert_same(pipeline(image), cpu(image))


def check_after_a_failure_the_process_has_to_end():
    """The last one: it breaks the GPU for all that comes. TensorRT holds the context, so it cannot be made anew."""
    with a_model() as model:
        pipeline = Pipeline(model, "cuda", plan=PLAN)
        (image,) = images(1)
        pipeline(image)
        device = open_device("cuda")
        device.kernels(TINY_KERNELS).each("visit", 99, device.empty(1, np.int32), 99)  # beyond the array
        with pytest.raises(DeviceError):
            device.wait()
        for _ in range(2):
            with pytest.raises(DeviceError):
                pipeline(image)
        del device, pipeline
        gc.collect()
        with pytest.raises(DeviceError):
            Pipeline(model, "cuda", plan=PLAN)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> None:
    for name, check in CHECKS.items():
        failure = None
        try:
            with contextlib.redirect_stdout(sys.stderr):
                check()
        except BaseException:
            failure = traceback.format_exc()
        gc.collect()
        print(json.dumps([name, failure]), flush=True)


if __name__ == "__main__":
    main()
