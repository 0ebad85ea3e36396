"""The ROS 2 node: camera images in; class and instance maps, instances, drivable area and overlay out.

A frame's way, each step on the thread that it says::

    _on_image   executor    keeps the newest image of the camera         -> scheduler.py: whose turn it is
    perceive    worker      decodes; gets a PanopticFrame for the image     worker.py: one engine for all cameras
    _publish    publishing  Scene -> a message for each topic that somebody subscribes to: topics.ALL_OUTPUTS

So one frame is published while the next is segmented, and a camera whose subscribers are slow holds up no other. While
its turn has not come, newer images take the waiting one's place: newest frame wins, and what loses is counted.
"""

import math
import time
import traceback
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception_node.calibration_input import Calibration, CalibrationInput, CalibrationOptions, MissingCalibration
from perception_node.device import open_device
from perception_node.diagnostics import Diagnostics, Level
from perception_node.errors import BadCalibration, BadImage, DeviceError, UserError, one_line, without_trace
from perception_node.ground import Grounds
from perception_node.image import CameraImage
from perception_node.messages import MessageFactory, camera_image
from perception_node.panoptic import PanopticFrame
from perception_node.parameters import CALIBRATION, FUSION, GRID, PUBLISH, TRACKING, Parameters
from perception_node.topics import (
    ALL_OUTPUTS,
    CAMERA_INFO,
    DIAGNOSTICS,
    GROUND_OUTPUTS,
    IMAGE,
    LABEL_INFO,
    NODE,
    TF,
    TF_STATIC,
    Output,
    Scene,
)
from perception_node.tracking import Tracker
from perception_node.worker import Worker, Workers

SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
OUTPUT_QOS = QoSProfile(depth=5)  # reliable: RViz and nav2 ask for it, and who asks for less gets it too
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TF_QOS = QoSProfile(depth=100)
TF_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RCLError = rclpy_implementation.RCLError
WARNING_PERIOD_S = 5.0
UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"


