"""`perception evaluate` on bags: the node's topics against the truth's."""

import numpy as np
import pytest
from test_sources import write_bag

from perception_node.bags import open_bag, typestore
from perception_node.errors import SourceError
from perception_node.evaluate import evaluate
from perception_node.evaluate.bags import object_distance
from perception_node.messages import MessageFactory
from perception_node.metrics import VOID_INSTANCE
from perception_node.taxonomy import Category, Taxonomy

MAKE = MessageFactory.rosbags(typestore())
NODE, TRUTH = "/perception_node", "/truth"
ROAD, CAR = 0, 1
TAXONOMY = Taxonomy([Category(ROAD, "road", (0, 0, 0)), Category(CAR, "car", (0, 0, 0))])
OTHER_ORDER = Taxonomy([Category(0, "car", (0, 0, 0)), Category(1, "road", (0, 0, 0)), Category(2, "boat", (0, 0, 0))])


def header(stamp):
    return MAKE.header(stamp, "base_link")


def label_info(prefix, taxonomy=TAXONOMY):
    return (f"{prefix}/label_info", 0, MAKE.label_info(header(0), taxonomy))


def maps(prefix, stamp, classes, instances, time_ns=None, **others):
    """(topic, time, message) of class_map, instance_map and others, 1 pixel high."""
    time_ns = stamp if time_ns is None else time_ns
    images = {
        "class_map": (np.uint8([classes]), "mono8"),
        "instance_map": (np.uint16([instances]), "16UC1"),
        **{name: (np.uint8([pixels]), "mono8") for name, pixels in others.items()},
    }
    return [(f"{prefix}/{name}", time_ns, MAKE.image(header(stamp), *image)) for name, image in images.items()]


def message(kind, **fields):
    package, name = kind.split("/")
    return MAKE.message_class(f"{package}/msg/{name}")(**fields)


def pose(x, y, yaw=0.0):
    turn = message("geometry_msgs/Quaternion", x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))
    return message("geometry_msgs/Pose", position=message("geometry_msgs/Point", x=x, y=y, z=0.0), orientation=turn)


def box(x, y, length=0.0, width=0.0, yaw=0.0):
    size = message("geometry_msgs/Vector3", x=length, y=width, z=1.5)
    return message("vision_msgs/BoundingBox3D", center=pose(x, y, yaw), size=size)


