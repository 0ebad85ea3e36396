"""Mask2Former, OneFormer and EoMT, small and with random weights, against the library itself. Needs transformers."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torchvision_on_cpu  # noqa: F401 (before anything imports torchvision)

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx", reason="import needs onnx: pip install -e '.[engines]'")
torch = pytest.importorskip("torch", reason="the recipe needs torch: pip install -e '.[recipes]'")
pytest.importorskip("onnxscript", reason="the recipe needs onnxscript: pip install -e '.[recipes]'")
transformers = pytest.importorskip(
    "transformers", "4.57", reason="the recipe needs transformers: pip install -e '.[recipes]'"
)

from perception_node.engine.build import build  # noqa: E402
from perception_node.engine.trt import open_library  # noqa: E402
from perception_node.errors import UserError  # noqa: E402
from perception_node.model import load_model  # noqa: E402
from perception_node.panoptic import UNLABELLED  # noqa: E402
from perception_node.pipeline import Pipeline  # noqa: E402
from perception_node.taxonomy import builtin_taxonomy  # noqa: E402
from tools.import_transformers import QueryOutputs, import_transformers, normalisation_of  # noqa: E402

CITYSCAPES = builtin_taxonomy("cityscapes")
STUFF = {category.id for category in CITYSCAPES if not category.thing}
NAMES = {"id2label": {category.id: category.name for category in CITYSCAPES}}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MEAN_PLANES, STD_PLANES = np.reshape(MEAN, (3, 1, 1)), np.reshape(STD, (3, 1, 1))
TASK = torch.arange(8)[None] % 7


def swin():
    return transformers.SwinConfig(
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def mask2former(_):
    config = transformers.Mask2FormerConfig(
        backbone_config=swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=64,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=3,
        num_queries=12,
        **NAMES,
    )
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    heads = network.class_predictor, network.model.transformer_module.decoder.mask_predictor.mask_embedder
    return network, heads, transformers.Mask2FormerImageProcessor(image_mean=MEAN, image_std=STD)


def oneformer(folder):
    config = transformers.OneFormerConfig(
        backbone_config=swin(),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        dim_feedforward=64,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=3,
        query_dec_layers=1,
        num_queries=12,
        num_attention_heads=2,
        task_seq_len=8,
        text_encoder_width=32,
        is_training=False,
        **NAMES,
    )
    network = transformers.OneFormerForUniversalSegmentation(config)
    decoder = network.model.transformer_module.decoder
    heads = decoder.class_embed, decoder.mask_embed
    classes = {str(category.id): {"name": category.name, "isthing": int(category.thing)} for category in CITYSCAPES}
    (folder / "classes.json").write_text(json.dumps(classes))
    processor = transformers.OneFormerImageProcessor(
        image_mean=MEAN, image_std=STD, repo_path=str(folder), class_info_file="classes.json"
    )
    return network, heads, processor


def eomt(_):
    config = transformers.EomtConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_blocks=2,
        num_attention_heads=2,
        num_queries=12,
        image_size=64,
        patch_size=16,
        **NAMES,
    )
    network = transformers.EomtForUniversalSegmentation(config)
    heads = network.class_predictor, network.mask_head
    processor = transformers.EomtImageProcessor(
        image_mean=MEAN, image_std=STD, size={"shortest_edge": 64, "longest_edge": 64}
    )
    return network, heads, processor


def sharpen(network, heads, forward, image):
    """Scales random heads' last layers, so that classes and masks are as decided as a trained network's."""
    class_head, mask_head = heads
    last = [module for module in mask_head.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        class_logits, mask_logits = forward(image)
        class_head.weight *= 12 / class_logits.std(-1).mean()
        class_head.bias.zero_()
        for parameter in last.parameters():
            parameter *= 8 / mask_logits.std()
        last.bias.zero_()


@pytest.fixture(
    scope="module",
    params=[
        # The library's way: masks to a square of 384 first.
        (mask2former, (64, 96), 0.2, ("variant=transformers", "score_threshold=0.3")),
        # The library samples OneFormer's probabilities at their own resolution: a square of the masks' size.
        (oneformer, (64, 64), 0.2, ("variant=transformers", "score_threshold=0.3", "mask_size=16")),
        # As Mask2Former's published code, the library counts all that a query got.
        (eomt, (64, 64), 0.2, ("score_threshold=0.3", "count_uncovered=true")),
    ],
    ids=lambda case: case[0].__name__,
)
def case(request, tmp_path_factory):
    """A random network and what was imported of it."""
    make, size_hw, overlap, options = request.param
    folder = tmp_path_factory.mktemp(make.__name__)
    torch.manual_seed(3)
    network, heads, processor = make(folder)
    task = TASK if make is oneformer else None
    forward = QueryOutputs(network, task)
    rng = np.random.default_rng(1)
    image = cv2.resize(rng.integers(0, 256, (6, 9, 3), np.uint8), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    sharpen(network, heads, forward, torch.rand(1, 3, *size_hw) * 4 - 2)

    imported = import_transformers(
        network, processor, CITYSCAPES, folder / "mine", size_hw, task, (*options, f"overlap_threshold={overlap}")
    )
    return SimpleNamespace(
        imported=imported,
        image=image,
        forward=forward,
        processor=processor,
        make=make,
        size_hw=size_hw,
        overlap=overlap,
    )


def test_a_random_network_gives_the_librarys_own_labels(case):
    imported, image, forward, processor = case.imported, case.image, case.forward, case.processor
    assert "classes" not in imported.notes  # the names are the taxonomy's
    model = load_model(imported.folder)
    graph = onnx.load(model.onnx_path).graph
    assert not {"NonZero", "Loop", "If"} & {node.op_type for node in graph.node}  # every size is fixed
    assert model.input.mean == pytest.approx((123.675, 116.28, 103.53))
    assert model.input.std == pytest.approx((58.395, 57.12, 57.375))
    assert model.stride == 4

    tensor = (image[None].transpose(0, 3, 1, 2)[:, ::-1] / 255 - MEAN_PLANES) / STD_PLANES
    tensor = tensor.astype(np.float32)
    with torch.no_grad():
        expected = forward(torch.from_numpy(tensor))
    session = onnxruntime.InferenceSession(model.onnx_path)
    roles = ("class_logits", "mask_logits")
    answers = dict(zip(roles, session.run([model.tensors[role] for role in roles], {"image": tensor}), strict=True))
    for role, value in zip(roles, expected, strict=True):
        scale = float(value.abs().max())
        np.testing.assert_allclose(answers[role], value.numpy(), atol=2e-5 * scale)

    outputs = transformers.utils.ModelOutput(
        class_queries_logits=torch.from_numpy(answers["class_logits"]),
        masks_queries_logits=torch.from_numpy(answers["mask_logits"]),
    )
    fuse = {"stuff_classes": sorted(STUFF)} if case.make is eomt else {"label_ids_to_fuse": STUFF}
    (library,) = processor.post_process_panoptic_segmentation(
        outputs, target_sizes=[case.size_hw], threshold=0.3, overlap_mask_area_threshold=case.overlap, **fuse
    )
    classes, instances = maps_of(library)
    frame = Pipeline(model)(image)
    assert len({s["id"] for s in library["segments_info"]}) >= 2
    assert (classes != UNLABELLED).mean() > 0.3
    assert (frame.class_map == classes).mean() >= 0.999
    pairs = np.unique(frame.instance_map.astype(int) << 16 | instances, return_counts=True)
    best = {int(pair) >> 16: int(pair) & 0xFFFF for pair, _ in sorted(zip(*pairs, strict=True), key=lambda p: p[1])}
    assert (np.vectorize(best.get)(frame.instance_map) == instances).mean() >= 0.999
    assert len(frame.segments) == len({s["id"] for s in library["segments_info"]})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_takes_it(case, precision):
    try:
        open_library("tensorrt_rtx")
    except UserError as error:
        pytest.skip(f"{error}; make setup-engines installs it")
    (plan,) = build(load_model(case.imported.folder), precision, ["sm_86"], "tensorrt_rtx", say=lambda line: None)
    assert {spec.name for spec in plan.sidecar.outputs} == set(load_model(case.imported.folder).tensors.values())


def maps_of(library):
    """Class map and instance map of the library's result, whose ids of segments are -1 or 0 where there is none."""
    segments = library["segmentation"].numpy().astype(int)
    classes = np.full(segments.shape, UNLABELLED)
    instances = np.zeros(segments.shape, int)
    for segment in library["segments_info"]:
        where = segments == segment["id"]
        classes[where] = segment["label_id"]
        instances[where] = 0 if segment["label_id"] in STUFF else segment["id"] + 1
    return classes, instances


def test_eomt_has_a_size_and_must_be_trained_to_the_end(tmp_path):
    network, _, processor = eomt(tmp_path)
    with pytest.raises(UserError, match=r"size 64x128: expected: 64x64, as this EoMT was trained"):
        import_transformers(network, processor, CITYSCAPES, tmp_path / "mine", (64, 128))
    network.attn_mask_probs.fill_(0.5)
    with pytest.raises(UserError, match=r"attn_mask_probs \[0\.5, 0\.5\]: this EoMT attends at random"):
        import_transformers(network, processor, CITYSCAPES, tmp_path / "mine")


def test_normalisation_in_pixels():
    processor = transformers.EomtImageProcessor(do_normalize=False)
    assert normalisation_of(processor).std == (255.0,) * 3
