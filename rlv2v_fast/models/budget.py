"""How much of a video a generator takes at once, so that its working memory stays within a budget."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 2**20
# The budget that stands where none is given: this share of what is free, and at most so many bytes.
_SHARE, _LARGEST = 0.25, 3072 * MIB
# Pixels at once where each frame is translated alone: more would need memory and bring nothing.
_ALONE = 2**16


@dataclass(frozen=True)
class Cost:
    """The working memory of a generator in bytes a pixel: `base` whatever the number of frames, `frame` for each more.

    alone: each frame is translated alone, so several at once bring something only where they are small.
    """

    base: float
    frame: float
    alone: bool = False


@dataclass(frozen=True)
class Portion:
    """How many frames are translated at once.

    bytes: about what that takes. It exceeds the budget, in bytes too, where a single frame does.
    """

    frames: int
    bytes: float
    budget: float


def portion(cost: Cost, pixels: int, budget: float, most: int) -> Portion:
    """As many frames of so many pixels as take at most a budget of bytes; never less than one, nor more than `most`."""
    pixels = max(1, pixels)
    frames = max(1, min(most, int((budget / pixels - cost.base) / cost.frame)))
    if cost.alone:
        frames = max(1, min(frames, _ALONE // pixels))
    return Portion(frames, (cost.base + cost.frame * frames) * pixels, budget)


def default_budget(device: torch.device) -> int:
    """The budget, in bytes, where none is given: a quarter of what is free on the device, and at most 3 GiB."""
    return min(_LARGEST, int(_SHARE * free_memory(device)))


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still have on a device: of the machine, and of the group that limits the process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_available(), *_left_of_limits(), 2**63)


def _available() -> int:
    """Bytes of the machine that can be had without swapping; half of all where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left_of_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group that this process is in leaves of its limit. A container is such a group."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / "memory" if kinds else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        folder = top / place.lstrip("/")
        for group in (folder, *folder.parents):
            if group == top.parent:
                break
            left = _left(group, *names)
            if left is not None:
                yield left


def _left(group: Path, limit: str, usage: str) -> int | None:
    """A group's limit less what it uses and cannot give back; None where it has no limit."""
    try:
        most = (group / limit).read_text().strip()
        if most == "max":
            return None
        used = int((group / usage).read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Pages of files that nobody has used lately are counted as used and are given back when needed.
    return max(0, int(most) - used + int(counts.get("inactive_file", 0)))
