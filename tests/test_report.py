"""The demo's figures, of bags made by hand: needs no ROS."""

import numpy as np
import pytest
from test_sources import MAKE, image, write_bag

from perception_node.bags import typestore
from perception_node.demo.report import contact_sheet, summarise, write_video
from perception_node.diagnostics import DROPPED
from perception_node.errors import UserError
from perception_node.panoptic import PanopticFrame

MS = 10**6
COUNTS = {"received": 2, "processed": 2, **dict.fromkeys(DROPPED, 0)}


def diagnostics(statuses):
    """`statuses`: name -> values."""
    types = typestore().types
    return types["diagnostic_msgs/msg/DiagnosticArray"](
        header=MAKE.header(0, ""),
        status=[
            types["diagnostic_msgs/msg/DiagnosticStatus"](
                level=0,
                name=name,
                message="",
                hardware_id="",
                values=[
                    types["diagnostic_msgs/msg/KeyValue"](key=key, value=str(value)) for key, value in values.items()
                ],
            )
            for name, values in statuses.items()
        ],
    )


def answer(stamp_ns):
    frame = PanopticFrame.from_maps(
        np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint16), np.full((2, 2), 255, np.uint8)
    )
    return MAKE.instances(MAKE.header(stamp_ns, "front"), frame)


def test_only_the_nodes_own_diagnostics_count(tmp_path):
    other = {"received": 99, "processed": 99, "network p50 ms": 99.0}
    messages = [
        ("/image", 1 * MS, image(1, 10)),
        ("/perception_node/instances", 4 * MS, answer(10)),
        ("/diagnostics", 5 * MS, diagnostics({"/other: perception": other})),
        (
            "/diagnostics",
            6 * MS,
            diagnostics({"/perception_node: perception": {**COUNTS, "network p50 ms": 2.5}, "/lidar: state": other}),
        ),
        ("/diagnostics", 7 * MS, diagnostics({"/lidar: state": other})),
    ]
    summary = summarise(write_bag(tmp_path / "bag", messages), sent=2)
    assert summary["stages_ms"] == {"network": {"p50": 2.5}}
    assert summary["frames"]["dropped"] == {"transport": 0, **dict.fromkeys(DROPPED, 0), "unrecorded": 1}


def test_without_diagnostics_of_the_node_it_says_so(tmp_path):
    messages = [("/image", 1, image(1, 10)), ("/perception_node/instances", 4, answer(10))]
    with pytest.raises(UserError, match="has no diagnostics of /perception_node"):
        summarise(write_bag(tmp_path / "bag", messages), sent=1)


def test_latency_of_images_with_the_same_stamp(tmp_path):
    """Two answers each (two topics): the last of them counts."""
    messages = [
        ("/image", 1 * MS, image(1, 10)),
        ("/perception_node/instances", 3 * MS, answer(10)),
        ("/perception_node/class_map", 4 * MS, image(1, 10)),
        ("/image", 100 * MS, image(2, 10)),
        ("/perception_node/class_map", 102 * MS, image(1, 10)),
        ("/perception_node/instances", 103 * MS, answer(10)),
        ("/diagnostics", 104 * MS, diagnostics({"/perception_node: perception": COUNTS})),
    ]
    summary = summarise(write_bag(tmp_path / "bag", messages), sent=2)
    assert summary["latency_ms"] == {"p50": 3.0, "p95": 3.0, "p99": 3.0}


def test_a_video_one_pixel_wide(tmp_path):
    overlay = MAKE.image(MAKE.header(10, "front"), np.zeros((5, 1, 3), np.uint8), "bgr8")
    bag = write_bag(tmp_path / "bag", [("/perception_node/overlay", 1, overlay)])
    (preview,) = write_video(bag, tmp_path / "annotated.mp4", 1)
    assert preview.shape == (5, 1, 3)
    assert (tmp_path / "annotated.mp4").is_file()


def test_a_contact_sheet_of_flat_pictures():
    assert contact_sheet([np.zeros((1, 2000, 3), np.uint8)]).shape == (1, 3 * 480, 3)
