"""Rows of measurements in files, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def append(path: Path, row: Row) -> None:
    """Append a row to a file of rows."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of files with one JSON object a line. A file that does not exist has none."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]
