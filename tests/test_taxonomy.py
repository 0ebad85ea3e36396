import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from perception_node.errors import UserError
from perception_node.model import load_model
from perception_node.taxonomy import BUILTIN, builtin_taxonomy

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "classes", "things", "drivable"),
    [
        ("cityscapes", 19, range(11, 19), ["road"]),
        ("camvid", 11, range(8, 11), ["road"]),
        ("coco", 133, range(80), ["road"]),
    ],
)
def test_builtin_taxonomies(name, classes, things, drivable):
    taxonomy = builtin_taxonomy(name)
    assert [category.id for category in taxonomy] == list(range(classes))
    assert taxonomy.thing_ids == tuple(things)
    assert [category.name for category in taxonomy if category.drivable] == drivable
    assert [category.name for category in taxonomy if category.sky] in (["sky"], ["sky-other-merged"])
    assert not [category for category in taxonomy if category.drivable + category.ground + category.sky > 1]
    assert len({category.name for category in taxonomy}) == classes
    assert len({category.color for category in taxonomy}) == classes


def test_what_is_neither_ground_nor_sky_is_an_obstacle():
    obstacles = [category.name for category in builtin_taxonomy("camvid") if category.is_obstacle]
    assert obstacles == ["building", "pole", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    ground = [category.name for category in builtin_taxonomy("cityscapes") if category.ground]
    assert ground == ["sidewalk", "terrain"]


@pytest.mark.parametrize("name", ["cityscapes", "camvid", "coco"])
def test_their_classes_could_stand_in_a_manifest(name):
    schema = yaml.safe_load((REPOSITORY / "perception_node" / "model.schema.yaml").read_text())
    document = yaml.safe_load((BUILTIN / f"{name}.yaml").read_text())
    assert list(document) == ["classes"]
    jsonschema.Draft7Validator(schema["properties"]["classes"]).validate(document["classes"])


@pytest.mark.parametrize(
    ("taxonomy", "id", "name", "color"),
    [
        ("cityscapes", 0, "road", (128, 64, 128)),
        ("cityscapes", 6, "traffic light", (250, 170, 30)),
        ("cityscapes", 11, "person", (220, 20, 60)),
        ("cityscapes", 13, "car", (0, 0, 142)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("coco", 0, "person", None),
        ("coco", 2, "car", None),
        ("coco", 11, "stop sign", None),
        ("coco", 79, "toothbrush", None),
        ("coco", 80, "banner", None),
        ("coco", 100, "road", None),
        ("coco", 132, "rug-merged", None),
    ],
)
def test_names_and_colours_are_those_of_the_data_sets(taxonomy, id, name, color):
    category = builtin_taxonomy(taxonomy)[id]
    assert category.name == name
    assert color in (None, category.color)


def test_camvid_is_what_the_default_model_was_trained_on():
    camvid = builtin_taxonomy("camvid")
    assert camvid == load_model("camvid_lite0").taxonomy
    manifest = yaml.safe_load((REPOSITORY / "training" / "camvid.yaml").read_text())["manifest"]
    assert [category.name for category in camvid] == [entry["name"] for entry in manifest["classes"]]


def test_an_unknown_one_lists_the_known():
    with pytest.raises(UserError, match=re.escape("taxonomy 'ade': there is no such; expected: one of camvid, city")):
        builtin_taxonomy("ade")
