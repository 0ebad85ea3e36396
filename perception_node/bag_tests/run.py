"""One recording replayed and checked; what is wrong with it is part of the answer, so that others go on."""

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perception_node.bag_tests.checks import Checks
from perception_node.bag_tests.golden import Golden
from perception_node.bag_tests.inputs import inputs_of
from perception_node.bag_tests.picture import draw_differences
from perception_node.bag_tests.rates import PEAK, offer, peak, rate_name
from perception_node.calibration_input import CalibrationOptions
from perception_node.errors import DeviceError, UserError, one_line
from perception_node.pipeline import Pipeline
from perception_node.replay import replay
from perception_node.sources import check_apart, open_source
from perception_node.timing import StageTimer, Window
from perception_node.worker import EngineOptions

SHOWN = 20
"""Differences that are told of one by one; all are counted."""
PICTURES = 6
"""Frames of which a picture is drawn."""
SCRATCH = "perception-replay-"
"""How folders begin for results that are not kept."""


@dataclass(frozen=True)
class Job:
    """One recording and what is to be done with it.

    Attributes:
        bag: the footage.
        name: of its results.
        engine: what perceives.
        out: bag of results to write; None: they are not kept.
        topic: of the images in a bag.
        overlay: write the overlay too.
        tracking: give objects ids that last.
        calibration: where to look for it.
        golden: folder of golden results; None: not compared.
        update: make the results golden.
        checks: tolerances and budgets.
        strict: warnings are problems.
        pictures: folder for pictures of frames that differ from the golden ones; None: none are drawn.
        threads: CPU threads where `engine` leaves them open; they are no input of the results. 0: all cores.
        scratch: folder for results that are not kept; who gives it removes it, whatever becomes of this process. None:
            one is made.
    """

    bag: Path
    name: str
    engine: EngineOptions
    out: Path | None = None
    topic: str | None = None
    overlay: bool = False
    tracking: bool = True
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    golden: Path | None = None
    update: bool = False
    checks: Checks = field(default_factory=Checks)
    strict: bool = False
    pictures: Path | None = None
    threads: int = 0
    scratch: Path | None = None


class WholeTimer(StageTimer):
    """Durations of all images: of the newest alone, a slow beginning of a long recording would keep its budgets."""

    def add(self, stage: str, milliseconds: float) -> None:
        self._milliseconds.setdefault(stage, _Growing()).add(milliseconds)


class _Growing(Window):
    """Of any size: the number of images that a recording says it holds may be wrong."""

    def __init__(self):
        super().__init__(0)

    def add(self, value: float) -> None:
        self._values.append(value)
        self._added += 1


def run(job: Job, progress_bar: bool = False) -> dict[str, Any]:
    """Replays a recording and checks its results.

    Returns:
        name, bag, out; problems, in words, and ok, whether there are none; warnings; attempts, how often it was begun.
        If the recording could be read also what `replay` returns, and
        rates: by "10hz" and so on, and "peak", see perception_node.bag_tests.rates.
        budgets: see Checks.over_budget.
        golden: None or path, differences (how many), frames (in how many), shown (the first of them, in words),
            changed_inputs, updated, pictures.
        inputs: see perception_node.bag_tests.inputs.
    """
    result: dict[str, Any] = {
        "name": job.name,
        "bag": str(job.bag),
        "out": str(job.out) if job.out else None,
        "ok": False,
        "problems": [],
        "warnings": [],
        "attempts": 1,
    }
    problems: list[str] = result["problems"]
    try:
        with _kept_or_not(job) as out:
            summary, milliseconds = replayed(job, out, progress_bar)
            result |= {**summary, **timed(summary["stages_ms"], milliseconds, job.checks), "golden": None}
            problems += missing_problem(job, summary)
            if job.strict:
                problems += [f"{job.bag}: {warning}" for warning in result["warnings"]]
            problems += budget_problems(result["budgets"])  # before what fails could become golden
            if job.golden is not None:
                result["golden"] = compared(job, out, result["inputs"], may_update=not problems)
                problems += _golden_problems(result["golden"])
    except UserError as error:
        problems.append(str(error))
        if isinstance(error, DeviceError):
            _close()
    except OSError as error:  # no space, no permission
        problems.append(f"{job.bag}: {one_line(error)}")
    except Exception as error:  # whatever is wrong with one recording, or with us: the others go on
        traceback.print_exc()
        problems.append(f"{job.bag}: {type(error).__name__}: {one_line(error)}")
    result["ok"] = not problems
    return result


