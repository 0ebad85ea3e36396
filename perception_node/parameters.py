"""The node's parameters: one table for declaring, checking and documenting them."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from perception_node.calibration_input import BASE_FRAME, CalibrationOptions
from perception_node.compressed import MAX_PIXELS
from perception_node.engine import DEVICES, ENGINE_NAMES, PRECISIONS, PlanOptions, choose_engine
from perception_node.errors import UserError
from perception_node.ground import RANGES, GridOptions
from perception_node.model import DEFAULT_MODEL, Model, check_options, fusion_options
from perception_node.topics import ALL_OUTPUTS
from perception_node.tracking import RANGES as TRACKING_RANGES
from perception_node.tracking import TrackingOptions
from perception_node.worker import EngineOptions

AT_ANY_TIME, WHILE_INACTIVE, WHILE_UNCONFIGURED, NEVER = (
    "at any time",
    "while not active",
    "while unconfigured",
    "never",
)
TOO_EARLY = {
    WHILE_UNCONFIGURED: {"active": "deactivate", "inactive": "cleanup"},
    WHILE_INACTIVE: {"active": "deactivate"},
}
"""The next transition on the way to where a parameter can be changed, by state."""
FUSION, PUBLISH, TRACKING = "fusion.", "publish.", "tracking."
CALIBRATION = frozenset(field.name for field in fields(CalibrationOptions))
GRID = frozenset(field.name for field in fields(GridOptions))


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a node can be told.

    Attributes:
        name: as `ros2 param` has it.
        default: its type is the parameter's.
        description: for `ros2 param describe` and docs/node.md.
        range: the least and the most of a number.
        choices: the values of a word that is one of a few.
        change: when it can be: AT_ANY_TIME, WHILE_INACTIVE, WHILE_UNCONFIGURED or NEVER.
    """

    name: str
    default: bool | int | float | str
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    change: str = AT_ANY_TIME

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(description=self.description, read_only=self.change == NEVER)
        descriptor.additional_constraints = f"can be changed {self.change}"
        if self.choices:
            descriptor.additional_constraints += f"; one of {', '.join(self.choices)}"
        if self.range is not None:
            least, most = self.range
            if isinstance(self.default, int):
                descriptor.integer_range = [IntegerRange(from_value=least, to_value=most, step=1)]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=float(least), to_value=float(most))]
        return descriptor


_when_configured = partial(Parameter, change=WHILE_UNCONFIGURED)


def _of_the_grid(name: str, description: str) -> Parameter:
    return Parameter(name, getattr(GridOptions(), name), description, range=RANGES[name])


PARAMETERS = (
    Parameter("autostart", True, "Start by itself; false leaves that to a lifecycle manager.", change=NEVER),
    _when_configured("model", DEFAULT_MODEL, "Model folder, or the name of one that comes with the package."),
    _when_configured("device", "cpu", "What computes.", choices=DEVICES),
    _when_configured("engine", "auto", "What runs the network; auto: the device's first.", choices=ENGINE_NAMES),
    _when_configured("threads", 0, "CPU threads of the network and the kernels; 0: all cores.", range=(0, 256)),
    _when_configured(
        "max_batch", 1, "Images of cameras that share the engine inferred at once, at most.", range=(1, 64)
    ),
    _when_configured("precision", PlanOptions().precision, "Of the TensorRT plan.", choices=PRECISIONS),
    _when_configured("auto_build", False, "Build the TensorRT plan if there is none for this GPU; it can take long."),
    _when_configured("allow_unverified", False, "Run a TensorRT plan that others could have written: it is code."),
    Parameter(
        "image_transport",
        "raw",
        "raw takes images from `image`, compressed takes JPEG or PNG from `image/compressed`.",
        choices=("raw", "compressed"),
        change=WHILE_INACTIVE,
    ),
    Parameter("priority", 1, "Its share of the engine's time, beside 1 of a camera with priority 1.", range=(1, 100)),
    Parameter(
        "max_age", 0.0, "Seconds; an image that is older when its turn comes is dropped. 0: none.", range=(0, 3600)
    ),
    Parameter("max_pixels", 4096 * 2160, "Larger images are refused: one can take seconds.", range=(1, MAX_PIXELS)),
    Parameter("max_rate", 0.0, "Images perceived in a second, at most; others are dropped. 0: none.", range=(0, 1000)),
    Parameter("min_score", 0.0, "Instances of a lower score are left out, their pixels unlabelled.", range=(0, 1)),
    Parameter("camera_timeout", 2.0, "Seconds without an image that diagnostics take for an error.", range=(0.1, 3600)),
    Parameter("diagnostics_period", 1.0, "Seconds from one message of diagnostics to the next.", range=(0.1, 60)),
    Parameter("camera_info_url", "", "The camera's YAML file: file:///, package:// or a path; else the topic."),
    Parameter("rectified", False, "The images are rectified: P of the calibration counts, K and D do not."),
    Parameter("mounting_url", "", "The mounting's YAML file, likewise; else mounting_height, or TF."),
    Parameter("mounting_height", 0.0, "Of the camera above the ground, metres. 0: not given.", range=(0, 1000)),
    Parameter("mounting_pitch", 0.0, "With a height: degrees, positive looks down.", range=(-90, 90)),
    Parameter("mounting_roll", 0.0, "With a height: degrees, positive leans to the right.", range=(-180, 180)),
    Parameter("mounting_yaw", 0.0, "With a height: degrees, positive looks to the left.", range=(-180, 180)),
    Parameter("mounting_x", 0.0, "With a height: metres ahead of the base frame's origin.", range=(-100, 100)),
    Parameter("mounting_y", 0.0, "With a height: metres to the left of it.", range=(-100, 100)),
    Parameter("base_frame", BASE_FRAME, "TF frame: x ahead, y left, z up."),
    Parameter("ground_z", 0.0, "Of the ground in it, metres: below 0 where its origin is above.", range=(-100, 100)),
    Parameter(TRACKING + "enabled", True, "Ids that last; else they hold within an image."),
    *(
        Parameter(TRACKING + name, getattr(TrackingOptions(), name), description, range=TRACKING_RANGES[name])
        for name, description in (
            ("min_hits", "Images that an object must be seen in to be remembered when it is not."),
            ("max_lost_s", "Seconds that it is remembered."),
            ("min_overlap", "Least intersection over union of masks that are one object's, if of one class."),
        )
    ),
    _of_the_grid("grid_resolution", "Side of a cell of the drivable grid, metres."),
    _of_the_grid("grid_x_min", "Where the grid begins in the base frame, metres ahead."),
    _of_the_grid("grid_x_max", "Where it ends."),
    _of_the_grid("grid_half_width", "How far the grid reaches to either side, metres."),
    _of_the_grid("grid_margin", "Around the feet of instances, metres: cells there are occupied."),
    _of_the_grid("max_footprint", "Metres of ground in a pixel; what shows more is too far."),
    _of_the_grid("min_confidence", "Ground of which the network is less sure is unknown."),
    _of_the_grid("free_space_bearings", "How many ranges the free space has."),
    _of_the_grid("pitch_sigma", "Standard deviation of the camera's pitch as the vehicle moves, degrees."),
    *(Parameter(PUBLISH + name, True, f"Publish ~/{name} when somebody subscribes to it.") for name in ALL_OUTPUTS),
)


