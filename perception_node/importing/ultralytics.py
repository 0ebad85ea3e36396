"""Outputs of Ultralytics' segmentation networks (YOLOv8-seg, YOLO11-seg, YOLO26-seg), as the prototype family's.

They have two outputs, the second with prototypes (1, nm, h, w). The first has, with nc classes,
  - (1, 4 + nc + nm, N): for each of N boxes cx, cy, w, h in input pixels, scores, coefficients; or,
  - end to end (YOLO26, or exported with nms=True), (1, N, 6 + nm): x0, y0, x1, y1, score, class id, coefficients.
(Ultralytics' documentation, "End-to-end detection"; for the first, issue 14765.) Nodes that take them apart are
appended to the graph, so that fusion, and an engine that is built from the file, see nothing unusual.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from perception_node.engine import TensorSpec
from perception_node.errors import UserError
from perception_node.importing.graph import class_names, replace_outputs
from perception_node.taxonomy import Taxonomy

MEAN, STD = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)
"""They are trained on RGB, 0..1, letterboxed."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the first output is laid out.

    Attributes:
        detections, prototypes: names of the outputs.
        classes, coefficients: nc and nm.
        end_to_end: the network has done the non-maximum suppression.
    """

    detections: str
    prototypes: str
    classes: int
    coefficients: int
    end_to_end: bool

    def __str__(self) -> str:
        parts = f"{self.coefficients} coefficients"
        if self.end_to_end:
            return f"end to end: x0 y0 x1 y1, score, class id of {self.classes}, {parts}"
        return f"cx cy w h, {self.classes} scores, {parts}"


def find_layout(model: ModelProto, outputs: Sequence[TensorSpec], taxonomy: Taxonomy) -> Layout | None:
    """The layout of such a network's outputs; None if they are not such a network's.

    Raises:
        UserError: the classes are not as many as the taxonomy's, or its things; or both layouts fit.
    """
    first = [spec for spec in outputs if len(spec.shape) == 3 and spec.dtype in ("float32", "float16")]
    second = [spec for spec in outputs if len(spec.shape) == 4 and spec.dtype in ("float32", "float16")]
    if len(outputs) != 2 or len(first) != 1 or len(second) != 1:
        return None
    (detections,), (prototypes,) = first, second
    _, rows, columns = detections.shape
    k = prototypes.shape[1]
    names = class_names(model)
    fitting = (len(taxonomy), len(taxonomy.thing_ids))
    layouts = []
    if columns == 6 + k:
        layouts.append(Layout(detections.name, prototypes.name, len(names) or fitting[1], k, True))
    classes = rows - 4 - k
    if classes > 0 and len(names) in (0, classes):
        layouts.append(Layout(detections.name, prototypes.name, classes, k, False))
    layouts = [layout for layout in layouts if layout.classes in fitting] or layouts
    if len(layouts) > 1:
        raise UserError(
            f"{detections.name} {detections.shape} can be {' or '.join(map(str, layouts))}; "
            "expected: an export with Ultralytics' metadata (names), or of another size"
        )
    if layouts and layouts[0].classes not in fitting:
        raise UserError(
            f"{detections.name} {detections.shape} has {layouts[0].classes} classes, but the taxonomy has "
            f"{fitting[0]}, {fitting[1]} of them things; expected: the taxonomy that it was trained with, in its order"
        )
    return layouts[0] if layouts else None


def adapt(model: ModelProto, layout: Layout) -> dict[str, str]:
    """Appends the nodes that make boxes (1, N, 4) xyxy, scores (1, N, nc) and coefficients (1, N, nm), all float32.

    Returns:
        The family's name of each output -> name in the graph, whose outputs they are now.
    """
    graph, k, nc = model.graph, layout.coefficients, layout.classes
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}

    def unique(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    def constant(name: str, value: np.ndarray) -> str:
        name = unique(name)
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(op: str, *inputs: str, output: str = "detection", **attributes) -> str:
        output = unique(output)
        graph.node.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def columns(first: int, last: int, output: str = "column") -> str:
        limits = (np.array([value], np.int64) for value in (first, last, 2))
        bounds = [constant("limit", limit) for limit in limits]
        return node("Slice", rows, *bounds, output=output)

    rows = node("Cast", layout.detections, to=TensorProto.FLOAT)
    if layout.end_to_end:
        boxes = columns(0, 4, "boxes")
        ids = constant("class_ids", np.arange(nc, dtype=np.float32).reshape(1, 1, nc))
        of_class = node("Cast", node("Equal", columns(5, 6), ids), to=TensorProto.FLOAT)
        scores = node("Mul", columns(4, 5), of_class, output="scores")
        coefficients = columns(6, 6 + k, "coefficients")
    else:
        rows = node("Transpose", rows, perm=[0, 2, 1])
        center = columns(0, 2)
        half = node("Mul", columns(2, 4), constant("half", np.float32(0.5)))
        boxes = node("Concat", node("Sub", center, half), node("Add", center, half), output="boxes", axis=2)
        scores = columns(4, 4 + nc, "scores")
        coefficients = columns(4 + nc, 4 + nc + k, "coefficients")
    tensors = {"boxes": boxes, "scores": scores, "coefficients": coefficients, "prototypes": layout.prototypes}
    replace_outputs(model, list(tensors.values()))
    return tensors
