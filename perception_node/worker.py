"""One engine, the one thread that works with it, and the cameras that share it."""

import contextlib
import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from perception_node.engine import DEFAULT_PLAN, PlanOptions
from perception_node.errors import DeviceError, UserError, one_line
from perception_node.image import CameraImage
from perception_node.model import DEFAULT_MODEL, Model, load_model
from perception_node.panoptic import PanopticFrame
from perception_node.pipeline import Pipeline, perceive_together
from perception_node.scheduler import Scheduler
from perception_node.timing import StageTimer

DEVICE_FAILED = 3
"""Exit status: only a new process gets the device to work."""
REST_S, LONGEST_WITHOUT_REST_S = 1.0, 10.0
"""How often a worker rests: as soon as no image waits, and in the end even if one does."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a pipeline is made of; see perception_node.pipeline.Pipeline. Cameras with the same share one engine."""

    model: str = DEFAULT_MODEL
    device: str = "cpu"
    engine: str = "auto"
    threads: int = 0
    plan: PlanOptions = DEFAULT_PLAN
    max_batch: int = 1

    def open(self) -> Pipeline:
        return Pipeline(load_model(self.model), self.device, self.threads, self.engine, self.plan, self.max_batch)


class Camera(Protocol):
    """Who has images.

    Attributes:
        timer: of the stages of its frames.
        fusion: options of the fusion that are not as in the manifest.
    """

    timer: StageTimer
    fusion: dict[str, Any]

    def perceive(self, message: Any) -> Generator[CameraImage, PanopticFrame, None]:
        """Yields the message's image, if it is to be perceived, and then gets its frame, or what went wrong raised.

        On the worker's thread, which has the images of other cameras to perceive at the same time: what goes wrong with
        this one is said here, and not raised.
        """
        ...

    def get_logger(self) -> Any: ...