class Parameters:
    """Declares a node's parameters and keeps their values. Changes are checked first, and refused with a reason.

    Args:
        node: whose they are.
        state: what the node's lifecycle state is called now.
        apply: is called with the changes, by name, that were accepted.

    Raises:
        rclpy.exceptions.ParameterException: a value that the node was started with is refused.
    """

    def __init__(self, node: Node, state: Callable[[], str], apply: Callable[[Mapping[str, Any]], None]):
        self._node, self._state, self._apply = node, state, apply
        self._values: dict[str, Any] = {}
        self._known: dict[str, Parameter] = {}
        self._model: Model | None = None
        # Humble has no other callback: changes are applied in the one that checks them, after the last check.
        node.add_on_set_parameters_callback(self._on_set)
        self._declare(PARAMETERS)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def engine_options(self) -> EngineOptions:
        names = ("precision", "auto_build", "allow_unverified")
        plan = PlanOptions(**{name: self[name] for name in names})
        return EngineOptions(self["model"], self["device"], self["engine"], self["threads"], plan, self["max_batch"])

    def calibration_options(self) -> CalibrationOptions:
        return CalibrationOptions(**{name: self[name] for name in CALIBRATION})

    def tracking_options(self) -> TrackingOptions:
        return TrackingOptions(**{name: self[TRACKING + name] for name in TRACKING_RANGES})

    def grid_options(self) -> GridOptions:
        """Raises UserError where they contradict each other."""
        return GridOptions(**{name: self[name] for name in GRID})

    def fusion(self) -> dict[str, Any]:
        """The options of the fusion."""
        return {name.removeprefix(FUSION): self[name] for name in self._values if name.startswith(FUSION)}

    def declare_fusion(self, model: Model) -> None:
        """Declares the numbers among the model's options of the fusion, with the manifest's values as defaults."""
        self._model = model
        self._declare(
            Parameter(
                FUSION + name,
                # YAML has 0 and 0.0, parameters have types.
                float(model.fusion[name]) if "number" in schema["type"] else model.fusion[name],
                schema["description"],
                range=(schema["minimum"], schema["maximum"]) if {"minimum", "maximum"} <= schema.keys() else None,
            )
            for name, schema in fusion_options(model.family).items()
            if isinstance(model.fusion[name], (bool, int, float))
        )

    def undeclare_fusion(self) -> None:
        for name in [name for name in self._known if name.startswith(FUSION)]:
            self._node.undeclare_parameter(name)
            del self._known[name], self._values[name]
        self._model = None

    def _declare(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            self._known[parameter.name] = parameter
            try:
                self._node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
            except ParameterException:
                del self._known[parameter.name]
                raise

    def _on_set(self, parameters: Iterable[Any]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters if parameter.name in self._known}
        before = self._values
        try:
            for name, value in changes.items():
                self._check(self._known[name], value)
            values = {**before, **changes}
            if changes.keys() & {"device", "engine"}:
                choose_engine(values["device"], values.get("engine", "auto"))
            if self._model is not None:
                options = {name.removeprefix(FUSION): changes[name] for name in changes if name.startswith(FUSION)}
                check_options(self._model.family, options)
            self._values = values
            if changes and changes.keys() <= before.keys():  # not what is only being declared
                if changes.keys() & GRID:
                    self.grid_options()
                self._apply(changes)
        except UserError as error:
            self._values = before
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _check(self, parameter: Parameter, value: Any) -> None:
        """Raises UserError where the value, or changing it now, is not allowed. Types and ranges rclpy has checked."""
        name = parameter.name
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}: {value}; expected: a finite number")
        if parameter.choices and name not in ("device", "engine") and value not in parameter.choices:
            raise UserError(f"{name}: {value!r}; expected: {', '.join(parameter.choices)}")
        is_change = name in self._values and value != self._values[name]
        if is_change and (step := TOO_EARLY.get(parameter.change, {}).get(self._state())):
            remedy = f"ros2 lifecycle set {self._node.get_fully_qualified_name()} {step}"
            raise UserError(f"{name}: can be changed only {parameter.change}, the node is {self._state()}; {remedy}")
