import pytest

from perception_node.engine import progress as module
from perception_node.engine.progress import Progress, watch


def test_fractions_of_phases_within_phases():
    progress = Progress()
    assert (progress.fraction, progress.phase) == (0.0, "")
    progress.phase_start("build", None, 4)
    assert progress.step_complete("build", 0)
    assert progress.fraction == 0.25
    progress.phase_start("tactics", "build", 10)
    progress.step_complete("tactics", 4)  # the fifth
    assert (progress.fraction, progress.phase) == (0.25 + 0.25 * 0.5, "tactics")
    progress.phase_finish("tactics")
    assert (progress.fraction, progress.phase) == (0.375, "build")  # it never falls
    for step in (1, 2, 3):
        progress.step_complete("build", step)
    assert progress.fraction == 1.0
    progress.phase_finish("build")
    progress.stopped = True
    assert not progress.step_complete("whatever", 0)


def test_long_silence_is_broken(monkeypatch):
    import time

    monkeypatch.setattr(module, "HEARTBEAT_S", 0.1)
    lines = []
    assert watch("tiny", lambda: time.sleep(0.5) or 7, Progress(), lines.append) == 7
    assert lines[0].startswith("tiny: 0% after 0 s, working")


def test_what_the_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        watch("tiny", lambda: 1 / 0, Progress(), print)
