"""Many recordings: some that cannot be used, workers that are killed, and the same results however many there are."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_tiny_model
from rosbags.rosbag2 import StoragePlugin
from test_sources import camera_info, image, write_bag

from perception_node.bag_tests import parallel
from perception_node.bag_tests.command import replay_bags
from perception_node.bag_tests.parallel import run_all
from perception_node.bag_tests.run import Job
from perception_node.bags import BagWriter
from perception_node.cli import main
from perception_node.worker import EngineOptions

HAS_RAY = pytest.mark.skipif(
    not any((Path(folder) / "ray").is_dir() for folder in sys.path),
    reason="needs ray: make setup-cluster",
)


def perception(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def drive(path, n=3, stamps=None, **options):
    stamps = stamps or [10**9 + 10**8 * k for k in range(n)]
    return write_bag(path, [("/cam", k, image(10 * (k % 20), stamp)) for k, stamp in enumerate(stamps)], **options)


def truncated(path):
    drive(path)
    file = path / f"{path.name}.mcap"
    file.write_bytes(file.read_bytes()[:-100])


def truncated_sqlite(path):
    drive(path, n=200, plugin=StoragePlugin.SQLITE3)
    file = path / f"{path.name}.db3"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_types(path):
    write_bag(path, [("/cam/camera_info", 1, camera_info(5))])


def no_messages(path):
    write_bag(path, [])


def no_bytes(path):
    path.mkdir()
    (path / f"{path.name}.mcap").write_bytes(b"")


def no_good_image(path):
    broken = image(1, 1)
    broken.step = 1
    write_bag(path, [("/cam", 1, broken)])


def text(path):
    path.mkdir()
    (path / "notes.txt").write_text("x")


HOSTILE = {
    "truncated": (truncated, "cannot be read as a rosbag2: "),
    "truncated_sqlite": (truncated_sqlite, "cannot be read as a rosbag2: "),
    "other_types": (other_types, "has no image topic, its 1 topics are of other types; record a sensor_msgs/"),
    "no_messages": (no_messages, "has no image topic, it has no topics; record a sensor_msgs/Image topic"),
    "no_bytes": (no_bytes, "cannot be read as a rosbag2: "),
    "no_good_image": (no_good_image, "none of its 1 images can be used: frame_000000: step: 1 bytes"),
    "text": (text, "holds no images"),
    "nosuch": (lambda path: None, "does not exist"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_bags_that_cannot_be_used_have_a_word_each_and_others_go_on(tiny, tmp_path):
    bags = [drive(tmp_path / "first")]
    for name, (make, _) in HOSTILE.items():
        make(tmp_path / name)
        bags.append(tmp_path / name)
    bags.append(drive(tmp_path / "last"))
    result = perception("replay", *bags, "--out", tmp_path / "out", "--model", tiny)
    assert result.exit_code == 1
    table = result.stdout.strip().splitlines()[-len(bags) :]
    assert [line.split()[0] for line in table] == [bag.name for bag in bags]
    assert [line.rpartition("  ")[2] for line in (table[0], table[-1])] == ["ok", "ok"]
    for line, (name, (_, words)) in zip(table[1:-1], HOSTILE.items(), strict=True):
        assert f"FAILED: {tmp_path / name}: {words}" in line
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "last"]


@pytest.mark.parametrize(
    ("stamps_ms", "words"),
    [
        ([0, 100, 200, 900, 1000], "warning: 1 gap, the longest 0.700 s from frame_000002 to frame_000003"),
        ([0, 100, 50, 150], "warning: stamps go back once, at first by 0.050 s from frame_000001 to frame_000002"),
        ([0, 100, 100, 200], "warning: stamps repeat once, at first from frame_000001 to frame_000002"),
    ],
)
def test_odd_stamps_are_told_of_and_fail_if_asked(tiny, tmp_path, stamps_ms, words):
    bag = drive(tmp_path / "odd", stamps=[10**6 * stamp for stamp in stamps_ms])
    result = perception("replay", bag, "--out", tmp_path / "out", "--model", tiny)
    assert result.exit_code == 0
    assert f"odd: {words}" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("ok, 1 warning")
    result = perception("replay", bag, "--out", tmp_path / "out", "--model", tiny, "--strict")
    assert result.exit_code == 1
    assert f"FAILED: {bag}: {words.removeprefix('warning: ')}" in result.stdout.splitlines()[-1]


def test_a_recording_that_holds_less_than_it_says_fails(tiny, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for value in range(40):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    data = (tmp_path / "drive.avi").read_bytes()
    (tmp_path / "drive.avi").write_bytes(data[: len(data) // 2])
    result = perception("replay", tmp_path / "drive.avi", "--out", tmp_path / "out", "--model", tiny)
    assert result.exit_code == 1
    assert "where it says 40; was it cut off?" in result.stdout.splitlines()[-1]


def test_one_that_cannot_be_used_is_json_too(tiny, tmp_path):
    result = perception("replay", tmp_path / "nosuch", "--out", tmp_path / "out", "--model", tiny, "--json")
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["ok"], len(summary["problems"])) == (1, False, 1)


def test_a_disk_that_is_full_is_told_of_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BagWriter, "write", full)
    result = perception(
        "replay", drive(tmp_path / "a"), drive(tmp_path / "b"), "--out", tmp_path / "o", "--model", tiny
    )
    assert result.exit_code == 1
    for line, name in zip(result.stdout.splitlines()[-2:], "ab", strict=True):
        assert line.endswith(f"FAILED: {tmp_path / name}: [Errno 28] No space left on device")
    assert list((tmp_path / "o").iterdir()) == []


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_what_is_cancelled_leaves_nothing_half_written(tiny, tmp_path, number, workers):
    """Its second image is a named pipe, in front of which it waits for us."""
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "0.png"), np.zeros((8, 8, 3), np.uint8))
    os.mkfifo(tmp_path / "a" / "1.png")
    bags = [tmp_path / "a", drive(tmp_path / "b")]
    replay = start(*bags, "--out", tmp_path / "out", "--model", tiny, "--workers", workers)
    pipe = os.open(tmp_path / "a" / "1.png", os.O_WRONLY)  # waits until somebody reads
    assert len(list((tmp_path / "out").glob("a.part-*"))) == 1
    replay.send_signal(number)
    os.close(pipe)
    _, errors = replay.communicate()
    assert replay.returncode == 1
    assert "Traceback" not in errors
    assert list((tmp_path / "out").glob("*.part-*")) == []


@pytest.mark.parametrize("is_worker_killed", [False, True], ids=["cancelled", "worker killed"])
def test_results_that_are_not_kept_do_not_stay(tiny, tmp_path, monkeypatch, is_worker_killed):
    """As above."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "a").mkdir()
    image_file, pipe = tmp_path / "a" / "0.png", tmp_path / "a" / "1.png"
    cv2.imwrite(str(image_file), np.zeros((8, 8, 3), np.uint8))
    os.mkfifo(pipe)
    shutil.copy(image_file, tmp_path / "good.png")
    replay = start(
        tmp_path / "a", drive(tmp_path / "b"), "--budget", "network.p95=1e9", "--model", tiny, "--workers", 2
    )
    with pipe.open("wb"):
        assert len(list((tmp_path / "tmp").glob("perception-replay-*/a.part-*"))) == 1
        if is_worker_killed:
            victim = reader_of(pipe)
            (tmp_path / "good.png").replace(pipe)
            os.kill(victim, signal.SIGKILL)
        else:
            replay.send_signal(signal.SIGINT)
    _, errors = replay.communicate()
    assert replay.returncode == (0 if is_worker_killed else 1), errors
    assert list((tmp_path / "tmp").glob("perception-replay-*")) == []


