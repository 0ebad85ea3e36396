from conftest import write_tiny_model
from test_sources import image, write_bag

from perception_node.bag_tests import run as run_module
from perception_node.bag_tests.run import Job, WholeTimer, replayed
from perception_node.timing import StageTimer
from perception_node.worker import EngineOptions


def test_a_slow_beginning_counts():
    timer = WholeTimer()
    for milliseconds in [100.0] * 600 + [1.0] * 10_400:
        timer.add("total", milliseconds)
    assert timer.percentiles() == {"total": {"p50": 1.0, "p95": 100.0, "p99": 100.0}}
    assert (len(timer.milliseconds("total")), timer.milliseconds("nothing")) == (11_000, [])


def test_inputs_have_the_threads_that_were_asked_for(tmp_path):
    bag = write_bag(tmp_path / "drive", [("/cam", 1, image(1, 1))])
    engine = EngineOptions(str(write_tiny_model(tmp_path / "tiny")))
    summary, _ = replayed(Job(bag, "drive", engine, threads=3), tmp_path / "out")
    assert [options.threads for options in run_module._open] == [3]
    assert summary["inputs"]["options"]["threads"] == 0


def test_all_images_of_a_recording_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(StageTimer.__init__, "__defaults__", (2,))  # in its window there is room for two
    bag = write_bag(tmp_path / "drive", [("/cam", k, image(k, 10**9 * k)) for k in (1, 2, 3)])
    job = Job(bag, "drive", EngineOptions(str(write_tiny_model(tmp_path / "tiny"))))
    summary, milliseconds = replayed(job, tmp_path / "out")
    assert (summary["frames"], len(milliseconds)) == (3, 3)