def replayed(job: Job, out: Path, progress_bar: bool = False) -> tuple[dict[str, Any], list[float]]:
    """Replays a recording into the bag `out`.

    Returns:
        What `replay` returns, with `inputs`; and the milliseconds that each image took.

    Raises:
        UserError: the recording cannot be used, or nothing can be perceived with what was asked for.
    """
    for other in (job.golden / job.name,) if job.golden else ():
        check_apart(other, out)
        check_apart(job.bag, other)
    source = open_source(job.bag, job.topic)
    pipeline = _pipeline(job)
    pipeline.timer = WholeTimer()
    summary = replay(pipeline, source, out, job.overlay, progress_bar, job.tracking, job.calibration)
    summary["inputs"] = inputs_of(
        job.bag, getattr(source, "topic", job.topic), job.engine, job.tracking, job.calibration, pipeline
    )
    return summary, pipeline.timer.milliseconds("total")


def missing_problem(job: Job, summary: dict[str, Any]) -> list[str]:
    """In words, that the recording holds fewer images than it says."""
    if not summary["missing"]:
        return []
    read = summary["frames"] + summary["refused"]
    return [f"{job.bag}: holds {read} images, where it says {read + summary['missing']}; was it cut off?"]


def timed(stages_ms: dict[str, dict[str, float]], milliseconds: list[float], checks: Checks) -> dict[str, Any]:
    """Of `run`, "rates" and "budgets"."""
    rates = {rate_name(hz): offer(milliseconds, hz) for hz in checks.rates_hz} | {PEAK: peak(milliseconds)}
    return {
        "rates": {name: {key: round(value, 4) for key, value in rate.items()} for name, rate in rates.items()},
        "budgets": checks.over_budget({**stages_ms, **rates}),
    }


def compared(job: Job, out: Path, inputs: dict[str, Any], may_update: bool = True) -> dict[str, Any]:
    """Of `run`, "golden".

    Raises:
        SourceError: there are no golden results, or they cannot be read or written.
    """
    golden = Golden(job.golden, job.name)
    result = {
        "path": str(golden.path),
        "differences": 0,
        "frames": 0,
        "shown": [],
        "changed_inputs": [],
        "updated": False,
        "pictures": [],
    }
    if job.update:
        result["updated"] = may_update and golden.update(out, inputs)
        return result
    result["changed_inputs"] = golden.changed_inputs(inputs) if golden.path.exists() else []
    colors = _pipeline(job).model.taxonomy.colors_bgr()
    for frame in golden.differences(out, job.checks):
        result["differences"] += len(frame.found)
        result["frames"] += 1
        if len(result["shown"]) < SHOWN:
            result["shown"] += str(frame).split("\n")[: SHOWN - len(result["shown"])]
        if job.pictures and len(result["pictures"]) < PICTURES:
            result["pictures"] += draw_differences(frame, colors, job.pictures / job.name)
    return result


def _golden_problems(golden: dict[str, Any]) -> list[str]:
    if not golden["differences"]:
        return []
    frames = f"{golden['frames']} frame{'s' if golden['frames'] > 1 else ''}"
    differences = f"{golden['differences']} difference{'s' if golden['differences'] > 1 else ''}"
    return [f"{golden['path']}: {differences} in {frames}"]


def describe_golden(golden: dict[str, Any]) -> list[str]:
    """Lines for people: the differences, and what may be their cause."""
    lines = list(golden["shown"])
    if golden["differences"] > len(lines):
        lines.append(f"and {golden['differences'] - len(lines)} more")
    lines += [f"-> {path}" for path in golden["pictures"]]
    if golden["differences"]:
        lines += [f"made of something else: {text}" for text in golden["changed_inputs"]]
    return lines


def budget_problems(budgets: list[dict[str, Any]]) -> list[str]:
    """In words, each of Checks.over_budget that is not kept."""
    return [
        f"budget {budget['name']}: "
        + ("no such stage was timed" if budget["value"] is None else f"{budget['value']:.4g}")
        + f"; asked for: {budget['limit']:g}"
        for budget in budgets
        if not budget["ok"]
    ]


@contextmanager
def _kept_or_not(job: Job) -> Iterator[Path]:
    if job.out is not None:
        yield job.out
        return
    prefix = f"{job.name}.part-" if job.scratch else SCRATCH
    with TemporaryDirectory(prefix=prefix, dir=job.scratch) as folder:
        yield Path(folder) / "results"


_open: dict[EngineOptions, Pipeline] = {}
"""The one pipeline of this process, which takes long to open."""


def _pipeline(job: Job) -> Pipeline:
    options = replace(job.engine, threads=job.engine.threads or job.threads)
    if options not in _open:
        _close()
        pipeline = options.open()
        pipeline.warm_up()
        _open[options] = pipeline
    return _open[options]


def _close() -> None:
    """A GPU that failed starts anew when nothing is left that was made on it."""
    _open.clear()
    gc.collect()
