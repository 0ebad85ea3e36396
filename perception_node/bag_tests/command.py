"""`perception replay`: recordings in; results, a table and an exit status out."""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perception_node.bag_tests.rates import PEAK
from perception_node.bag_tests.run import SCRATCH, Job, describe_golden, run
from perception_node.errors import UserError
from perception_node.model import load_model


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """As Ctrl-C does: a job that is cancelled leaves nothing half-written."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_sigterm_interrupts()
def replay_bags(
    bags: Sequence[Path], job: Job, out: Path | None, workers: int = 1, ray: str | None = None
) -> list[dict[str, Any]]:
    """Replays recordings.

    Args:
        bags: at least one.
        job: what is to be done with each; its `bag`, `name` and `out` do not count.
        out: bag to write, or of several recordings the folder for them; None: results are not kept.
        workers: how many are replayed at a time; 0 for as many as there are cores, or the cluster allows.
        ray: address of a Ray cluster, or "local"; None: processes on this machine.

    Returns:
        See perception_node.bag_tests.run.run, in the order of `bags`.

    Raises:
        UserError: what was asked for cannot be done with any of them.
    """
    names = [name_of(bag) for bag in bags]
    for name, count in Counter(names).items():
        if count > 1:
            same = ", ".join(str(bag) for bag, other in zip(bags, names, strict=True) if other == name)
            raise UserError(f"{same}: would be one result, {name}; rename one, or replay them one at a time")
    several = len(bags) > 1
    if several and out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; results of several bags go into a folder")
    jobs = [
        replace(job, bag=bag, name=name, out=out / name if several and out else out)
        for bag, name in zip(bags, names, strict=True)
    ]
    load_model(job.engine.model)  # else each of them would say what is wrong with it
    if not several and ray is None:
        return [run(jobs[0], progress_bar=True)]
    cores = len(os.sched_getaffinity(0))
    if ray is None:
        n_workers = min(len(bags), workers or cores)
        if n_workers == 1:
            return [run(job, progress_bar=True) for job in jobs]
        threads = job.engine.threads or max(1, cores // n_workers)
    else:
        n_workers, threads = min(workers, len(bags)), job.engine.threads or 1
    jobs = [replace(each, threads=threads) for each in jobs]
    from perception_node.bag_tests.cluster import LOCAL, Cluster
    from perception_node.bag_tests.parallel import ProcessWorker, run_all

    # An actor that Ray was told to end may write there a little longer.
    with TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as scratch:
        if ray in (None, LOCAL):  # else the workers may be on other machines
            jobs = [replace(each, scratch=Path(scratch)) for each in jobs]
        if ray is None:
            return run_all(jobs, n_workers, ProcessWorker)
        # An actor works in another folder, perhaps on another machine: it must be told whole paths.
        jobs = [_with_whole_paths(each) for each in jobs]
        # Ray says on stdout what became of its processes.
        with redirect_stdout(sys.stderr), Cluster(ray, n_workers, threads, job.engine.device == "cuda") as cluster:
            return run_all(jobs, cluster.n_workers, cluster.worker)


def _with_whole_paths(job: Job) -> Job:
    paths = {name: path.resolve() for name in ("out", "golden", "pictures") if (path := getattr(job, name)) is not None}
    bag = job.bag.resolve() if job.bag.exists() else job.bag  # street:7 is no path
    model = Path(job.engine.model)
    engine = replace(job.engine, model=str(model.resolve())) if model.exists() else job.engine
    files = {
        name: str(Path(url).resolve())
        for name in ("camera_info_url", "mounting_url")
        if (url := getattr(job.calibration, name)) and Path(url).exists()
    }
    return replace(job, bag=bag, engine=engine, calibration=replace(job.calibration, **files), **paths)


def name_of(bag: Path) -> str:
    """Of a recording's results: as it is called, without what is after the dot of a file."""
    if not bag.exists() and ":" in str(bag):  # street:7
        return re.sub(r"[^\w.-]+", "_", str(bag))
    path = bag.resolve()
    return path.name if path.is_dir() else path.stem


def describe(results: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for people: of each recording what is wrong and what is odd, then a table."""
    lines = []
    for result in results:
        lines += _findings(result)
    width = max(len(result["name"]) for result in results)
    lines.append(f"{'':<{width}}  {'frames':>6}  {'total p95':>10}  {'peak rate':>9}  {'recorded':>9}")
    for result in results:
        figures = f"{'-':>6}  {'-':>10}  {'-':>9}  {'-':>9}"
        if "stages_ms" in result:
            total, hz = result["stages_ms"]["total"]["p95"], result["rates"][PEAK]["hz"]
            recorded = f"{result['recorded_hz']:.1f} Hz" if result["recorded_hz"] else "-"
            figures = f"{result['frames']:>6}  {total:>7.2f} ms  {hz:>6.1f} Hz  {recorded:>9}"
        lines.append(f"{result['name']:<{width}}  {figures}  {_verdict(result)}")
    return lines


def describe_rates(result: dict[str, Any]) -> list[str]:
    """Lines for people: what becomes of images at each rate."""
    return [
        f"  {'peak ' + format(rate['hz'], '.1f') + 'hz' if name == PEAK else name:<12}"
        f"{100 * rate['loss']:5.1f} % lost, {rate['processed_hz']:6.1f} a second"
        f"  p50 {rate['p50']:7.2f} ms  p95 {rate['p95']:7.2f} ms  p99 {rate['p99']:7.2f} ms"
        for name, rate in result["rates"].items()
    ]


def _findings(result: dict[str, Any]) -> list[str]:
    golden = result.get("golden")
    in_table = len(result["problems"]) == 1 and not (golden and golden["differences"])
    lines = [] if in_table else [f"{result['name']}: {problem}" for problem in result["problems"]]
    lines += [f"{result['name']}: warning: {warning}" for warning in result["warnings"]]
    if golden:
        lines += [f"  {line}" for line in describe_golden(golden)]
    return lines


def _verdict(result: dict[str, Any]) -> str:
    if result["problems"]:
        return f"FAILED: {result['problems'][0]}" + (
            f" (and {len(result['problems']) - 1} more)" if len(result["problems"]) > 1 else ""
        )
    words = ["ok"]
    if result.get("golden"):
        words = ["as golden"] if result["golden"]["path"] and not result["golden"]["updated"] else ["golden updated"]
    if result["attempts"] > 1:
        words.append(f"begun {result['attempts']} times")
    if result["warnings"]:
        words.append(f"{len(result['warnings'])} warning{'s' if len(result['warnings']) > 1 else ''}")
    return ", ".join(words)