class Worker:
    """Gives each camera a pipeline of its own on the one engine, and its turns on the one thread.

    If the device fails, all pipelines are made anew; where that does not work the process ends with DEVICE_FAILED.

    Attributes:
        model: what they perceive with.

    Raises:
        UserError: the engine cannot be loaded.
    """

    def __init__(self, options: EngineOptions):
        self._options = options
        self._scheduler = Scheduler(self._perceive, options.max_batch)
        self._pipelines: dict[Camera, Pipeline] = {}
        self._engine = options.open()
        self.model: Model = self._engine.model
        self._key = self._engine.engine_key
        self._memory_mib: float | None = None
        self._batches: deque[int] = deque(maxlen=100)
        self._rested_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    # ---- for the cameras, from their threads ----

    def add(self, camera: Camera) -> None:
        """Makes and warms a pipeline for a camera."""
        self._call(partial(self._open, camera))

    def remove(self, camera: Camera) -> None:
        """Frees what the camera had here."""
        self._call(partial(self._pipelines.pop, camera, None))

    def start(self, camera: Camera, priority: int) -> None:
        """From now on the camera's images are perceived."""
        self._scheduler.add(camera, priority)

    def stop(self, camera: Camera) -> bool:
        """From now on they are not; waits for the one at work. Whether another was waiting."""
        return self._scheduler.remove(camera)

    def set_fusion(self, camera: Camera, options: Mapping[str, Any]) -> None:
        """Makes the camera's pipeline take other options of the fusion.

        Raises:
            ModelError: they are wrong.
        """
        self._call(lambda: self._pipelines[camera].set_fusion(**options))

    def about(self) -> dict[str, Any]:
        """What diagnostics tell of it."""
        values = {"engine": self._key, "model sha256": self.model.sha256}
        if self._memory_mib is not None:
            values["device memory MiB"] = round(self._memory_mib)
        batches = list(self._batches)  # at once: the thread adds to it
        if self._options.max_batch > 1 and batches:
            values["images at once"] = round(sum(batches) / len(batches), 2)
        return values

    def put(self, camera: Camera, message: Any) -> bool:
        """See Scheduler.put."""
        return self._scheduler.put(camera, message)

    def ready(self, camera: Camera) -> None:
        """See Scheduler.ready."""
        self._scheduler.ready(camera)

    def set_priority(self, camera: Camera, priority: int) -> None:
        """See Scheduler.set_priority."""
        self._scheduler.set_priority(camera, priority)

    def close(self) -> None:
        """Ends the thread after the frame it is at, and frees the engine."""
        self._scheduler.close()
        self._thread.join()
        self._pipelines.clear()
        del self._engine
        gc.unfreeze()
        gc.collect()

    def _call(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises, on the worker's thread: the only one that uses the device."""
        future: Future[Result] = Future()

        def call() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self._scheduler.call(call)
        return future.result()

    # ---- on the worker's thread ----

    def _work(self) -> None:
        while True:
            work = self._scheduler.take(timeout_s=max(0.0, self._rested_at + REST_S - time.monotonic()))
            if self._scheduler.is_closed:
                return
            failure = ""
            try:
                if work is not None:
                    work()
                if work is None or time.monotonic() - self._rested_at > LONGEST_WITHOUT_REST_S:
                    self._rest()
            except DeviceError as error:
                failure = str(error)
            if failure:
                self._renew(failure)

    def _perceive(self, turns: list[tuple[Camera, Any]]) -> None:
        """Has the cameras' images perceived together; what is wrong with one is no matter to the others."""
        waiting, images = {}, {}
        for camera, message in turns:
            pipeline, perceiving = self._pipelines[camera], camera.perceive(message)
            image = next(perceiving, None)
            if image is not None:
                waiting[pipeline], images[pipeline] = perceiving, image
        if images:
            self._batches.append(len(images))
        try:
            for pipeline, seen in perceive_together(images):
                _resume(waiting.pop(pipeline), seen)
        except Exception as error:  # the device's, or the network's, which may lack memory
            for perceiving in waiting.values():
                _resume(perceiving, error)
            if isinstance(error, DeviceError):
                raise

    def _open(self, camera: Camera) -> None:
        pipeline = self._engine.another()
        if camera.fusion:
            pipeline.set_fusion(**camera.fusion)
        pipeline.warm_up()
        try:
            pipeline.compile_all()
        except UserError as error:  # without a compiler what the cache has must do
            camera.get_logger().warning(f"images of other encodings or sizes may be lost: {one_line(error)}")
        pipeline.timer = camera.timer
        self._pipelines[camera] = pipeline
        if not gc.isenabled():
            gc.collect()
            gc.freeze()  # what is here now stays: the collector need not look through it again

    def _rest(self) -> None:
        """Does between two frames what would hold one up. Where Python does not collect garbage by itself, that too."""
        if not gc.isenabled():
            gc.collect()
        self._memory_mib = self._engine.device_memory_mib()
        self._rested_at = time.monotonic()

    def _renew(self, failure: str) -> None:
        """After the device has failed: new pipelines work or, if CUDA gives this process none, a new process does."""
        cameras = list(self._pipelines)
        for camera in cameras:
            camera.get_logger().error(f"{failure}; making the pipeline anew")
        self._pipelines.clear()
        del self._engine
        gc.unfreeze()
        gc.collect()  # a GPU starts anew when nothing is left that was made on it
        try:
            self._engine = self._options.open()
            for camera in cameras:
                self._open(camera)
        except Exception as error:
            for camera in cameras:
                camera.get_logger().fatal(
                    f"no pipeline: {one_line(error)}; this process ends, start it again (respawn)"
                )
            # At once: what was made on the device cannot be taken down in order any more.
            os._exit(DEVICE_FAILED)
        for camera in cameras:
            camera.get_logger().info("the pipeline works again")


def _resume(perceiving: Generator[CameraImage, PanopticFrame, None], seen: PanopticFrame | Exception) -> None:
    """Gives a camera what it waits for."""
    with contextlib.suppress(StopIteration):
        if isinstance(seen, Exception):
            perceiving.throw(seen)
        else:
            perceiving.send(seen)


class Workers:
    """The workers of a process: cameras that want the same engine get the same one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[EngineOptions, Worker] = {}
        self._users: dict[Worker, list[Camera]] = {}

    def join(self, camera: Camera, options: EngineOptions) -> Worker:
        """The worker for these options, until the camera leaves.

        Raises:
            UserError: its engine cannot be loaded.
        """
        with self._lock:
            worker = self._workers.get(options)
            if worker is None:
                worker = self._workers[options] = Worker(options)
                self._users[worker] = []
            self._users[worker].append(camera)
        return worker

    def leave(self, camera: Camera, worker: Worker) -> None:
        """Frees what the camera had; with the last camera the worker ends."""
        with contextlib.suppress(DeviceError):
            worker.remove(camera)
        with self._lock:
            users = self._users[worker]
            users.remove(camera)
            if users:
                return
            del self._users[worker]
            self._workers = {options: other for options, other in self._workers.items() if other is not worker}
        worker.close()
