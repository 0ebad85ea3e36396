"""Calibration files, YAML: read with the line of what is wrong, whatever else may stand in them, and written whole."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.checked_yaml import read_yaml, yaml_error
from perception_node.errors import BadCalibration, ModelError, one_line


class CalibrationFile:
    """A YAML file with named values at its top.

    Raises:
        BadCalibration: it cannot be read, or is something else.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._document, self._tree = read_yaml(path)
        except ModelError as error:
            where, _, problem = str(error).partition(": ")
            raise BadCalibration(where, problem) from error
        except OSError as error:
            raise BadCalibration(str(path), error.strerror or one_line(error)) from error
        except (TypeError, ValueError) as error:  # keys that are lists, dates that are none
            raise BadCalibration(str(path), f"not valid YAML: {one_line(error)}") from error
        if not isinstance(self._document, Mapping):
            raise self.error("", f"{type(self._document).__name__}", "names with values")

    def __contains__(self, key: str) -> bool:
        return key in self._document

    def error(self, key: str, problem: str, remedy: str | None) -> BadCalibration:
        """What is wrong with an entry, e.g. "camera_matrix.data", with its line and the remedy."""
        keys = [int(part) if part.isdigit() else part for part in key.split(".")] if key else []
        text = str(yaml_error(self.path, self._tree, keys, problem, remedy))
        where = text[: text.index(f": {problem}")]
        return BadCalibration(where, text[len(where) + 2 :])

    def text(self, key: str, default: str) -> str:
        value = self._document.get(key, default)
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise self.error(key, f"{value!r:.100}", "a name")
        return str(value)

    def number(self, key: str, remedy: str, default: float | None = None) -> float:
        """A finite number; `default` where the entry is missing."""
        if key not in self._document:
            if default is None:
                raise self.error(key, "missing", remedy)
            return default
        return self._number(key, self._document[key], remedy)

    def integer(self, key: str, remedy: str) -> int:
        number = self.number(key, remedy)
        if number != int(number):
            raise self.error(key, f"{number}", remedy)
        return int(number)

    def matrix(self, key: str, remedy: str) -> np.ndarray | None:
        """float64 (n,): of `rows`, `cols` and `data`, or of a bare list, nested or not; None where it is missing."""
        entry = self._document.get(key)
        if entry is None:
            return None
        data = entry.get("data") if isinstance(entry, Mapping) else entry
        where = f"{key}.data" if isinstance(entry, Mapping) else key
        if not isinstance(data, list):
            raise self.error(where, "missing" if data is None else f"{data!r:.100}", remedy)
        flat = [number for row in data for number in (row if isinstance(row, list) else [row])]
        numbers = np.array([self._number(where, number, remedy) for number in flat], np.float64)
        if isinstance(entry, Mapping) and "rows" in entry and "cols" in entry:
            rows, cols = (self._number(f"{key}.{name}", entry[name], "a count") for name in ("rows", "cols"))
            if rows * cols != numbers.size:
                raise self.error(where, f"{numbers.size} numbers, but rows x cols is {rows:g} x {cols:g}", remedy)
        return numbers

    def rows(self, key: str, width: int, remedy: str) -> list[np.ndarray]:
        """Each entry of a list, itself a list of lists of `width` numbers, as float64 (n, width)."""
        entries = self._document.get(key)
        if not isinstance(entries, list):
            raise self.error(key, "missing" if entries is None else f"{entries!r:.100}", remedy)
        found = []
        for index, entry in enumerate(entries):
            where = f"{key}.{index}"
            if not isinstance(entry, list) or any(not isinstance(p, list) or len(p) != width for p in entry):
                raise self.error(where, f"{entry!r:.100}", remedy)
            found.append(
                np.array([self._number(where, number, remedy) for p in entry for number in p]).reshape(-1, width)
            )
        return found

    def _number(self, key: str, value: Any, remedy: str) -> float:
        # YAML 1.1, which PyYAML reads, takes 1e-05 for text; the libraries that write it take it for a number.
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                pass
            else:
                if np.isfinite(number):
                    return number
        raise self.error(key, f"{value!r:.100}", remedy)


def write_whole(path: Path, content: str | bytes) -> None:
    """Beside it first, then renamed: nobody reads half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
