"""perception.launch.py under launch_testing: launch_test tests/launch_test_perception.py, with the package installed.

tests/test_launch.py runs it where that is so.
"""

import unittest

import launch_testing
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from lifecycle_msgs.srv import GetState
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from perception_node.paths import shipped

TIMEOUT_S = 60.0


def generate_test_description() -> LaunchDescription:
    source = PythonLaunchDescriptionSource(str(shipped("launch") / "perception.launch.py"))
    arguments = {"namespace": "car", "image": "/front/image_raw", "respawn": "false"}
    return LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments.items()), ReadyToTest()])


class WhileItRuns(unittest.TestCase):
    def setUp(self):
        rclpy.init()
        self.node = rclpy.create_node("engineer")

    def tearDown(self):
        rclpy.shutdown()

    def test_it_is_active_and_answers(self):
        answers = []
        self.node.create_subscription(Detection2DArray, "/car/perception_node/instances", answers.append, 10)
        camera = self.node.create_publisher(Image, "/front/image_raw", qos_profile_sensor_data)
        image = Image(height=8, width=8, encoding="mono8", step=8, data=bytes(64))
        image.header.frame_id = "front"
        self.node.create_timer(0.1, lambda: camera.publish(image))
        end = self.node.get_clock().now().nanoseconds + TIMEOUT_S * 1e9
        while not answers and self.node.get_clock().now().nanoseconds < end:
            rclpy.spin_once(self.node, timeout_sec=0.1)
        assert [answer.header.frame_id for answer in answers[:1]] == ["front"]

        client = self.node.create_client(GetState, "/car/perception_node/get_state")
        assert client.wait_for_service(TIMEOUT_S)
        future = client.call_async(GetState.Request())
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=TIMEOUT_S)
        assert future.result().current_state.label == "active"


@launch_testing.post_shutdown_test()
class WhenItHasEnded(unittest.TestCase):
    def test_it_ended_well(self, proc_info, proc_output):
        launch_testing.asserts.assertExitCodes(proc_info)
        assert b"Traceback" not in b"".join(output.text for output in proc_output)
