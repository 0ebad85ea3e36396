"""`perception evaluate` on files: COCO panoptic, Cityscapes, folders of class ids; and what is wrong with them."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import perception

from perception_node.coco import CocoPanopticWriter
from perception_node.errors import SourceError, UserError
from perception_node.evaluate import evaluate
from perception_node.labels import open_label_folder
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import builtin_taxonomy

CATEGORIES = [
    {"id": 7, "name": "road", "isthing": 0},
    {"id": 21, "name": "tree", "isthing": 0},
    {"id": 26, "name": "car", "isthing": 1},
]
ROAD, TREE, CAR = (category["id"] for category in CATEGORIES)


def write_coco(path, pictures, categories=CATEGORIES, images=None):
    """Writes NAME.json and NAME/; pictures: name -> (ids (H, W), {id: (category, crowd)})."""
    folder = path.with_suffix("")
    folder.mkdir()
    annotations = []
    for name, (ids, segments) in pictures.items():
        ids = np.array(ids)
        bgr = np.dstack([ids >> 16, ids >> 8 & 255, ids & 255]).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), bgr)
        info = [
            {"id": i, "category_id": category, "iscrowd": int(crowd), "area": int((ids == i).sum())}
            for i, (category, crowd) in segments.items()
        ]
        annotations.append({"image_id": name, "file_name": f"{name}.png", "segments_info": info})
    images = images or [{"id": name} for name in pictures]
    path.write_text(json.dumps({"annotations": annotations, "images": images, "categories": categories}))
    return path


ROAD_AND_CAR = np.repeat([[1, 1, 1, 70000]], 4, 0), {1: (ROAD, False), 70000: (CAR, False)}
ALL_ROAD = np.full((4, 4), 5), {5: (ROAD, False)}


def test_the_official_tool_finds_the_same_of_files(tmp_path):
    official = pytest.importorskip("panopticapi.evaluation")
    rng = np.random.default_rng(3)

    def image(crowds):
        ids = np.kron(rng.integers(0, 6, (6, 8)), np.ones((4, 4), int))
        what = {i: (int(rng.choice([ROAD, TREE, CAR])), bool(crowds and rng.uniform() < 0.3)) for i in np.unique(ids)}
        what.pop(0, None)
        return ids, {int(i): label for i, label in what.items()}

    names = [f"{i:06d}" for i in range(12)]
    truth = write_coco(tmp_path / "truth.json", {name: image(True) for name in names})
    noisy = {}
    for name in names:  # the truth's picture, with some blocks of another one
        ids = cv2.imread(str(tmp_path / "truth" / f"{name}.png"))[..., 2].astype(int)
        other, what = image(False)
        ids = np.where(rng.uniform(size=(6, 8)).repeat(4, 0).repeat(4, 1) < 0.25, other, ids)
        noisy[name] = ids, {int(i): what.get(int(i), (CAR, False)) for i in np.unique(ids) if i}
    predicted = write_coco(tmp_path / "predicted.json", noisy)
    theirs = official.pq_compute(str(truth), str(predicted))
    ours = evaluate(predicted, truth)
    for group, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for measure in ("pq", "sq", "rq"):
            assert ours[measure + suffix] == pytest.approx(theirs[group][measure], abs=1e-12)
    for category in CATEGORIES:
        found = ours["classes"][category["name"]]
        assert found["pq"] == pytest.approx(theirs["per_class"][category["id"]]["pq"], abs=1e-12)
    assert sum(found["tp"] for found in ours["classes"].values()) > 5
    assert evaluate(predicted, truth, workers=2)["classes"] == ours["classes"]


def test_what_is_drivable_is_told_by_the_class_s_name(tmp_path):
    truth = write_coco(tmp_path / "truth.json", {"a": ROAD_AND_CAR})
    predicted = write_coco(tmp_path / "predicted.json", {"a": ALL_ROAD})
    assert evaluate(predicted, truth)["drivable"] == {"iou": 0.75, "precision": 0.75, "recall": 1.0}


def test_classes_are_matched_by_name_or_else_by_id(tmp_path):
    truth = write_coco(tmp_path / "truth.json", {"a": ALL_ROAD})
    others = [{"id": 0, "name": "car", "isthing": 1}, {"id": 1, "name": "road", "isthing": 0}]
    named = write_coco(tmp_path / "named.json", {"a": (ALL_ROAD[0], {5: (1, False)})}, others)
    assert evaluate(named, truth)["pq"] == 1.0
    bare = json.loads((write_coco(tmp_path / "bare.json", {"a": ALL_ROAD})).read_text())
    del bare["categories"]
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    assert evaluate(tmp_path / "bare.json", truth)["pq"] == 1.0


def test_missing_and_unused_predictions(tmp_path):
    truth = write_coco(tmp_path / "truth.json", {"a": ALL_ROAD, "b": ALL_ROAD, "c": ALL_ROAD})
    predicted = write_coco(tmp_path / "predicted.json", {"b": ALL_ROAD, "x": ALL_ROAD})
    with pytest.raises(SourceError, match=r"predicted\.json: has no prediction of a \(2 of 3 such\); .*--partial"):
        evaluate(predicted, truth)
    summary = evaluate(predicted, truth, allow_missing=True)
    assert (summary["frames"], summary["missing"], summary["unused"], summary["pq"]) == (1, 2, 1, 1.0)


def test_videos_are_told_apart(tmp_path):
    """Two videos of two frames; in each the car has its own id, and changes it in the prediction of the second."""

    def car(identity):
        return np.full((2, 2), identity), {identity: (CAR, False)}

    names = ["a0", "a1", "b0", "b1"]
    images = [{"id": name, "video_id": name[0]} for name in names]
    truth = write_coco(tmp_path / "truth.json", {name: car(1) for name in names}, images=images)
    predicted = write_coco(
        tmp_path / "predicted.json", dict(zip(names, map(car, (7, 7, 8, 9)), strict=True)), images=images
    )
    summary = evaluate(predicted, truth)
    assert summary["stq"] == {"stq": pytest.approx(0.75**0.5), "aq": 0.75, "sq": 1.0}
    document = json.loads(truth.read_text())
    document["annotations"] = [document["annotations"][i] for i in (0, 2, 1, 3)]  # the videos' frames in turns
    truth.write_text(json.dumps(document))
    assert evaluate(predicted, truth)["stq"] == summary["stq"]
    things = {k: values["things"] for k, values in summary["vpq"].items()}
    assert things == {"1": 1.0, "2": pytest.approx(1 / (1 + 2 / 2 + 1 / 2)), "3": None, "4": None, "mean": 0.7}
    one_sequence = write_coco(tmp_path / "one.json", {name: car(1) for name in names})
    aq = evaluate(predicted, one_sequence, video=True)["stq"]["aq"]
    assert aq == pytest.approx((8 * 8 / 16 + 4 * 4 / 16 + 4 * 4 / 16) / 16)
    assert "stq" not in evaluate(predicted, one_sequence)


def write_labels(folder, classes, name="a"):
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.png"), np.array(classes, np.uint8))
    return folder


def camvid_frame():
    """CamVid's classes, 20x40: road below, sky above, a car of 60 pixels and one of 4."""
    classes = np.full((20, 40), 3, np.uint8)
    classes[:8] = 0
    classes[10:16, 5:15] = 8
    classes[10:12, 30:32] = 8
    return classes


