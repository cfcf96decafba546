"""Whether a run has probably failed, judged without pairs at its end."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rlv2v_fast.metrics.patches import patch_distance
from rlv2v_fast.train.checkpoint import best_distance
from rlv2v_fast.train.config import TrainConfig
from rlv2v_fast.train.selection import ends, judged_clips, translation_distance
from rlv2v_fast.train.trainer import Trainer

VERDICT_FILE = "verdict.json"
# Measured on day to night (docs/results.md), where the source is at 0.465 to 0.486: with 1, 8 and 40 target videos the
# runs that lit windows ended at 0.020 to 0.037, and those that lit none at 0.041 to 0.134, but for one at 0.027.
_SHARE = 0.085
# Two halves of the target's clips differ, too: nobody can ask for translations much nearer than that.
_SPREADS = 2.0


@dataclass(frozen=True)
class Verdict:
    """The patch distance of a run's translations to the target's clips, and what to compare it with.

    distance: of the translations. source: of the untranslated source. spread: of two halves of the target's clips.
    """

    distance: float
    source: float
    spread: float

    @property
    def allowed(self) -> float:
        """The distance above which a run has probably failed."""
        return max(_SHARE * self.source, _SPREADS * self.spread)

    @property
    def has_failed(self) -> bool:
        return self.distance > self.allowed

    def __str__(self) -> str:
        found = f"its translations are at a distance of {self.distance:.3f} from the target's clips"
        scale = f"(the source is at {self.source:.3f}, and runs that worked end below {self.allowed:.3f})"
        if not self.has_failed:
            return f"{found} {scale}"
        return (
            f"this run has probably failed: {found} {scale}. Look at its previews, and train again with another "
            "--seed, or with twice the --starts; if that fails too, see whether both folders show the same kind of "
            "scenes"
        )


def judge(trainer: Trainer, run: Path) -> Verdict | None:
    """The verdict on a run at its end, also written into run/verdict.json.

    None where the run compares no models: whether the distance says anything of its task is then unknown.
    """
    if not is_comparing(trainer.config):
        return None
    clips = judged_clips(trainer.domains)
    distance = best_distance(run)
    if not math.isfinite(distance):  # it ended before a model was compared
        distance = translation_distance(trainer.model, clips)
    source, spread = _yardsticks(clips)
    verdict = Verdict(distance, source, spread)
    record = {**dataclasses.asdict(verdict), "allowed": verdict.allowed, "failed": verdict.has_failed}
    (run / VERDICT_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return verdict


def is_comparing(config: TrainConfig) -> bool:
    return config.select_every is not None or config.starts > 1


def _yardsticks(clips: Mapping[str, Tensor]) -> tuple[float, float]:
    source, target = ends(clips["x"]), ends(clips["y"])
    halves = [target[first::2].flatten(0, 1) for first in (0, 1)]
    return patch_distance(source.flatten(0, 1), target.flatten(0, 1)).item(), patch_distance(*halves).item()
