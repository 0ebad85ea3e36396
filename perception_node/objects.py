"""Where instances stand: a position on the ground from the foot of their mask, and how uncertain it is.

A position is the foot point nearest to the camera: of a car that of the nearest wheel or corner, not its middle. Single
view and flat ground (Hoiem et al. 2008, "Putting objects in perspective", section 2.1): a pixel's ground is height /
tan(angle below the horizon) away, so its uncertainty grows with the square of the distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perception_node.ground import FOOT, HIDDEN, Ground
from perception_node.panoptic import PanopticFrame, Segment

NEAREST = 0.05
"""Part of an instance's foot pixels that may be stray ones: the next nearer is its distance."""
SIGMA_PIXELS = 1.0
"""Standard deviation of a mask's border, pixels."""
HIDDEN_NEARER = 0.1
"""Part of an instance's lower border that may be hidden nearer than what is seen of its foot."""


@dataclass(frozen=True, slots=True)
class GroundedObject:
    """An instance and where it stands.

    Attributes:
        segment: the instance.
        position_xy: on the ground in the base frame, metres: the foot point nearest to the camera.
        covariance: float64 (2, 2) of the position, square metres.
        distance: from the base frame's origin to the position, metres.
        sigma: the distance's standard deviation, metres.
        bearing: from the camera's place on the ground to the position, radians counterclockwise from ahead.
        left_right: where the mask's box ends in the upright plane through the position, across the bearing: metres to
            the left of the position, and to the right (mostly negative).
        height: of the mask's box above the ground in that plane, metres.
    """

    segment: Segment
    position_xy: tuple[float, float]
    covariance: np.ndarray
    distance: float
    sigma: float
    bearing: float
    left_right: tuple[float, float]
    height: float

    @property
    def width(self) -> float:
        """Metres from the left end to the right."""
        return self.left_right[0] - self.left_right[1]

    @property
    def middle_xy(self) -> tuple[float, float]:
        """On the ground below the middle of what is seen of it, as far away as the position; metres."""
        (x, y), aside = self.position_xy, sum(self.left_right) / 2
        return float(x - aside * np.sin(self.bearing)), float(y + aside * np.cos(self.bearing))


def grounded_objects(ground: Ground, frame: PanopticFrame, sights: np.ndarray) -> dict[int, GroundedObject]:
    """The instances whose foot is seen, by id.

    Not among them are those that stand beyond the horizon, and those of which something in front, or the image's edge,
    hides a part of the foot nearer than what is seen of it: they are nearer than anybody could tell.

    Args:
        ground: what the camera sees.
        frame: the frame.
        sights: of it; see perception_node.ground.GroundSight.
    """
    if not frame.instances:
        return {}
    ends = np.flatnonzero(((sights == FOOT) | (sights == HIDDEN)).ravel())
    ids = frame.instance_map.ravel()[ends]
    order = np.argsort(ids, kind="stable")
    ends, ids = ends[order], ids[order]
    is_foot = sights.ravel()[ends] == FOOT
    # Of a hidden foot all that is known: it is nearer than the ground that its lowest pixel would show.
    xy = np.where(is_foot[:, None], ground.feet_xy.reshape(-1, 2)[ends], ground.ground_xy.reshape(-1, 2)[ends])
    away = (xy - ground.mounting.translation[:2]).astype(np.float64)
    reach, footprint = np.hypot(*away.T), ground.footprint.ravel()[ends].astype(np.float64)
    found = {}
    for segment in frame.instances:
        of_it = slice(*np.searchsorted(ids, (segment.id, segment.id + 1)))
        place = _place(away[of_it], reach[of_it], footprint[of_it], is_foot[of_it])
        if place is not None:
            found[segment.id] = _measure(ground, segment, *place)
    return found


def positions_to_follow(objects: Mapping[int, GroundedObject], image_width: int) -> dict[int, np.ndarray]:
    """What `Tracker.locate` takes: the middles of objects and their variances.

    The middle, since the nearest foot point changes from one wheel to another. Not of those that the image's left or
    right edge cuts off: what is seen of them stays at the edge while they move on.
    """
    return {
        id_: np.array([found.middle_xy, np.diag(found.covariance)])
        for id_, found in objects.items()
        if found.segment.box_xyxy[0] > 0 and found.segment.box_xyxy[2] < image_width
    }


def _place(
    away: np.ndarray, reach: np.ndarray, footprint: np.ndarray, is_foot: np.ndarray
) -> tuple[float, float, float, float] | None:
    """Reach and bearing from the camera's place on the ground to the nearest foot point, the footprint there, and the
    part of the lower border that is hidden; None if the foot is not seen."""
    feet = np.flatnonzero(is_foot & np.isfinite(reach) & np.isfinite(footprint))
    if not feet.size:
        return None
    nearest = feet[np.argsort(reach[feet], kind="stable")[int(NEAREST * feet.size)]]
    pixel = footprint[nearest]
    n_hidden = np.count_nonzero(~is_foot)
    n_nearer = np.count_nonzero(reach[~is_foot] < reach[nearest] - pixel)
    if n_nearer > HIDDEN_NEARER * len(reach):
        return None
    # The contact with the ground is seen to a pixel: those within half a one of the nearest are the nearest.
    chosen = feet[np.abs(reach[feet] - reach[nearest]) <= pixel / 2]
    x, y = away[chosen].mean(0)
    return float(np.hypot(x, y)), float(np.arctan2(y, x)), float(pixel), n_hidden / len(reach)


def _measure(
    ground: Ground, segment: Segment, reach: float, bearing: float, pixel: float, hidden: float
) -> GroundedObject:
    camera, mounting = ground.camera, ground.mounting
    ahead, across = np.array([np.cos(bearing), np.sin(bearing)]), np.array([-np.sin(bearing), np.cos(bearing)])
    position = mounting.translation[:2] + reach * ahead
    # Where the rays through the box's corners meet the upright plane through the position, across the bearing.
    x0, y0, x1, y1 = np.array(segment.box_xyxy) - 0.5
    rays = camera.rays([(x0, y0), (x1, y0), (x0, y1), (x1, y1)]) @ mounting.rotation.T
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = reach / (rays[:, :2] @ ahead)
        scale[~(scale > 0)] = np.nan
    aside, up = scale * (rays[:, :2] @ across), mounting.height_m + scale * rays[:, 2]
    known = bool(np.isfinite(aside).all())
    left, right = (float(aside.max()), float(aside.min())) if known else (0.0, 0.0)
    height = max(0.0, float(up.max())) if known else 0.0
    width = left - right
    to_camera = np.hypot(reach, mounting.height_m)
    pitch = np.radians(ground.options.pitch_sigma) * to_camera**2 / mounting.height_m
    variance_ahead = (SIGMA_PIXELS * pixel) ** 2 + pitch**2 + (hidden * width) ** 2
    variance_across = (SIGMA_PIXELS * to_camera / ground.pixels_per_radian) ** 2 + (hidden * width) ** 2
    covariance = variance_ahead * np.outer(ahead, ahead) + variance_across * np.outer(across, across)
    distance = float(np.hypot(*position))
    towards = position / distance if distance > 0 else ahead
    return GroundedObject(
        segment,
        (float(position[0]), float(position[1])),
        covariance,
        distance,
        float(np.sqrt(towards @ covariance @ towards)),
        bearing,
        (left, right),
        height,
    )
