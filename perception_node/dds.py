"""Fast DDS's settings for camera images; see launch/fastdds.xml."""

import os

from perception_node.paths import shipped


def use_image_profile() -> None:
    """Makes Fast DDS use the package's profile, unless the user has set one. Call before rclpy.init()."""
    is_old = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    variable = "FASTRTPS_DEFAULT_PROFILES_FILE" if is_old else "FASTDDS_DEFAULT_PROFILES_FILE"
    os.environ.setdefault(variable, str(shipped("launch") / "fastdds.xml"))
