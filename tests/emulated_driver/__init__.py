"""Unmodified PyCUDA on a machine without a GPU: a driver that runs the kernels on the host. See driver.cpp.

What runs on it shows that the device code is right, and nothing about a GPU: not its speed, numerics or memory.
"""

import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from perception_node.device.cuda import find_nvcc

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGS = ["-std=c++17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden"]


@functools.cache
def missing() -> str | None:
    """What is missing to use it, as a reason to skip a test."""
    if _pycuda_driver() is None:
        return f"no PyCUDA in {sys.prefix}: requirements/build_pycuda.sh {sys.prefix} builds it, without a GPU"
    if _headers() is None:
        return "no cuda.h beside nvcc: the emulated driver is compiled with it"
    if not shutil.which(_compiler()[0]):
        return f"no C++ compiler {_compiler()[0]}"
    return None


def build(folder: Path) -> dict[str, str]:
    """Compiles the driver into a folder; returns the environment of a program that is to run on it."""
    folder.mkdir(parents=True, exist_ok=True)
    driver = folder / "driver.o"
    _run(*_compiler(), *FLAGS, f"-I{_headers()}", "-c", str(HERE / "driver.cpp"), "-o", str(driver))
    # PyCUDA can only be imported where all functions that it could call are there: the rest answer
    # CUDA_ERROR_NOT_SUPPORTED.
    stubs = sorted(_symbols(_pycuda_driver(), "--undefined-only") - _symbols(driver, "--defined-only"))
    source = folder / "stubs.cpp"
    lines = ['#define STUB(name) extern "C" __attribute__((visibility("default"))) int name() { return 801; }']
    source.write_text("\n".join([*lines, *(f"STUB({name})" for name in stubs)]) + "\n")
    library = ["-shared", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    _run(*_compiler(), *FLAGS, str(source), str(driver), "-ldl", *library)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception_node" / "emulated"
    libraries = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": f"{HERE}{os.pathsep}{os.environ['PATH']}",  # its nvcc comes first
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XDG_CACHE_HOME": str(cache),  # kept, but apart: these cubins are none
    }


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))


def _pycuda_driver() -> Path | None:
    """PyCUDA's binary. It is looked for, not imported: that would take a driver."""
    package = importlib.util.find_spec("pycuda")
    return next(Path(package.origin).parent.glob("_driver.*.so"), None) if package else None


def _headers() -> Path | None:
    """Folder with cuda.h. What is called nvcc on the PATH can be a script somewhere else."""
    nvcc = find_nvcc()
    folders = [Path(nvcc).resolve().parents[1]] if nvcc else []
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/usr/local/cuda")]
    return next((folder / "include" for folder in folders if (folder / "include/cuda.h").exists()), None)


def _symbols(library: Path, which: str) -> set[str]:
    """Functions of the driver that a library needs or has."""
    dynamic = ["-D"] if ".so" in library.name else []
    lines = subprocess.run(["nm", *dynamic, which, str(library)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in lines.splitlines() if line.split()[-1].startswith("cu")}


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
