"""~/tracks: what detections of vision_msgs have no fields for, above all speeds, as radar drivers send it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_node.messages import MessageFactory
from perception_node.panoptic import PanopticFrame, Segment
from perception_node.tracking import Track

UINT32, FLOAT32 = 6, 7
"""Of sensor_msgs/PointField."""
TRACK = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z", "vx", "vy", "vx_sigma", "vy_sigma")]
    + [(name, "<f4") for name in ("u", "v", "width", "height", "du", "dv", "age", "score")]
    + [(name, "<u4") for name in ("hits", "id", "class_id")]
)
"""Position and speed on the ground, metres; the box's centre, size and speed in the image, pixels; seconds."""


def track_cloud(
    make: MessageFactory, header: Any, frame: PanopticFrame, tracks: Sequence[Track], ground_z: float = 0.0
) -> Any:
    """sensor_msgs/PointCloud2: a point with the fields of TRACK for each instance; NaN for what is not known.

    Args:
        make: fills messages.
        header: of the frame that x, y, z are in or, where nothing is in metres, the image's.
        frame: the tracked frame.
        tracks: of its instances, in their order; none where they are not tracked.
        ground_z: of the ground that they stand on, metres.
    """
    pairs = zip(tracks, frame.instances if tracks else (), strict=True)
    points = np.array([_point(track, segment, ground_z) for track, segment in pairs], TRACK)
    field = make.message_class("sensor_msgs/msg/PointField")
    return make.message_class("sensor_msgs/msg/PointCloud2")(
        header=header,
        height=1,
        width=len(points),
        fields=[
            field(
                name=name,
                offset=TRACK.fields[name][1],
                datatype=FLOAT32 if TRACK[name].kind == "f" else UINT32,
                count=1,
            )
            for name in TRACK.names
        ],
        is_bigendian=False,
        point_step=TRACK.itemsize,
        row_step=points.nbytes,
        data=make.sequence(points.view(np.uint8)),
        is_dense=False,
    )


def _point(track: Track, segment: Segment, ground_z: float) -> tuple:
    x0, y0, x1, y1 = segment.box_xyxy
    unknown = np.nan, np.nan
    (class_id, score), *_ = track.class_scores
    return (
        *(track.position_m or unknown),
        ground_z if track.position_m else np.nan,
        *(track.velocity_m_s or unknown),
        *(track.velocity_sigma_m_s or unknown),
        *((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0),
        *(track.velocity_px_s or unknown),
        *(track.age_s, score, track.hits, track.id, class_id),
    )
