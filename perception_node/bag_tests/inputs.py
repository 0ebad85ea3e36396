"""What results were made of: hashes of the footage and the model, options, versions."""

import hashlib
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perception_node.calibration_input import CalibrationOptions
from perception_node.model import MANIFEST
from perception_node.pipeline import Pipeline
from perception_node.worker import EngineOptions

PACKAGES = (
    "perception_node",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "scipy",
    "rosbags",
    "mcap",
)


def inputs_of(
    path: Path,
    topic: str | None,
    options: EngineOptions,
    tracking: bool,
    calibration: CalibrationOptions,
    pipeline: Pipeline,
) -> dict[str, Any]:
    """All that results depend on, as JSON.

    Args:
        path: of the footage.
        topic: of its images.
        options: what the pipeline was made of.
        tracking: whether ids last.
        calibration: where it was looked for; of files there is the hash.
        pipeline: what perceived.
    """
    model = pipeline.model
    return {
        "bag": {"path": str(path), "sha256": hashes(path)},
        "model": {"name": model.name, "sha256": model.sha256, "manifest_sha256": _sha256(model.folder / MANIFEST)},
        "options": {
            "topic": topic,
            "tracking": tracking,
            **{name: _of_file(value) for name, value in asdict(calibration).items() if value},
            "device": options.device,
            "engine": pipeline.engine_key,
            "threads": options.threads,
            **({"precision": options.plan.precision} if options.device != "cpu" else {}),
        },
        "versions": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
    }


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 by name of the file `path`, or of the files in the folder; none of what is no file, as street:7."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: _sha256(file) for file in files if file.is_file()}


def _of_file(value: Any) -> Any:
    return _sha256(Path(value)) if isinstance(value, str) and Path(value).is_file() else value


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
