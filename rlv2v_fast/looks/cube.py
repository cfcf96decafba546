"""Colour tables as .cube files, which most programs for pictures and films read.

Source: Adobe, "Cube LUT Specification 1.0".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from rlv2v_fast.errors import InputError
from rlv2v_fast.files import write_text, written
from rlv2v_fast.looks.look import Look, identity_table, looked_up

# Colours along each axis of a written table: enough for programs that interpolate in other ways.
_WRITTEN = 33
# The largest table that the format allows.
_LARGEST = 256


def write_cube(look: Look, path: Path, title: str = "look") -> None:
    """Write the colour table of a look. What is not colour, place and neighbourhood, is left out.

    Raises:
        InputError: path cannot be written.
    """
    colours = identity_table(_WRITTEN).reshape(3, -1).T
    table = looked_up(look.table[None].cpu(), colours[None])[0].clamp(0, 1)
    lines = [f'TITLE "{_plain(title)}"', f"LUT_3D_SIZE {_WRITTEN}", "DOMAIN_MIN 0 0 0", "DOMAIN_MAX 1 1 1"]
    lines += [f"{red:.6f} {green:.6f} {blue:.6f}" for red, green, blue in table.tolist()]
    what = f"out {str(path)!r}"
    with written(what):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n", what)


def read_cube(path: Path) -> Look:
    """The look that a .cube file holds: a colour table alone.

    Raises:
        InputError: the file cannot be read, is no .cube file with a three-dimensional table, or holds the wrong number
            of colours.
    """
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise InputError(f"model {str(path)!r} must be a file; it is not")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"model {str(path)!r} cannot be read: {error.strerror}") from error
    size, low, high, colours = 0, [0.0] * 3, [1.0] * 3, []
    for number, words in _words(lines):
        where = f"model {str(path)!r}, line {number}"
        key = words[0]
        if key == "LUT_3D_SIZE":
            size = _size(words[1:], where)
        elif key == "DOMAIN_MIN":
            low = _numbers(words[1:], where)
        elif key == "DOMAIN_MAX":
            high = _numbers(words[1:], where)
        elif key == "LUT_3D_INPUT_RANGE":
            first, last = _numbers(words[1:], where, count=2)
            low, high = [first] * 3, [last] * 3
        elif key == "LUT_1D_SIZE":
            raise InputError(f"{where}: must hold a three-dimensional table (LUT_3D_SIZE); got LUT_1D_SIZE")
        elif key[0].isalpha():
            # TITLE, and keywords of other programs.
            continue
        else:
            colours.append(_numbers(words, where))
    if not size:
        raise InputError(f"model {str(path)!r} must hold LUT_3D_SIZE, as a .cube file with a table does; got none")
    if len(colours) != size**3:
        raise InputError(
            f"model {str(path)!r} must hold {size}^3 = {size**3} colours, as LUT_3D_SIZE says; got {len(colours)}"
        )
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise InputError(f"model {str(path)!r} must have DOMAIN_MIN below DOMAIN_MAX; got {low} and {high}")
    table = torch.tensor(colours).T.reshape(3, size, size, size)
    return Look.of_table(_within(table, low, high))


def _within(table: Tensor, low: list[float], high: list[float]) -> Tensor:
    """A table of colours between low and high as one of colours between 0 and 1."""
    if low == [0.0] * 3 and high == [1.0] * 3:
        return table
    colours = identity_table(max(_WRITTEN, table.shape[1]))
    start, stop = (torch.tensor(bound)[:, None, None, None] for bound in (low, high))
    pixels = ((colours - start) / (stop - start)).clamp(0, 1).reshape(3, -1).T
    return looked_up(table[None], pixels[None])[0].T.reshape(colours.shape)


def _words(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that is neither empty nor a comment, with its number."""
    for number, line in enumerate(lines, 1):
        words = line.strip().lstrip("\ufeff").split()
        if words and not words[0].startswith("#"):
            yield number, words


def _size(words: list[str], where: str) -> int:
    if len(words) != 1 or not words[0].isdecimal() or not 2 <= int(words[0]) <= _LARGEST:
        raise InputError(f"{where}: LUT_3D_SIZE must be an integer from 2 to {_LARGEST}; got {' '.join(words)!r}")
    return int(words[0])


def _numbers(words: list[str], where: str, count: int = 3) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise InputError(f"{where}: must hold {count} finite numbers; got {' '.join(words)!r}")
    return values


def _plain(title: str) -> str:
    """A title on one line, without quotes, which the format cannot hold."""
    return "".join(each for each in title if each.isprintable() and each != '"')