def test_a_folder_of_class_ids(tmp_path):
    """Classes from the prediction's JSON; the small car is void, and the prediction's one of the whole is found."""
    taxonomy = builtin_taxonomy("camvid")
    classes = camvid_frame()
    instances = np.where(classes == 8, 1 + (np.arange(40) > 20), 0).astype(np.uint16)
    writer = CocoPanopticWriter(tmp_path, "predicted", taxonomy)
    writer.add("a", "a.jpg", PanopticFrame.from_maps(classes, instances, np.full((20, 40), 255, np.uint8)))
    writer.close()
    labels = write_labels(tmp_path / "labels", np.where(classes == 0, 11, classes))  # the sky was not labelled
    summary = evaluate(tmp_path / "predicted.json", labels)
    assert (summary["pq"], summary["miou"]) == (1.0, 1.0)
    assert summary["classes"]["sky"]["iou"] is None
    assert summary["classes"]["car"]["tp"] == 1
    assert summary["recall_by_size"]["small"] == {"recall": 1.0, "instances": 1}
    assert summary["notes"] == [f"{labels}: {open_label_folder(labels, taxonomy).note}"]
    with pytest.raises(UserError, match=r"labels: what its class ids mean is not known; name .* --taxonomy"):
        evaluate(labels, labels)
    assert evaluate(labels, labels, taxonomy=taxonomy)["pq"] == 1.0


