import json

import cv2
import numpy as np
import pytest
from test_sources import write_video

from perception_node.coco import CocoPanopticWriter
from perception_node.errors import SourceError
from perception_node.model import load_model
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.pipeline import Pipeline
from perception_node.segment import segment
from perception_node.sources import open_source
from perception_node.taxonomy import Category, Taxonomy

ROAD, CAR = 0, 1
TAXONOMY = Taxonomy([Category(ROAD, "road", (0, 0, 0)), Category(CAR, "car", (0, 0, 1), thing=True)])


def test_coco_panoptic_format(tmp_path):
    class_map = np.array([[UNLABELLED, ROAD, CAR, CAR]], np.uint8)
    instance_map = np.array([[0, 0, 258, 3]], np.uint16)
    frame = PanopticFrame.from_maps(class_map, instance_map, np.full((1, 4), 255, np.uint8))
    writer = CocoPanopticWriter(tmp_path, "panoptic", TAXONOMY)
    writer.add("a", "a.jpg", frame)
    assert not (tmp_path / "panoptic.json").exists()
    writer.close()

    rgb = cv2.imread(str(tmp_path / "panoptic" / "a.png"))[..., ::-1].astype(int)
    ids = rgb @ [1, 256, 65536]
    np.testing.assert_array_equal(ids, [[0, 65536 + ROAD, 258, 3]])
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [(0, "road", 0), (1, "car", 1)]
    assert content["images"] == [{"id": "a", "file_name": "a.jpg", "width": 4, "height": 1}]
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == ("a", "a.png")
    assert {s["id"]: (s["category_id"], s["area"], s["bbox"], s["iscrowd"]) for s in annotation["segments_info"]} == {
        65536: (ROAD, 1, [1, 0, 1, 1], 0),
        3: (CAR, 1, [3, 0, 1, 1], 0),
        258: (CAR, 1, [2, 0, 1, 1], 0),
    }


@pytest.fixture
def few_frames(camvid_val, tmp_path):
    """images/ and labels/ of every 25th frame of the validation drive."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for path in sorted((camvid_val / kind).iterdir())[::25]:
            (tmp_path / kind / path.name).symlink_to(path)
    return tmp_path


def test_the_official_tool_finds_the_same_quality(few_frames):
    """panopticapi, run on the files that `perception segment` wrote, against what it says itself."""
    evaluation = pytest.importorskip("panopticapi.evaluation")
    out = few_frames / "out"
    pipeline = Pipeline(load_model())
    summary = segment(pipeline, open_source(few_frames / "images"), out, few_frames / "labels")
    assert summary["frames"] == 5
    official = evaluation.pq_compute(str(out / "truth.json"), str(out / "panoptic.json"))
    ours = summary["metrics"]
    assert ours["pq"] > 0.3
    for name, key in (("All", "pq"), ("Things", "pq_things"), ("Stuff", "pq_stuff")):
        assert ours[key] == pytest.approx(official[name]["pq"], abs=1e-12)
    assert (ours["sq"], ours["rq"]) == pytest.approx((official["All"]["sq"], official["All"]["rq"]), abs=1e-12)
    for category in pipeline.model.taxonomy:
        expected = official["per_class"][category.id]["pq"]
        assert (ours["classes"][category.name]["pq"] or 0) == pytest.approx(expected, abs=1e-12)
    assert json.loads((out / "summary.json").read_text()) == summary


def test_class_ids_and_overlays(tiny_model, tmp_path):
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((8, 8, 3), np.uint8))
    segment(Pipeline(load_model(tiny_model)), open_source(tmp_path / "street.png"), tmp_path / "out")
    class_ids = cv2.imread(str(tmp_path / "out" / "class_ids" / "street.png"), cv2.IMREAD_UNCHANGED)
    assert class_ids.shape == (8, 8)
    assert set(np.unique(class_ids)) == {0, 1, 2}
    assert (tmp_path / "out" / "overlay" / "street.jpg").is_file()
    assert not (tmp_path / "out" / "truth.json").exists()


def test_files_are_named_by_their_names(tiny_model, tmp_path):
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((8, 8, 3), np.uint8))
    segment(Pipeline(load_model(tiny_model)), open_source(tmp_path / "street.png"), tmp_path / "out")
    (image,) = json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]
    assert (image["id"], image["file_name"]) == ("street", "street.png")


def test_a_run_that_fails_leaves_no_older_results(tiny_model, tmp_path):
    (tmp_path / "street.png").write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("panoptic.json", "truth.json", "summary.json", "mine.json"):
        (out / name).write_text("{}")
    with pytest.raises(SourceError, match="cannot be read as an image"):
        segment(Pipeline(load_model(tiny_model)), open_source(tmp_path / "street.png"), out)
    assert [path.name for path in out.glob("*.json")] == ["mine.json"]


@pytest.mark.parametrize("folder", ["truth", "overlay", "class_ids", "panoptic"])
@pytest.mark.parametrize("what", ["images", "labels"])
def test_results_do_not_overwrite_what_is_read(tiny_model, tmp_path, folder, what):
    folders = {"images": tmp_path / "images", "labels": tmp_path / "labels", what: tmp_path / folder}
    for path in folders.values():
        path.mkdir()
        cv2.imwrite(str(path / "street.png"), np.zeros((8, 8), np.uint8))
    before = sorted(tmp_path.rglob("*.*"))
    with pytest.raises(SourceError, match=f"{folder}: would overwrite the input"):
        segment(Pipeline(load_model(tiny_model)), open_source(folders["images"]), tmp_path, folders["labels"])
    assert sorted(tmp_path.rglob("*.*")) == before


def test_frames_that_a_video_lacks_are_counted(tiny_model, tmp_path):
    video = write_video(tmp_path / "drive.avi", 40)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    summary = segment(Pipeline(load_model(tiny_model)), open_source(video), tmp_path / "out")
    assert 0 < summary["frames"] < 20
    assert summary["missing"] == 40 - summary["frames"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "missing or not an image; every frame needs its label"),
        (np.zeros((8, 9), np.uint8), r"is uint8 \(8, 9\); expected uint8 \(8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), r"is uint8 \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint16), r"is uint16 \(8, 8\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(tiny_model, tmp_path, labels, message):
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "labels").mkdir()
    if labels is not None:
        cv2.imwrite(str(tmp_path / "labels" / "street.png"), labels)
    with pytest.raises(SourceError, match=rf"labels/street\.png: {message}"):
        segment(
            Pipeline(load_model(tiny_model)),
            open_source(tmp_path / "street.png"),
            tmp_path / "out",
            tmp_path / "labels",
        )
