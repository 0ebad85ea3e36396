"""`perception view`: which of the inputs is meant, and where what is shown goes."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rerun as rr

from perception_node.bags import is_bag
from perception_node.calibration_input import CalibrationOptions
from perception_node.errors import SourceError, UserError
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.pipeline import Pipeline
from perception_node.sources import open_source
from perception_node.view.entities import Entities
from perception_node.view.layout import layout
from perception_node.view.messages import nodes_of, show_bag, show_footage, topics_of
from perception_node.view.serve import server

APPLICATION = "perception_node"


def view(
    inputs: tuple[Path, ...],
    model: str | None,
    computing: dict[str, Any],
    topic: str | None,
    node: str | None,
    calibration: CalibrationOptions,
    save: Path | None,
    host: str,
    port: int,
    memory: str,
) -> None:
    """Shows the inputs until interrupted, or writes them to a file.

    Args:
        inputs: bags with a node's topics (of one drive); or footage; or one .rrd that was saved; none: running nodes.
        model: perceive the input, a bag with a node's topics too.
        computing: arguments of Pipeline.
        topic, node: the image topic and the node to show, where there are several.
        calibration: where to look for it, besides the messages.
        save: an .rrd file to write, instead of serving.
        host, port, memory: see perception_node.view.serve.

    Raises:
        UserError: an input cannot be shown, or a port is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server, too
    if len(inputs) == 1 and inputs[0].suffix == ".rrd":
        if not inputs[0].is_file():
            raise SourceError(f"{inputs[0]}: does not exist")
        with server(host, port, memory, inputs[0]) as (page, _):
            _say(page)
            _until_interrupted()
        return
    recording = rr.RecordingStream(APPLICATION)
    entities = Entities(recording, calibration)
    live = not inputs
    steps = _steps(inputs, model, computing, topic, node, calibration, entities)
    if save is not None:
        part = save.with_name(f".{save.name}.part")
        try:
            recording.save(part)
            _show(steps, entities, recording, live)
            recording.disconnect()
            part.rename(save)
        finally:
            part.unlink(missing_ok=True)
        print(f"-> {save}")
        return
    with server(host, port, memory) as (page, data):
        recording.connect_grpc(data)
        _say(page)
        _show(steps, entities, recording, live)
        _until_interrupted()


def _steps(
    inputs: tuple[Path, ...],
    model: str | None,
    computing: dict[str, Any],
    topic: str | None,
    node: str | None,
    calibration: CalibrationOptions,
    entities: Entities,
) -> Iterator[None]:
    if not inputs:
        from perception_node.view.live import show_live  # needs ROS

        yield from show_live(entities, topic, node)
        return
    is_recorded = model is None and all(is_bag(path) for path in inputs)
    if is_recorded and any(nodes_of(topics_of(path)) for path in inputs):
        for path in inputs:
            yield from show_bag(path, entities, topic, node)
        return
    if len(inputs) > 1:
        raise UserError(f"{', '.join(map(str, inputs))}: several are for bags of which one has a node's topics")
    source = open_source(inputs[0], topic)
    yield from show_footage(source, Pipeline(load_model(model or DEFAULT_MODEL), **computing), entities, calibration)


def _show(steps: Iterator[None], entities: Entities, recording: rr.RecordingStream, live: bool) -> None:
    laid_out = None
    try:
        for _ in steps:
            if entities.shown != laid_out:
                laid_out = entities.shown
                recording.send_blueprint(layout(laid_out, live))
    except KeyboardInterrupt:
        print("interrupted: what came so far stays", file=sys.stderr)
    recording.flush()
    if entities.problem and not entities.shown.in_metres:
        print(f"nothing in metres: {entities.problem}", file=sys.stderr)


def _say(page: str) -> None:
    print(f"open {page}\nCtrl-C ends", flush=True)


def _until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()