def test_budgets_decide_over_the_exit_status(tiny, tmp_path):
    bag = drive(tmp_path / "drive")
    budgets = [f"--budget={text}" for text in ("network.p95=1e6", "10hz.loss=1", "peak.hz=0")]
    result = perception("replay", bag, "--model", tiny, "--json", *budgets)
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert [budget["ok"] for budget in summary["budgets"]] == [True] * 3
    assert set(summary["rates"]) == {"10hz", "30hz", "60hz", "peak"}
    assert set(summary["inputs"]["bag"]["sha256"]) == {"metadata.yaml", "drive.mcap"}
    assert summary["stages_ms"]["total"]["p50"] >= summary["stages_ms"]["network"]["p50"]
    result = perception("replay", bag, "--model", tiny, "--budget", "network.p95=0", "--budget", "radar.p50=1")
    assert result.exit_code == 1
    assert "drive: budget radar.p50: no such stage was timed; asked for: 1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/a", "{tmp}/b/a", "--out", "{tmp}/out"], "would be one result, a; rename one"),
        (["{tmp}/a"], "--out: expected: a bag to write, or something to check"),
        (["{tmp}/a", "--out", "{tmp}/out", "--update"], "--update and --pictures: expected: --golden FOLDER too"),
        (["{tmp}/a", "--out", "{tmp}/out", "--budget", "fast"], "--budget 'fast': expected: NAME=NUMBER"),
        (["{tmp}/a", "{tmp}/b", "--out", "{tmp}/out", "--model", "nosuch"], "model 'nosuch': no such folder"),
        (["{tmp}/a", "{tmp}/b", "--out", "{tmp}/file"], "file: is a file; results of several bags go into a folder"),
        (["{tmp}/a", "--out", "{tmp}/out", "--camera", "{tmp}/nosuch.yaml"], "nosuch.yaml: No such file"),
        (["{tmp}/a", "--out", "{tmp}/out", "--mounting", "{tmp}/nosuch.yaml"], "nosuch.yaml: No such file"),
    ],
)
def test_what_cannot_be_done_with_any_bag_is_one_line(tmp_path, arguments, message):
    (tmp_path / "file").write_text("x")
    result = perception("replay", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert message in result.output


def start(*arguments):
    """`perception replay` as a process of its own, whose processes find this package where this one does."""
    command = [sys.executable, "-m", "perception_node.cli", "replay", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def reader_of(path):
    """The process that waits for what we may write into the named pipe `path`, which we have opened."""
    while True:  # it is there: else our own opening of the pipe would not have come to an end
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                is_open = any(link.readlink() == path for link in (folder / "fd").iterdir())
                if is_open and int(folder.name) != os.getpid():
                    return int(folder.name)


@pytest.mark.parametrize(
    "option", [["--workers", "2"], pytest.param(["--ray", "local", "--workers", "2"], marks=HAS_RAY)]
)
def test_a_worker_killed_in_mid_bag_is_replaced_and_its_bag_done_anew(tiny, tmp_path, monkeypatch, option):
    """The second of its images is a named pipe: who reads it waits for us, and is in mid-bag for sure."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of a cluster that is not there, and not asked for
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for k in range(3):
            cv2.imwrite(str(tmp_path / name / f"{k}.png"), np.full((8, 8, 3), 50 * k, np.uint8))
    pipe, good = tmp_path / "a" / "1.png", tmp_path / "good.png"
    shutil.move(pipe, good)
    os.mkfifo(pipe)
    bags = [tmp_path / name for name in ("a", "b", "c")]
    replay = start(*bags, "--out", tmp_path / "out", "--model", tiny, "--json", *option)
    with pipe.open("wb"):  # waits until somebody reads
        victim = reader_of(pipe)
        assert victim != replay.pid
        assert len(list((tmp_path / "out").glob("a.part-*"))) == 1
        good.replace(pipe)
        os.kill(victim, signal.SIGKILL)
    output, errors = replay.communicate()
    assert replay.returncode == 0, errors
    assert "leaked" not in errors
    results = json.loads(output)["bags"]
    assert [(result["name"], result["frames"], result["attempts"]) for result in results] == [
        ("a", 3, 2),
        ("b", 3, 1),
        ("c", 3, 1),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    # And they are what one worker makes of them.
    perception("replay", *bags, "--out", tmp_path / "one", "--model", tiny)
    for name in ("a", "b", "c"):
        one, other = (tmp_path / folder / name / f"{name}.mcap" for folder in ("one", "out"))
        assert one.read_bytes() == other.read_bytes()


def test_one_worker_and_four_make_the_same(tiny, tmp_path, monkeypatch):
    """Bags, golden results and what is printed, but for the times."""
    bags = [drive(tmp_path / f"drive{k}", n=2 + k) for k in range(4)]
    made, golden, printed = {}, {}, {}
    for workers in (1, 4):
        folder = tmp_path / f"by{workers}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        arguments = ("--out", "out", "--golden", "golden", "--update", "--model", tiny, "--workers", workers, "--json")
        result = perception("replay", *bags, *arguments)
        assert result.exit_code == 0, result.output
        summaries = json.loads(result.stdout)["bags"]
        assert [summary["name"] for summary in summaries] == [bag.name for bag in bags]
        made[workers], golden[workers] = files_in(folder / "out"), files_in(folder / "golden")
        times = ("stages_ms", "rates")
        printed[workers] = [
            {name: value for name, value in summary.items() if name not in times} for summary in summaries
        ]
    assert len(made[1]) == 8
    assert made[1] == made[4]
    assert len(golden[1]) == 12
    assert golden[1] == golden[4]
    assert json.dumps(printed[1]) == json.dumps(printed[4])


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class ScriptedWorker:
    """A worker whose answer to each recording is in `script`: by name, one after the other, errors to be raised."""

    lost = (BrokenProcessPool,)

    def __init__(self, script):
        self._script, self.is_dead_when_idle = script, False

    def submit(self, job):
        if self.is_dead_when_idle:
            raise BrokenProcessPool("died while idle")
        answers = self._script.get(job.name, [])
        answer = answers.pop(0) if answers else {"name": job.name}
        future = Future()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            self.is_dead_when_idle = answer.get("dies", False)
            future.set_result(answer)
        return future

    def close(self):
        pass


def scripted(**script):
    jobs = [Job(Path(name), name, EngineOptions()) for name in ("a", "b", "c")]
    return run_all(jobs, 2, lambda: ScriptedWorker(script))


def test_a_worker_that_dies_while_it_is_idle_is_replaced():
    found = scripted(b=[{"name": "b", "dies": True}])
    assert [(result["name"], result["attempts"]) for result in found] == [("a", 1), ("b", 1), ("c", 1)]


def run_refused(error, closed):
    """Has workers that raise this when they are given a recording, and tell when they are closed."""

    class Refusing(ScriptedWorker):
        def submit(self, job):
            raise error

        def close(self):
            closed.append(self)

    return run_all([Job(Path("a"), "a", EngineOptions())], 1, lambda: Refusing({}))


@pytest.mark.parametrize(("error", "attempts"), [(BrokenProcessPool("killed"), 3), (TypeError("no job"), 1)])
def test_new_workers_that_take_no_recording_are_closed_and_do_not_follow_each_other_for_ever(error, attempts):
    closed = []
    (found,) = run_refused(error, closed)
    assert (found["ok"], found["attempts"], len(closed)) == (False, attempts, attempts)
    assert found["problems"][0].endswith(f": {error}")


def test_a_worker_is_closed_when_one_is_interrupted_while_it_is_given_its_recording():
    closed = []
    with pytest.raises(KeyboardInterrupt):
        run_refused(KeyboardInterrupt(), closed)
    assert len(closed) == 1


def test_an_actor_that_writes_a_little_longer_is_no_error(tiny, tmp_path, monkeypatch):
    """Then what is removed is not empty."""

    def not_empty(*_, **__):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    def run_all(jobs, n_workers, make_worker):
        monkeypatch.setattr(os, "rmdir", not_empty)
        return [job.name for job in jobs]

    monkeypatch.setattr(parallel, "run_all", run_all)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job = Job(Path(), "", EngineOptions(model=str(tiny)))
    assert replay_bags([Path("a"), Path("b")], job, None, workers=2) == ["a", "b"]


def test_an_error_of_one_recording_is_its_own():
    found = scripted(a=[ValueError("cannot be\npickled")])
    assert found[0]["problems"] == ["a: ValueError: cannot be pickled"]
    assert [result["name"] for result in found] == ["a", "b", "c"]
    assert [result["attempts"] for result in found] == [1, 1, 1]


def test_what_a_lost_worker_left_half_written_goes(tmp_path):
    places = {name: tmp_path / name for name in ("out", "golden", "scratch")}
    for place in places.values():
        (place / "a.part-abcd_123" / "a").mkdir(parents=True)
    job = Job(Path("a"), "a", EngineOptions(), update=True, **{**places, "out": places["out"] / "a"})
    run_all([job], 1, lambda: ScriptedWorker({"a": [BrokenProcessPool("killed")]}))
    assert list(tmp_path.glob("*/*")) == []


def test_a_recording_that_costs_three_workers_is_given_up_and_why_is_told():
    found = scripted(b=[BrokenProcessPool("no\n  ^^^^^\n\x1b[36mmodule\x1b[39m")] * 3)
    (problem,) = found[1]["problems"]
    assert problem.startswith("b: its worker was lost 3 times, perhaps killed for its memory; try fewer --workers; ")
    assert problem.endswith("; the last time: no module")
    assert [result["attempts"] for result in found] == [1, 3, 1]


def test_the_table_is_the_same_too(tiny, tmp_path, monkeypatch):
    """But for the times."""
    monkeypatch.chdir(tmp_path)
    drive(Path("a"), stamps=[0, 5, 5, 9])
    no_good_image(Path("b"))
    tables = [perception("replay", "a", "b", "--out", "o", "--model", tiny, "--workers", n).stdout for n in (1, 2)]
    one, two = (re.sub(r" +[\d.]+ ms +[\d.]+ Hz", "", table) for table in tables)
    assert one == two
    assert "FAILED: b: none of its 1 images can be used: frame_000000: step: 1 bytes" in one


@HAS_RAY
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_not_waited_for(tiny, tmp_path, scheme):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        result = perception("replay", drive(tmp_path / "a"), "--out", tmp_path / "o", "--model", tiny, "--ray", address)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert f"--ray {address!r}: no cluster there: " in result.output


def test_without_ray_its_name_is_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = perception("replay", drive(tmp_path / "a"), "--out", tmp_path / "out", "--model", tiny, "--ray", "local")
    assert result.exit_code == 1
    assert "--ray: ray is not installed; run: pip install 'perception_node[cluster]'" in result.output
