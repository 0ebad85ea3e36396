"""The ROS 2 node: camera images in; class and instance maps, instances, drivable area and overlay out.

A subscription callback keeps the newest image and nothing else; one worker thread takes it from there. While the worker
is busy newer images take the waiting one's place: newest frame wins, and what loses is counted.
"""

import gc
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from perception_node.dds import use_image_profile
from perception_node.device import DEVICES
from perception_node.drivable import drivable_area
from perception_node.engine import ENGINE_NAMES, PlanOptions
from perception_node.errors import BadImage, DeviceError, UserError, one_line
from perception_node.messages import MessageFactory, camera_image
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.pipeline import Pipeline
from perception_node.topics import CAMERA_INFO, DIAGNOSTICS, IMAGE, LABEL_INFO, NODE, OUTPUTS, Scene

SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
OUTPUT_QOS = QoSProfile(depth=5)  # reliable: RViz and nav2 ask for it, and who asks for less gets it too
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RCLError = rclpy_implementation.RCLError
DIAGNOSTICS_PERIOD_S = 1.0
WARNING_PERIOD_S = 5.0
DEVICE_FAILED = 3
"""Exit status: only a new process gets the device to work."""


class NewestFrame:
    """Hands the newest message from one thread to another. There is room for one: a newer takes an older's place."""

    def __init__(self):
        self._condition = threading.Condition()
        self._message: Any = None
        self._closed = False

    def put(self, message: Any) -> bool:
        """Leaves a message; whether another, not yet taken, was lost to it."""
        with self._condition:
            replaced = self._message is not None
            self._message = message
            self._condition.notify()
        return replaced

    def take(self) -> Any:
        """Waits for a message; None once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._message is not None)
            message, self._message = self._message, None
            return None if self._closed else message

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()


class PerceptionNode(Node):
    """See the module; parameters, topics and their meaning are in the README.

    Raises:
        UserError: from the constructor, where the model cannot be used.
    """

    def __init__(self) -> None:
        super().__init__(NODE)
        self._newest = NewestFrame()
        self._worker = threading.Thread(target=self._work, name="perception", daemon=True)
        self._open_pipeline = self._declare_pipeline()
        self._pipeline = self._open_pipeline()
        self._model, self._timer = self._pipeline.model, self._pipeline.timer
        self._taxonomy = self._model.taxonomy
        self._make = MessageFactory.rclpy()
        # received = processed + superseded + refused + failed + the one or two that are under way.
        self._counts = Counter(received=0, processed=0, superseded=0, refused=0, failed=0)
        self._troubles_reported = 0
        self._camera_info: CameraInfo | None = None

        self._outputs = {
            name: self.create_publisher(self._make.message_class(output.type), f"~/{name}", OUTPUT_QOS)
            for name, output in OUTPUTS.items()
        }
        label_info = self._make.label_info(self._make.header(self.get_clock().now().nanoseconds, ""), self._taxonomy)
        self._label_info = self.create_publisher(type(label_info), f"~/{LABEL_INFO}", LATCHED_QOS)
        self._label_info.publish(label_info)
        self._diagnostics = self.create_publisher(DiagnosticArray, DIAGNOSTICS, 10)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)
        self.create_subscription(Image, IMAGE, self._on_image, SENSOR_QOS)
        self.create_subscription(CameraInfo, CAMERA_INFO, self._on_camera_info, SENSOR_QOS)
        self._worker.start()
        self.get_logger().info(f"ready: model {self._model.name}, waiting for {self.resolve_topic_name(IMAGE)}")

    def destroy_node(self) -> None:
        """Ends the worker after the frame it is at."""
        self._newest.close()
        if self._worker.is_alive():
            self._worker.join()
        super().destroy_node()

    def _declare_pipeline(self) -> Callable[[], Pipeline]:
        """Declares the parameters; what makes the pipeline that they describe."""

        def parameter(name: str, default: Any, description: str, **limits: Any) -> Any:
            descriptor = ParameterDescriptor(description=description, read_only=True, **limits)
            return self.declare_parameter(name, default, descriptor).value

        model = parameter("model", DEFAULT_MODEL, "Model folder, or the name of one that comes with the package.")
        device = parameter("device", "cpu", f"What computes: {', '.join(DEVICES)}.")
        engine = parameter("engine", "auto", f"What runs the network: {', '.join(ENGINE_NAMES)}.")
        threads = parameter(
            "threads",
            0,
            "CPU threads of the network; 0 takes all cores.",
            integer_range=[IntegerRange(from_value=0, to_value=256, step=1)],
        )
        plan = PlanOptions(
            parameter("precision", PlanOptions().precision, "Of the TensorRT plan: fp32, fp16 or int8."),
            auto_build=parameter("auto_build", False, "Build the TensorRT plan if there is none for this GPU."),
            allow_unverified=parameter(
                "allow_unverified", False, "Run a TensorRT plan that others could have written: it is code."
            ),
        )

        def open_pipeline() -> Pipeline:
            pipeline = Pipeline(load_model(model), device, threads, engine, plan)
            pipeline.warm_up()
            return pipeline

        return open_pipeline

    def _on_image(self, message: Image) -> None:
        self._counts["received"] += 1
        if self._newest.put(message):
            self._counts["superseded"] += 1

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _work(self) -> None:
        while (message := self._newest.take()) is not None:
            failure = ""
            try:
                self._process(message)
                self._counts["processed"] += 1
            except BadImage as error:
                self._counts["refused"] += 1
                self.get_logger().warning(f"image refused: {error}", throttle_duration_sec=WARNING_PERIOD_S)
            except DeviceError as error:
                self._counts["failed"] += 1
                failure = str(error)
            except Exception as error:
                if not self.context.ok():
                    return  # shut down while at work: the publishers are gone
                self._counts["failed"] += 1
                self.get_logger().error(
                    f"image lost: {type(error).__name__}: {error}", throttle_duration_sec=WARNING_PERIOD_S
                )
            if failure:
                self._renew_pipeline(failure)

    def _renew_pipeline(self, failure: str) -> None:
        """After its device has failed: a new one works or, if CUDA gives this process none, a new process does."""
        self.get_logger().error(f"{failure}; making the pipeline anew")
        del self._pipeline
        gc.collect()  # a GPU starts anew when nothing is left that was made on it
        try:
            self._pipeline = self._open_pipeline()
        except Exception as error:
            self.get_logger().fatal(f"no pipeline: {one_line(error)}; this process ends, start it again (respawn)")
            # At once: what was made on the device cannot be taken down in order any more.
            os._exit(DEVICE_FAILED)
        self._pipeline.timer = self._timer
        self.get_logger().info("the pipeline works again")

    def _process(self, message: Image) -> None:
        timer = self._timer
        image = camera_image(message)
        frame = self._pipeline(image)
        with timer("drivable"):
            drivable = drivable_area(frame, self._taxonomy)
        scene = Scene(message.header, image, frame, drivable, self._taxonomy)
        with timer("publish"):
            for name, output in OUTPUTS.items():
                publisher = self._outputs[name]
                if publisher.get_subscription_count():
                    self._publish(publisher, output.fill(self._make, scene))

    def _publish(self, publisher: Any, message: Any) -> None:
        """DDS may refuse a message on a loaded machine: the others are sent nevertheless, and the node goes on."""
        try:
            publisher.publish(message)
        except RCLError as error:
            if not self.context.ok():
                raise
            self.get_logger().warning(
                f"{publisher.topic_name}: not sent: {error}", throttle_duration_sec=WARNING_PERIOD_S
            )

    def _publish_diagnostics(self) -> None:
        counts = dict(self._counts)
        waiting = counts["received"] - sum(count for name, count in counts.items() if name != "received")
        troubles = counts["refused"] + counts["failed"]
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name()}: perception",
            message="ok",
            hardware_id=self._model.name,
        )
        if troubles > self._troubles_reported:
            status.level, status.message = DiagnosticStatus.WARN, "images refused or lost; see the log"
        elif counts["received"] == 0:
            status.level, status.message = DiagnosticStatus.WARN, f"no image yet on {self.resolve_topic_name(IMAGE)}"
        self._troubles_reported = troubles
        values = {
            **counts,
            "waiting": waiting,
            "cameras": self.count_publishers(IMAGE),
            "camera_info": "yes" if self._camera_info else "none yet",
        }
        for stage, milliseconds in self._timer.percentiles().items():
            values.update({f"{stage} {name} ms": value for name, value in milliseconds.items()})
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._publish(self._diagnostics, array)


def main() -> int:
    """Console script `perception_node`; the exit status."""
    use_image_profile()
    node, is_up = None, False

    def on_interrupt(*_: Any) -> None:
        """Ctrl-C ends `spin` through rclpy's own handler: an exception amid rclpy's C++ comes out as a RuntimeError."""
        if node is None:
            raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGINT, on_interrupt)
    try:
        rclpy.init()
        is_up = True
        node = PerceptionNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        was_interrupted = is_up and not rclpy.ok()
        if not was_interrupted:
            if not isinstance(error, (UserError, ParameterException, RCLError)):
                raise
            rclpy.logging.get_logger(NODE).fatal(one_line(error))
            return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, previous_handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
