"""What to lower, and by how much, where memory did not suffice."""

from __future__ import annotations

import torch

from rlv2v_fast.train.config import TrainConfig

_ADVISED = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory of a GPU or of the machine did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "Cannot allocate memory")
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in signs)


def training_advice(config: TrainConfig) -> str:
    """A sentence with the three settings of a run to lower first, those that cost least. Config is resolved."""
    optim, network = config.optim, config.network
    advice = []
    if optim.batch_size > 1:
        parts = next(parts for parts in range(2, optim.batch_size + 1) if optim.batch_size % parts == 0)
        batch = optim.batch_size // parts
        same = f"with --optim.accumulate {parts * optim.accumulate}, which trains alike"
        advice.append(f"--optim.batch-size from {optim.batch_size} to {batch} ({same})")
    seen = config.window or config.frames
    if seen > 2:
        advice.append(f"--window from {seen} to {seen // 2}")
    if config.size > 16:
        advice.append(f"--size from {config.size} to {max(16, config.size * 3 // 4 // 8 * 8)}")
    width = network.width or 0
    if width > 4:
        advice.append(f"--network.width from {width} to {width // 2}")
    if config.rl.weight:
        advice.append(f"--rl.buffer-gib from {config.rl.buffer_gib:g} to {config.rl.buffer_gib / 2:g}")
    return f"out of memory on {config.device}: lower {_listed(advice)}"


def translation_advice(device: str, chunk: int, height: int | None) -> str:
    """A sentence with what to lower where a translation did not fit.

    Args:
        height: of the frames that were translated, if it is known.
    """
    advice = [f"--chunk from {chunk} to {chunk // 2}"] if chunk > 1 else []
    if height is not None and height > 1:
        advice.append(f"--max-height from {height} to {height // 2}")
    elif height is None:
        advice.append("--max-height to half of the height of the frames")
    if device != "cpu":
        advice.append(f"--device from {device} to cpu")
    return f"out of memory on {device}: lower {_listed(advice)}"


def _listed(advice: list[str]) -> str:
    first = advice[:_ADVISED]
    return first[0] if len(first) == 1 else f"{', '.join(first[:-1])} or {first[-1]}"
