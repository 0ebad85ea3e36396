"""The TensorRT engine in a pipeline, on the emulated driver with a stand-in for the library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import emulated_driver
import pytest

HERE = Path(__file__).parent
NAMES = [
    line.removeprefix("def check_").split("(")[0]
    for line in (HERE / "tensorrt_checks.py").read_text().splitlines()
    if line.startswith("def check_")
]
"""The checks' names; to import them takes the stand-in and a driver."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name of each check -> None, or what went wrong; and what the driver complained of."""
    pytest.importorskip("onnx")
    if emulated_driver.missing():
        pytest.skip(emulated_driver.missing())
    environment = emulated_driver.build(tmp_path_factory.mktemp("driver"))
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(HERE.parent / "stand_in_tensorrt")])
    program = subprocess.run(
        [sys.executable, HERE / "tensorrt_checks.py"], env=environment, text=True, capture_output=True
    )
    found = dict(json.loads(line) for line in program.stdout.splitlines())
    return found, program.stderr if program.returncode == 0 else f"exit status {program.returncode}: {program.stderr}"


@pytest.mark.parametrize("name", NAMES)
def test_with_a_stand_in(name, results):
    passed, errors = results
    failure = passed.get(name, f"did not run: {errors}")
    assert failure is None, failure
