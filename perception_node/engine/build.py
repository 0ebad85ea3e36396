"""From a model to TensorRT plans: `perception build`.

network.py makes the ONNX, trt.py knows the library, plan.py writes what comes out; this file lets one build the other.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perception_node.engine import PRECISIONS, TensorSpec
from perception_node.engine.network import Calibration, Network, load_network, prepare, read_calibration
from perception_node.engine.plan import PlanKey, Sidecar, find_plan, load_plan, writable_folder, write_files, write_plan
from perception_node.engine.progress import Progress, watch
from perception_node.engine.trt import Library, Messages, open_library
from perception_node.errors import ModelError, PlanError, UserError
from perception_node.model import Model

if TYPE_CHECKING:
    import onnx
    import tensorrt


@dataclass(frozen=True, slots=True)
class Built:
    """A plan that there is now: its path, its sidecar, and whether it was built now or lay there already."""

    path: Path
    sidecar: Sidecar
    new: bool


def build(
    model: Model,
    precision: str = "fp32",
    targets: Sequence[str] = (),
    runtime: str = "auto",
    workspace_gib: float | None = None,
    timing_cache: Path | None = None,
    calibration: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
    max_batch: int = 1,
) -> list[Built]:
    """Builds a model's plans, one for each target, unless they are there already.

    Args:
        model: from perception_node.model.load_model.
        precision: "fp32" (strictly: no TF32), "fp16" (mixed) or "int8" (as calibrated).
        targets: architectures, e.g. "sm_86"; none means that of the GPU here.
        runtime: which library; see perception_node.engine.trt.RUNTIMES.
        workspace_gib: the most memory that a layer may use besides its tensors; None leaves it to the library.
        timing_cache: file of kernel timings, which saves the library timing what it has timed before.
        calibration: folder of the int8 calibration; see read_calibration.
        out: folder for the plans instead of the model's own.
        force: build although a plan with the same key is there.
        say: is told what goes on, in lines.
        max_batch: the most images that the plan takes at once.

    Raises:
        UserError: with what is wrong and the remedy. Plans that were complete by then stay; no other file is left.
        KeyboardInterrupt: likewise.
    """
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: there are {', '.join(PRECISIONS)}")
    library = open_library(runtime)
    aims = [library.target(target) for target in dict.fromkeys(targets)] if targets else [library.target()]
    calibrated = read_calibration(model, calibration) if precision == "int8" else None
    folder = out or writable_folder(model)
    network = None
    plans = []
    with _alone(model, say):
        for aim in aims:
            key = PlanKey.of(
                model,
                max_batch,
                precision=precision,
                calibration=calibrated and calibrated.sha256,
                library=library.name,
                library_version=library.version,
                **aim,
            )
            found = None if force else _present(model, key, out, say)
            if found is None:
                if network is None:
                    network = _prepare(library, model, precision, calibrated, say, max_batch)
                plan, sidecar = _compile(library, model, network, key, workspace_gib, timing_cache, say, max_batch)
                found = Built(write_plan(folder, plan, sidecar), sidecar, new=True)
            plans.append(found)
    return plans


def _present(model: Model, key: PlanKey, out: Path | None, say: Callable[[str], None]) -> Built | None:
    """The plan with this key, if there is one that would be loaded."""
    try:
        path = find_plan(model, key, out)
    except PlanError:
        return None
    try:
        return Built(path, load_plan(path, key)[1], new=False)
    except PlanError as error:
        say(f"building again: {error}")
        return None


@contextlib.contextmanager
def _alone(model: Model, say: Callable[[str], None]) -> Iterator[None]:
    """One build of a model at a time: several nodes may want the same plan at once, and the others then find it."""
    folder = os.open(model.folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{model.name}: another process is building it; waiting")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _prepare(
    library: Library,
    model: Model,
    precision: str,
    calibrated: Calibration | None,
    say: Callable[[str], None],
    max_batch: int,
) -> Network:
    try:
        return prepare(model, precision, calibrated, say, max_batch)
    except ModelError:
        # An operator that ONNX Runtime does not know is hardly one that TensorRT does, and of those we can say more.
        graph = load_network(model.onnx_path, model.sha256)
        _parse(library, model, graph, graph.SerializeToString())
        raise


def _parse(library: Library, model: Model, graph: "onnx.ModelProto", content: bytes):  # pyright knows the types
    """The builder, the network definition of an ONNX, and its parser: that owns the weights until the plan is built."""
    trt = library.trt
    try:
        builder = trt.Builder(library.logger)
    except (TypeError, RuntimeError) as error:  # pybind11's way to say that the library made none
        errors = "; ".join(library.messages.errors) or str(error)
        raise UserError(f"{library.name} {library.version} cannot be used: {errors}") from error
    definition: tensorrt.INetworkDefinition = library.create_network(builder)
    parser = trt.OnnxParser(definition, library.logger)
    if not parser.parse(content):
        raise ModelError(_refusal(library, model, graph, parser))
    return builder, definition, parser


def _compile(
    library: Library,
    model: Model,
    network: Network,
    key: PlanKey,
    workspace_gib: float | None,
    timing_cache: Path | None,
    say: Callable[[str], None],
    max_batch: int,
) -> tuple[bytes, Sidecar]:
    trt = library.trt
    messages = library.listen()
    builder, definition, _parser = _parse(library, model, network.onnx, network.content)
    config = builder.create_builder_config()
    library.aim(config, key.architecture)
    if workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_gib * 2**30))
    if max_batch > 1:
        # Two: what makes one image at a time fast is not what makes several fast.
        for least, most in ((1, 1), (2, max_batch)):
            profile = builder.create_optimization_profile()
            shapes = (trt.Dims([count, 3, *model.input.size_hw]) for count in (least, most, most))
            profile.set_shape(model.input.tensor, *shapes)
            config.add_optimization_profile(profile)
    if key.precision == "fp32":
        # Set by default, it rounds inputs of convolutions to float16's ten bits. Who wants that takes fp16, and gets
        # its speed; fp32 is what others are compared with.
        config.clear_flag(trt.BuilderFlag.TF32)
    if timing_cache and not library.keeps_timings:
        say(f"--timing-cache: {library.name} times no kernels; {timing_cache} is not used")
        timing_cache = None
    timings = timing_cache and _read_timings(library, config, timing_cache)

    progress = Progress()
    config.progress_monitor = library.monitor(progress)
    title = f"{model.name} {key.precision} for {key.gpu or key.architecture}"
    say(f"{title}: building with {library.name} {library.version}")
    begin = time.monotonic()
    memory = watch(title, lambda: builder.build_serialized_network(definition, config), progress, say)
    seconds = time.monotonic() - begin
    for warning in dict.fromkeys(messages.warnings):
        say(f"{library.name}: {warning}")
    if memory is None:
        remedy = "a smaller --workspace or network if memory is short, else another --precision"
        raise UserError(
            f"{title}: the library built nothing: {'; '.join(messages.errors) or 'no reason given'}; {remedy}"
        )
    plan = bytes(memory)
    if timing_cache and timings:
        try:
            write_files({timing_cache: bytes(timings.serialize())})
        except OSError as error:  # no reason to lose the plan, which can have taken an hour
            say(f"--timing-cache {timing_cache}: cannot be written ({error.strerror or error})")
    return plan, _sidecar(library, network, definition, key, plan, workspace_gib, seconds, messages)


def _sidecar(
    library: Library,
    network: Network,
    definition: "tensorrt.INetworkDefinition",
    key: PlanKey,
    plan: bytes,
    workspace_gib: float | None,
    seconds: float,
    messages: Messages,
) -> Sidecar:
    def spec(tensor: "tensorrt.ITensor") -> TensorSpec:
        shape = tuple(None if size < 0 else size for size in tensor.shape)
        return TensorSpec(tensor.name, shape, np.dtype(library.trt.nptype(tensor.dtype)).name)

    return Sidecar(
        key=key,
        inputs=tuple(spec(definition.get_input(index)) for index in range(definition.num_inputs)),
        outputs=tuple(spec(definition.get_output(index)) for index in range(definition.num_outputs)),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        network_sha256=hashlib.sha256(network.content).hexdigest(),
        network_bytes=len(network.content),
        layers=definition.num_layers,
        differences=network.differences,
        workspace_bytes=None if workspace_gib is None else int(workspace_gib * 2**30),
        build_seconds=round(seconds, 3),
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        log={"messages": dict(messages.counts), "warnings": list(dict.fromkeys(messages.warnings))},
    )


def _read_timings(library: Library, config: "tensorrt.IBuilderConfig", path: Path) -> "tensorrt.ITimingCache":
    """The timings of a file, empty if there is none, for this build to use and add to."""
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        remedy = f"name another file, or delete it; {library.name} {library.version} begins a new one"
        raise UserError(f"--timing-cache {path}: not timings of this GPU by this version; {remedy}")
    return cache


# ---- what the parser refuses ----


def _refusal(library: Library, model: Model, graph: "onnx.ModelProto", parser: "tensorrt.OnnxParser") -> str:
    """What the parser refuses, where in the graph that is, and what to do: a line for each operator."""
    nodes = list(graph.graph.node)
    by_name = {node.name: node for node in nodes}
    opset = next((entry.version for entry in graph.opset_import if not entry.domain), "?")
    lines, seen = [], set()
    for error in (parser.get_error(index) for index in range(parser.num_errors)):
        node = by_name.get(error.node_name())
        if node is None:
            lines.append(" ".join(error.desc().split()))
        elif node.name not in seen:
            seen.add(node.name)
            lines.append(f"{_place(graph, node)}: {' '.join(error.desc().split())}")
    # The parser may give up at the first: so that nobody fixes them one by one, those it has no importer for.
    for node in nodes:
        if node.name not in seen and not parser.supports_operator(node.op_type):
            lines.append(f"{_place(graph, node)}: no such operator")
    remedy = f"replace these layers, or export with another opset (this is {opset}) or without custom operators"
    path = model.onnx_path
    return f"{path}: {library.name} {library.version} cannot take " + "\n  and ".join(lines) + f"; {remedy}"


def _place(graph: "onnx.ModelProto", node: "onnx.NodeProto") -> str:
    """E.g. "DeformConv '/neck/dcn' (node 2 of 9; from 'r' of Relu 'a', weights 'w'; 'd' goes to Relu 'b')"."""
    nodes = list(graph.graph.node)
    maker = {name: other for other in nodes for name in other.output}
    weights = {tensor.name for tensor in graph.graph.initializer}

    def origin(name: str) -> str:
        if name in maker:
            return f"{name!r} of {maker[name].op_type} {maker[name].name!r}"
        return f"weights {name!r}" if name in weights else f"input {name!r}"

    def users(name: str) -> str:
        takers = [f"{other.op_type} {other.name!r}" for other in nodes if name in other.input]
        takers += ["the network's outputs"] if name in {output.name for output in graph.graph.output} else []
        return f"{name!r} goes to {', '.join(takers) or 'nothing'}"

    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    sources = ", ".join(origin(name) for name in node.input if name)
    sinks = ", ".join(users(name) for name in node.output if name)
    return f"{operator} {node.name!r} (node {nodes.index(node) + 1} of {len(nodes)}; from {sources}; {sinks})"
