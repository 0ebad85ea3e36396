"""A small Mask R-CNN with random weights and a semantic head, against torchvision itself. Needs torchvision."""

import cv2
import numpy as np
import pytest
import torchvision_on_cpu  # noqa: F401 (before anything imports torchvision)

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx", reason="import needs onnx: pip install -e '.[engines]'")
torch = pytest.importorskip("torch", reason="the recipe needs torch: pip install -e '.[recipes]'")
pytest.importorskip("onnxscript", reason="the recipe needs onnxscript: pip install -e '.[recipes]'")
torchvision = pytest.importorskip("torchvision", reason="the recipe needs torchvision: pip install -e '.[recipes]'")

from torchvision.models.detection import MaskRCNN  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402
from torchvision.models.detection.rpn import AnchorGenerator  # noqa: E402

from perception_node.engine.build import build  # noqa: E402
from perception_node.engine.trt import open_library  # noqa: E402
from perception_node.errors import UserError  # noqa: E402
from perception_node.model import load_model  # noqa: E402
from perception_node.pipeline import Pipeline  # noqa: E402
from perception_node.taxonomy import builtin_taxonomy  # noqa: E402
from tools.import_maskrcnn import NAMES, import_maskrcnn  # noqa: E402

CITYSCAPES = builtin_taxonomy("cityscapes")
SIZE = (96, 128)


class SemanticHead(torch.nn.Module):
    """Logits at stride 4 of the finest level."""

    def __init__(self, channels, classes):
        super().__init__()
        self.predictor = torch.nn.Conv2d(channels, classes, 1)

    def forward(self, features):
        return self.predictor(features["0"])


def small_network():
    """Four levels, strides 4 to 32, 16 channels; 8 things and the background."""
    stem = torch.nn.Sequential()
    channels = 3
    for index, width in enumerate((8, 8, 12, 16, 16)):
        stem.add_module(f"layer{index}", torch.nn.Conv2d(channels, width, 3, stride=2, padding=1))
        channels = width
    returned = {f"layer{index}": str(index - 1) for index in range(1, 5)}
    backbone = BackboneWithFPN(stem, returned, [8, 12, 16, 16], 16)
    anchors = AnchorGenerator(((16,), (32,), (48,), (64,), (96,)), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        backbone,
        num_classes=9,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=40,
        box_detections_per_img=20,
        box_score_thresh=0.2,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.25, 0.3],
    )


def sharpen(network):
    """Scales random predictors, so that boxes and classes are as decided as a trained network's."""
    with torch.no_grad():
        network.rpn.head.cls_logits.weight *= 40
        network.rpn.head.bbox_pred.weight *= 10
        network.roi_heads.box_predictor.cls_score.weight *= 60
        network.roi_heads.box_predictor.bbox_pred.weight *= 20
        network.roi_heads.mask_predictor.mask_fcn_logits.weight *= 4


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A random network, a head, and the model that was imported of them."""
    torch.manual_seed(0)
    network, head = small_network().eval(), SemanticHead(16, 19).eval()
    sharpen(network)
    folder = tmp_path_factory.mktemp("maskrcnn") / "mine"
    imported = import_maskrcnn(network, head, CITYSCAPES, folder, SIZE, options=("stuff_area=8",))
    return network, head, load_model(imported.folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_takes_it(case, precision):
    try:
        open_library("tensorrt_rtx")
    except UserError as error:
        pytest.skip(f"{error}; make setup-engines installs it")
    (plan,) = build(case[2], precision, ["sm_86"], "tensorrt_rtx", say=lambda line: None)
    assert {spec.name for spec in plan.sidecar.outputs} == set(NAMES)


def test_a_random_network_gives_torchvisions_own_detections(case):
    network, head, model = case
    assert dict(model.tensors) == {name: name for name in NAMES}
    assert model.input.mean == pytest.approx((127.5, 102, 76.5))
    session = onnxruntime.InferenceSession(model.onnx_path)
    assert all(isinstance(size, int) for output in session.get_outputs() for size in output.shape)  # whatever it shows

    rng = np.random.default_rng(5)
    image = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    tensor = (image[None, ..., ::-1] - np.array(model.input.mean)) / model.input.std
    tensor = np.ascontiguousarray(tensor.transpose(0, 3, 1, 2), np.float32)
    answers = dict(zip(NAMES, session.run(list(NAMES), {"image": tensor}), strict=True))
    # torchvision's own inference, past its transform, which would resize.
    with torch.no_grad():
        batch = torch.from_numpy(tensor)
        features = network.backbone(batch)
        images = torchvision.models.detection.image_list.ImageList(batch, [SIZE])
        proposals, _ = network.rpn(images, features)
        (expected,), _ = network.roi_heads(features, proposals, [SIZE])
        semantic = head(features)
    found = len(expected["scores"])
    assert found >= 3
    things = np.array([255, *CITYSCAPES.thing_ids])
    np.testing.assert_allclose(answers["scores"][0, :found], expected["scores"], atol=1e-4)
    np.testing.assert_array_equal(answers["scores"][0, found:], 0)
    np.testing.assert_array_equal(answers["classes"][0, :found], things[expected["labels"]])
    np.testing.assert_allclose(answers["boxes"][0, :found], expected["boxes"], atol=1e-2)
    np.testing.assert_allclose(answers["masks28"][0, :found], expected["masks"][:, 0], atol=1e-3)
    np.testing.assert_allclose(answers["semantic"], semantic, atol=1e-4)

    frame = Pipeline(model)(image)
    shown = [segment for segment in frame.segments if segment.is_thing]
    assert shown
    assert {round(s.score, 3) for s in shown} <= {round(float(score), 3) for score in expected["scores"]}


def test_the_labels_must_be_as_many_as_the_class_ids(tmp_path):
    with pytest.raises(UserError, match=r"class_ids \(255, 11\): the network has 9 labels with the background; expec"):
        import_maskrcnn(small_network(), SemanticHead(16, 19), CITYSCAPES, tmp_path, SIZE, class_ids=(255, 11))
