"""Footage perceived as a node would: what `perception replay` writes and `perception view` shows."""

import sys
from typing import Any

from perception_node.calibration_input import CalibrationInput, CalibrationOptions
from perception_node.device import open_device
from perception_node.errors import BadCalibration, UserError, without_trace
from perception_node.ground import GridOptions, Grounds
from perception_node.image import CameraImage
from perception_node.pipeline import Pipeline
from perception_node.sources import Source, SourceMessage
from perception_node.topics import CAMERA_INFO, TF, Scene
from perception_node.tracking import Tracker


class Perceiver:
    """Images of one camera to scenes, with ids that last and, as far as it is calibrated, in metres.

    Args:
        pipeline: what perceives.
        source: the footage; its static transforms are taken.
        tracking: give objects ids that last.
        calibration: where to look for it; without it in the footage.
        grid: what of the ground is looked at.

    Attributes:
        calibrations: what is known of the camera's.
        no_metres: why an image was not in metres, the last time; None if all were. `in_metres` keeps it up to date.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        tracking: bool = True,
        calibration: CalibrationOptions | None = None,
        grid: GridOptions | None = None,
    ):
        self._pipeline, self._taxonomy = pipeline, pipeline.model.taxonomy
        self._tracker: Tracker | None = None
        if tracking:
            try:
                self._tracker = Tracker(open_device("cpu"), self._taxonomy)
            except UserError as error:
                print(f"ids will not last: {error}", file=sys.stderr)
        self.calibrations = CalibrationInput(calibration or CalibrationOptions())
        for transforms in source.static_transforms():
            self.calibrations.take_transforms(transforms)
        self._grounds = Grounds(
            open_device("cpu"), self._taxonomy, grid or GridOptions(), self.calibrations.options.base_frame
        )
        self.no_metres: BadCalibration | None = None

    def take(self, item: SourceMessage) -> None:
        """Takes in what is said of the camera: items of the footage that are no images, in order with them.

        Raises:
            BadImage: the message is damaged.
        """
        if item.topic == CAMERA_INFO:
            self.calibrations.take_camera_info(item.message)
        elif item.topic == TF and self.calibrations.options.needs_transforms:
            self.calibrations.take_transforms(item.message)

    def __call__(self, header: Any, image: CameraImage) -> Scene:
        """The scene of an image with this std_msgs/Header; images come in order."""
        calibrated = None
        try:
            calibrated = self.calibrations.calibration(header.frame_id, image.width, image.height)
        except BadCalibration as error:
            self.no_metres = without_trace(error)
        frame, timer = self._pipeline(image), self._pipeline.timer
        scene = Scene(header, image, frame, self._taxonomy, timer, calibrated, self._grounds)
        return scene if self._tracker is None else scene.tracked(self._tracker)

    def in_metres(self, scene: Scene) -> bool:
        """Whether the newest scene has what is in metres; looks at its ground."""
        is_in_metres = scene.ground is not None
        self.no_metres = self._grounds.problem or self.no_metres
        return is_in_metres
