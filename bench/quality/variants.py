"""The variants compared: the paper's ablation ladder, remedies for its reinforcement learning, and the presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rlv2v_fast.train.config import TrainConfig, load_config

Configs = dict[str, Callable[[], TrainConfig]]
PRESET, FIGURE1, PAPER = "few-shot-cpu", "figure1-cpu", "paper"
# The policy gradient of the ladders: the paper preset's weight, and rollouts half as often.
_RL: dict[str, Any] = {"rl__weight": 0.1, "rl__rollout_every": 8}

# Changes of the preset: to windows of four frames after starts on single frames; and to whole clips, one a step.
_CLIPS: dict[str, Any] = {"window": 4, "start_window": 1}
_WHOLE: dict[str, Any] = {"window": None, "optim__batch_size": 1}


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    """config with fields replaced; loss__cycle=0 replaces the field loss.cycle."""
    parts: dict[str, dict[str, Any]] = {}
    plain = {}
    for name, value in values.items():
        part, _, field = name.partition("__")
        if field:
            parts.setdefault(part, {})[field] = value
        else:
            plain[name] = value
    replaced = {part: dataclasses.replace(getattr(config, part), **fields) for part, fields in parts.items()}
    return dataclasses.replace(config, **plain, **replaced)


def _paper(**values: Any) -> Callable[[], TrainConfig]:
    """The paper's networks and losses with the authors' weights, changed by values; nothing else is on."""
    return lambda: changed(load_config(PAPER), **values)


def _preset(**values: Any) -> Callable[[], TrainConfig]:
    return lambda: changed(load_config(PRESET), **values)


def _figure1(**values: Any) -> Callable[[], TrainConfig]:
    """The preset with the paper's discriminator, changed by values."""
    return lambda: changed(load_config(FIGURE1), **{"network__discriminator": "pooling", **values})


def _tuned(**values: Any) -> Callable[[], TrainConfig]:
    """The paper's networks with the weights of Figure 1's preset and larger steps, which get further in minutes.

    They train on whole clips: after training on four frames of sixteen, the bottleneck left its range by frame 9.
    """
    day = {"size": 64, "frames": 16, "flip": True, "precision": "bf16", "network__output": "tanh", "optim__lr": 1e-3}
    return _figure1(**{**day, **values})


# The changes of each known remedy.
REMEDIES: dict[str, dict[str, Any]] = {
    "no gradient": {"rl__weight": 1e-9},
    "normalized rewards": {"rl__normalize": True},
    "Monte Carlo targets": {"rl__target": "monte_carlo"},
    "4 critic steps of 1e-3": {"rl__critic_steps": 4, "optim__lr_critic": 1e-3},
    "twin critics": {"rl__critics": 2, "rl__smoothing": 0.1},
    "longer warm-up": {"rl__critic_warmup": 100},
    "late": {"rl__first_step": 100},
}
# The changes that let critics learn. The others only change what critics are fitted to, or when.
_LEARNING = {
    "rl__normalize": True,
    "rl__target": "monte_carlo",
    "rl__critic_steps": 4,
    "rl__batch_size": 32,
    "optim__lr_critic": 1e-3,
}
REMEDIES |= {
    "together": _LEARNING,
    "together, weight 1": {**_LEARNING, "rl__weight": 1.0},
    "together, no future": {**_LEARNING, "rl__weight": 1.0, "rl__gamma": 0.0},
    "baseline": {"rl__baseline": True},
    "together, baseline": {**_LEARNING, "rl__baseline": True},
    "together, baseline, weight 1": {**_LEARNING, "rl__baseline": True, "rl__weight": 1.0},
}


DAYNIGHT: Configs = {
    "Recycle-GAN": _paper(rl__weight=0.0, loss__video=0.0),
    "+ video loss": _paper(rl__weight=0.0),
    "+ RL (the paper's system)": _paper(),
    "tuned Recycle-GAN": _tuned(loss__video=0.0),
    "tuned + video loss": _tuned(),
    "tuned + RL": _tuned(**_RL),
    "tuned + RL, together": _tuned(**{**_RL, **REMEDIES["together"]}),
    # These variants have the same starts and can share them.
    "few-shot": _preset(),
    "few-shot, no contrast": _preset(loss__contrast=0.0),
    "few-shot, no DiffAugment": _preset(loss__augment=()),
    "few-shot, no cycle": _preset(loss__cycle=0.0),
    "few-shot, cycle from the start": _preset(loss__cycle_from=0.0),
    "few-shot + decay": _preset(optim__decay=True),
    "few-shot + cutout": _preset(loss__augment=("translation", "cutout")),
    "few-shot + ReCycle": _preset(loss__recurrent=1.0, loss__recycle=1.0, loss__cycle=0.0, **_CLIPS),
    "few-shot + video loss": _preset(loss__video=1.0, **_CLIPS),
    "few-shot + RL": _preset(**_RL, **_CLIPS),
    # These variants do not.
    "few-shot, paper's generator": _preset(network__generator="unet", network__width=16, **_WHOLE),
    "few-shot, paper's discriminator": _preset(network__discriminator="pooling", network__width=16),
    "few-shot + style": _preset(loss__style=1.0),
    "few-shot, one start": _preset(starts=1),
    "few-shot, four starts": _preset(starts=4),
    "few-shot, fp32": _preset(precision="fp32"),
    "few-shot, bce": _preset(loss__adversarial="bce"),
    "few-shot, whole clips": _preset(**_WHOLE),
}

# As in Recycle-GAN. The paper's discriminator sees 15 frames back, so in clips of 8 frames it knows the time.
_FRAMES = {"network__discriminator": "patch"}

FIGURE1_VARIANTS: Configs = {
    "Recycle-GAN": _figure1(loss__video=0.0),
    "+ video loss": _figure1(),
    "Recycle-GAN, frames judged alone": _figure1(loss__video=0.0, **_FRAMES),
    "+ video loss, frames judged alone": _figure1(**_FRAMES),
    # ReCycle teaches the time, too: a colourless x leads back to y only if each colour is painted at its time.
    "no ReCycle, frames judged alone": _figure1(loss__video=0.0, loss__recycle=0.0, **_FRAMES),
    "+ video loss, no ReCycle, frames judged alone": _figure1(loss__recycle=0.0, **_FRAMES),
    "+ RL, frames judged alone": _figure1(**_FRAMES, **_RL, **REMEDIES["together, baseline"]),
    "+ RL": _figure1(**_RL),
    **{f"+ RL, {name}": _figure1(**{**_RL, **values}) for name, values in REMEDIES.items()},
}
