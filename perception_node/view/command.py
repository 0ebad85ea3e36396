"""`perception view`: which of the inputs is meant, and where what is shown goes."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import NamedTuple

import rerun as rr
from tqdm import tqdm

from perception_node.bags import is_bag
from perception_node.calibration_input import CalibrationOptions
from perception_node.errors import BadCalibration, BadImage, SourceError, UserError
from perception_node.sources import open_source
from perception_node.view.entities import Entities
from perception_node.view.layout import FROM_THE_FIRST, JUST_RECEIVED, THE_NEWEST, Playing, layout
from perception_node.view.messages import TopicMessage, perceived, recorded, topics_of
from perception_node.view.selection import Selection, nodes_of
from perception_node.view.serve import Address, server
from perception_node.worker import EngineOptions

APPLICATION = "perception_node"
_SENT_WITHIN_S = 600.0


class Messages(NamedTuple):
    """What is shown.

    Attributes:
        stream: the messages, in order.
        playing: how.
    """

    stream: Iterator[TopicMessage]
    playing: Playing


def messages_of(
    inputs: Sequence[Path], selection: Selection, calibration: CalibrationOptions, engine: EngineOptions, anew: bool
) -> Messages:
    """What the inputs say.

    Args:
        inputs: bags of one drive; or footage; none: running nodes.
        selection: what of it.
        calibration: of footage, where to look for it.
        engine: what perceives footage.
        anew: perceive a bag with a node's topics, too.

    Raises:
        UserError: an input cannot be shown; raised too while messages come.
    """
    if not inputs:
        try:
            from perception_node.view.live import live
        except ModuleNotFoundError as error:
            raise UserError(
                f"running nodes are seen through ROS, and {error.name} is not installed; else name footage or a bag"
            ) from error
        return Messages(live(selection), JUST_RECEIVED)
    if not anew and all(map(is_bag, inputs)) and any(nodes_of(topics_of(path)) for path in inputs):
        return Messages(recorded(inputs, selection), FROM_THE_FIRST)
    if len(inputs) > 1:
        raise UserError(f"{', '.join(map(str, inputs))}: several are for bags of which one has a node's topics")
    source = open_source(inputs[0], selection.camera)
    return Messages(perceived(source, engine.open(), calibration), THE_NEWEST)


def save(messages: Messages, calibration: CalibrationOptions, file: Path) -> None:
    """Writes what is shown to an .rrd file, which appears when it is complete; when interrupted, it is."""
    recording = rr.RecordingStream(APPLICATION)
    part = file.with_name(f".{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    part.touch()  # Python's error, if it cannot be written
    try:
        recording.save(part)
        with _until_interrupted() as check:
            _show(messages._replace(playing=FROM_THE_FIRST), recording, calibration, check)
        recording.flush()
        recording.disconnect()
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    print(f"-> {file}")


def serve(messages: Messages, calibration: CalibrationOptions, address: Address) -> None:
    """Shows it in a browser, until interrupted.

    Raises:
        UserError: a port is taken, or the server ended.
    """
    with _until_interrupted() as check, server(address) as page:
        print(f"open {page.url}\nCtrl-C ends", flush=True)
        recording = rr.RecordingStream(APPLICATION)
        recording.connect_grpc(page.data_url)
        try:
            _show(messages, recording, calibration, check, page.check)
            print("that was all; the page stays until Ctrl-C", flush=True)
            page.wait()
        finally:
            recording.disconnect()  # before the server ends, or it complains


def serve_file(file: Path, address: Address) -> None:
    """Shows a saved file in a browser, until interrupted.

    Raises:
        UserError: it does not exist, a port is taken, or the server ended.
    """
    if not file.is_file():
        raise SourceError(f"{file}: does not exist")
    with _until_interrupted(), server(address, file) as page:
        print(f"open {page.url}\nCtrl-C ends", flush=True)
        page.wait()


def _show(
    messages: Messages, recording: rr.RecordingStream, calibration: CalibrationOptions, *checks: Callable[[], None]
) -> None:
    """Logs messages, and a layout for what there is of them. Damaged ones are said, counted and left out.

    Args:
        checks: called for each message; they raise where it must not go on.
    """
    entities, laid_out = Entities(recording, calibration), None
    left_out: Counter[str] = Counter()
    try:
        for topic, type_, read in messages.stream:
            for check in checks:
                check()
            try:
                entities.take(topic, type_, read())
            except (BadImage, BadCalibration) as error:
                if not left_out[topic]:
                    _say(f"{topic}: left out: {error}")
                left_out[topic] += 1
            if entities.shown != laid_out:
                laid_out = entities.shown
                recording.send_blueprint(layout(laid_out, messages.playing))
        recording.flush(timeout_sec=_SENT_WITHIN_S)
    finally:
        for topic, count in left_out.items():
            _say(f"{topic}: {count} message{'s' if count > 1 else ''} left out")
        if not entities.shown.in_metres:
            _say(f"nothing in metres: {entities.no_metres}")


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM end what is done in it. Yields a check for that: in rerun's functions exceptions get lost."""
    interrupted = Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except KeyboardInterrupt:
        _say("interrupted")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Not print, which would end up in the middle of a progress bar."""
    tqdm.write(text, file=sys.stderr)
