"""The pytest fixture `replay`: a recording as a test. Where it is not used, it imports nothing.

Example:
    def test_tunnel(replay):
        drive = replay("bags/tunnel")
        drive.check_budgets("network.p95=40", "10hz.loss=0")
        drive.check_golden()
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from perception_node.bag_tests.results import ResultFrame
    from perception_node.bag_tests.run import Job

_ENGINE = {"model": "camvid_lite0", "device": "cpu", "engine": "auto"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("perception", "recordings as tests (fixture `replay`)")
    group.addoption("--perception-update", action="store_true", help="Make the results golden.")
    parser.addini("perception_bags", "Folder of recordings, in the root folder. Default: that of the test's file.")
    parser.addini(
        "perception_golden", "Folder of golden results, in the root folder. Default: golden/ beside the test."
    )
    for name, default in _ENGINE.items():
        group.addoption(
            f"--perception-{name}", help=f"What replays: {name}. Default: perception_{name} of the ini file."
        )
        parser.addini(f"perception_{name}", f"What replays: {name}.", default=default)


@contextmanager
def _failing() -> Iterator[None]:
    """What a user got wrong fails the test, in one line."""
    from perception_node.errors import UserError

    try:
        yield
    except UserError as error:
        pytest.fail(str(error), pytrace=False)


class Replayed:
    """A recording, replayed.

    Attributes:
        name: of its golden results; with the topic's where one was asked for.
        summary: of what `perception replay --json` prints: frames, refused, missing, warnings, instances, stages_ms and
            inputs.
        results: the bag of results.
    """

    def __init__(self, job: Job, results: Path, owners: dict[Path, Replayed]):
        from perception_node.bag_tests.run import missing_problem, replayed
        from perception_node.errors import SourceError

        self._job, self.name, self.results, self._owners = job, job.name, results, owners
        self.summary, self._milliseconds = replayed(job, results)
        for problem in missing_problem(job, self.summary):
            raise SourceError(problem)

    def frames(self) -> Iterator[ResultFrame]:
        """Each frame's `stamp_ns`, and its messages by topic: frame["instances"].detections."""
        from perception_node.bag_tests.results import result_frames

        return result_frames(self.results)

    def check_golden(self, tolerances: Mapping[str, float] | None = None) -> None:
        """Fails if the results are not as the golden ones; with --perception-update they become golden.

        Args:
            tolerances: by field, e.g. {"score": 0.01, "instances.bbox": 2}.
        """
        from dataclasses import replace

        from perception_node.bag_tests.run import compared, describe_golden

        place = self._job.golden / self.name
        owner = self._owners.setdefault(place, self)
        if owner is not self:
            pytest.fail(
                f"{self._job.bag}: {place} holds the golden results of {owner._job.bag}; rename one of the two",
                pytrace=False,
            )
        with _failing():
            job = replace(self._job, checks=self._job.checks.updated(tolerances or {}, {}))
            golden = compared(job, self.results, self.summary["inputs"])
        if golden["differences"]:
            pytest.fail(
                "\n".join((f"{self._job.bag}: not as {golden['path']}", *describe_golden(golden))), pytrace=False
            )

    def check_budgets(self, *budgets: str) -> None:
        """Fails if one is not kept: "network.p95=40" in milliseconds, "30hz.loss=0.05", "peak.hz=20" or so."""
        from perception_node.bag_tests.checks import parse_limit
        from perception_node.bag_tests.run import budget_problems, timed

        with _failing():
            checks = self._job.checks.updated({}, dict(parse_limit("budget", text) for text in budgets))
        found = timed(self.summary["stages_ms"], self._milliseconds, checks)
        if problems := budget_problems(found["budgets"]):
            pytest.fail("\n".join(f"{self._job.bag}: {problem}" for problem in problems), pytrace=False)


@pytest.fixture(scope="session")
def _replayed() -> dict[Any, Replayed]:
    """Of all tests: a recording that several of them ask for is replayed once."""
    return {}


@pytest.fixture(scope="session")
def _owners() -> dict[Path, Replayed]:
    """By place of golden results, whose they are."""
    return {}


@pytest.fixture
def replay(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _replayed: dict[Any, Replayed],
    _owners: dict[Path, Replayed],
) -> Callable[..., Replayed]:
    """replay(bag, topic=None) replays a recording; see docs/replay.md of perception_node."""
    from perception_node.bag_tests.command import name_of
    from perception_node.bag_tests.run import Job
    from perception_node.worker import EngineOptions

    config = request.config
    bags, golden = (
        config.rootpath / config.getini(f"perception_{name}") if config.getini(f"perception_{name}") else default
        for name, default in (("bags", request.path.parent), ("golden", request.path.parent / "golden"))
    )
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # who share the cores
    engine = EngineOptions(
        **{name: config.getoption(f"--perception-{name}") or config.getini(f"perception_{name}") for name in _ENGINE}
    )

    def replay_once(bag: str | Path, topic: str | None = None) -> Replayed:
        path = bags / bag
        key = path.resolve(), topic, golden
        if key not in _replayed:
            folder = tmp_path_factory.mktemp("replay")
            update = config.getoption("--perception-update")
            job = Job(
                path,
                name_of(path) + re.sub(r"\W+", "_", topic or ""),
                engine,
                topic=topic,
                golden=golden,
                update=update,
                pictures=folder / "differences",
                threads=max(1, len(os.sched_getaffinity(0)) // workers) if workers > 1 else 0,
            )
            with _failing():
                _replayed[key] = Replayed(job, folder / "results", _owners)
        inputs = json.dumps(_replayed[key].summary["inputs"])
        request.node.user_properties.append((f"inputs of {_replayed[key].name}", inputs))  # into --junitxml
        return _replayed[key]

    return replay_once