def cityscapes_ids(seed=0):
    """uint16 (16, 24): stuff, things with and without instance, classes that are not measured."""
    choices = [7, 8, 11, 23, 26, 24, 26001, 26002, 24001, 33003, 0, 3, 9, 30001]
    blocks = np.random.default_rng(seed).choice(choices, (4, 6))
    return np.kron(blocks, np.ones((4, 4), int)).astype(np.uint16)


def test_cityscapes_as_cityscapes_scripts_convert_it(tmp_path):
    """gtFine read as it is, and the panoptic JSON that the official script makes of it, measure the same."""
    script = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    city = tmp_path / "gtFine" / "val" / "aachen"
    city.mkdir(parents=True)
    for index in range(3):
        cv2.imwrite(str(city / f"aachen_00000{index}_000019_gtFine_instanceIds.png"), cityscapes_ids(index))
    script.convert2panoptic(str(tmp_path / "gtFine"), str(tmp_path), False, ["val"])
    converted = tmp_path / "cityscapes_panoptic_val.json"
    images = {}
    for index in range(3):
        ids = cityscapes_ids(index).astype(int)
        ids[2:6, 2:9] = cityscapes_ids(7)[0, 0]
        what = {int(i): (int(i) // 1000 if i >= 1000 else int(i), False) for i in np.unique(ids)}
        images[f"aachen_00000{index}_000019"] = (
            np.where(np.isin(ids, [0, 3, 9, 30001]), 0, ids),
            {i: label for i, label in what.items() if i not in (0, 3, 9, 30001)},
        )
    predicted = write_coco(tmp_path / "predicted.json", images, json.loads(converted.read_text())["categories"])
    as_it_is, as_converted = evaluate(predicted, tmp_path / "gtFine" / "val"), evaluate(predicted, converted)
    assert 0.1 < as_it_is["pq"] < 1
    for name, values in as_it_is["classes"].items():
        assert as_converted["classes"][name] == values
    official = pytest.importorskip("panopticapi.evaluation").pq_compute(str(converted), str(predicted))
    assert as_converted["pq"] == pytest.approx(official["All"]["pq"], abs=1e-12)


def damaged(document, path, value):
    """The document with the value at a path like "annotations.0.image_id" replaced, or without it if it is None."""
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = document
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("annotations", None, "annotations: missing or no list of objects"),
        ("annotations", [3], "annotations: missing or no list of objects"),
        ("categories", None, "categories: missing or no list of objects"),
        ("categories.0.name", "car", r"categories\[2\]: id 26 or name 'car' is there twice"),
        ("categories.0.id", 26, r"categories\[2\]: id 26 or name 'car' is there twice"),
        ("categories.0.name", 5, r"categories\[0\]\.name: 5; expected: str"),
        ("annotations.0.image_id", None, r"annotations\[0\]\.image_id: None; expected: str or int"),
        ("annotations.0.file_name", 3, r"annotations\[0\]\.file_name: 3; expected: str"),
        ("annotations.0.file_name", "b.png", r"b\.png: missing, 1 of 1 such; truth\.json has .* in .*/truth/"),
        ("annotations.0.segments_info", {}, r"annotations\[0\]\.segments_info: \{\}; expected: list"),
        ("annotations.0.segments_info.1", 5, r"segments_info\[1\]\.id: None; expected: int"),
        ("annotations.0.segments_info.0.id", 0, r"segments_info\[0\]\.id: 0 is out of range"),
        ("annotations.0.segments_info.0.id", 70000, r"segments_info\[1\]\.id: 70000 is out of range or a second one"),
        ("annotations.0.segments_info.0.id", 2, r"a\.png: has segment 1 \(1 such\), which segments_info .* not list"),
        ("annotations.0.segments_info.0.area", 3, r"a\.png: segment 1 has 12 pixels, its area in truth\.json is 3"),
        ("annotations.0.segments_info.0.category_id", 99, r"category_id: 99 is none .*: road, tree, car"),
    ],
)
def test_a_json_that_is_wrong_is_named(tmp_path, path, value, message):
    truth = write_coco(tmp_path / "truth.json", {"a": ROAD_AND_CAR})
    predicted = write_coco(tmp_path / "predicted.json", {"a": ALL_ROAD})
    truth.write_text(json.dumps(damaged(json.loads(truth.read_text()), path, value)))
    with pytest.raises(SourceError, match=message) as caught:
        evaluate(predicted, truth)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_segment_without_pixels_is_named(tmp_path):
    truth = write_coco(tmp_path / "truth.json", {"a": ALL_ROAD})
    predicted = write_coco(tmp_path / "predicted.json", {"a": (ALL_ROAD[0], {**ALL_ROAD[1], 9: (CAR, False)})})
    with pytest.raises(SourceError, match=r"predicted/a\.png: has no pixel of segment 9 \(1 such\)"):
        evaluate(predicted, truth)


