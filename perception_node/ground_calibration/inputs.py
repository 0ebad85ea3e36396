"""What a user measured, from CSV or YAML files: points on the ground, or lines along the vehicle.

points.csv       points.yaml            lines.csv     lines.yaml
u,v,x,y          points:                line,u,v      lines:
512,391,8,1.5      - [512, 391, 8, 1.5]   1,120,531       - [[120, 531], [402, 330]]
...                - ...                  1,402,330       - ...
"""

import csv
from pathlib import Path

import numpy as np

from perception_node.calibration_file import CalibrationFile
from perception_node.errors import UserError

_CSV_SUFFIX = ".csv"


def read_points(path: Path) -> np.ndarray:
    """float64 (n, 4): u, v in pixels, x, y in metres.

    Raises:
        UserError: the file is something else.
    """
    if path.suffix.lower() == _CSV_SUFFIX:
        return np.array(_read_csv(path, ("u", "v", "x", "y"))).reshape(-1, 4)
    file = CalibrationFile(path)
    remedy = "points: [[u, v, x, y], ...], pixels and metres"
    numbers = file.matrix("points", remedy)
    if numbers is None or numbers.size % 4:
        raise file.error("points", "missing" if numbers is None else f"{numbers.size} numbers", remedy)
    return numbers.reshape(-1, 4)


def read_lines(path: Path) -> list[np.ndarray]:
    """Each float64 (n, 2): pixels (u, v) on a line.

    Raises:
        UserError: the file is something else.
    """
    if path.suffix.lower() == _CSV_SUFFIX:
        rows = np.array(_read_csv(path, ("line", "u", "v"))).reshape(-1, 3)
        return [rows[rows[:, 0] == name, 1:] for name in dict.fromkeys(rows[:, 0])]
    file = CalibrationFile(path)
    return [line.reshape(-1, 2) for line in file.rows("lines", 2, "lines: [[[u, v], [u, v], ...], ...], pixels")]


def numbers_of(option: str, text: str, expected: str, n: int, more: bool = False) -> np.ndarray:
    """float64 (m,) of "1,2,3": exactly n numbers or, with `more`, any even number of them from n on.

    Raises:
        UserError: it is something else.
    """
    try:
        numbers = np.array([float(number) for number in text.split(",")])
    except ValueError:
        numbers = np.empty(0)
    fits = numbers.size == n or (more and numbers.size > n and numbers.size % 2 == 0)
    if not fits or not np.isfinite(numbers).all():
        raise UserError(f"{option} {text!r}: expected: {expected}")
    return numbers


def _read_csv(path: Path, columns: tuple[str, ...]) -> list[list[float]]:
    """Rows of numbers, by the names in the first line; other columns and lines that start with # do not count."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file; expected: columns {', '.join(columns)}") from error
    numbered = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    reader = csv.DictReader((line for _, line in numbered), skipinitialspace=True)
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    if missing := [name for name in columns if name not in names]:
        raise UserError(f"{path}: no column {', '.join(missing)}; expected: a first line {','.join(columns)}")
    rows = []
    for (number, line), row in zip(numbered[1:], reader, strict=True):
        try:
            values = [float(row[names[name]]) for name in columns]
        except (TypeError, ValueError):
            values = [np.nan]
        if not np.isfinite(values).all():
            raise UserError(f"{path}:{number}: {line!r:.100}; expected: numbers for {', '.join(columns)}")
        rows.append(values)
    return rows
