"""Golden results: those of a run that was found good, which later ones are compared with.

FOLDER/NAME is a bag of results, as `perception replay` writes it, without overlays; FOLDER/NAME.json says what it was
made of. The frames of two bags are matched by their stamps, in order (difflib's longest common runs), so that one frame
more or less is one difference.
"""

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import count, islice
from pathlib import Path
from typing import Any

from perception_node.bag_tests.checks import Checks
from perception_node.bag_tests.differences import Difference, differences
from perception_node.bag_tests.results import ResultFrame, remove_parts, result_frames
from perception_node.bags import BagWriter
from perception_node.calibration_file import write_whole
from perception_node.errors import BadImage, SourceError
from perception_node.sources import check_apart
from perception_node.topics import LABEL_INFO, NODE

NOT_COMPARED = ("overlay",)
"""Is drawn from the others."""
_NO_MATTER = ("bag.path", "options.threads")
"""Inputs on which results do not depend."""


@dataclass(frozen=True, slots=True)
class FrameDifferences:
    """What differs in one frame.

    Attributes:
        golden, actual: the frame in both bags; None where it is missing, or new.
        found: what differs, in the order of the topics.
    """

    golden: ResultFrame | None
    actual: ResultFrame | None
    found: tuple[Difference, ...]

    def __str__(self) -> str:
        frame = self.golden or self.actual
        where = f"frame {frame.index} at {frame.stamp_ns // 10**9}.{frame.stamp_ns % 10**9:09d} s"
        return "\n".join(f"{where}: {difference}" for difference in self.found)


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden results of one bag.

    Attributes:
        folder: where golden results lie.
        name: of these.
    """

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """The bag."""
        return self.folder / self.name

    @property
    def _inputs_path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def differences(self, results: Path, checks: Checks) -> Iterator[FrameDifferences]:
        """Frame by frame, what is not as it was; frames in which all is are left out.

        Args:
            results: the bag to be compared.
            checks: the tolerances.

        Raises:
            SourceError: a bag is missing or damaged.
        """
        if not self.path.exists():
            raise SourceError(
                f"{self.path}: no golden results; make them with --update (in pytest: --perception-update)"
            )
        stamps = [_numbered(frame.stamp_ns for frame in result_frames(path)) for path in (self.path, results)]
        frames = [_without(result_frames(path)) for path in (self.path, results)]
        names: dict[int, str] = {}
        for tag, a0, a1, b0, b1 in SequenceMatcher(None, *stamps, autojunk=False).get_opcodes():
            sides = [islice(frames[0], a1 - a0), islice(frames[1], b1 - b0)]
            if tag == "equal" or a1 - a0 == b1 - b0:
                for golden, actual in zip(*sides, strict=True):
                    names = names or _class_names(golden)
                    found = tuple(_compare(golden, actual, checks, names))
                    if found:
                        yield FrameDifferences(golden, actual, found)
            else:
                for golden in sides[0]:
                    yield FrameDifferences(golden, None, (Difference("frame", "golden has it, now it is missing"),))
                for actual in sides[1]:
                    yield FrameDifferences(None, actual, (Difference("frame", "new; golden has it not"),))

    def changed_inputs(self, inputs: dict[str, Any]) -> list[str]:
        """What the golden results were made of that is not as it is now, in words."""
        try:
            before = json.loads(self._inputs_path.read_text())
        except (OSError, ValueError):
            return [f"{self._inputs_path} cannot be read: it is not known what the golden results were made of"]
        flat_before, flat = (dict(_flat("", entry)) for entry in (before, inputs))
        return [
            f"{name}: golden {_short(flat_before.get(name, 'has none'))}, now {_short(flat.get(name, 'none'))}"
            for name in dict.fromkeys((*flat_before, *flat))
            if flat_before.get(name) != flat.get(name) and name not in _NO_MATTER
        ]

    def update(self, results: Path, inputs: dict[str, Any]) -> bool:
        """Makes results golden. Where they are the same to the last bit the files stay.

        The bag is replaced as a whole. A process that is killed between that and the inputs leaves the bag without
        inputs, never with those of other results.

        Returns:
            Whether they were written.

        Raises:
            SourceError: something else is in their place.
        """
        check_apart(results, self.path)
        with _alone_in(self.folder):
            remove_parts(self.path)  # nobody else is writing here
            if self._inputs_path.exists() and self._is_equal(results):
                return False
            with BagWriter(self.path) as bag:
                for frame in _without(result_frames(results)):
                    for topic, (kind, cdr) in frame.messages.items():
                        bag.write(f"/{NODE}/{topic}", kind, frame.time_ns, cdr)
                self._inputs_path.unlink(missing_ok=True)
            write_whole(self._inputs_path, json.dumps(inputs, indent=1) + "\n")
        return True

    def sweep(self) -> None:
        """Removes what a process that was killed left half-written."""
        if self.folder.is_dir():
            with _alone_in(self.folder):
                remove_parts(self.path)

    def _is_equal(self, results: Path) -> bool:
        try:
            frames = [_without(result_frames(path)) for path in (self.path, results)]
            return all(golden == actual for golden, actual in zip(*frames, strict=True))
        except (SourceError, ValueError, OSError):  # there are none yet, or others; or more, or fewer
            return False


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits for others that write there: pytest-xdist's workers may have tests of the same recording."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that has no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _numbered(stamps: Iterable[int]) -> list[tuple[int, int]]:
    """Each stamp with how often it came before: difflib takes the square of the time where many are equal."""
    before: dict[int, Iterator[int]] = defaultdict(count)
    return [(stamp, next(before[stamp])) for stamp in stamps]


def _without(frames: Iterator[ResultFrame]) -> Iterator[ResultFrame]:
    """The frames without what is not compared."""
    for frame in frames:
        for topic in NOT_COMPARED:
            frame.messages.pop(topic, None)
        yield frame


def _compare(golden: ResultFrame, actual: ResultFrame, checks: Checks, names: dict[int, str]) -> Iterator[Difference]:
    if golden.time_ns != actual.time_ns:
        yield Difference("time", f"golden was logged at {golden.time_ns} ns, now at {actual.time_ns} ns")
    for topic in dict.fromkeys((*golden.messages, *actual.messages)):
        if topic not in actual:
            yield Difference(topic, "golden has it, now it is missing")
        elif topic not in golden:
            yield Difference(topic, "new; golden has it not")
        elif golden.messages[topic] != actual.messages[topic]:
            try:
                yield from differences(topic, golden[topic], actual[topic], checks, names)
            except BadImage as error:
                yield Difference(topic, str(error))


def _class_names(frame: ResultFrame) -> dict[int, str]:
    if LABEL_INFO not in frame:
        return {}
    return {entry.class_id: entry.class_name for entry in frame[LABEL_INFO].class_map}


def _short(value: Any) -> str:
    """Of a hash the beginning."""
    return str(value)[:12] if len(str(value)) == 64 else str(value)


def _flat(name: str, entry: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(entry, dict):
        for key, value in entry.items():
            yield from _flat(f"{name}.{key}" if name else key, value)
    else:
        yield name, entry
