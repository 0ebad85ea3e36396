"""What compiling kernels for the CPU and for a GPU has in common: a cache, its keys, and what can go wrong."""

import contextlib
import functools
import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from perception_node.errors import UserError
from perception_node.paths import cache_folder


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """A file of the cache. If it is not there, `make` writes it to the path that it is given.

    Raises:
        UserError: the cache cannot be written, or what `make` raises. Nothing is left half-written.
    """
    path = cache_folder() / name
    if not path.exists():
        part = path.with_name(f".{name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(part)
            part.replace(path)
        except OSError as error:
            remedy = "name another folder in XDG_CACHE_HOME"
            raise UserError(f"{path.parent}: cannot be written ({error}); {remedy}") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
    return path


def digest(*texts: str) -> str:
    """20 hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]


def run_compiler(command: Sequence[str], problem: str, program: str | None = None) -> str:
    """What the compiler prints.

    Args:
        command: the compiler and its arguments.
        problem: how the error begins, if it fails.
        program: its standard input.

    Raises:
        UserError: it fails.
    """
    result = subprocess.run(command, input=program, text=True, capture_output=True)
    if result.returncode:
        raise UserError(f"{problem}: {result.stderr.strip()}")
    return result.stdout


@functools.cache
def compiler_version(compiler: str, remedy: str) -> str:
    """What it says of itself.

    Raises:
        UserError: it cannot be run; with the remedy.
    """
    try:
        return subprocess.run([compiler, "--version"], text=True, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"compiler {compiler!r}: cannot be run ({error}); {remedy}") from error
