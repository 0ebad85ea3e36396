"""Many recordings at once: workers of an engine each take one after the other, in processes here or, by Ray, elsewhere.

A worker that is lost (killed, out of memory, its machine gone) is replaced, and its recording begun anew. Answers are
in the order of the recordings, and the same however many workers there are.
"""

import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol

from tqdm import tqdm

from perception_node.bag_tests.golden import Golden
from perception_node.bag_tests.results import remove_parts
from perception_node.bag_tests.run import Job, run
from perception_node.errors import one_line

ATTEMPTS = 3
"""A recording that cost so many workers their lives is given up."""
_DECORATION = re.compile(r"\x1b\[\d+m| \^\^+")
"""Colours and underlines in traces, as of Ray."""


class Worker(Protocol):
    """Does one job at a time.

    Attributes:
        lost: what `submit` or a future raises when the worker is no more.
    """

    lost: tuple[type[Exception], ...]

    def submit(self, job: Job) -> "Future[dict[str, Any]]": ...

    def close(self) -> None:
        """Ends it, at once if it is at work."""
        ...


class ProcessWorker:
    """A process of its own, with an engine of its own. Not forked: threads of OpenCV and DDS would be missing in it."""

    lost = (BrokenProcessPool,)

    def __init__(self):
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_start)

    def submit(self, job: Job) -> "Future[dict[str, Any]]":
        return self._pool.submit(run, job)

    def close(self) -> None:
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and would be left behind by one that is ended


def run_all(jobs: Sequence[Job], n_workers: int, make_worker: Callable[[], Worker]) -> list[dict[str, Any]]:
    """Runs the jobs, n_workers of them at a time.

    Returns:
        What `run` returns for each, in their order, and `attempts`: how often it was begun.
    """
    results: list[dict[str, Any] | None] = [None] * len(jobs)
    attempts = [0] * len(jobs)
    waiting = deque(range(len(jobs)))
    at_work: dict[Future, tuple[Worker, int]] = {}
    idle: list[Worker] = []
    with tqdm(total=len(jobs), desc="replay", unit="bag") as progress:
        try:
            while waiting or at_work:
                while waiting and len(at_work) < n_workers:
                    is_new = not idle
                    if is_new:
                        idle.append(make_worker())
                    worker = idle[-1]  # stays there until it is at work, so that it is closed whatever is raised
                    try:
                        future = worker.submit(jobs[waiting[0]])
                    except Exception as error:
                        if isinstance(error, worker.lost) and not is_new:  # while it was idle: no recording's fault
                            idle.pop().close()
                            continue
                        future = Future()
                        future.set_exception(error)
                    idle.pop()
                    index = waiting.popleft()
                    attempts[index] += 1
                    at_work[future] = worker, index
                for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                    worker, index = at_work.pop(future)
                    error = future.exception()
                    if error is None:
                        results[index] = future.result()
                        idle.append(worker)
                    else:
                        worker.close()
                        _sweep(jobs[index])
                        is_lost = isinstance(error, worker.lost)
                        if is_lost and attempts[index] < ATTEMPTS:
                            waiting.appendleft(index)
                            continue
                        results[index] = _failed(jobs[index], error, is_lost)
                    progress.update()
        finally:
            for worker in idle:
                worker.close()
            for worker, index in at_work.values():  # after Ctrl-C
                worker.close()
                _sweep(jobs[index])
    return [{**result, "attempts": n} for result, n in zip(results, attempts, strict=True)]


def _sweep(job: Job) -> None:
    """Removes what a lost worker left half-written, and results that are not kept."""
    if job.out is not None:
        remove_parts(job.out)
    if job.scratch is not None:
        remove_parts(job.scratch / job.name)
    if job.golden is not None and job.update:
        Golden(job.golden, job.name).sweep()


def _failed(job: Job, error: BaseException, is_lost: bool) -> dict[str, Any]:
    error = getattr(error, "cause", None) or error  # of a task that failed on Ray, whose own words are the whole trace
    problem = (
        f"its worker was lost {ATTEMPTS} times, perhaps killed for its memory; try fewer --workers; the last time"
        if is_lost
        else type(error).__name__
    )
    problem = f"{job.bag}: {problem}: {_DECORATION.sub('', one_line(error))}"
    out = str(job.out) if job.out else None
    return {"name": job.name, "bag": str(job.bag), "out": out, "ok": False, "problems": [problem], "warnings": []}
