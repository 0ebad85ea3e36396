"""The targets that the default network learns, its losses and its export. Needs torch: make setup-training."""

import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training needs torch: make setup-training")
pytest.importorskip("efficientnet_lite_pytorch", reason="training needs its backbone: make setup-training")

from perception_node.device import open_device  # noqa: E402
from perception_node.engine import load_engine  # noqa: E402
from perception_node.fusion.center_offset import CenterOffset  # noqa: E402
from perception_node.image import CameraImage  # noqa: E402
from perception_node.metrics import VOID_INSTANCE  # noqa: E402
from perception_node.model import load_model  # noqa: E402
from perception_node.panoptic import UNLABELLED  # noqa: E402
from perception_node.preprocess import Preprocess, fit  # noqa: E402
from perception_node.taxonomy import Category, Taxonomy  # noqa: E402
from training.dataset import CamVid, augment_colour, augment_geometry, instance_targets  # noqa: E402
from training.export import export  # noqa: E402
from training.train import build_network, normalise, panoptic_losses, train  # noqa: E402

TAXONOMY = Taxonomy([Category(0, "road", (0, 0, 0)), Category(1, "car", (0, 0, 1), thing=True)])


def two_cars():
    """uint16 (32, 64) with two rectangular instances, their centres nearer to one output cell than to any other."""
    instance = np.zeros((32, 64), np.uint16)
    instance[5:20, 8:25] = 1
    instance[8:27, 36:61] = 2
    return instance


def test_targets_fuse_back_to_the_instances():
    """The round trip: what the network is taught is what fusion understands."""
    instance = two_cars()
    targets = instance_targets(instance, stride=4)
    classes = (instance[2::4, 2::4] > 0).astype(int)
    semantic = np.where(np.arange(2)[:, None, None] == classes, 10, 0).astype(np.float32)
    fusion = CenterOffset(open_device(), TAXONOMY, stride=4, stuff_area=0)
    frame = fusion(
        {"semantic": semantic, "center": targets["center"], "offset": targets["offset"]},
        fit((32, 64), (32, 64), "stretch"),
    )
    assert len(frame.instances) == 2
    known = (frame.instance_map > 0) & (instance > 0)  # at the edges the classes of a 4x4 block are one
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


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_move_alike(seed):
    """Colour, class and instance are the same in every pixel before, and still are after scale, crop and flip."""
    label = np.zeros((40, 60), np.uint8)
    label[10:30, 20:50] = 200
    image, semantic, instance = augment_geometry(
        np.random.default_rng(seed), np.dstack([label] * 3), label, label.astype(np.uint16), (40, 60)
    )
    assert image.shape == (40, 60, 3)
    inside = semantic != UNLABELLED
    np.testing.assert_array_equal(instance[~inside], VOID_INSTANCE)
    np.testing.assert_array_equal(semantic[inside], instance[inside])
    # Bilinear at the edges, nearest for labels: well inside and well outside they must agree.
    mask = (semantic == 200).view(np.uint8)
    core = cv2.erode(mask, np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
    assert (image[core] == 200).all()
    assert not core.any() or np.abs(np.mean(image[..., 0][inside] > 100) - np.mean(semantic[inside] == 200)) < 0.05


def test_colour_keeps_shape_and_type():
    image = augment_colour(np.random.default_rng(0), np.full((8, 8, 3), 128, np.uint8))
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)


@pytest.fixture
def config():
    config = yaml.safe_load(Path("training/camvid.yaml").read_text())
    config["manifest"]["input"]["size"] = [64, 96]
    config.update(epochs=2, batch=2)
    return config


@pytest.fixture
def tiny_camvid(tmp_path, config):
    """Two frames to train on and one to validate with: a car of class 8 on a road of class 3."""
    for split, names in (("train", "ab"), ("val", "c")):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
        for name in names:
            label = np.full((64, 96), 3, np.uint8)
            label[20:40, 30:60] = 8
            label[:4] = 11  # void
            cv2.imwrite(str(tmp_path / split / "labels" / f"{name}.png"), label)
            cv2.imwrite(str(tmp_path / split / "images" / f"{name}.jpg"), np.dstack([label * 20] * 3))
    return tmp_path


def test_perfect_outputs_have_no_instance_loss(config, tiny_camvid):
    frame = CamVid(tiny_camvid / "train", 11, [8], (64, 96), augment=False)[0]
    batch = {name: torch.from_numpy(array)[None] for name, array in frame.items()}
    semantic = torch.zeros(1, 11, 16, 24)
    losses = panoptic_losses([semantic, batch["center"], batch["offset"]], batch, torch.ones(11), config)
    assert (losses["center"].item(), losses["offset"].item()) == (0, 0)
    assert losses["semantic"].item() == pytest.approx(np.log(11), abs=1e-5)


def test_training_resumes_and_exports(config, tiny_camvid, tmp_path, monkeypatch):
    """Killed in the second epoch and started again, it ends where an uninterrupted run does; the export answers as the
    network does."""
    monkeypatch.setattr("training.train.imagenet_weights", lambda: None)
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(config, tiny_camvid, whole, workers=0)
    with monkeypatch.context() as patch:
        results = iter([0.5])  # of the first epoch; the second is killed
        patch.setattr("training.train.validate", lambda *_: next(results, None) or signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny_camvid, out, workers=0)
    train(config, tiny_camvid, out, workers=0)
    assert [line.split(",")[0] for line in (out / "log.csv").read_text().splitlines()] == ["epoch", "1", "2"]
    resumed, uninterrupted = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (out, whole))
    for name, value in uninterrupted["average"].items():
        torch.testing.assert_close(resumed["average"][name], value, msg=name)
    with pytest.raises(ValueError, match="trained with other epochs; restore"):
        train({**config, "epochs": 3}, tiny_camvid, out, workers=0)

    export(config, out / "checkpoint.pt", tmp_path / "model")
    model = load_model(tmp_path / "model")
    image = cv2.imread(str(tiny_camvid / "val" / "images" / "c.jpg"))
    tensor, _ = Preprocess(open_device(), model.input)(CameraImage.from_bgr(image))
    answers = load_engine(model, open_device()).infer(tensor)
    net = build_network(config)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)["average"]
    net.load_state_dict({name.removeprefix("module."): v for name, v in saved.items() if name.startswith("module.")})
    with torch.no_grad():
        expected = net.eval()(normalise(torch.from_numpy(image[..., ::-1].copy())[None], config))
    for name, tensor in zip(("semantic", "center", "offset"), expected, strict=True):
        np.testing.assert_allclose(answers[name], tensor.numpy(), atol=2e-3)
