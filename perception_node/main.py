"""The process `perception_node`: one node, or one for each camera of a file; and how the process ends.

The nodes of a process share their engines (worker.py). Each has an executor and its thread to itself, so that a node
that is being configured holds up no other's images.
"""

import argparse
import gc
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.utilities import remove_ros_args

from perception_node.cameras import read_cameras
from perception_node.dds import use_image_profile
from perception_node.errors import UserError, one_line
from perception_node.node import WARNING_PERIOD_S, PerceptionNode, RCLError
from perception_node.topics import NODE
from perception_node.worker import Workers


def main() -> int:
    """The exit status: 0 when ended by a signal, 1 for what the user got wrong; see also worker.DEVICE_FAILED."""
    use_image_profile()
    gc.disable()  # a collection can take as long as a frame: workers do it between two
    nodes, threads, is_up = [], [], False

    def on_interrupt(*_: Any) -> None:
        """Ctrl-C ends `spin` through rclpy's own handler: an exception amid rclpy's C++ comes out as a RuntimeError."""
        if not nodes:
            raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGINT, on_interrupt)
    try:
        rclpy.init()
        is_up = True
        options = parse(remove_ros_args(sys.argv)[1:])
        nodes.extend(make_nodes(options))
        executors = [SingleThreadedExecutor() for _ in nodes]  # now: it cannot be made once a signal has come
        have_started = False
        for node, executor in zip(nodes, executors, strict=True):
            have_started |= node.start()  # one that fails can still be configured again, while the others go on
            threads.append(threading.Thread(target=spin, args=(node, executor), daemon=True))
            threads[-1].start()
        if not have_started:
            return 1 if rclpy.ok() else 0
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        pass
    except Exception as error:
        was_interrupted = is_up and not rclpy.ok()
        if not was_interrupted:
            if not isinstance(error, (UserError, ParameterException, RCLError)):
                raise
            rclpy.logging.get_logger(NODE).fatal(one_line(error))
            return 1
    finally:
        rclpy.try_shutdown()
        for thread in threads:
            thread.join()
        for node in nodes:
            node.destroy_node()
        signal.signal(signal.SIGINT, previous_handler)
        gc.enable()
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perception_node",
        description="Perceive a camera's images. Parameters, names and topics are set as for every ROS 2 node: "
        "--ros-args -p model:=engines/mine -r image:=/front/image_raw; docs/node.md lists them.",
    )
    parser.add_argument("--cameras", metavar="FILE", help="YAML file of cameras: a node for each, with one engine")
    parser.add_argument("--namespace", default="", help="around the namespaces of the cameras of the file")
    return parser.parse_args(arguments)


def make_nodes(options: argparse.Namespace) -> Iterator[PerceptionNode]:
    """The nodes of this process. Of several one whose parameters are refused is said, and left out."""
    workers = Workers()
    if not options.cameras:
        yield PerceptionNode(workers)
        return
    for camera in read_cameras(options.cameras):
        try:
            yield PerceptionNode(workers, cli_args=["--ros-args", *camera.arguments(options.namespace)])
        except ParameterException as error:
            rclpy.logging.get_logger(NODE).fatal(f"camera {camera.name}: {one_line(error)}")


def spin(node: PerceptionNode, executor: SingleThreadedExecutor) -> None:
    """Until the process is to end. What a callback raises is said, and the node goes on."""
    executor.add_node(node)
    while rclpy.ok():
        try:
            executor.spin()
        except ExternalShutdownException:
            return
        except Exception as error:
            # ROS before Kilted raises RCLError where somebody asks for a transition that the state does not allow.
            said = one_line(error) if isinstance(error, RCLError) else traceback.format_exc()
            if rclpy.ok():
                node.get_logger().error(said, throttle_duration_sec=WARNING_PERIOD_S)


if __name__ == "__main__":
    sys.exit(main())
