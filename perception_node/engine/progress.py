"""Long work in a library, with a view of how far it is and a way to stop it."""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
HEARTBEAT_S = 10.0
"""Between two lines where no terminal shows a bar."""


class Progress:
    """What a TensorRT IProgressMonitor is told, from whichever threads: phases within phases, each with its steps.

    Attributes:
        stopped: set it, and the library gives up at its next step.
    """

    def __init__(self):
        self.stopped = False
        self._lock = threading.Lock()
        self._open: dict[str, list] = {}  # phase -> [parent, steps, steps done]; the innermost last
        self._fraction = 0.0

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._open[name] = [parent, max(1, steps), 0]

    def step_complete(self, name: str, step: int) -> bool:
        with self._lock:
            if name in self._open:
                self._open[name][2] = step + 1
        return not self.stopped

    def phase_finish(self, name: str) -> None:
        with self._lock:
            self._open.pop(name, None)

    @property
    def phase(self) -> str:
        """The innermost phase that is open, or ""."""
        with self._lock:
            return next(reversed(self._open), "")

    @property
    def fraction(self) -> float:
        """How much of all steps is done, 0..1, as far as the library has told; it never falls."""
        with self._lock:
            self._fraction = max(self._fraction, self._within(None))
            return self._fraction

    def _within(self, parent: str | None) -> float:
        """The share of its one step that the furthest phase within `parent` has done."""
        return max(
            (
                min(1.0, (done + (self._within(name) if done < steps else 0)) / steps)
                for name, (above, steps, done) in self._open.items()
                if above == parent
            ),
            default=0.0,
        )


def watch(title: str, work: Callable[[], T], progress: Progress, say: Callable[[str], None]) -> T:
    """Runs `work` in a thread of its own and shows how far it is, on stderr: a bar, or a line now and then.

    A thread of its own, because an exception in a callback of the library would end the process. Ctrl-C sets
    progress.stopped and waits for the library to give up; a second Ctrl-C does not wait.

    Raises:
        KeyboardInterrupt: it was stopped.
        Exception: what `work` raised.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # handed to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name=title, daemon=True)
    begin = shown = time.monotonic()
    # No estimate of the time left: most of it goes into a few steps, and the steps' number says nothing of that.
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    terminal = sys.stderr.isatty()
    columns = shutil.get_terminal_size().columns  # 80 where the terminal says 0, at which tqdm would show nothing
    with tqdm(total=1.0, desc=title, bar_format=form, ncols=columns, leave=False, disable=not terminal) as bar:
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
                bar.n = progress.fraction
                bar.set_postfix_str(progress.phase)
                if not terminal and time.monotonic() - shown > HEARTBEAT_S:
                    shown = time.monotonic()
                    say(f"{title}: {progress.fraction:.0%} after {shown - begin:.0f} s, {progress.phase or 'working'}")
        except KeyboardInterrupt:
            progress.stopped = True
            bar.write(f"{title}: stopping at the library's next step; Ctrl-C again does not wait", file=sys.stderr)
            thread.join()
            raise
    if failure:
        raise failure[0]
    return outcome[0]
