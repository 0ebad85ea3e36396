"""`perception evaluate`: what was predicted against the truth, from files or bags; the measures are in metrics/."""

import heapq
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from perception_node.bags import is_bag
from perception_node.errors import SourceError, UserError
from perception_node.evaluate.bags import pair_bags
from perception_node.evaluate.pairs import FramePair, Pairs, pair_files
from perception_node.evaluate.report import write_report
from perception_node.labels import Readable
from perception_node.metrics import Evaluation, FrameMeasures, measure
from perception_node.metrics.ground import GRID_DISTANCE_M
from perception_node.taxonomy import Taxonomy

N_WORST = 6
FRAMES_PER_WORKER = 200
"""Fewer cost less than the start of another process."""


def evaluate(
    predicted: Path,
    truth: Path | None = None,
    *,
    taxonomy: Taxonomy | None = None,
    images: Path | None = None,
    video: bool = False,
    allow_missing: bool = False,
    node: str | None = None,
    grid_distance_m: float = GRID_DISTANCE_M,
    workers: int = 1,
    report: Path | None = None,
) -> dict[str, Any]:
    """Measures what was predicted.

    Args:
        predicted: a COCO panoptic JSON, a folder of class ids, or a bag with the node's topics.
        truth: the same, or Cityscapes' gtFine; without it, the bag `predicted` has /truth/class_map and so on too.
        taxonomy: what class ids in folders mean, and which classes are things and drivable, by their names.
        images: folder with the images of COCO panoptic files and folders, to be shown in the report.
        video: files are one sequence, in order, and their ids last: measure VPQ and STQ. Bags always are.
        allow_missing: measure files although some of the truth's images were not predicted.
        node: prefix of the predicted topics, where a bag has those of several nodes.
        grid_distance_m: how far from the vehicle cells of the drivable grid count, metres.
        workers: processes; 0 for as many as the work and the cores suggest.
        report: HTML file to write: the measures and the worst frames.

    Returns:
        predicted, truth: where they lie; frames, how many were measured; missing, how many of the truth's were not
        predicted; unused, how many were predicted but have no truth; notes; worst: name and pq of the frames with the
        least panoptic quality; and what Evaluation.summary has.

    Raises:
        UserError: naming the file or topic, what is wrong with it and the remedy.
    """
    if truth is None and not is_bag(predicted):
        raise SourceError(f"{predicted}: name the truth too; only a bag can hold both")
    truth = truth or predicted
    for path in (predicted, truth):
        if not path.exists():
            raise SourceError(f"{path}: does not exist; pass a COCO panoptic JSON, a folder of labels or a bag")
    if is_bag(predicted) != is_bag(truth):
        raise SourceError(
            f"{predicted}, {truth}: a bag can be measured against a bag alone; "
            "`perception segment` makes files of footage, `perception replay` a bag"
        )
    if is_bag(truth):
        pairs = pair_bags(predicted, truth, taxonomy, node)
    else:
        pairs = pair_files(predicted, truth, taxonomy, images, video, allow_missing)
    evaluation = Evaluation(pairs.taxonomy, pairs.is_video)
    worst: list[tuple[float, int, FramePair]] = []  # a heap: on top the best of them
    sequence = None
    progress = tqdm(total=pairs.n_frames, desc="evaluate", unit="frame")
    with progress:
        for index, (pair, frame) in enumerate(_measured(pairs, grid_distance_m, _n_workers(workers, pairs.n_frames))):
            if pair.sequence != sequence:
                evaluation.start_sequence()
                sequence = pair.sequence
            evaluation.add(frame)
            pq = frame.pq(len(pairs.taxonomy))
            if pq is not None:
                (heapq.heappush if len(worst) < N_WORST else heapq.heappushpop)(worst, (-pq, -index, pair))
            progress.update()
    frames = [(pair, -negative) for negative, _, pair in sorted(worst, key=lambda entry: entry[:2], reverse=True)]
    summary = {
        "predicted": str(predicted),
        "truth": str(truth),
        "missing": pairs.missing,
        "unused": pairs.unused,
        "notes": pairs.notes,
        "worst": [{"name": pair.name, "pq": pq} for pair, pq in frames],
        **evaluation.summary(),
    }
    if report:
        write_report(report, summary, frames, pairs.taxonomy)
    return summary


def _n_workers(workers: int, n_frames: int) -> int:
    return workers or max(1, min(len(os.sched_getaffinity(0)), n_frames // FRAMES_PER_WORKER))


def _measured(pairs: Pairs, grid_distance_m: float, workers: int) -> Iterator[tuple[FramePair, FrameMeasures]]:
    """The pairs in order with what they measure; only some are held at a time."""
    task = partial(_measure_pair, taxonomy=pairs.taxonomy, grid_distance_m=grid_distance_m)
    if workers == 1:
        for pair in pairs.frames():
            yield pair, task(pair.truth, pair.predicted)
        return
    # Not forked: OpenCV's and DDS's threads would be missing in the child.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        waiting = deque()
        try:
            for pair in pairs.frames():
                waiting.append((pair, pool.submit(task, pair.truth, pair.predicted)))
                if len(waiting) > 4 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise UserError("workers: a process was killed, perhaps for its memory; try --workers 1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    cv2.setNumThreads(1)


def _measure_pair(truth: Readable, predicted: Readable, taxonomy: Taxonomy, grid_distance_m: float) -> FrameMeasures:
    known, seen = truth.read(), predicted.read()
    if known.panoptic.ids.shape != seen.panoptic.ids.shape:
        sizes = ["{1}x{0}".format(*labels.panoptic.ids.shape) for labels in (seen, known)]
        raise SourceError(
            f"{predicted.where}: is {sizes[0]} pixels, its truth {truth.where} {sizes[1]}; "
            "predict at the size of the truth's image"
        )
    return measure(known, seen, taxonomy, grid_distance_m)
