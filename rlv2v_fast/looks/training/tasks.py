"""Training tasks: clips of some shots, clips of others under a random look, and pixels with their true colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rlv2v_fast.looks.closed_form import fit, pixels
from rlv2v_fast.looks.look import SIDE, luma, pixel_features
from rlv2v_fast.looks.statistics import clip_statistics
from rlv2v_fast.looks.training.random_looks import draw

# Clips a side at most, scoring frames and pixels of a task, crops of a picture, and looks of the same clips.
CLIPS, _SCORING, PIXELS, _CROPS, _LOOKS = 10, 4, 384, 10, 4
# A side of a crop as a share of the short side of its picture.
_CROP = (0.45, 0.95)
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Numbers of shots, as likely as they are frequent here. Real footage has few shots and several clips of each.
_SOURCE_SHOTS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 10)
_TARGET_SHOTS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 10)
_TARGET_CLIPS = (1, 1, 2, 3, 4, 4, 6, 8, 10, 10)
# Shares of tasks in which scoring frames show the source's shots, in which target clips do, and of these, in which they
# are the very same frames.
_SCORED_ON_SOURCE, _MATCHED, _SAME = 0.15, 0.3, 0.5


def crops(folder: Path, seed: int = 0) -> Tensor:
    """Random square crops of every picture in a folder, by name: (N, 10, 3, SIDE, SIDE) uint8."""
    rng = np.random.default_rng(seed)
    pools = []
    for path in sorted(each for each in folder.rglob("*") if each.suffix.lower() in _SUFFIXES):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        short = min(picture.size)
        pool = []
        for _ in range(_CROPS):
            side = short * rng.uniform(*_CROP)
            left, top = (rng.uniform(0, size - side) for size in picture.size)
            box = (left, top, left + side, top + side)
            pool.append(np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)))
        pools.append(np.stack(pool))
    if not pools:
        raise ValueError(f"pictures must be a folder with pictures ({', '.join(sorted(_SUFFIXES))}); got {folder}")
    return torch.from_numpy(np.stack(pools)).permute(0, 1, 4, 2, 3).contiguous()


class Tasks:
    """Random tasks of one stream.

    A task is a dict of float tensors: source and target (10, STATISTICS), with rows of zeros where there is no clip;
    clips (2,), how many there are; closed (84,), the closed forms' coefficients and quantiles; histogram (3, LEVELS);
    pixels (384, FEATURES) of scoring frames, and truth (384, 3), their colours under the look.

    Args:
        pool: of crops.
        seed: of the stream.
    """

    def __init__(self, pool: Tensor, seed: int) -> None:
        self.pool = pool
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        means = pool.float().mean((1, 3, 4)) / 255
        light = means @ torch.tensor([0.299, 0.587, 0.114])
        deviation = pool.float().flatten(1).std(1) / 255
        kinds = torch.stack([light * 2, (means[:, 0] - light) * 6, (means[:, 2] - light) * 6, deviation * 3], 1)
        self._distances = torch.cdist(kinds, kinds).numpy()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self._of_one_content()

    def _of_one_content(self) -> Iterator[dict[str, Tensor]]:
        rng = self.rng
        shots_s, shots_q = int(rng.choice(_SOURCE_SHOTS)), int(rng.integers(1, _SCORING + 1))
        count = int(rng.choice(_TARGET_CLIPS))
        shots_t = min(count, int(rng.choice(_TARGET_SHOTS)))
        pictures = self._pictures(shots_s + shots_t + shots_q)
        of_source, of_target, of_scoring = np.split(pictures, [shots_s, shots_s + shots_t])
        if rng.random() < _SCORED_ON_SOURCE:
            of_scoring = rng.choice(of_source, shots_q)
        if rng.random() < _MATCHED:
            same = rng.random(shots_t) < rng.choice([0.5, 1.0])
            of_target = np.where(same, rng.choice(of_source, shots_t), of_target)
        count_s = int(rng.integers(max(shots_s, 4), CLIPS + 1))
        groups = (self._spread(of_source, count_s), self._spread(of_scoring, _SCORING), self._spread(of_target, count))
        frames = self._clips(np.concatenate(groups))
        if rng.random() < 0.5:
            frames = self._film(frames)
        source, scoring, target = frames.split([count_s, _SCORING, count])
        if rng.random() < _SAME:
            target = _same_frames(groups[0], source, groups[2], target)
        known = clip_statistics(source[:, None])
        pixels_s = pixels(source)
        features = pixel_features(scoring)
        for _ in range(_LOOKS):
            look = draw(self.generator)
            shown, truth = look(target, self.generator), look(scoring)
            closed = fit(pixels_s, pixels(shown))
            both = torch.cat([features, truth], 1).flatten(2).transpose(1, 2).flatten(0, 1)
            both = both[torch.randint(len(both), (PIXELS,), generator=self.generator)]
            yield {
                "source": _padded(known),
                "target": _padded(clip_statistics(shown[:, None])),
                "clips": torch.tensor([count_s, count], dtype=torch.float),
                "closed": torch.cat([closed.mean_std, closed.monge_kantorovich, closed.quantiles]),
                "histogram": closed.histogram,
                "pixels": both[:, :-3],
                "truth": both[:, -3:],
            }

    def _pictures(self, count: int) -> np.ndarray:
        """Pictures, different ones if there are enough, of all kinds or of similar ones."""
        rng, total = self.rng, len(self.pool)
        if rng.random() < 0.5:
            return rng.choice(total, count, replace=total < count)
        near = np.argsort(self._distances[rng.integers(total)] + rng.normal(0, 0.1, total))
        near = near[: max(count + 5, int(rng.integers(40, 100)))]
        return rng.choice(near, count, replace=len(near) < count)

    def _spread(self, pictures: np.ndarray, count: int) -> np.ndarray:
        """The picture of each of count clips; each picture has at least one."""
        rest = self.rng.choice(pictures, max(count - len(pictures), 0))
        return np.concatenate([pictures[:count], rest])

    def _clips(self, pictures: np.ndarray) -> Tensor:
        """A frame for each clip: crops of its picture, all crops of a picture exposed alike, (N, 3, SIDE, SIDE)."""
        rng = self.rng
        kinds, of = np.unique(pictures, return_inverse=True)
        crop = np.empty(len(pictures), int)
        for index in range(len(kinds)):
            where = np.flatnonzero(of == index)
            crop[where] = np.resize(rng.permutation(self.pool.shape[1]), len(where))
        frames = self.pool[torch.from_numpy(pictures), torch.from_numpy(crop)].float() / 255
        if rng.random() < 0.7:
            exposure = np.exp(rng.normal(0, 0.22, (len(kinds), 1, 1, 1)))[of]
            balance = np.exp(rng.normal(0, 0.05, (len(kinds), 3, 1, 1)))[of]
            frames = (frames ** torch.from_numpy(exposure).float() * torch.from_numpy(balance).float()).clamp(0, 1)
        return frames.flip(3) if rng.random() < 0.5 else frames

    def _film(self, frames: Tensor) -> Tensor:
        """All frames as another camera and light would show them: the source of a user has a look of its own."""
        rng = self.rng
        exposure, contrast, saturation = np.exp(rng.normal(0, [0.3, 0.2, 0.25]))
        balance = torch.from_numpy(np.exp(rng.normal(0, 0.06, (3, 1, 1)))).float()
        frames = ((frames**exposure - 0.45) * contrast + 0.45) * balance
        light = luma(frames)
        return (light + (frames - light) * saturation).clamp(0, 1)


def _same_frames(of_source: np.ndarray, source: Tensor, of_target: np.ndarray, target: Tensor) -> Tensor:
    """The target's frames, but the source's own where both show one picture."""
    target = target.clone()
    for picture in np.intersect1d(of_source, of_target):
        there, here = (np.flatnonzero(each == picture) for each in (of_source, of_target))
        target[here] = source[np.resize(there, len(here))]
    return target


def _padded(rows: Tensor) -> Tensor:
    return F.pad(rows, (0, 0, 0, CLIPS - len(rows)))


def stacked(tasks: Iterator[dict[str, Tensor]], count: int) -> dict[str, Tensor]:
    """The next tasks as half-precision tensors with a first dimension of tasks."""
    rows = [next(tasks) for _ in range(count)]
    return {name: torch.stack([row[name] for row in rows]).half() for name in rows[0]}
