"""The clips of a run from its videos, through the cache of decoded ones."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

from rlv2v_fast.data.cache import CacheError, FrameCache, default_folder
from rlv2v_fast.data.clips import Domain, find_videos
from rlv2v_fast.train.config import TrainConfig


def open_domains(config: TrainConfig, source: Path, target: Path, *, progress: bool = False) -> dict[str, Domain]:
    """The domains "x" of the source's videos and "y" of the target's. Both are decoded at once, in parallel.

    Where the user's own cache folder cannot be used the videos are decoded without one, with a warning.

    Raises:
        InputError: there are no usable videos, or config.cache cannot be written.
    """
    if config.cache_gib == 0:
        return _opened(config, source, target, None, progress)
    try:
        return _through_cache(config, source, target, progress)
    except CacheError as error:
        if config.cache is not None:
            raise
        warnings.warn(f"{error}; the videos are decoded again at the next start", stacklevel=2)
        return _opened(config, source, target, None, progress)


def _through_cache(config: TrainConfig, source: Path, target: Path, progress: bool) -> dict[str, Domain]:
    cache = FrameCache(config.cache or default_folder(), config.cache_gib)
    try:
        targets = find_videos(target, "target")[: config.few_shot]
        cache.fill([*find_videos(source, "source"), *targets], config.size, progress=progress)
        return _opened(config, source, target, cache, progress)
    finally:
        cache.trim()
        cache.trim_at_exit()


def _opened(
    config: TrainConfig, source: Path, target: Path, cache: FrameCache | None, progress: bool
) -> dict[str, Domain]:
    opened = partial(
        Domain.open, frames=config.frames, size=config.size, flip=config.flip, cache=cache, progress=progress
    )
    return {
        "x": opened(source, argument="source"),
        "y": opened(target, argument="target", few_shot=config.few_shot),
    }
