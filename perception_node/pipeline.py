"""Image in, PanopticFrame out."""

from collections.abc import Mapping

import numpy as np

from perception_node.device import open_device
from perception_node.engine import load_engine
from perception_node.fusion import make_fusion
from perception_node.fusion.base import conform
from perception_node.image import CameraImage
from perception_node.model import Model
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Preprocess
from perception_node.timing import StageTimer


class Pipeline:
    """Preprocessing, network and fusion of one model.

    Args:
        model: from perception_node.model.load_model.
        device: what computes; see perception_node.engine.DEVICES.
        threads: for the CPU; 0 takes all cores.
        engine: what runs the network; see perception_node.engine.ENGINES.

    Attributes:
        timer: of the stages "preprocess", "network" and "fusion"; callers add stages of their own.
        outputs: what the network gave for the last image, by the names in the ONNX graph.

    Raises:
        UserError: the network cannot be loaded, is not what the manifest says, or there is no such device or engine.

    Example:
        pipeline = Pipeline(load_model("engines/camvid_lite0"))
        frame = pipeline(cv2.imread("street.jpg"))
    """

    def __init__(self, model: Model, device: str = "cpu", threads: int = 0, engine: str = "auto"):
        self.model = model
        self.timer = StageTimer()
        self._engine = load_engine(model, device, threads, engine)
        self.outputs: Mapping[str, np.ndarray] = {}
        self._device = open_device(device, threads)
        self._preprocess = Preprocess(self._device, model.input)
        self._fusion = make_fusion(model, self._device)

    def __call__(self, image: CameraImage | np.ndarray) -> PanopticFrame:
        """Segments one image, a camera's or uint8 (H, W, 3) BGR; the frame has the image's height and width."""
        with self.timer("preprocess"):
            image = image if isinstance(image, CameraImage) else CameraImage.from_bgr(image)
            tensor, geometry = self._preprocess(image)
        with self.timer("network"):
            self.outputs = self._engine.infer(tensor)
        with self.timer("fusion"):
            outputs = {role: self.outputs[name][0] for role, name in self.model.tensors.items()}
            outputs = conform(outputs, self._fusion.inputs)
            return self._fusion({name: self._device.upload(array) for name, array in outputs.items()}, geometry)

    def warm_up(self) -> None:
        """Runs once on a grey image, so that the first real frame is not the slow one. Leaves no trace in `timer`.

        What depends on the camera's encoding and size is yet to come: a first frame of another encoding than bgr8 may
        wait for the compiler, once on a machine.
        """
        timer, self.timer = self.timer, StageTimer()
        self(np.full((*self.model.input.size_hw, 3), 127, np.uint8))
        self.timer = timer
