"""Golden results of a bag of three frames, and what becomes of a check when one thing in the results is another."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_tiny_model
from test_sources import image, write_bag

from perception_node.bag_tests import golden as golden_module
from perception_node.bag_tests.checks import Checks
from perception_node.bag_tests.golden import Golden
from perception_node.bag_tests.results import ResultFrame, remove_parts, result_frames
from perception_node.bags import BagWriter, header_stamp_ns, typestore
from perception_node.cli import main
from perception_node.topics import NODE


def perception(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with a recording `drive`, its `results`, golden ones in `golden`, and the network `tiny`."""
    folder = tmp_path_factory.mktemp("made")
    tiny = write_tiny_model(folder / "tiny")
    bag = write_bag(folder / "drive", [("/cam", k, image(k, 10**9 * k)) for k in (1, 2, 3)])
    golden, results = folder / "golden", folder / "results"
    result = perception("replay", bag, "--golden", golden, "--update", "--out", results, "--model", tiny)
    assert result.exit_code == 0, result.output
    assert "golden updated" in result.stdout
    return folder


@pytest.fixture
def bag(made):
    return made / "drive"


@pytest.fixture
def tiny(made):
    return made / "tiny"


@pytest.fixture
def golden(made, tmp_path):
    """A copy, to be changed."""
    shutil.copytree(made / "golden", tmp_path / "golden")
    return tmp_path / "golden"


def rewrite(golden, change):
    """The golden results anew, each message as `change` (topic, index of the frame, message) leaves or makes it."""
    store = typestore()
    frames = list(result_frames(golden))
    with BagWriter(golden) as writer:
        for frame in frames:
            for topic, (kind, cdr) in frame.messages.items():
                message = store.deserialize_cdr(bytearray(cdr), kind)  # whose arrays can be written
                if change(topic, frame.index, message) is not False:
                    writer.write(f"/{NODE}/{topic}", kind, frame.time_ns, store.serialize_cdr(message, kind))


def one_pixel(topic, index, message):
    if (topic, index) == ("class_map", 1):
        message.data[8] = 0  # x 2, y 1 of a picture of 6 x 4


def one_id_in_the_map(topic, index, message):
    if (topic, index) == ("instance_map", 1):
        ids = message.data.view(np.uint16)
        ids[np.flatnonzero(ids)[:1]] = 99


def one_id(topic, index, message):
    if (topic, index) == ("instances", 1):
        message.detections[0].id = "99"


def one_stamp(topic, index, message):
    if (topic, index) == ("instances", 1):
        message.header.stamp.nanosec += 1


def one_stamp_everywhere(topic, index, message):
    if index == 1:
        message.header.stamp.nanosec += 1


def one_confidence(topic, index, message):
    if (topic, index) == ("confidence", 1):
        message.data[0] ^= 1


def one_frame(topic, index, message):
    return index != 1


def one_topic(topic, index, message):
    return (topic, index) != ("drivable_area", 1)


def one_class_name(topic, index, message):
    if topic == "label_info":
        message.class_map[0].class_name = "street"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (one_pixel, "frame 1 at 2.000000000 s: class_map: 1 of 24 pixels differ, first x 2 y 1: golden 0 road, now "),
        (one_id_in_the_map, "frame 1 at 2.000000000 s: instance_map: 1 of 24 pixels differ, first x "),
        (one_id, "frame 1 at 2.000000000 s: instances.detections[99]: golden has it, now it is missing"),
        (one_stamp, "frame 1 at 2.000000000 s: instances.header.stamp: golden '2.000000001 s', now '2.000000000 s'"),
        (one_stamp_everywhere, "frame 1 at 2.000000001 s: class_map.header.stamp: golden '2.000000001 s', now "),
        (one_confidence, "frame 1 at 2.000000000 s: confidence: 1 of 24 pixels differ, first x 0 y 0: golden "),
        (one_frame, "frame 1 at 2.000000000 s: frame: new; golden has it not"),
        (one_topic, "frame 1 at 2.000000000 s: drivable_area: new; golden has it not"),
        (one_class_name, "frame 0 at 1.000000000 s: label_info.class_map[0].class_name: golden 'street', now 'road'"),
    ],
)
def test_one_thing_that_changes_is_found(made, golden, change, text):
    assert list(Golden(golden, "drive").differences(made / "results", Checks())) == []
    rewrite(golden / "drive", change)
    (frame,) = Golden(golden, "drive").differences(made / "results", Checks())
    assert str(frame).startswith(text)