def detection(identity, bbox, foot=None):
    results = []
    if foot is not None:
        standing = message("geometry_msgs/PoseWithCovariance", pose=pose(*foot), covariance=np.zeros(36))
        hypothesis = message("vision_msgs/ObjectHypothesis", class_id="1", score=1.0)
        results = [message("vision_msgs/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=standing)]
    return message("vision_msgs/Detection3D", header=header(1), results=results, bbox=bbox, id=str(identity))


def objects(prefix, stamp, detections):
    array = message("vision_msgs/Detection3DArray", header=header(stamp), detections=detections)
    return (f"{prefix}/objects", stamp, array)


def grid(prefix, stamp, cells, yaw=0.0):
    cells = np.array([cells], np.int8)
    info = message(
        "nav_msgs/MapMetaData",
        map_load_time=header(0).stamp,
        resolution=0.5,
        width=cells.shape[1],
        height=cells.shape[0],
        origin=pose(0.0, -0.25, yaw),
    )
    occupancy = message("nav_msgs/OccupancyGrid", header=header(stamp), info=info, data=cells[0])
    return (f"{prefix}/drivable_grid", stamp, occupancy)


def frames(prefix, stamps, *labels):
    return [entry for stamp in stamps for entry in maps(prefix, stamp, *labels)]


def test_one_bag_with_both(tmp_path):
    """Three frames of the truth; of the second there is no answer, and one answer has no truth."""
    truth = frames(TRUTH, (1, 2, 3), [ROAD, ROAD, CAR, CAR], [0, 0, 7, 7])
    answers = [entry for s in (1, 3, 9) for entry in maps(NODE, s, [ROAD] * 3 + [CAR], [0, 0, 0, s], s + 5)]
    summary = evaluate(write_bag(tmp_path / "bag", [label_info(TRUTH), label_info(NODE), *truth, *answers]))
    assert (summary["frames"], summary["missing"], summary["unused"]) == (2, 1, 1)
    assert summary["classes"]["road"]["pq"] == pytest.approx(2 / 3)
    assert (summary["classes"]["car"]["tp"], summary["classes"]["car"]["fn"]) == (0, 2)  # IoU of exactly one half
    assert summary["stq"]["aq"] == pytest.approx((1 * 1 / 4 + 1 * 1 / 4) / 4)  # id 1, then id 3
    assert summary["vpq"]["1"]["things"] == 0
    assert [frame["name"] for frame in summary["worst"]] == ["1", "3"]
    assert summary["drivable"]["precision"] == pytest.approx(2 / 3)
    assert not {"ece", "grid", "distance"} & set(summary)


def test_void_things_crowds_and_unlabelled_truth(tmp_path):
    labels = [ROAD, 255, CAR, CAR, CAR], [0, 0, VOID_INSTANCE, 0, 4]
    bag = write_bag(
        tmp_path / "bag",
        [
            label_info(TRUTH),
            label_info(NODE),
            *frames(TRUTH, [1], *labels),
            *frames(NODE, [1], [ROAD, ROAD, CAR, CAR, CAR], [0, 0, 1, 2, 3]),
        ],
    )
    summary = evaluate(bag)
    assert (summary["pq"], summary["miou"]) == (1.0, 1.0)
    assert (summary["classes"]["car"]["tp"], summary["classes"]["car"]["fp"]) == (1, 0)


def test_all_that_the_node_says_is_measured(tmp_path):
    """Confidence, drivable area, grid and objects."""
    labels = [ROAD, ROAD, CAR, CAR], [0, 0, 7, 7]
    bag = write_bag(
        tmp_path / "bag",
        [
            label_info(TRUTH),
            label_info(NODE),
            *maps(TRUTH, 1, *labels, drivable_area=[255, 0, 0, 0]),
            *maps(NODE, 1, labels[0], [0, 0, 2, 2], drivable_area=[255, 255, 0, 0], confidence=[255, 255, 204, 204]),
            grid(TRUTH, 1, [0, 0, 100, -1]),
            grid(NODE, 1, [0, -1, 0, 0]),
            objects(TRUTH, 1, [detection(7, box(12.0, 0.0, 4.0, 2.0)), detection(8, box(3.0, 0.0))]),
            objects(NODE, 1, [detection(2, box(99.0, 0.0), foot=(0.0, 11.0)), detection(5, box(1.0, 0.0))]),
        ],
    )
    summary = evaluate(bag)
    assert summary["drivable"] == {"iou": 0.5, "precision": 0.5, "recall": 1.0}
    assert summary["ece"] == pytest.approx((2 * 0 + 2 * 0.2) / 4)
    assert summary["grid"] == {"iou": 1 / 3, "precision": 0.5, "recall": 0.5}
    assert summary["distance"] == {"objects": 1, **dict.fromkeys(("median", "p90", "mean"), pytest.approx(0.1))}
    assert evaluate(bag, grid_distance_m=0.5)["grid"]["iou"] == 1.0


@pytest.mark.parametrize(
    ("x", "y", "yaw", "distance"),
    [
        (10.0, 0.0, 0.0, 8.0),  # 4 long, 2 wide: its rear
        (10.0, 0.0, np.pi / 2, 9.0),  # across: its side
        (0.5, 0.5, 1.0, 0.0),  # it is here
        (5.0, 5.0, 0.0, 5.0),  # the corner (3, 4)
        (0.0, -10.0, np.pi / 2, 8.0),
    ],
)
def test_the_nearest_point_of_a_box(x, y, yaw, distance):
    assert object_distance(detection(1, box(x, y, 4.0, 2.0, yaw))) == pytest.approx(distance)


def test_classes_are_matched_by_name(tmp_path):
    bag = write_bag(
        tmp_path / "bag",
        [
            label_info(TRUTH),
            label_info(NODE, OTHER_ORDER),
            *frames(TRUTH, [1], [ROAD, ROAD, CAR, CAR], [0, 0, 1, 1]),
            *frames(NODE, [1], [1, 1, 0, 2], [0, 0, 5, 0]),
        ],
    )
    summary = evaluate(bag)
    assert summary["notes"] == ["classes that the truth lacks, unlabelled here: boat"]
    assert (summary["classes"]["road"]["iou"], summary["classes"]["car"]["iou"]) == (1.0, 0.5)


def test_two_bags_and_the_order_of_their_messages(tmp_path):
    labels = [ROAD, CAR], [0, 1]
    truth = write_bag(tmp_path / "truth", [label_info(TRUTH), *frames(TRUTH, (1, 2, 3), *labels)])
    answers = [entry for s in (3, 1, 2) for entry in maps("/front/perception_node", s, *labels, 10 - s)]
    predicted = write_bag(tmp_path / "predicted", [label_info("/front/perception_node"), *answers])
    summary = evaluate(predicted, truth)
    assert (summary["frames"], summary["pq"], summary["stq"]["stq"]) == (3, 1.0, 1.0)


def test_stamps_that_repeat_count_once(tmp_path):
    labels = [ROAD, CAR], [0, 1]
    bag = [label_info(TRUTH), label_info(NODE), *frames(TRUTH, (1, 1, 2), *labels), *frames(NODE, (1, 2, 2), *labels)]
    assert evaluate(write_bag(tmp_path / "bag", bag))["frames"] == 2


def test_the_default_model_s_replay_against_itself(tiny_model, tmp_path):
    """What `perception replay` writes is read back; its topics renamed are the truth."""
    from perception_node.model import load_model
    from perception_node.pipeline import Pipeline
    from perception_node.replay import replay
    from perception_node.sources import open_source

    images = [("/cam", s, MAKE.image(header(s), np.full((8, 8, 3), 99, np.uint8), "bgr8")) for s in (10, 20, 30)]
    replay(Pipeline(load_model(tiny_model)), open_source(write_bag(tmp_path / "bag", images)), tmp_path / "replayed")
    messages = list(images)
    with open_bag(tmp_path / "replayed") as reader:
        for connection, time_ns, cdr in reader.messages():
            topic = connection.topic.replace(NODE, TRUTH)
            messages.append((topic, time_ns, reader.deserialize(cdr, connection.msgtype)))
    truth = write_bag(tmp_path / "truth", messages)
    report = tmp_path / "report.html"
    summary = evaluate(tmp_path / "replayed", truth, report=report)
    assert (summary["frames"], summary["pq"], summary["miou"], summary["drivable"]["iou"]) == (3, 1.0, 1.0, 1.0)
    assert summary["stq"]["stq"] == summary["vpq"]["mean"]["all"] == 1.0
    assert summary["ece"] is not None
    assert report.read_text().count("image/jpeg") == 3


def good_bag():
    labels = [ROAD, CAR], [0, 1]
    return [label_info(TRUTH), label_info(NODE), *frames(TRUTH, [1], *labels), *frames(NODE, [1], *labels)]


def without(topic):
    return [entry for entry in good_bag() if entry[0] != topic]


def instead(topic, stamp, pixels, encoding):
    return [*without(topic), (topic, 1, MAKE.image(header(stamp), pixels, encoding))]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (without("/truth/class_map"), "bag: has no topic /truth/class_map; expected: a bag with the truth's topics"),
        (without(f"{NODE}/instance_map"), f"has no topic {NODE}/instance_map; record it too"),
        (without(f"{NODE}/class_map"), r"has 0 topics \.\.\./class_map of nodes \(none\); record the node's topics"),
        (without("/truth/label_info"), "has no /truth/label_info; record it too, or pass --taxonomy"),
        (without(f"{NODE}/label_info"), f"has no {NODE}/label_info; record it too, or pass --taxonomy"),
        ([*good_bag(), *frames("/rear", [1], [0], [0])], r"has 2 topics .* \(/perception_node, /rear\); name one"),
        (
            [entry for entry in good_bag() if NODE not in entry[0]] + frames(NODE, [2], [0], [0]) + [label_info(NODE)],
            f"none of the 1 frames of {NODE} has the stamp of one of the 1 of",
        ),
        (instead(f"{NODE}/class_map", 1, np.zeros((1, 3), np.uint8), "mono8"), r"the maps differ in size: \{"),
        (instead(f"{NODE}/class_map", 1, np.zeros((1, 2), np.uint16), "16UC1"), "class_map: encoding '16UC1'"),
        (instead("/truth/instance_map", 1, np.zeros((1, 2), np.uint8), "mono8"), "at 1 ns: instance_map: encoding"),
        ([*good_bag(), grid(TRUTH, 1, [0, 0], yaw=0.3)], "drivable_grid: 2 cells, 2x1 of 0.5 m, turned by 0.149"),
        ([*good_bag(), ("/truth/objects", 1, None)], r"objects: invalid literal .*'van'; expected: ids of"),
    ],
)
def test_bags_that_are_wrong_are_named(tmp_path, entries, message):
    van = objects(TRUTH, 1, [detection("van", box(1.0, 1.0))])[2]
    entries = [(topic, stamp, van if content is None else content) for topic, stamp, content in entries]
    with pytest.raises(SourceError, match=message) as caught:
        evaluate(write_bag(tmp_path / "bag", entries))
    assert "\n" not in str(caught.value)


def test_one_of_several_nodes(tmp_path):
    bag = write_bag(tmp_path / "bag", [*good_bag(), label_info("/rear"), *frames("/rear", [1], [CAR, CAR], [3, 3])])
    assert evaluate(bag, node="perception_node")["miou"] == 1.0
    assert evaluate(bag, node="/rear/")["miou"] < 0.5


def test_a_bag_against_files(tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(SourceError, match="a bag can be measured against a bag alone"):
        evaluate(write_bag(tmp_path / "bag", good_bag()), tmp_path / "labels")
