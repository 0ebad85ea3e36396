"""A bag of results, as `perception replay` writes it, read frame by frame."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from perception_node.bags import header_stamp_ns, is_bag, open_bag
from perception_node.errors import SourceError
from perception_node.sources import read_message
from perception_node.topics import NODE

STAMPED = "class_map"
"""The topic that every frame has."""
_OF_TEMPORARY_FOLDER = 8 * "[a-z0-9_]"
"""What tempfile appends to its prefix."""


@dataclass(frozen=True, slots=True)
class ResultFrame:
    """All that was said of one image.

    Attributes:
        index: of the frame in its bag.
        time_ns: when it was logged.
        messages: (type, serialized message) by topic, under the node's name.
    """

    index: int
    time_ns: int
    messages: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def stamp_ns(self) -> int:
        return header_stamp_ns(self.messages[STAMPED][1])

    def __contains__(self, topic: str) -> bool:
        return topic in self.messages

    def __getitem__(self, topic: str) -> Any:
        """The message of a topic, e.g. "instances", as the rosbags library has it.

        Raises:
            KeyError: the frame has none.
            BadImage: it is damaged.
        """
        kind, cdr = self.messages[topic]
        return read_message(cdr, kind)


def result_frames(path: Path) -> Iterator[ResultFrame]:
    """The frames of a bag, in order. A message that a topic has already begins the next one.

    Raises:
        SourceError: the bag cannot be read, or is none of results.
    """
    prefix = f"/{NODE}/"
    with open_bag(path) as bag:
        if f"{prefix}{STAMPED}" not in bag.topics:
            raise SourceError(f"{path}: has no {prefix}{STAMPED}; expected: a bag that `perception replay` wrote")
        frame = None
        for connection, time_ns, cdr in bag.messages({name for name in bag.topics if name.startswith(prefix)}):
            topic = connection.topic.removeprefix(prefix)
            if frame is None or time_ns != frame.time_ns or topic in frame.messages:
                if frame is not None:
                    yield _whole(path, frame)
                frame = ResultFrame(0 if frame is None else frame.index + 1, time_ns)
            frame.messages[topic] = connection.msgtype, bytes(cdr)
        if frame is not None:
            yield _whole(path, frame)


def remove_parts(path: Path) -> None:
    """Removes what a process that was killed left half-written of the bag `path`; see BagWriter."""
    path = path.resolve()
    for part in path.parent.glob(f"{escape(path.name)}.part-{_OF_TEMPORARY_FOLDER}"):
        if is_bag(part):  # a recording of such a name, drive.part-20260101: a part has the bag in it
            continue
        old = part / f"{path.name}.old"
        if old.exists() and not path.exists():  # killed while it put the new one in its place
            old.rename(path)
        shutil.rmtree(part, ignore_errors=True)


def _whole(path: Path, frame: ResultFrame) -> ResultFrame:
    if STAMPED not in frame.messages or len(frame.messages[STAMPED][1]) < 12:
        raise SourceError(f"{path}: frame {frame.index} has no {STAMPED}; make the bag anew")
    return frame
