"""Which view is where when the viewer opens: on the left what is in pixels, on the right metres and times."""

from typing import NamedTuple

import rerun.blueprint as rrb

from perception_node.view.entities import HEALTH, LEGEND, NO_METRES, RATES, TIMELINE, TIMINGS, VEHICLE, Shown

TRUTH = "truth"
"""A simulation's; behind what nodes say, in a tab of its own."""
_PLOT_S = 30.0
_BEHIND = rrb.EyeControls3D(position=(-8, 0, 11), look_target=(11, 0, 0), eye_up=(0, 0, 1))
"""Metres in the base frame: from above and behind the vehicle."""


class Playing(NamedTuple):
    """What is shown of the past and the present.

    Attributes:
        state: "following" shows the newest, "playing" begins with the first.
        timeline: by which time.
    """

    state: str
    timeline: str


FROM_THE_FIRST = Playing("playing", TIMELINE)
THE_NEWEST = Playing("following", TIMELINE)
JUST_RECEIVED = Playing("following", "log_time")
"""By rerun's own timeline: the stamps of running nodes can jump back, and be of several clocks."""


def layout(shown: Shown, playing: Playing) -> rrb.Blueprint:
    """The layout for what there is to show."""
    perceived = [_perceived(camera, node, shown) for camera, node in _pairs(shown)]
    images = [_images(camera) for camera in shown.cameras] + _confidences(shown)
    metres = [_metres(node, shown) for node in sorted(shown.in_metres, key=TRUTH.__eq__)]
    why_not = rrb.TextDocumentView(name="metres", origin=NO_METRES)
    figures = [_plot("milliseconds", TIMINGS, playing.timeline)] if shown.timed else []
    figures += [_plot("images a second", RATES, playing.timeline)] if shown.rated else []
    figures += [rrb.TextLogView(name="health", origin=HEALTH)] if shown.healthy else []
    right = _rows(_tabs(metres), _tabs(figures)) if metres else _rows(_tabs(figures), why_not)
    columns = [_rows(_tabs(perceived), _tabs(images)), right]
    return rrb.Blueprint(
        rrb.Horizontal(*(column for column in columns if column)),
        rrb.BlueprintPanel(state="hidden"),
        rrb.SelectionPanel(state="hidden"),
        rrb.TimePanel(state="collapsed", timeline=playing.timeline, play_state=playing.state),
        auto_views=False,
    )


def _pairs(shown: Shown) -> list[tuple[str, str]]:
    """Cameras and what is said of them, truth last."""
    pairs = dict.fromkeys((camera, node) for camera, node, _ in shown.in_pixels)
    return sorted(pairs, key=lambda pair: pair[1] == TRUTH)


def _perceived(camera: str, node: str, shown: Shown) -> rrb.ContainerLike:
    """The image with all that is said of it, and what the colours mean beside it."""
    topics = {name for *pair, name in shown.in_pixels if tuple(pair) == (camera, node)}
    above = [f"$origin/{node}/**", f"- $origin/{node}/confidence"]
    seen = rrb.Spatial2DView(
        name=f"{node} ({camera})",
        origin=f"{VEHICLE}/{camera}",
        contents=["$origin/image", *above] if "overlay" not in topics else above,
    )
    n_classes = dict(shown.legends).get(node)
    if not n_classes:
        return seen
    bounds = rrb.VisualBounds2D(x_range=(-1, 1), y_range=(-1, n_classes))
    legend = rrb.Spatial2DView(name="classes", origin=f"{LEGEND}/{node}", visual_bounds=bounds, titlebar=False)
    return rrb.Horizontal(seen, legend, column_shares=[4, 1], name=f"{node} ({camera})")


def _images(camera: str) -> rrb.View:
    return rrb.Spatial2DView(name=camera, origin=f"{VEHICLE}/{camera}", contents="$origin/image")


def _confidences(shown: Shown) -> list[rrb.View]:
    return [
        rrb.Spatial2DView(
            name=f"confidence ({camera})", origin=f"{VEHICLE}/{camera}", contents=f"$origin/{node}/confidence"
        )
        for camera, node, name in shown.in_pixels
        if name == "confidence"
    ]


def _metres(node: str, shown: Shown) -> rrb.View:
    frustums = [f"$origin/{camera}{image}" for camera in shown.cameras for image in ("", "/image")]
    return rrb.Spatial3DView(
        name=f"{node} (metres)",
        origin=VEHICLE,
        contents=[f"$origin/{node}/**", *frustums],
        eye_controls=_BEHIND,
    )


def _plot(name: str, origin: str, timeline: str) -> rrb.View:
    times = rrb.VisibleTimeRange(
        timeline,
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-_PLOT_S),
        end=rrb.TimeRangeBoundary.cursor_relative(),
    )
    return rrb.TimeSeriesView(name=name, origin=origin, time_ranges=times, plot_legend=rrb.Corner2D.LeftTop)


def _tabs(views: list[rrb.ContainerLike]) -> rrb.ContainerLike | None:
    return rrb.Tabs(*views) if len(views) > 1 else next(iter(views), None)


def _rows(*rows: rrb.ContainerLike | None) -> rrb.ContainerLike | None:
    """One below the other, the first one larger; those that there are."""
    present = [row for row in rows if row is not None]
    return rrb.Vertical(*present, row_shares=[3, 2][: len(present)]) if present else None
