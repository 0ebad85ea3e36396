"""Real-time panoptic perception for ROS 2: every pixel gets exactly one (class, instance id)."""
