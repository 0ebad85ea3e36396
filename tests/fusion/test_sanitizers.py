"""The kernels, compiled for the CPU under sanitizers: nothing out of bounds, nothing undefined, no data race."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import sanitized
from oracles import noise

from perception_node.device.cpu import HEADER

HERE = Path(__file__).parent
OPTIONS = {
    "address": "-g1 -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": f"-g1 -fsanitize=thread -I{HEADER.parent} -include {HERE / 'thread_launcher.h'}",
}


def run(sanitizer, tmp_path, *arguments):
    """The program `sanitized.py`, with kernels that were compiled with the sanitizer; skips where there is none."""
    runtime, options = library(sanitizer), OPTIONS[sanitizer]
    compiler = tmp_path / "c++"
    # The device looks at the preprocessed source and asks for the version: there the options would be in the way.
    compiler.write_text(
        f'#!/bin/sh\ncase " $* " in *" -E "*|*" --version "*) exec c++ "$@";; *) exec c++ {options} "$@"; esac\n'
    )
    compiler.chmod(0o755)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception_node"
    texts = options + "".join(path.read_text() for path in sorted(HERE.glob("*.h")))
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0",  # of Python
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Python and numpy are not compiled for it, only the kernels are looked at.
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1 exitcode=66",
        "CXX": str(compiler),
        "LD_PRELOAD": runtime,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)]),
        "XDG_CACHE_HOME": str(cache / f"{sanitizer}-{zlib.crc32(texts.encode()):08x}"),
    }
    # Their maps of memory want addresses that are not random.
    fixed = [shutil.which("setarch"), "-R"] if shutil.which("setarch") else []
    program = [*fixed, sys.executable, str(HERE / "sanitized.py"), *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True)


def library(sanitizer):
    name = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    found = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"no {name}: the C++ compiler has no {sanitizer} sanitizer to preload")
    return found


def check(result):
    assert result.returncode == 0, result.stderr[-6000:] + result.stdout
    assert result.stdout.split() == [*sanitized.IMAGES, *noise.MODES, sanitized.TRACKING]
    assert "runtime error" not in result.stderr
    assert "WARNING: ThreadSanitizer" not in result.stderr, result.stderr[:6000]


@pytest.mark.parametrize(("sanitizer", "complaint"), [("address", "use-after-poison"), ("thread", "data race")])
def test_the_sanitizer_sees_what_is_wrong(sanitizer, complaint, tmp_path):
    result = run(sanitizer, tmp_path, "guard" if sanitizer == "address" else "", "wrong")
    assert result.returncode != 0
    assert complaint in result.stderr


def test_nothing_is_out_of_bounds_or_undefined(tmp_path):
    check(run("address", tmp_path, "guard"))


def test_items_do_not_race(tmp_path):
    """Two items share memory through atomics only.

    What the threads of one block share is beyond it: those of `block` run as one on the CPU. That they wait where they
    must is shown in tests/device, in changed orders.
    """
    check(run("thread", tmp_path))
