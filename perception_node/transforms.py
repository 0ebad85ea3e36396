"""Coordinate frames: the tree that /tf_static and /tf tell of, read without tf2_ros, which not every ROS has in Python.

Of each frame the newest transform to its parent is kept, none of the past: a camera's mounting moves slowly if at all.
"""

from typing import Any

import numpy as np

from perception_node.errors import BadCalibration
from perception_node.mounting import rotation_of_quaternion

_Pose = tuple[np.ndarray, np.ndarray]


class Transforms:
    """Frames and their parents, as messages named them. A leading slash, as ROS 1 had it, does not count."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, _Pose]] = {}

    def add(self, message: Any) -> None:
        """Takes what is right in a tf2_msgs/TFMessage (rclpy's or rosbags'); a known frame's transform is replaced.

        Raises:
            BadCalibration: one is left out: its numbers are no pose, its frame has another parent already, or would be
                its own ancestor. The others were taken.
        """
        first_error = None
        for stamped in message.transforms:
            try:
                self._add(stamped)
            except BadCalibration as error:
                first_error = first_error or error
        if first_error:
            raise first_error

    def lookup(self, target: str, source: str) -> _Pose | None:
        """The pose of `source` in `target`: p_target = rotation @ p_source + translation.

        Returns:
            rotation float64 (3, 3) and translation float64 (3,), metres; None if nothing connects the two (yet).
        """
        target, source = _name(target), _name(source)
        from_source, from_target = self._chain(source), self._chain(target)
        for common, (rotation, translation) in from_source.items():
            if common in from_target:
                target_rotation, target_translation = from_target[common]
                return target_rotation.T @ rotation, target_rotation.T @ (translation - target_translation)
        return None

    def _add(self, stamped: Any) -> None:
        parent, child = _name(stamped.header.frame_id), _name(stamped.child_frame_id)
        edge = f"transform {parent!r} -> {child!r}"
        if not parent or not child:
            raise BadCalibration(edge, "a frame without a name; expected: header.frame_id and child_frame_id")
        known, _ = self._parents.get(child, (parent, None))
        if known != parent:
            raise BadCalibration(edge, f"{child!r} has the parent {known!r} already; expected: one parent for a frame")
        if child not in self._parents and child in self._chain(parent):
            raise BadCalibration(edge, f"{child!r} is an ancestor of {parent!r}; expected: a tree")
        v, q = stamped.transform.translation, stamped.transform.rotation
        translation = np.array([v.x, v.y, v.z], np.float64)
        if not np.isfinite(translation).all():
            raise BadCalibration(edge, f"translation {translation.tolist()}; expected: finite numbers")
        try:
            rotation = rotation_of_quaternion([q.x, q.y, q.z, q.w])
        except BadCalibration as error:
            raise BadCalibration(edge, str(error)) from error
        self._parents[child] = parent, (rotation, translation)

    def _chain(self, frame: str) -> dict[str, _Pose]:
        """The frame itself, its parent and so on up to the root, each with the pose of `frame` in it."""
        rotation, translation = np.eye(3), np.zeros(3)
        chain = {frame: (rotation, translation)}
        while frame in self._parents:
            frame, (step_rotation, step_translation) = self._parents[frame]
            rotation, translation = step_rotation @ rotation, step_rotation @ translation + step_translation
            chain[frame] = rotation, translation
        return chain


def _name(frame: str) -> str:
    return frame.lstrip("/")
