"""Cameras from a YAML file: for each a node, named and remapped. cameras.schema.yaml says what the file may hold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from perception_node.checked_yaml import fill_defaults, read_yaml, validate, yaml_error
from perception_node.errors import UserError
from perception_node.topics import CAMERA_INFO, IMAGE

_SCHEMA = yaml.safe_load(Path(__file__).with_name("cameras.schema.yaml").read_text())


@dataclass(frozen=True, slots=True)
class CameraEntry:
    """One camera of the file.

    Attributes:
        name: the namespace of its node.
        remap: topic of the node -> topic.
        parameters: of the node.
    """

    name: str
    remap: Mapping[str, str]
    parameters: Mapping[str, Any]

    def arguments(self, namespace: str = "") -> list[str]:
        """What a node of it is started with, after `--ros-args`. Args: namespace: around that of the camera."""
        words = ["-r", f"__ns:=/{namespace}/{self.name}".replace("//", "/")]
        for topic, name in self.remap.items():
            words += ["-r", f"{topic}:={name}"]
        for name, value in self.parameters.items():
            # Parameters are parsed as YAML, of which JSON is a part: a folder may be called 5, or true.
            words += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
        return words


def read_cameras(path: str | Path) -> tuple[CameraEntry, ...]:
    """The cameras of a file.

    Raises:
        UserError: naming the file, the line, what is wrong there and the remedy.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of cameras")
    document, tree = read_yaml(path)
    validate(path, tree, document, _SCHEMA, [])
    fill_defaults(document, _SCHEMA)
    cameras = document["cameras"]
    names = [entry["name"] for entry in cameras]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise yaml_error(path, tree, ["cameras", index, "name"], f"{name!r} is taken", "a name for each camera")
    return tuple(
        CameraEntry(
            entry["name"],
            {IMAGE: entry["image"], CAMERA_INFO: entry["camera_info"], **entry["remap"]},
            entry["parameters"],
        )
        for entry in cameras
    )
