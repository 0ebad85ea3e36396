"""A simulated street: a calibrated camera drives along it, and the truth of every frame is exact."""

from perception_node.simulation.frame import StreetFrame
from perception_node.simulation.street import Street, default_camera

__all__ = ["Street", "StreetFrame", "default_camera"]
