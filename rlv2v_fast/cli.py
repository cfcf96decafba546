"""The rlv2v command: train, translate, evaluate, demo, info.

Errors a user can correct are one sentence on stderr and exit status 2; Ctrl-C exits with 130.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rlv2v_fast.errors import InputError
from rlv2v_fast.train.config import TrainConfig, load_config, resolve, resolve_device


@dataclass(frozen=True)
class Train:
    """Train on two folders of videos, without pairs."""

    run: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainConfig)
    config: str | None = None
    """YAML file or built-in preset with values for any of the other flags; the flags given here override it."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint, with its configuration; bit for bit on a CPU."""


@dataclass(frozen=True)
class Translate:
    """Translate a video of any length and size."""

    input: tyro.conf.Positional[Path]
    """Video, gif, webp or folder of frames."""
    output: tyro.conf.Positional[Path]
    """mp4, mov, webm, avi, gif or webp by suffix; no suffix writes a folder of png frames."""
    model: Path
    """Folder of a run (its best model where it kept one, or its newest checkpoint), a checkpoint or a saved model."""
    direction: Literal["x2y", "y2x"] = "x2y"
    """x2y: source to target."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    chunk: int = 8
    """Frames translated at once; bounds memory and does not change the result."""
    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class Evaluate:
    """Score a model's translations."""

    model: Path
    """Folder of a run (its best model where it kept one, or its newest checkpoint), a checkpoint or a saved model."""
    source: Path
    """Video or folder of videos to translate."""
    reference: Path | None = None
    """Video or folder of true translations: same names, frame counts and sizes."""
    direction: Literal["x2y", "y2x"] = "x2y"
    """x2y: source to target."""
    json: Path | None = None
    """Also write every score into this file; an infinite one, of equal frames, is null."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""


@dataclass(frozen=True)
class Demo:
    """Train on generated clips for a few minutes, translate one never trained on, and score it."""

    out: Path = Path("runs/demo")
    """Folder of the run; an earlier demo there is replaced."""
    minutes: float = 4.0
    """Training time."""
    seed: int = 0
    """Seed of everything."""
    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class Info:
    """Print versions, devices and backends, and why a backend is missing."""


def train(command: Train) -> None:
    from rlv2v_fast.train.distributed import joined

    source, target = _given("source", command.run.source), _given("target", command.run.target)
    run = _given("out", command.run.out)
    with joined(command.run.device) as device:
        _train(resolve(dataclasses.replace(command.run, device=device)), source, target, run, resume=command.resume)


def _train(config: TrainConfig, source: Path, target: Path, run: Path, *, resume: bool) -> None:
    from rlv2v_fast.data.clips import Domain
    from rlv2v_fast.train.checkpoint import model_folder, step_of
    from rlv2v_fast.train.distributed import rank
    from rlv2v_fast.train.run import fit

    talks = rank() == 0
    progress = talks and not config.quiet
    opened = partial(Domain.open, frames=config.frames, size=config.size, flip=config.flip, progress=progress)
    domains = {
        "x": opened(source, argument="source"),
        "y": opened(target, argument="target", few_shot=config.few_shot),
    }
    for domain in domains.values() if talks else ():
        for path, reason in domain.skipped:
            print(f"rlv2v: skipped {path}: {reason}", file=sys.stderr)
    trainer = fit(config, domains, resume=resume)
    if talks:
        kept = step_of(model_folder(run))
        chosen = f", the model of step {kept} kept as the best" if kept != trainer.step else ""
        print(f"{trainer.step} steps done{chosen}; rlv2v translate --model {run} INPUT OUTPUT")


def _given(name: str, path: Path | None) -> Path:
    if path is None:
        raise InputError(f"{name} must be given: --{name} PATH")
    return path


def translate(command: Translate) -> None:
    from rlv2v_fast.train.translate import load_model, translate_file

    if command.chunk < 1:
        raise InputError(f"chunk must be at least 1; got {command.chunk}")
    device = resolve_device(command.device)
    model = load_model(command.model, device)
    count = translate_file(
        model,
        command.input,
        command.output,
        direction=command.direction,
        device=device,
        chunk=command.chunk,
        quiet=command.quiet,
    )
    print(f"{command.output}: {count} frames")


def evaluate(command: Evaluate) -> None:
    from rlv2v_fast.train.evaluate import evaluate as score
    from rlv2v_fast.train.translate import load_model

    device = resolve_device(command.device)
    model = load_model(command.model, device)
    scores = score(model, command.source, command.reference, direction=command.direction, device=device)
    print(f"{len(scores['videos'])} videos, mean of their scores")
    for name, value in scores["mean"].items():
        print(f"  {name:26s} {value:.4f}")
    if command.json is not None:
        try:
            command.json.write_text(json.dumps(_without_infinities(scores), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise InputError(f"json {str(command.json)!r} cannot be written: {error.strerror}") from error


def _without_infinities(scores: Any) -> Any:
    """Scores as JSON can say them: null for the PSNR of equal frames."""
    if isinstance(scores, dict):
        return {name: _without_infinities(value) for name, value in scores.items()}
    if isinstance(scores, list):
        return [_without_infinities(value) for value in scores]
    return None if isinstance(scores, float) and not math.isfinite(scores) else scores


def demo(command: Demo) -> None:
    from rlv2v_fast.train.demo import run_demo

    run_demo(command.out, minutes=command.minutes, seed=command.seed, quiet=command.quiet)


def info(command: Info) -> None:
    from rlv2v_fast.ops.report import report

    for line in report():
        print(line)


COMMANDS = {Train: train, Translate: translate, Evaluate: evaluate, Demo: demo, Info: info}


def _train_defaults(arguments: list[str]) -> Train:
    """Defaults of `train`: of --config, or of the run being resumed, before the flags are read."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    early.add_argument("--out", type=Path)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args(arguments)
    if known.config is not None:
        return Train(run=load_config(known.config), config=known.config)
    if known.resume and known.out is not None and (known.out / "config.yaml").is_file():
        return Train(run=load_config(known.out / "config.yaml"))
    return Train()


def parse(arguments: list[str]) -> Train | Translate | Evaluate | Demo | Info:
    """The command that arguments name; exits with status 2 on flags that do not exist."""
    is_train = bool(arguments) and arguments[0] == "train"
    defaults = _train_defaults(arguments[1:]) if is_train else Train()
    command = tyro.conf.subcommand
    kinds: Any = (
        Annotated[Train, command("train", default=defaults)]
        | Annotated[Translate, command("translate")]
        | Annotated[Evaluate, command("evaluate")]
        | Annotated[Demo, command("demo")]
        | Annotated[Info, command("info")]
    )
    return tyro.cli(kinds, prog="rlv2v", description="Unpaired video-to-video translation.", args=arguments)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the rlv2v command."""
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        COMMANDS[type(command)](command)  # type: ignore[operator]
    except InputError as error:
        print(f"rlv2v: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("rlv2v: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
