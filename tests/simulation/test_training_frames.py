"""Frames of simulated streets to train on."""

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("embreex", reason="Embree is not installed: pip install 'perception_node[demo]'")
pytest.importorskip("efficientnet_lite_pytorch", reason="training needs its backbone: make setup-training")

from perception_node.simulation import Street
from perception_node.taxonomy import builtin_taxonomy
from perception_node.training.frames import LabelledFrames
from perception_node.training.street import main


def test_what_is_written_is_what_training_reads(tmp_path):
    arguments = ["--out", str(tmp_path / "street"), "--first-seed", "1000", "--streets", "1", "--frames", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    taxonomy = builtin_taxonomy("camvid")
    (frame,) = LabelledFrames(tmp_path / "street" / "images", tmp_path / "street" / "panoptic.json", taxonomy)
    street = Street(1000, n_frames=1).frame(0)
    np.testing.assert_array_equal(frame.class_map, street.panoptic.class_map)
    assert np.abs(frame.image.astype(int) - street.image).mean() < 5  # JPEG
    mine, theirs = frame.instance_map, street.panoptic.instance_map
    np.testing.assert_array_equal(mine > 0, theirs > 0)
    pairs = set(zip(mine.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(mine)) == len(np.unique(theirs)) > 2