def test_what_differs_fails_and_is_told_of(bag, golden, tiny):
    result = perception("replay", bag, "--golden", golden, "--model", tiny)
    assert (result.exit_code, "as golden" in result.stdout) == (0, True)
    rewrite(golden / "drive", one_pixel)
    result = perception("replay", bag, "--golden", golden, "--model", tiny)
    assert result.exit_code == 1
    assert "  frame 1 at 2.000000000 s: class_map: 1 of 24 pixels differ, first x 2 y 1: golden 0 road" in result.stdout
    assert f"FAILED: {golden}/drive: 1 difference in 1 frame" in result.stdout.splitlines()[-1]


def test_a_frame_less_is_one_difference(made, golden):
    """Not that all frames after it are others."""
    rewrite(golden / "drive", one_frame)
    (found,) = Golden(made / "golden", "drive").differences(golden / "drive", Checks())
    assert str(found) == "frame 1 at 2.000000000 s: frame: golden has it, now it is missing"


def test_frames_of_one_stamp_stay_apart(tiny, tmp_path):
    """Of a camera whose clock stands still."""
    bag = write_bag(tmp_path / "drive", [("/cam", 5, image(value, 7)) for value in (1, 2, 3)])
    for option in (["--update"], []):
        result = perception("replay", bag, "--golden", tmp_path / "golden", "--model", tiny, *option)
        assert result.exit_code == 0, result.output
    assert len(list(result_frames(tmp_path / "golden" / "drive"))) == 3


def test_a_clock_that_stands_still_takes_no_longer(made, monkeypatch):
    (first, *_) = result_frames(made / "results")
    numbers = {made / "golden" / "drive": 100, made / "results": 99}
    monkeypatch.setattr(
        golden_module,
        "result_frames",
        lambda path: (ResultFrame(k, first.time_ns, dict(first.messages)) for k in range(numbers[path])),
    )
    matchers = []

    def matcher_of(*sides, **options):
        matchers.append(SequenceMatcher(*sides, **options))
        return matchers[-1]

    monkeypatch.setattr(golden_module, "SequenceMatcher", matcher_of)
    (found,) = Golden(made / "golden", "drive").differences(made / "results", Checks())
    assert str(found) == "frame 99 at 1.000000000 s: frame: golden has it, now it is missing"
    (matcher,) = matchers
    # What it goes through in `a` to find a match in `b`: with equal stamps it would be 100 * 99.
    assert sum(len(matcher.b2j.get(stamp, ())) for stamp in matcher.a) == 99


def test_the_cause_is_named(bag, golden, tiny, tmp_path):
    rewrite(golden / "drive", one_pixel)
    inputs = json.loads((golden / "drive.json").read_text())
    assert set(inputs) == {"bag", "model", "options", "versions"}
    inputs["model"]["sha256"] = "another"
    (golden / "drive.json").write_text(json.dumps(inputs))
    result = perception("replay", bag, "--golden", golden, "--model", tiny)
    assert "made of something else: model.sha256: golden another, now " in result.output


def test_an_update_of_the_same_leaves_the_files(bag, golden, tiny):
    before = {path: path.stat().st_mtime_ns for path in golden.rglob("*")}
    assert perception("replay", bag, "--golden", golden, "--update", "--model", tiny).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in golden.rglob("*")} == before
    rewrite(golden / "drive", one_pixel)
    assert perception("replay", bag, "--golden", golden, "--update", "--model", tiny).exit_code == 0
    assert perception("replay", bag, "--golden", golden, "--model", tiny).exit_code == 0
    assert sorted(path.name for path in golden.iterdir()) == ["drive", "drive.json"]


def test_what_fails_does_not_become_golden(bag, golden, tiny):
    rewrite(golden / "drive", one_pixel)
    before = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    result = perception(
        "replay", bag, "--golden", golden, "--update", "--model", tiny, "--budget", "network.p50=0", "--json"
    )
    assert (result.exit_code, json.loads(result.stdout)["golden"]["updated"]) == (1, False)
    assert {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()} == before


