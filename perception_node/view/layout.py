"""Which view is where when the viewer opens: on the left what is in pixels, on the right metres and milliseconds."""

import rerun.blueprint as rrb

from perception_node.view.entities import TIMELINE, TIMINGS, VEHICLE, Shown

TRUTH = "truth"
"""A simulation's; behind what nodes say, in a tab of its own."""
_TRAIL_S = 2.0
_PLOT_S = 30.0
_BEHIND = rrb.EyeControls3D(position=(-9, 0, 9), look_target=(12, 0, 0), eye_up=(0, 0, 1))
"""Metres in the base frame: from above and behind the vehicle."""


def layout(shown: Shown, live: bool) -> rrb.Blueprint:
    """The layout for what there is to show.

    Args:
        live: it goes on; the newest is shown. Else it is played from its beginning.
    """
    trail = rrb.VisibleTimeRange(
        TIMELINE,
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-_TRAIL_S),
        end=rrb.TimeRangeBoundary.cursor_relative(),
    )
    cameras = [
        rrb.Spatial2DView(name=camera, origin=f"{VEHICLE}/{camera}", contents="$origin/image")
        for camera in shown.cameras
    ]
    perceived = [
        rrb.Spatial2DView(
            name=f"{node} ({camera})",
            origin=f"{VEHICLE}/{camera}",
            contents=["$origin/image", f"$origin/{node}/**", f"- $origin/{node}/overlay"],
            overrides={f"{VEHICLE}/{camera}/{node}/tracks": [rrb.VisibleTimeRanges([trail])]},
        )
        for camera, node in sorted(shown.in_pixels, key=lambda pair: pair[1] == TRUTH)
    ]
    metres = [
        rrb.Spatial3DView(
            name=f"{node} (metres)",
            origin=VEHICLE,
            contents=[f"$origin/{node}/**", *(f"$origin/{camera}/image" for camera in shown.cameras)],
            eye_controls=_BEHIND,
        )
        for node in sorted(shown.in_metres, key=TRUTH.__eq__)
    ]
    times = [
        rrb.TimeSeriesView(
            name="milliseconds",
            origin=TIMINGS,
            time_ranges=rrb.VisibleTimeRange(
                TIMELINE,
                start=rrb.TimeRangeBoundary.cursor_relative(seconds=-_PLOT_S),
                end=rrb.TimeRangeBoundary.cursor_relative(),
            ),
        )
        for _ in shown.timed[:1]
    ]
    columns = [
        rrb.Vertical(*_tabs(cameras), *_tabs(perceived)),
        rrb.Vertical(*_tabs(metres), *times, row_shares=[2, 1] if metres and times else None),
    ]
    return rrb.Blueprint(
        rrb.Horizontal(*(column for column in columns if column.contents)),
        rrb.BlueprintPanel(state="hidden"),
        rrb.SelectionPanel(state="hidden"),
        rrb.TimePanel(state="collapsed", timeline=TIMELINE, play_state="following" if live else "playing"),
        auto_views=False,
    )


def _tabs(views: list[rrb.View]) -> list[rrb.View | rrb.Tabs]:
    return [rrb.Tabs(*views)] if len(views) > 1 else views
