"""Translations that need no training and no pairs, which a model has to beat.

Each is fitted to clips of the target domain, floating point ``(T, C, H, W)`` in [-1, 1]; no source clip matches them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from rlv2v_fast.errors import InputError

_LEVELS = 256


def fit_mean_std(clips: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over all pixels of all clips, two float32 ``(C,)``.

    Raises:
        InputError: there is no clip, one is not floating point ``(T, C, H, W)``, or channels differ in number.
    """
    pixels = torch.cat([_channel_rows(clip) for clip in _listed(clips)], dim=1)
    return pixels.mean(dim=1).float(), pixels.std(dim=1, correction=0).float()


def mean_std_transfer(source: torch.Tensor, target_mean: torch.Tensor, target_std: torch.Tensor) -> torch.Tensor:
    """A clip with each channel shifted and scaled to the target's mean and deviation (after Reinhard et al., 2001).

    The source's statistics are those of the whole clip, so that its motion is kept. A channel without contrast becomes
    the target's mean.

    Args:
        source: floating point ``(T, C, H, W)`` in [-1, 1].
        target_mean, target_std: ``(C,)``, as from :func:`fit_mean_std`.

    Returns:
        float32 ``(T, C, H, W)``, clamped to [-1, 1].

    Raises:
        InputError: the source is not such a clip or the statistics are not one number per channel.
    """
    rows = _channel_rows(source, "source")
    channels = source.shape[1]
    for name, value in (("target_mean", target_mean), ("target_std", target_std)):
        if value.shape != (channels,):
            raise InputError(f"{name} must have shape ({channels},), one number per channel, got {tuple(value.shape)}")
    mean, std = rows.mean(dim=1), rows.std(dim=1, correction=0)
    scale = torch.where(std > 1e-8, target_std.double() / std, 0.0)
    offset = target_mean.double() - scale * mean
    moved = source.detach().double() * scale.view(-1, 1, 1) + offset.view(-1, 1, 1)
    return moved.clamp(-1, 1).float()


def fit_histogram(clips: Iterable[torch.Tensor]) -> torch.Tensor:
    """The share of each of 256 levels in each channel over all clips: float64 ``(C, 256)``, with rows that sum to 1.

    Raises:
        InputError: there is no clip, one is not floating point ``(T, C, H, W)``, or channels differ in number.
    """
    pixels = torch.cat([_to_levels(_channel_rows(clip)) for clip in _listed(clips)], dim=1)
    counts = torch.stack([torch.bincount(row, minlength=_LEVELS) for row in pixels]).double()
    return counts / counts.sum(dim=1, keepdim=True)


def histogram_matching(source: torch.Tensor, target_histogram: torch.Tensor) -> torch.Tensor:
    """A clip whose 256 levels in each channel are mapped, in order, so that their shares become the target's.

    Args:
        source: floating point ``(T, C, H, W)`` in [-1, 1].
        target_histogram: ``(C, 256)``, as from :func:`fit_histogram`.

    Returns:
        float32 ``(T, C, H, W)`` in [-1, 1].

    Raises:
        InputError: the source is not such a clip or the histogram has another shape.
    """
    rows = _to_levels(_channel_rows(source, "source"))
    frames, channels, height, width = source.shape
    if target_histogram.shape != (channels, _LEVELS):
        shape = tuple(target_histogram.shape)
        raise InputError(f"target_histogram must have shape ({channels}, {_LEVELS}), got {shape}")
    matched = torch.stack([_match(row, share) for row, share in zip(rows, target_histogram.double(), strict=True)])
    matched = matched.view(channels, frames, height, width).transpose(0, 1)
    return (matched.float() / 127.5 - 1).contiguous()


def mean_frame(clips: Iterable[torch.Tensor]) -> torch.Tensor:
    """The average of all frames of all clips, float32 ``(C, H, W)``: the best guess that ignores source and time.

    Raises:
        InputError: there is no clip, one is not floating point ``(T, C, H, W)``, or frames differ in shape.
    """
    videos = _listed(clips)
    if len({video.shape[1:] for video in videos}) != 1:
        raise InputError(f"clips must have frames of one shape, got {sorted({tuple(v.shape[1:]) for v in videos})}")
    total = sum(video.detach().double().sum(dim=0) for video in videos)
    return torch.as_tensor(total / sum(len(video) for video in videos)).float()


def mean_clip(clips: Iterable[torch.Tensor]) -> torch.Tensor:
    """The average of all clips, float32 ``(T, C, H, W)``: the best guess that ignores the source alone.

    Raises:
        InputError: there is no clip, one is not floating point ``(T, C, H, W)``, or clips differ in shape.
    """
    videos = _listed(clips)
    if len({video.shape for video in videos}) != 1:
        raise InputError(f"clips must have one shape, got {sorted({tuple(video.shape) for video in videos})}")
    return torch.stack([video.detach().double() for video in videos]).mean(dim=0).float()


def _listed(clips: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    videos = list(clips)
    if not videos:
        raise InputError("clips must hold at least one clip, got none")
    for video in videos:
        _check_clip("clips", video)
    if len({video.shape[1] for video in videos}) != 1:
        raise InputError(f"clips must have one number of channels, got {sorted({v.shape[1] for v in videos})}")
    return videos


def _check_clip(name: str, clip: torch.Tensor) -> None:
    if not clip.is_floating_point() or clip.dim() != 4 or not clip.numel():
        shape = tuple(clip.shape)
        raise InputError(f"{name} must be floating point of shape (T, C, H, W), not empty, got {clip.dtype} {shape}")


def _channel_rows(clip: torch.Tensor, name: str = "clips") -> torch.Tensor:
    """All values of each channel, float64 ``(C, T * H * W)``."""
    _check_clip(name, clip)
    return clip.detach().double().transpose(0, 1).flatten(1)


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    return values.add(1).mul(127.5).round().clamp(0, _LEVELS - 1).long()


def _match(levels: torch.Tensor, target_share: torch.Tensor) -> torch.Tensor:
    """The levels replaced by the target's levels of the same rank; a level's rank is the middle of its share."""
    share = torch.bincount(levels, minlength=_LEVELS).double() / len(levels)
    rank = share.cumsum(0) - share / 2
    mapping = torch.searchsorted(target_share.cumsum(0).contiguous(), rank).clamp(max=_LEVELS - 1)
    return mapping[levels]