class PerceptionNode(LifecycleNode):
    """A managed node for one camera; parameters, topics and their meaning are in docs/node.md.

    Configuring loads and warms the engine, activating subscribes to the camera, deactivating unsubscribes and keeps the
    engine, cleaning up frees all.

    Args:
        workers: of the process; nodes that share them share their engines.
        options: see rclpy.node.Node.

    Raises:
        ParameterException: a parameter that it was started with is refused.
    """

    def __init__(self, workers: Workers | None = None, **options: Any) -> None:
        self.state, self._why_not = UNCONFIGURED, ""
        self._workers = workers or Workers()
        self._worker: Worker | None = None
        self._make = MessageFactory.rclpy()
        self._figures = Diagnostics()
        self.timer, self.fusion = self._figures.timer, {}
        self._not_before = -math.inf
        self._calibration = CalibrationInput(CalibrationOptions())
        self._calibration_problem: BadCalibration | None = None
        self._tracker: Tracker | None = None
        self._grounds: Grounds | None = None
        self._outputs: list[tuple[str, Output, Any]] = []  # name of its switch, what fills it, its publisher
        self._label_info: Any = None
        self._inputs: list[Any] = []
        self._transform_inputs: dict[str, Any] = {}
        self._publishing: ThreadPoolExecutor | None = None
        super().__init__(NODE, **options)  # from here on rclpy destroys the node if the process ends
        try:
            self._settings = Parameters(self, lambda: self.state, self._apply)
        except ParameterException:
            super().destroy_node()
            raise
        self._diagnostics = self.create_publisher(DiagnosticArray, DIAGNOSTICS, 10)
        # Not in ROS time, which stands still, or jumps back, with a bag's.
        self._diagnostics_timer = self.create_timer(
            self._settings["diagnostics_period"],
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    # ---- a frame's way ----

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._figures.received()
        if not self._is_due():
            self._figures.dropped("throttled")
        elif self._worker.put(self, (message, time.perf_counter())):
            self._figures.dropped("superseded")

    def perceive(self, arrival: tuple[Image | CompressedImage, float]) -> Generator[CameraImage, PanopticFrame, None]:
        """See perception_node.worker.Camera."""
        message, arrived_at = arrival
        self.timer.add("wait", (time.perf_counter() - arrived_at) * 1e3)
        try:
            if 0 < self._settings["max_age"] < self._age_s(message.header):
                self._figures.dropped("stale")
            else:
                with self.timer("decode"):
                    image = camera_image(message, self._settings["max_pixels"])
                frame = (yield image).without_below(self._settings["min_score"])
                calibration = self._calibrate(message.header, image)
                taxonomy = self._worker.model.taxonomy
                scene = Scene(message.header, image, frame, taxonomy, self.timer, calibration, self._grounds)
                self._publishing.submit(self._publish, scene)
                return
        except BadImage as error:
            self._figures.dropped("refused", str(error))
            self.get_logger().warning(f"image refused: {error}", throttle_duration_sec=WARNING_PERIOD_S)
        except DeviceError as error:
            self._figures.dropped("failed", str(error))
        except Exception as error:
            self._lose(error)
        self._worker.ready(self)

    def _calibrate(self, header: Any, image: CameraImage) -> Calibration | None:
        """Without a calibration, or with a wrong one, what needs none is made nevertheless."""
        try:
            calibration, problem = self._calibration.calibration(header.frame_id, image.width, image.height), None
        except BadCalibration as error:
            calibration, problem = None, without_trace(error)
            said = f"no outputs in metres: {error}"
            if str(error) == str(self._calibration_problem):
                pass
            elif isinstance(error, MissingCalibration):
                self.get_logger().info(said, throttle_duration_sec=WARNING_PERIOD_S)
            else:
                self.get_logger().warning(said, throttle_duration_sec=WARNING_PERIOD_S)
        self._calibration_problem = problem
        return calibration

    def _publish(self, scene: Scene) -> None:
        self._worker.ready(self)  # for the next image, while this one's messages are made
        try:
            if self._tracker is not None and self._settings[TRACKING + "enabled"]:
                scene = scene.tracked(self._tracker)
            with self.timer("publish"):
                for name, output, publisher in self._outputs:
                    if self._settings[PUBLISH + name] and publisher.get_subscription_count():
                        answer = output.fill(self._make, scene)
                        if answer is not None:
                            self._send(publisher, answer)
            self._figures.processed(self._age_s(scene.header) * 1e3)
        except Exception as error:
            self._lose(error)

    def _send(self, publisher: Any, message: Any) -> None:
        """DDS may refuse a message on a loaded machine: the others are sent nevertheless, and the node goes on."""
        try:
            publisher.publish(message)
        except RCLError as error:
            if not self.context.ok():
                raise
            self.get_logger().warning(
                f"{publisher.topic_name}: not sent: {error}", throttle_duration_sec=WARNING_PERIOD_S
            )

    def _lose(self, error: Exception) -> None:
        if not self.context.ok():
            return  # shut down while at work: the publishers are gone
        why = f"{type(error).__name__}: {error}"
        self._figures.dropped("failed", why)
        self.get_logger().error(f"image lost: {why}", throttle_duration_sec=WARNING_PERIOD_S)

    def _age_s(self, header: Any) -> float:
        """Seconds since the stamp, in the node's time, which may be a bag's."""
        return self.get_clock().now().nanoseconds / 1e9 - (header.stamp.sec + header.stamp.nanosec / 1e9)

    def _is_due(self) -> bool:
        """Whether max_rate allows an image now. What one comes late the next may come early."""
        rate, now = self._settings["max_rate"], time.monotonic()
        if rate and now < self._not_before:
            return False
        self._not_before = max(self._not_before + 1 / rate, now) if rate else -math.inf
        return True

    # ---- lifecycle ----

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._change(self._configure, INACTIVE, undo=self._clean_up)

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._change(self._activate, ACTIVE, undo=self._deactivate)

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._change(self._deactivate, INACTIVE)

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._change(self._clean_up, UNCONFIGURED)

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._change(self._free, FINALIZED)

    def on_error(self, _: LifecycleState) -> TransitionCallbackReturn:
        why_not = self._why_not
        if (result := self._change(self._free, UNCONFIGURED)) != TransitionCallbackReturn.SUCCESS:
            self.state = FINALIZED
        self._why_not = self._why_not or why_not
        return result

    def destroy_node(self) -> None:
        """Ends what is under way after the frame that it is at."""
        self._free()
        super().destroy_node()

    def _change(self, work: Any, state: str, undo: Any = None) -> TransitionCallbackReturn:
        """Goes to a state. If that fails the node stays in the one that it was in, with the reason in the log."""
        try:
            work()
        except Exception as error:
            self._why_not = f"cannot become {state}: {one_line(error)}"
            if self.context.ok():
                # A trace is for what nobody has thought of.
                is_known = isinstance(error, (UserError, ParameterException, MemoryError))
                reason = one_line(error) if is_known else traceback.format_exc()
                stays = self.state if undo else UNCONFIGURED
                self.get_logger().error(f"cannot become {state}, stays {stays}: {reason}")
            if undo is None:
                return TransitionCallbackReturn.ERROR
            undo()
            return TransitionCallbackReturn.FAILURE
        self.state, self._why_not = state, ""
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        self._calibration = CalibrationInput(self._settings.calibration_options())
        self._calibration_problem = None
        options = self._settings.engine_options()
        self._worker = self._workers.join(self, options)
        model = self._worker.model
        self._settings.declare_fusion(model)
        self.fusion = self._settings.fusion()
        self._worker.add(self)
        self._make_tracker()
        self._make_grounds()
        for name, output in ALL_OUTPUTS.items():
            for each, topic in ((output, f"~/{name}"), (output.compressed, self._compressed_topic(f"~/{name}"))):
                if each is None:
                    continue
                if self._make.knows(each.type):
                    publisher = self.create_publisher(self._make.message_class(each.type), topic, OUTPUT_QOS)
                    self._outputs.append((name, each, publisher))
                else:
                    self.get_logger().warning(f"{each.type} is not installed: no {topic}")
        label_info = self._make.label_info(self._make.header(self.get_clock().now().nanoseconds, ""), model.taxonomy)
        self._label_info = self.create_publisher(type(label_info), f"~/{LABEL_INFO}", LATCHED_QOS)
        self._label_info.publish(label_info)
        self.get_logger().info(f"configured: model {model.name} on {options.device}")

    def _activate(self) -> None:
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="publishing")
        self._worker.start(self, self._settings["priority"])
        self._figures.activated()
        is_raw = self._settings["image_transport"] == "raw"
        self._inputs = [
            self.create_subscription(
                Image if is_raw else CompressedImage, self._image_topic(), self._on_image, SENSOR_QOS
            ),
            self.create_subscription(CameraInfo, CAMERA_INFO, self._calibration.take_camera_info, SENSOR_QOS),
        ]
        self._follow_transforms()
        self.get_logger().info(f"active: waiting for {self._image_topic()}")

    def _image_topic(self) -> str:
        is_raw = self._settings["image_transport"] == "raw"
        return self.resolve_topic_name(IMAGE if is_raw else self._compressed_topic(IMAGE))

    def _compressed_topic(self, topic: str) -> str:
        """Beside an image's topic: with a remapping of its own if there is one, else below the image's, which may name
        the transport already."""
        own = f"{topic}/compressed"
        if self.resolve_topic_name(own) != self.resolve_topic_name(own, only_expand=True):
            return own
        return f"{self.resolve_topic_name(topic).removesuffix('/compressed')}/compressed"

    def _deactivate(self) -> None:
        for subscription in (*self._inputs, *self._transform_inputs.values()):
            self.destroy_subscription(subscription)
        self._inputs, self._transform_inputs = [], {}
        if self._publishing is not None:
            if self._worker.stop(self):
                self._figures.dropped("superseded")
            self._publishing.shutdown()
            self._publishing = None

    def _clean_up(self) -> None:
        for publisher in (*(publisher for _, _, publisher in self._outputs), self._label_info):
            self.destroy_publisher(publisher)
        self._outputs, self._label_info = [], None
        self._grounds, self.fusion = None, {}
        if self._worker is not None:
            worker, self._worker = self._worker, None
            self._settings.undeclare_fusion()
            self._workers.leave(self, worker)

    def _free(self) -> None:
        self._deactivate()
        self._clean_up()

    # ---- parameters and diagnostics ----

    def _apply(self, changes: Mapping[str, Any]) -> None:
        """Makes changed parameters work that are not looked up for each frame."""
        if "diagnostics_period" in changes:
            self._diagnostics_timer.timer_period_ns = int(changes["diagnostics_period"] * 1e9)
            self._diagnostics_timer.reset()  # or the one under way is waited for as long as before
        if "max_rate" in changes:
            self._not_before = -math.inf
        if "priority" in changes and self.state == ACTIVE:
            self._worker.set_priority(self, changes["priority"])
        if any(name.startswith(FUSION) for name in changes):
            self._worker.set_fusion(self, self._settings.fusion())
            self.fusion = self._settings.fusion()
        if any(name.startswith(TRACKING) for name in changes) and self._tracker is not None:
            self._tracker.options = self._settings.tracking_options()
        if changes.keys() & CALIBRATION:
            self._calibration.set_options(self._settings.calibration_options())
            if self.state == ACTIVE:
                self._follow_transforms()
        if changes.keys() & {*GRID, "base_frame"} and self._worker is not None:
            self._make_grounds()

    def _make_grounds(self) -> None:
        """On the CPU, wherever the network runs: messages are made there, of maps that are there, on another thread."""
        device, base_frame = open_device("cpu", self._settings["threads"]), self._settings["base_frame"]
        self._grounds = Grounds(device, self._worker.model.taxonomy, self._settings.grid_options(), base_frame)

    def _metric_problem(self) -> BadCalibration | None:
        return self._calibration_problem or (self._grounds and self._grounds.problem)

    def _metric_warnings(self) -> list[tuple[Level, str]]:
        """A wrong calibration is one, and a missing one if somebody waits for what needs it."""
        problem = self._metric_problem()
        waiting = [
            f"~/{name}"
            for name, _, publisher in self._outputs
            if name in GROUND_OUTPUTS and self._settings[PUBLISH + name] and publisher.get_subscription_count()
        ]
        if problem is None or (isinstance(problem, MissingCalibration) and not waiting):
            return []
        subscribed = f"; subscribed: {', '.join(waiting)}" if waiting else ""
        return [(Level.WARN, f"no outputs in metres: {problem}{subscribed}")]

    def _make_tracker(self) -> None:
        """On the CPU, wherever the network runs: it works on maps that are there, on the thread that makes messages."""
        device, next_id = open_device("cpu", self._settings["threads"]), self._tracker.next_id if self._tracker else 1
        try:
            options = self._settings.tracking_options()
            self._tracker = Tracker(device, self._worker.model.taxonomy, options, next_id)
        except UserError as error:
            self.get_logger().warning(f"ids will not last: {error}")

    def _follow_transforms(self) -> None:
        """Listens to TF where nothing else says where the camera is; to /tf, of which a vehicle can have much, until
        /tf_static has said it."""
        inputs = {
            TF_STATIC: (self._calibration.take_static_transforms, TF_STATIC_QOS),
            TF: (self._calibration.take_transforms, TF_QOS),
        }
        if not self._calibration.options.needs_transforms:
            inputs.clear()
        elif self._calibration.is_mounting_static:
            del inputs[TF]
        for topic in self._transform_inputs.keys() - inputs.keys():
            self.destroy_subscription(self._transform_inputs.pop(topic))
        for topic in inputs.keys() - self._transform_inputs.keys():
            try:
                from tf2_msgs.msg import TFMessage
            except ImportError:
                self.get_logger().warning("tf2_msgs is not installed: no mounting from TF; set mounting_url", once=True)
                return
            self._transform_inputs[topic] = self.create_subscription(TFMessage, topic, *inputs[topic])

    def _publish_diagnostics(self) -> None:
        topic = self._image_topic()
        level, message = (Level.ERROR, self._why_not) if self._why_not else (Level.OK, self.state)
        if self.state == ACTIVE:
            self._follow_transforms()  # by now it may be known
            level, message = self._figures.health(topic, self._settings["camera_timeout"], self._metric_warnings())
        values = {
            "state": self.state,
            **self._figures.values(),
            "cameras": self.count_publishers(topic),
            "camera_info": "yes" if self._calibration.has_camera_info else "none yet",
            "calibration": str(self._metric_problem() or self._calibration),
        }
        if self._worker is not None:
            values.update(self._worker.about())
        status = DiagnosticStatus(
            level=bytes([level]),
            name=f"{self.get_fully_qualified_name()}: perception",
            message=message,
            hardware_id=self._worker.model.name if self._worker else self._settings["model"],
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._send(self._diagnostics, array)

    def start(self) -> bool:
        """Configures and activates the node if its parameter autostart says so; whether that went well."""
        return not self._settings["autostart"] or all(
            change() == TransitionCallbackReturn.SUCCESS for change in (self.trigger_configure, self.trigger_activate)
        )
