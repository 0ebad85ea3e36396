"""`perception convert`: a model's network in fp16 or int8 as a model folder of its own, for engines that take ONNX."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import yaml

from perception_node.engine import PRECISIONS
from perception_node.engine.network import prepare, read_calibration
from perception_node.engine.plan import write_files
from perception_node.errors import UserError
from perception_node.model import MANIFEST, Model

ONNX_NAME = "model.onnx"


def convert(
    model: Model,
    precision: str,
    out: Path,
    calibration: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float | None]:
    """Writes the network that `perception build` would build from, and its manifest, both or neither.

    Args:
        model: whose network to convert.
        precision: one of PRECISIONS.
        out: model folder, made if missing; not the model's own.
        calibration: folder with an int8 calibration's result; None is int8/ in the model's.
        say: is told what did not go as planned.

    Returns:
        Output -> largest absolute difference to the model's on a random image.

    Raises:
        UserError: naming what is wrong and the remedy; nothing was written.
    """
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: there are {', '.join(PRECISIONS)}")
    if out.resolve() == model.folder.resolve():
        raise UserError(f"--out {out}: is the model's own folder; name another")
    network = prepare(model, precision, read_calibration(model, calibration) if precision == "int8" else None, say)
    manifest = yaml.safe_load((model.folder / MANIFEST).read_text())
    changed = {
        "description": f"{manifest.get('description', model.name)}; {precision}",
        "onnx": ONNX_NAME,
        "sha256": hashlib.sha256(network.content).hexdigest(),
    }
    manifest = {**changed, **manifest, **changed}
    text = yaml.safe_dump(manifest, sort_keys=False, default_flow_style=None, width=120)
    out.mkdir(parents=True, exist_ok=True)
    write_files({out / ONNX_NAME: network.content, out / MANIFEST: text.encode()})
    return dict(network.differences)