@pytest.mark.parametrize("keep", [0, 20, 60, -3])
def test_a_png_that_is_cut_off_is_named(tmp_path, keep):
    truth = write_coco(tmp_path / "truth.json", {"a": ALL_ROAD})
    predicted = write_coco(tmp_path / "predicted.json", {"a": ALL_ROAD})
    picture = tmp_path / "predicted" / "a.png"
    picture.write_bytes(picture.read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"predicted/a\.png: missing or not an image, or cut off; write .* anew"):
        evaluate(predicted, truth)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"a\.png: is uint8 \(4, 4\); expected uint8 \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.uint16), r"a\.png: is uint16 \(4, 4, 3\)"),
        (np.full((4, 6, 3), [0, 0, 5], np.uint8), r"predicted/a\.png: is 6x4 pixels, its truth .*/a\.png 4x4; pre"),
    ],
)
def test_pictures_of_another_kind_or_size_are_named(tmp_path, picture, message):
    truth = write_coco(tmp_path / "truth.json", {"a": ALL_ROAD})
    predicted = write_coco(tmp_path / "predicted.json", {"a": ALL_ROAD})
    cv2.imwrite(str(tmp_path / "predicted" / "a.png"), picture)
    with pytest.raises(SourceError, match=message):
        evaluate(predicted, truth)