def test_an_update_that_is_killed_leaves_no_inputs_of_other_results(made, golden, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    rewrite(golden / "drive", one_pixel)
    with monkeypatch.context() as patch:
        patch.setattr(golden_module, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            Golden(golden, "drive").update(made / "results", {})
    (told,) = Golden(golden, "drive").changed_inputs({})
    assert told == f"{golden}/drive.json cannot be read: it is not known what the golden results were made of"
    assert Golden(golden, "drive").update(made / "results", {"of": "these"})
    assert json.loads((golden / "drive.json").read_text()) == {"of": "these"}


def test_what_a_killed_update_left_half_written_goes_with_the_next(made, golden):
    (golden / "drive.part-abcd_123" / "drive").mkdir(parents=True)
    shutil.copytree(golden / "drive", golden / "drive.part-20260101")  # golden results of a recording of this name
    Golden(golden, "drive").update(made / "results", {})
    assert sorted(path.name for path in golden.iterdir()) == ["drive", "drive.json", "drive.part-20260101"]


def test_parts_of_a_bag_with_any_name(tmp_path):
    (tmp_path / "drive[1].part-abcd_123").mkdir()
    (tmp_path / "drive1.part-abcd_123").mkdir()
    remove_parts(tmp_path / "drive[1]")
    assert [path.name for path in tmp_path.iterdir()] == ["drive1.part-abcd_123"]


def test_parts_of_another_bag_and_folders_of_the_user_stay(tmp_path):
    others = ["drive.part-2.part-abcd_123", "drive.part-abcd_1234", "drive.part-notes"]
    for name in [*others, "drive.part-abcd_123"]:
        (tmp_path / name).mkdir()
    remove_parts(tmp_path / "drive")
    assert sorted(path.name for path in tmp_path.iterdir()) == others


def test_a_bag_that_was_about_to_be_replaced_comes_back(golden):
    (golden / "drive.part-abcd_123").mkdir()
    (golden / "drive").rename(golden / "drive.part-abcd_123" / "drive.old")
    remove_parts(golden / "drive")
    assert len(list(result_frames(golden / "drive"))) == 3


def test_updates_at_the_same_time_do_not_disturb_each_other(made, golden, tmp_path):
    """As of pytest-xdist's workers that test the same recording."""
    shutil.copytree(made / "results", tmp_path / "other")
    rewrite(tmp_path / "other", one_pixel)
    results = [made / "results", tmp_path / "other"] * 10
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: Golden(golden, "drive").update(each, {}), results))
    assert sorted(path.name for path in golden.iterdir()) == ["drive", "drive.json"]
    assert sum(1 for _ in result_frames(golden / "drive")) == 3


def test_overlays_are_not_golden(bag, golden, tiny, tmp_path):
    arguments = ("replay", bag, "--model", tiny, "--golden", golden, "--overlay", "--out", tmp_path / "out")
    assert perception(*arguments).exit_code == 0
    assert perception(*arguments, "--update").exit_code == 0
    assert all("overlay" not in frame for frame in result_frames(golden / "drive"))
    assert all("overlay" in frame for frame in result_frames(tmp_path / "out"))


def test_the_picture_shows_where(bag, golden, tiny, tmp_path):
    rewrite(golden / "drive", one_pixel)
    result = perception("replay", bag, "--golden", golden, "--model", tiny, "--pictures", tmp_path / "pictures")
    path = tmp_path / "pictures" / "drive" / "frame_000001.png"
    assert f"-> {path}" in result.output
    assert [file.name for file in path.parent.iterdir()] == ["frame_000001.png"]
    picture = cv2.imread(str(path))
    scale, bar = 60, 24  # 6 x 4 pixels become 360 x 240, below a line of text
    assert picture.shape == (4 * scale + bar, 3 * 6 * scale, 3)
    cells = picture[bar + scale // 2 :: scale, scale // 2 :: scale]  # the middle of each pixel
    differs = (cells[:, :6] != cells[:, 6:12]).any(axis=2)
    assert np.argwhere(differs).tolist() == [[1, 2]]
    assert cells[1, 12 + 2].tolist() == [40, 40, 255]


def test_no_golden_results_yet(bag, tiny, tmp_path):
    result = perception("replay", bag, "--golden", tmp_path / "golden", "--model", tiny)
    assert result.exit_code == 1
    assert "golden/drive: no golden results; make them with --update" in result.output.replace("\n", " ")


def test_damaged_golden_results(bag, golden, tiny):
    path = golden / "drive" / "drive.mcap"
    path.write_bytes(path.read_bytes()[:200])
    result = perception("replay", bag, "--golden", golden, "--model", tiny)
    assert result.exit_code == 1
    assert "golden/drive: cannot be read as a rosbag2" in result.output
    assert perception("replay", bag, "--golden", golden, "--update", "--model", tiny).exit_code == 0
    assert perception("replay", bag, "--golden", golden, "--model", tiny).exit_code == 0


def test_the_recording_is_not_overwritten(bag, tiny):
    before = {path: path.read_bytes() for path in bag.iterdir()}
    result = perception("replay", bag, "--golden", bag.parent, "--update", "--model", tiny)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert {path: path.read_bytes() for path in bag.iterdir()} == before


def test_what_is_read_back_is_what_was_written(made):
    frames = list(result_frames(made / "golden" / "drive"))
    assert [(frame.index, frame.time_ns, frame.stamp_ns) for frame in frames] == [
        (k - 1, k, 10**9 * k) for k in (1, 2, 3)
    ]
    assert all(header_stamp_ns(cdr) == frame.stamp_ns for frame in frames for _, cdr in frame.messages.values())
    assert isinstance(frames[0]["instances"].detections, list)
