"""`perception train` and `perception export`. Needs torch: make setup-training."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training needs torch: make setup-training")
pytest.importorskip("efficientnet_lite_pytorch", reason="training needs its backbone: make setup-training")
pytest.importorskip("matplotlib", reason="training draws its log: make setup-training")

from perception_node.cli import main  # noqa: E402
from perception_node.device import open_device  # noqa: E402
from perception_node.engine import load_engine  # noqa: E402
from perception_node.errors import ModelError, SourceError, UserError  # noqa: E402
from perception_node.fusion.center_offset import CenterOffset  # noqa: E402
from perception_node.image import CameraImage  # noqa: E402
from perception_node.metrics import VOID_INSTANCE  # noqa: E402
from perception_node.model import load_model  # noqa: E402
from perception_node.panoptic import UNLABELLED  # noqa: E402
from perception_node.preprocess import Preprocess, fit  # noqa: E402
from perception_node.taxonomy import Category, Taxonomy  # noqa: E402
from perception_node.training import log  # noqa: E402
from perception_node.training.augmentation import (  # noqa: E402
    augment_colour,
    augment_geometry,
    augment_weather,
    fog,
    glare,
    letterbox,
    rain,
    shadow,
)
from perception_node.training.config import load_config  # noqa: E402
from perception_node.training.export import calibrate, export  # noqa: E402
from perception_node.training.frames import (  # noqa: E402
    EpochSampler,
    LabelledFrames,
    TrainingFrames,
    open_frames,
)
from perception_node.training.losses import frequency_weights, panoptic_losses, region_loss  # noqa: E402
from perception_node.training.network import PanopticDeepLab  # noqa: E402
from perception_node.training.targets import instance_targets  # noqa: E402
from perception_node.training.temperature import calibration_error, fit_temperature  # noqa: E402
from perception_node.training.train import averaged_weights, build_network, normalise, read_checkpoint, train  # noqa: E402

REPOSITORY = Path(__file__).parents[1]
TAXONOMY = Taxonomy([Category(0, "road", (0, 0, 0)), Category(1, "car", (0, 0, 1), thing=True)])


# ---- targets and augmentation ----


def two_cars():
    """uint16 (32, 64) with two rectangular instances, their centres nearer to one output cell than to any other."""
    instance = np.zeros((32, 64), np.uint16)
    instance[5:20, 8:25] = 1
    instance[8:27, 36:61] = 2
    return instance


@pytest.mark.parametrize("stride", [2, 4])
def test_targets_fuse_back_to_the_instances(stride):
    """The round trip: what the network is taught is what fusion understands."""
    instance = two_cars()
    targets = instance_targets(instance, stride)
    classes = (instance[stride // 2 :: stride, stride // 2 :: stride] > 0).astype(int)
    semantic = np.where(np.arange(2)[:, None, None] == classes, 10, 0).astype(np.float32)
    fusion = CenterOffset(open_device(), TAXONOMY, stride=stride, stuff_area=0)
    frame = fusion(
        {"semantic": semantic, "center": targets["center"], "offset": targets["offset"]},
        fit((32, 64), (32, 64), "stretch"),
    )
    assert len(frame.instances) == 2
    known = (frame.instance_map > 0) & (instance > 0)  # at the edges the classes of a block are one
    assert known.sum() > 0.85 * (instance > 0).sum()
    np.testing.assert_array_equal(frame.instance_map[known], instance[known])


def test_offsets_lead_to_the_centre_of_mass():
    targets = instance_targets(two_cars(), stride=1)
    ys, xs = np.mgrid[:32, :64]
    mine = two_cars() == 2
    np.testing.assert_allclose((ys + targets["offset"][0])[mine], 17, atol=1e-4)
    np.testing.assert_allclose((xs + targets["offset"][1])[mine], 48, atol=1e-4)
    np.testing.assert_array_equal(targets["thing"], two_cars() > 0)


def test_void_instances_teach_nothing():
    instance = two_cars()
    instance[instance == 2] = VOID_INSTANCE
    targets = instance_targets(instance, stride=4)
    np.testing.assert_array_equal(targets["known"], instance[1::4, 1::4] != VOID_INSTANCE)
    assert targets["center"][0, :, 12:].max() < 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(40, 60), (24, 32), (64, 96)]))
def test_image_and_labels_move_alike(seed, crop):
    """Colour, class and instance are the same in every pixel before, and still are after scale, crop and flip."""
    label = np.zeros((40, 60), np.uint8)
    label[10:30, 20:50] = 200
    image, semantic, instance = augment_geometry(
        np.random.default_rng(seed), np.dstack([label] * 3), label, label.astype(np.uint16), (40, 60), crop
    )
    assert image.shape == (*crop, 3)
    inside = semantic != UNLABELLED
    np.testing.assert_array_equal(instance[~inside], VOID_INSTANCE)
    np.testing.assert_array_equal(semantic[inside], instance[inside])
    # Bilinear at the edges, nearest for labels: well inside and well outside they must agree.
    mask = (semantic == 200).view(np.uint8)
    core = cv2.erode(mask, np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
    assert (image[core] == 200).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_centres_move_with_the_image(seed):
    """The centre that a moved frame teaches is where the move put the centre: a bright dot in the image says where."""
    image, instance = np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), np.uint16)
    instance[49:72, 59:92], image[59:62, 74:77] = 1, 255  # both about (60, 75)
    moved, _, ids = augment_geometry(
        np.random.default_rng(seed), image, instance.astype(np.uint8), instance, (120, 160), scales=(1, 2)
    )
    touches = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
    if not (ids == 1).any() or (touches == 1).any():
        return  # cut by the crop: its visible part has another centre
    center = instance_targets(ids, stride=1)["center"][0]
    ys, xs = np.nonzero(moved[..., 0] > 200)  # padding is grey
    np.testing.assert_allclose(np.unravel_index(center.argmax(), center.shape), (ys.mean(), xs.mean()), atol=1.5)


@pytest.mark.parametrize("change", [augment_colour, augment_weather, fog, rain, shadow, glare])
def test_colour_and_weather_keep_shape_and_type_and_are_repeatable(change):
    image = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    one, other = (change(np.random.default_rng(7), image) for _ in range(2))
    assert (one.shape, one.dtype) == ((24, 32, 3), np.uint8)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_letterbox_is_padding_below_or_at_the_right(seed):
    image, semantic = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)
    instance = np.zeros((40, 60), np.uint16)
    letterbox(np.random.default_rng(seed), image, semantic, instance)
    padded = semantic == UNLABELLED
    np.testing.assert_array_equal(padded, instance == VOID_INSTANCE)
    np.testing.assert_array_equal(padded, (image == 127).all(2))
    assert padded[-1, -1]
    assert not padded[0, 0]
    assert 0 < padded.mean() <= 0.4
    assert padded.all(0).any() != padded.all(1).any()


# ---- losses ----


def test_region_loss_counts_classes_not_pixels():
    truth = torch.tensor([[[0, 0, 0, 1, UNLABELLED]]])
    probability = torch.zeros(1, 3, 1, 5)
    probability[0, 0] = 1  # class 0 everywhere: IoU 3/4 of class 0, 0 of class 1; class 2 is not there
    assert region_loss(probability, truth).item() == pytest.approx(1 - (3 / 4 + 0) / 2)
    assert region_loss(probability, torch.full((1, 1, 5), UNLABELLED)).item() == 0


def test_rare_classes_weigh_more():
    np.testing.assert_allclose(frequency_weights(np.array([400, 100, 25]), 0.5), [0.5, 1, 2])
    np.testing.assert_allclose(frequency_weights(np.array([400, 100, 25]), 0), [1, 1, 1])


def test_temperature_restores_what_was_multiplied():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 3)).astype(np.float32)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = (probability.cumsum(1) > rng.uniform(size=(20000, 1))).argmax(1)
    assert fit_temperature(logits * 3, classes) == pytest.approx(3, rel=0.05)
    assert calibration_error(logits * 3, classes) > 0.15
    assert calibration_error(logits * 3, classes, temperature=3) < 0.02


# ---- configuration and frames ----


def document():
    config = yaml.safe_load((REPOSITORY / "training" / "camvid.yaml").read_text())
    config["manifest"]["input"]["size"] = [64, 96]
    config["schedule"].update(epochs=2, batch=2, validate_every=1)
    config["augmentation"]["crop"] = [32, 64]
    return config


def written(folder: Path, config: dict) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def config(tmp_path):
    return load_config(written(tmp_path, document()))


@pytest.fixture
def data(tmp_path):
    """Four frames to train on and one to validate with: a car of class 8 on a road of class 3."""
    for split, names in (("train", "abde"), ("val", "c")):
        for kind in ("images", "labels"):
            (tmp_path / "camvid" / split / kind).mkdir(parents=True)
        for name in names:
            label = np.full((64, 96), 3, np.uint8)
            label[20:40, 30:60] = 8
            label[:4] = 11  # void
            cv2.imwrite(str(tmp_path / "camvid" / split / "labels" / f"{name}.png"), label)
            cv2.imwrite(str(tmp_path / "camvid" / split / "images" / f"{name}.jpg"), np.dstack([label * 20] * 3))
    return tmp_path


@pytest.mark.parametrize(
    ("section", "entry", "value", "message"),
    [
        ("schedule", "epochs", 0, r"config.yaml:\d+: schedule.epochs: 0 .*expected: how often"),
        ("augmentation", "scales", [2, 1], "scales: the first is larger"),
        ("network", "backbone", "resnet50", "network.backbone: 'resnet50' is not one of"),
        ("manifest", "input", {"size": [64, 96]}, "manifest.input: 'tensor' is a required property"),
        ("data", "train", [{"images": "i", "labels": "l", "share": 0.5}], "share: all frames have one"),
        (
            "data",
            "val",
            [{"images": "i", "labels": "l", "rename": {"person": "walker"}}],
            "rename.person: 'walker' is no class; expected: .*pedestrian",
        ),
    ],
)
def test_a_wrong_entry_is_named_with_its_line(tmp_path, section, entry, value, message):
    wrong = document()
    wrong[section][entry] = value
    with pytest.raises(ModelError, match=message):
        load_config(written(tmp_path, wrong))


def test_camvid_frames(config, data):
    (frames,) = open_frames(config, "train", data)
    frame = frames[0]
    assert [frame.name for frame in frames] == ["a", "b", "d", "e"]
    assert (frame.image[50, 5] > 50).all()
    np.testing.assert_array_equal(frame.class_map[[0, 10, 30], 40], [UNLABELLED, 3, 8])
    np.testing.assert_array_equal(frame.instance_map[[0, 10, 30], 40], [VOID_INSTANCE, 0, 1])


def test_frames_without_labels_are_refused(config, data):
    (data / "camvid/train/labels/b.png").unlink()
    with pytest.raises(SourceError, match="b is missing; every image needs its label"):
        open_frames(config, "train", data)
    cv2.imwrite(str(data / "camvid/val/labels/c.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(SourceError, match=r"c.png: is \(8, 8\), its image \(64, 96\)"):
        open_frames(config, "val", data)[0][0]


def test_coco_frames_in_our_classes(tmp_path):
    """COCO names images by a number; `person` is our `car` here, its crowd and what we do not know are void."""
    (tmp_path / "images").mkdir()
    (tmp_path / "truth").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "000007.jpg"), np.zeros((2, 4, 3), np.uint8))
    ids = np.array([[1, 1, 2, 3], [4, 4, 0, 4]], np.uint8)
    cv2.imwrite(str(tmp_path / "truth" / "000007.png"), np.dstack([ids * 0, ids * 0, ids]))
    segments = [
        {"id": 1, "category_id": 10, "iscrowd": 0, "area": 2},
        {"id": 2, "category_id": 10, "iscrowd": 1, "area": 1},
        {"id": 3, "category_id": 20, "iscrowd": 0, "area": 1},
        {"id": 4, "category_id": 30, "iscrowd": 0, "area": 3},
    ]
    truth = {
        "images": [{"id": 7, "file_name": "000007.jpg", "height": 2, "width": 4}],
        "annotations": [{"image_id": 7, "file_name": "000007.png", "segments_info": segments}],
        "categories": [
            {"id": 10, "name": "person", "isthing": 1},
            {"id": 20, "name": "road", "isthing": 0},
            {"id": 30, "name": "banana", "isthing": 1},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (frame,) = LabelledFrames(tmp_path / "images", tmp_path / "truth.json", TAXONOMY, {"person": "car"})
    np.testing.assert_array_equal(frame.class_map, [[1, 1, 1, 0], [255, 255, 255, 255]])
    void = VOID_INSTANCE
    np.testing.assert_array_equal(frame.instance_map, [[1, 1, void, 0], [void] * 4])


def test_cityscapes_frames_in_our_classes(tmp_path):
    """Images and labels lie in folders of their cities and have suffixes of their own."""
    for folder in ("leftImg8bit/aachen", "gtFine/aachen"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "leftImg8bit/aachen/aachen_0_leftImg8bit.png"), np.zeros((1, 4, 3), np.uint8))
    ids = np.array([[7, 26001, 26, 11]], np.uint16)  # road, a car, a crowd of cars, building
    cv2.imwrite(str(tmp_path / "gtFine/aachen/aachen_0_gtFine_instanceIds.png"), ids)
    (frame,) = LabelledFrames(tmp_path / "leftImg8bit", tmp_path / "gtFine", TAXONOMY)
    np.testing.assert_array_equal(frame.class_map, [[0, 1, 1, 255]])
    np.testing.assert_array_equal(frame.instance_map, [[0, 1, VOID_INSTANCE, VOID_INSTANCE]])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=2),
    share=st.floats(0.05, 0.8),
    world=st.sampled_from([1, 2]),
)
def test_an_epoch_mixes_the_sets_by_their_shares(sizes, share, world):
    def keys(epoch, rank):
        sampler = EpochSampler(sizes, [None, share], 2, 0, rank, world)
        sampler.epoch = epoch
        return list(sampler)

    total = sizes[0] / (1 - share)
    if round(share * total) + sizes[0] < 2:
        return
    seen = [key for rank in range(world) for key in keys(1, rank)]
    assert len(seen) % 2 == 0
    whole = [index for _, number, index in seen if number == 0]
    assert len(set(whole)) == len(whole) >= sizes[0] - 1
    assert abs(sum(number == 1 for _, number, _ in seen) - share * total) <= 2
    assert keys(1, 0) == keys(1, 0)


def test_an_item_depends_on_seed_epoch_and_index_alone(config, data):
    frames = TrainingFrames(open_frames(config, "train", data), config)
    item, again, other = frames[1, 0, 0], frames[1, 0, 0], frames[2, 0, 0]
    assert item["image"].shape == (32, 64, 3)
    for name, array in item.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(item["image"], other["image"])


def test_perfect_outputs_have_no_instance_loss(config, data):
    item = TrainingFrames(open_frames(config, "train", data), config)[1, 0, 0]
    batch = {name: torch.from_numpy(array)[None] for name, array in item.items()}
    semantic = torch.zeros(1, 11, 16, 32)
    losses = panoptic_losses([semantic, batch["center"], batch["offset"]], batch, torch.ones(11), config["loss"])
    assert (losses["center"].item(), losses["offset"].item()) == (0, 0)
    assert losses["semantic"].item() == pytest.approx(np.log(11), abs=1e-5)


# ---- training and export ----


def test_frozen_layers_stay_as_they_are():
    net = PanopticDeepLab(3, (64, 96), frozen_stride=2).train()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    sum(output.sum() for output in net(torch.randn(2, 3, 64, 96))).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()
    changed = {name for name, value in net.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith(("stem", "blocks.0."))}
    assert any(name.startswith("blocks.1.") for name in changed)
    assert any("running_mean" in name for name in changed)


def test_training_resumes_and_exports(config, data, tmp_path, monkeypatch):
    """Killed in the second epoch and started again, it ends where an uninterrupted run does; the export answers as the
    network does."""
    monkeypatch.setattr("perception_node.training.train.imagenet_weights", lambda _: None)
    whole, out = tmp_path / "whole", tmp_path / "run"
    best = train(config, data, whole, workers=0)
    assert set(best) == {"epoch", "pq", "miou"}
    with monkeypatch.context() as patch:
        results = iter([{"pq": 0.5, "miou": 0.5}])  # of the first epoch; the second is killed
        patch.setattr(
            "perception_node.training.validation.Validation.measure",
            lambda *_: next(results, None) or signal.raise_signal(signal.SIGINT),
        )
        with pytest.raises(KeyboardInterrupt):
            train(config, data, out, workers=0)
    train(config, data, out, workers=0)
    assert [row["epoch"] for row in log.read(out / "log.csv")] == ["1", "2"]
    assert cv2.imread(str(out / "log.png")) is not None
    resumed, uninterrupted = (read_checkpoint(run / "checkpoint.pt") for run in (out, whole))
    for name, value in uninterrupted["average"].items():
        torch.testing.assert_close(resumed["average"][name], value, msg=name)
    longer = document()
    longer["schedule"]["epochs"] = 3
    with pytest.raises(UserError, match=r"trained with another schedule\.epochs; restore that"):
        train(load_config(written(tmp_path, longer)), data, out, workers=0)

    arguments = ["export", str(out / "checkpoint.pt"), "--out", str(tmp_path / "model"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["epoch"] == 2
    model = load_model(tmp_path / "model")
    image = cv2.imread(str(data / "camvid" / "val" / "images" / "c.jpg"))
    one, _ = Preprocess(open_device(), model.input)(CameraImage.from_bgr(image))
    answers = load_engine(model, open_device()).infer(one)
    net = build_network(config)
    net.load_state_dict(averaged_weights(resumed))
    with torch.no_grad():
        expected = net.eval()(normalise(torch.from_numpy(image[..., ::-1].copy())[None], config))
    for name, tensor in zip(("semantic", "center", "offset"), expected, strict=True):
        np.testing.assert_allclose(answers[name], tensor.numpy(), atol=2e-3)

    result = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "several"), "--dynamic-batch"])
    assert result.exit_code == 0, result.output
    engine = load_engine(load_model(tmp_path / "several"), open_device(), max_batch=2)  # which runs it with two
    for name, array in engine.infer(np.repeat(one, 2, axis=0)).items():
        np.testing.assert_allclose(array, np.repeat(answers[name], 2, axis=0), atol=2e-3)


def test_calibration_changes_the_confidence_and_no_class(config, data, tmp_path):
    torch.manual_seed(0)
    net = build_network(config).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = net(image)
        summary = calibrate(net, config, data)
        after = net(image)
    torch.testing.assert_close(after[0] * summary["temperature"], before[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after[1:], before[1:])
    assert 0 <= summary["ece_after"] <= 1


def test_training_ends_when_pq_does_not_get_better(data, tmp_path, monkeypatch):
    monkeypatch.setattr("perception_node.training.train.imagenet_weights", lambda _: None)
    pq = iter([0.3, 0.4, 0.4, 0.39])
    monkeypatch.setattr(
        "perception_node.training.validation.Validation.measure", lambda *_: {"pq": next(pq), "miou": 0.5}
    )
    patient = document()
    patient["schedule"].update(epochs=9, batch=4, patience=2)
    best = train(load_config(written(tmp_path, patient)), data, tmp_path / "out", workers=0)
    assert best == {"epoch": 2, "pq": 0.4, "miou": 0.5}
    assert len(log.read(tmp_path / "out" / "log.csv")) == 4
    assert read_checkpoint(tmp_path / "out" / "best.pt")["epoch"] == 2


def test_two_processes_train_as_one_does(data, tmp_path):
    """torchrun's two processes share each step: same frames, same number of steps, one log and one checkpoint."""
    config = document()
    config["schedule"].update(epochs=1, batch=4)
    written(tmp_path, config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "perception_node.cli", "train", str(tmp_path / "config.yaml"), "--workers", "0"]
    command += ["--data", str(data), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in log.read(tmp_path / "out" / "log.csv")] == ["1"]
    weights = averaged_weights(read_checkpoint(tmp_path / "out" / "checkpoint.pt"))
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_without_torch_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "perception_node.training.train", None)
    result = CliRunner().invoke(main, ["train", "x.yaml", "--data", ".", "--out", "out"])
    assert result.exit_code == 1
    assert "pip install 'perception_node[train]'" in result.output


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected: checkpoint\.pt or best\.pt"):
        export(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