def test_errors_come_back_from_other_processes(tmp_path):
    truth = write_coco(tmp_path / "truth.json", dict.fromkeys("abcdefghijkl", ALL_ROAD))
    (tmp_path / "truth" / "c.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"truth/c\.png: missing or not an image"):
        evaluate(truth, truth, workers=2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_json_is_an_error_of_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("json")
    truth = write_coco(folder / "truth.json", {"a": ROAD_AND_CAR})
    text = truth.read_text()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 30)))
    instead = data.draw(st.sampled_from(["", "null", "[]", "-1", '"', "{}", "1e99"]))
    truth.write_text(text[:start] + instead + text[stop:])
    result = perception("evaluate", truth, truth, "--json")
    assert result.exit_code == 0 or result.stderr.splitlines()[-1].startswith("Error: ")
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_names_that_have_nothing_in_common(tmp_path):
    truth = write_coco(tmp_path / "truth.json", {"a": ALL_ROAD})
    predicted = write_coco(tmp_path / "predicted.json", {"b": ALL_ROAD})
    with pytest.raises(SourceError, match=r"none of its images \(b, \.\.\.\) is one of .* \(a, \.\.\.\)"):
        evaluate(predicted, truth, allow_missing=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing.json", "{tmp}"], "nothing.json: does not exist"),
        (["{tmp}/labels"], "labels: name the truth too; only a bag can hold both"),
        (["{tmp}/notes.json", "{tmp}/labels"], "notes.json: is no JSON"),
        (["{tmp}/labels", "{tmp}/empty"], "empty: holds no NAME.png and no *_instanceIds.png"),
        (["{tmp}/labels", "{tmp}/labels"], "what its class ids mean is not known"),
    ],
)
def test_errors_are_one_line_and_a_status(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.json").write_text("x")
    write_labels(tmp_path / "labels", camvid_frame())
    result = perception("evaluate", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1


def test_table_json_and_report(tmp_path):
    truth = write_coco(tmp_path / "truth.json", {"a<b": ROAD_AND_CAR, "c": ALL_ROAD})
    predicted = write_coco(tmp_path / "predicted.json", {"a<b": ALL_ROAD, "c": ALL_ROAD})
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "c.jpg"), np.full((4, 4, 3), 200, np.uint8))
    report = tmp_path / "out" / "report.html"
    result = perception("evaluate", predicted, truth, "--images", images, "--report", report)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert f"2 frames: {predicted} against {truth}" in lines
    road = next(line for line in lines if line.startswith("  road"))
    assert road.split() == ["road", "0.8750", "0.7692", "0.8750", "0.8750", "1.0000", "2", "0", "0"]
    page = report.read_text()
    assert page.index("a&lt;b: PQ 0.375") < page.index("c: PQ 1.000")  # the worst first
    assert page.count("data:image/jpeg;base64,") == 2
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    summary = json.loads(perception("evaluate", predicted, truth, "--json").stdout)
    assert summary["worst"] == [{"name": "a<b", "pq": 0.375}, {"name": "c", "pq": 1.0}]
    assert summary["classes"]["tree"]["pq"] is None


def test_only_the_worst_frames_are_kept(tmp_path):
    """Of ten frames whose road is right in ever more columns."""
    both = {5: (ROAD, False), 6: (TREE, False)}
    pictures = {str(i): (np.where(np.arange(20) < 10 + i, 5, 6)[None], both) for i in range(10)}
    truth = write_coco(tmp_path / "truth.json", {name: (np.full((1, 20), 5), {5: (ROAD, False)}) for name in pictures})
    predicted = write_coco(tmp_path / "predicted.json", pictures)
    worst = evaluate(predicted, truth)["worst"]
    assert [frame["name"] for frame in worst] == ["0", "1", "2", "3", "4", "5"]
    assert worst[0]["pq"] == 0 < worst[1]["pq"] < worst[5]["pq"]


def test_pictures_of_the_report():
    from perception_node.evaluate.report import draw
    from perception_node.metrics import PanopticMap

    taxonomy = builtin_taxonomy("camvid")
    classes = camvid_frame()
    classes[:, 36:] = UNLABELLED
    drawn = draw(PanopticMap.from_classes(classes, taxonomy), taxonomy, None)
    colors = taxonomy.colors_bgr()
    assert (drawn[18, :36] == colors[3]).all()
    assert (drawn[12, 7] == colors[8]).all()
    assert (drawn[10, 7] == 255).all()  # the car's outline
    assert {tuple(pixel) for pixel in drawn[:, 36:].reshape(-1, 3).tolist()} == {(0, 0, 0), (255, 255, 255)}
