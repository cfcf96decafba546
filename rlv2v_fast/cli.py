"""The rlv2v command: train, look, translate, evaluate, report, export, demo, info.

An error that a user can correct is one sentence on stderr and exit status 2; Ctrl-C, SIGTERM and SIGHUP exit with
130, 143 and 129.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import os
import sys
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import rlv2v_fast
from rlv2v_fast.errors import InputError, MediaWarning, PipeClosedError, RunWarning
from rlv2v_fast.files import check_writable, write_text, written
from rlv2v_fast.flags import check_flags
from rlv2v_fast.train import signals
from rlv2v_fast.train.config import COMMON, TrainConfig, load_config, presets, resolve, resolve_device
from rlv2v_fast.train.shortage import is_out_of_memory

_CONFIG_HELP = (
    "YAML file or preset with values for other flags; those given here override it. By default the recipe that works "
    "on this machine, which the command names. Presets:\n"
    + "\n".join(f"- {name}: {summary}" for name, summary in presets().items())
)


if TYPE_CHECKING:
    from rlv2v_fast.train.recipe import Recipe

# Stands for standard input and output.
PIPE = Path("-")


@dataclass(frozen=True)
class Train:
    """Train on two folders of videos, without pairs."""

    run: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainConfig)
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE|PRESET", help=_CONFIG_HELP, help_behavior_hint="")] = None
    resume: bool = False
    """Continue the run in --out from its newest checkpoint, with its configuration; bit for bit on a CPU whose
    threads OMP_NUM_THREADS counts."""


@dataclass(frozen=True)
class Look:
    """Estimate how the target's videos look, as a colour table for the source's. Takes seconds and trains nothing."""

    source: Path
    """Video, or folder of videos, that the look is for."""
    target: Path
    """Video, or folder of videos, that has the look. It may show other things than the source."""
    out: Path = Path("look.cube")
    """.cube file to write: a colour table that programs for pictures and films read, and rlv2v translate --model."""
    overwrite: bool = False
    """Replace an existing --out."""


@dataclass(frozen=True)
class Translate:
    """Translate a video of any length and size, or all videos of a folder."""

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Video, gif, webp or folder of frames; a folder of videos; or - for raw video (y4m) from standard input."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """mp4, m4v, mov, mkv, webm, avi, gif or webp by suffix; no suffix writes a folder of png frames. Of a folder of
    videos, a folder for their translations. - for raw video (y4m) to standard output."""
    model: Path
    """Folder of a run, a checkpoint or a saved model, or a .cube file. A run stands for its best model, or its newest
    checkpoint."""
    direction: Literal["x2y", "y2x"] = "x2y"
    """x2y: source to target."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    chunk: int = 8
    """Frames translated at once, at most. The result is the same."""
    memory: Annotated[float | None, tyro.conf.arg(metavar="MIB", help_behavior_hint="")] = None
    """MiB that the network may work with: as many frames are taken at once as fit, and the result is the same. Without
    it a quarter of what is free, at most 3072."""
    max_height: Annotated[int | None, tyro.conf.arg(metavar="PIXELS", help_behavior_hint="")] = None
    """Make higher frames this high first."""
    fps: Annotated[float | None, tyro.conf.arg(metavar="FPS", help_behavior_hint="")] = None
    """Frames per second of the output, equally far apart; of a folder of frames also its own. By default each frame
    keeps its time."""
    overwrite: bool = False
    """Replace an existing OUTPUT."""
    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class Evaluate:
    """Score a model's translations."""

    model: Path
    """Folder of a run, a checkpoint or a saved model. A run stands for its best model, or its newest checkpoint."""
    source: Path
    """Video or folder of videos to translate."""
    reference: Path | None = None
    """Video or folder of true translations, of the same names, frame counts and sizes."""
    direction: Literal["x2y", "y2x"] = "x2y"
    """x2y: source to target."""
    json: Path | None = None
    """Also write every score into this file. An infinite score, which equal frames have, is null."""
    overwrite: bool = False
    """Replace an existing --json file."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""


@dataclass(frozen=True)
class Report:
    """Write a run's report.html: samples, curves, settings, and what the numbers mean, in one file. Every run writes it
    at its end."""

    run: Path
    """Folder of the run. It may still be training."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: translates the samples where there are none of the run's newest model."""


@dataclass(frozen=True)
class Export:
    """Write a model's streaming step for programs without this package: torch.export and ONNX."""

    model: Path
    """Folder of a run, a checkpoint or a saved model. A run stands for its best model, or its newest checkpoint."""
    out: Path
    """Folder for step.pt2, step.onnx and step.json. Files of these names in it are replaced."""
    direction: Literal["x2y", "y2x"] = "x2y"
    """x2y: source to target."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="")] = None
    """Height and width for which alone the step is. By default it takes any multiples of 8."""


@dataclass(frozen=True)
class Demo:
    """Train on generated clips for a few minutes, translate one never trained on, and score it."""

    out: Path = Path("runs/demo")
    """Folder of the run. An earlier demo in it is replaced."""
    minutes: float = 4.0
    """Minutes of training."""
    seed: int = 0
    """Seed of the generated clips and of the run."""
    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class Info:
    """Print versions, devices and backends, and why a backend is missing."""


def train(command: Train) -> None:
    from rlv2v_fast.train.distributed import joined

    source, target = _given("source", command.run.source), _given("target", command.run.target)
    run = _given("out", command.run.out)
    recipe = None
    if command.config is None and not command.resume:
        from rlv2v_fast.train.recipe import choose

        recipe = choose(command.run.device, target, command.run.few_shot)
    with joined(command.run.device) as device:
        config = resolve(dataclasses.replace(command.run, device=device))
        _train(config, source, target, run, resume=command.resume, recipe=recipe)


def _train(
    config: TrainConfig, source: Path, target: Path, run: Path, *, resume: bool, recipe: Recipe | None = None
) -> None:
    from rlv2v_fast.train.clips import open_domains
    from rlv2v_fast.train.distributed import rank
    from rlv2v_fast.train.report.write import REPORT_FILE, reported
    from rlv2v_fast.train.run import check_place

    check_place(config, resume=resume)
    talks = rank() == 0
    progress = talks and not config.quiet
    domains = open_domains(config, source, target, progress=progress)
    for domain in domains.values() if talks else ():
        for path, reason in domain.skipped:
            print(f"rlv2v: skipped {path}: {reason}", file=sys.stderr)
    with reported(config, domains, _environment()):
        _fit(config, domains, run, resume=resume, recipe=recipe)
    if talks and (run / REPORT_FILE).is_file():
        print(f"report: {run / REPORT_FILE}")


def _fit(
    config: TrainConfig, domains: Mapping[str, Any], run: Path, *, resume: bool, recipe: Recipe | None = None
) -> None:
    from rlv2v_fast.train.checkpoint import model_folder, step_of
    from rlv2v_fast.train.distributed import rank
    from rlv2v_fast.train.recipe import duration, estimated_minutes
    from rlv2v_fast.train.run import fit, settle
    from rlv2v_fast.train.verdict import judge

    talks = rank() == 0
    alone, why = settle(config, domains) if not resume else (False, "")
    if talks and why:
        print(f"rlv2v: {why}", file=sys.stderr)
    if alone:
        if talks:
            print(f"nothing to train (--look never trains all the same); rlv2v translate --model {run} INPUT OUTPUT")
        return
    if recipe is not None:
        minutes = estimated_minutes(config, domains)
        if talks:
            print(
                f"rlv2v: training {recipe.preset} for {duration(minutes)}, because {recipe.reason} "
                "(--config paper trains the paper's system)",
                file=sys.stderr,
            )
    trainer = fit(config, domains, resume=resume)
    if talks:
        kept = step_of(model_folder(run))
        chosen = f", the model of step {kept} kept as the best" if kept != trainer.step else ""
        print(f"{trainer.step} steps done{chosen}; rlv2v translate --model {run} INPUT OUTPUT")
        verdict = judge(trainer, run)
        if verdict is not None and verdict.has_failed:
            print(f"rlv2v: {verdict}", file=sys.stderr)


def _given(name: str, path: Path | None) -> Path:
    if path is None:
        raise InputError(f"{name} must be given: --{name} PATH")
    return path


def look(command: Look) -> None:
    from rlv2v_fast.looks.cube import write_cube
    from rlv2v_fast.train.look import look_of

    if command.out.suffix.lower() != ".cube":
        raise InputError(f"out must end in .cube; got {str(command.out)!r}")
    with written(f"out {str(command.out)!r}"):
        command.out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(command.out, f"out {str(command.out)!r}", overwrite=command.overwrite)
    found = look_of(command.source, command.target)
    write_cube(found.look, command.out, title=f"{command.target.name} for {command.source.name}")
    left_out = "" if found.look.is_colour_only else "; its changes by place, blur and glow are left out"
    print(f"{command.out}: the colours of the look{left_out}")


def translate(command: Translate) -> None:
    from rlv2v_fast.train.distributed import joined, rank
    from rlv2v_fast.train.folder import PATIENCE, is_folder_of_videos

    if command.chunk < 1:
        raise InputError(f"chunk must be at least 1; got {command.chunk}")
    if command.memory is not None and not command.memory > 0:
        raise InputError(f"memory must be above 0 MiB; got {command.memory:g}")
    if command.max_height is not None and command.max_height < 1:
        raise InputError(f"max_height must be at least 1; got {command.max_height}")
    _rate(command.fps)
    with joined(command.device, patience=PATIENCE) as name:
        device = resolve_device(name)
        if is_folder_of_videos(command.input):
            _translate_folder(command, device)
        elif rank() == 0:  # a video is not divided among processes
            _translate_video(command, device)


def _translate_video(command: Translate, device: Any) -> None:
    from rlv2v_fast.train.translate import load_model

    _check_ends(command)
    count = _translate_one(command, load_model(command.model, device), device, command.input, command.output)
    report = sys.stderr if command.output == PIPE else sys.stdout
    print(f"{command.output}: {count} frames", file=report)


def _check_ends(command: Translate) -> None:
    """Raise InputError where a video cannot be read, or its translation cannot be written or must not be."""
    from rlv2v_fast.data.names import existing
    from rlv2v_fast.data.writer import check_target

    source = existing(command.input) if command.input != PIPE else None
    if command.output != PIPE:
        check_target(command.output, source, overwrite=command.overwrite)


def _translate_one(command: Translate, model: Any, device: Any, source: Path, output: Path) -> int:
    """The number of frames of a video that were translated."""
    from rlv2v_fast.train.pipe import translate_pipe
    from rlv2v_fast.train.translate import translate_file

    settings: dict[str, Any] = {
        "direction": command.direction,
        "device": device,
        "chunk": command.chunk,
        "memory": command.memory,
        "tell": lambda sentence: print(f"rlv2v: {sentence}", file=sys.stderr),
        "max_height": command.max_height,
        "fps": _rate(command.fps),
    }
    if PIPE in (source, output):
        return translate_pipe(model, source, output, **settings)
    return translate_file(model, source, output, quiet=command.quiet, **settings)


def _translate_folder(command: Translate, device: Any) -> None:
    from rlv2v_fast.train.distributed import rank
    from rlv2v_fast.train.folder import model_digest, translate_folder
    from rlv2v_fast.train.translate import load_model

    model = load_model(command.model, device)
    outcome = translate_folder(
        command.input,
        command.output,
        {
            "model": model_digest(command.model),
            "direction": command.direction,
            "max_height": command.max_height,
            "fps": command.fps,
        },
        lambda source, output: _translate_one(command, model, device, source, output),
        lambda sentence: print(f"rlv2v: {sentence}", file=sys.stderr),
    )
    if rank() == 0:
        print(f"{command.output}: {outcome}")
    if outcome.failed:
        more = f" and {len(outcome.failed) - 1} more" if len(outcome.failed) > 1 else ""
        raise InputError(f"not every video of {str(command.input)!r} was translated: {outcome.failed[0]}{more}")


def _rate(fps: float | None) -> Fraction | None:
    """A rate as users write it: 29.97 stands for 30000/1001."""
    if fps is None:
        return None
    if not 0 < fps <= 1000:
        raise InputError(f"fps must be above 0 and at most 1000; got {fps:g}")
    for film in (24000, 30000, 60000, 120000):
        if abs(fps - film / 1001) < 0.005:
            return Fraction(film, 1001)
    return Fraction(fps).limit_denominator(1000)


def evaluate(command: Evaluate) -> None:
    from rlv2v_fast.train.evaluate import evaluate as score
    from rlv2v_fast.train.translate import load_model

    if command.json is not None:
        check_writable(command.json, f"json {str(command.json)!r}", overwrite=command.overwrite)
    device = resolve_device(command.device)
    model = load_model(command.model, device)
    scores = score(model, command.source, command.reference, direction=command.direction, device=device)
    print(f"{len(scores['videos'])} videos, mean of their scores")
    for name, value in scores["mean"].items():
        print(f"  {name:26s} {value:.4f}")
    if command.json is not None:
        text = json.dumps(_without_infinities(scores), indent=1, allow_nan=False) + "\n"
        write_text(command.json, text, f"json {str(command.json)!r}")


def _without_infinities(scores: Any) -> Any:
    """Scores as JSON can say them: null for the PSNR of equal frames."""
    if isinstance(scores, dict):
        return {name: _without_infinities(value) for name, value in scores.items()}
    if isinstance(scores, list):
        return [_without_infinities(value) for value in scores]
    return None if isinstance(scores, float) and not math.isfinite(scores) else scores


def report(command: Report) -> None:
    from rlv2v_fast.train.report.write import write_report

    print(write_report(command.run, device=command.device))


def export(command: Export) -> None:
    from rlv2v_fast.models.rlv2vgan import RLV2VGAN
    from rlv2v_fast.models.step import export_step
    from rlv2v_fast.train.checkpoint import model_folder

    model = RLV2VGAN.from_pretrained(model_folder(command.model))
    for path in export_step(model, command.out, command.direction, command.size):
        print(path)


def demo(command: Demo) -> None:
    from rlv2v_fast.train.demo import run_demo

    environment = _environment()
    run_demo(command.out, minutes=command.minutes, seed=command.seed, quiet=command.quiet, environment=environment)


def info(command: Info) -> None:
    for line in _environment():
        print(line)


def _environment() -> list[str]:
    from rlv2v_fast.ops import report

    return report.report()


COMMANDS = {
    Train: train,
    Look: look,
    Translate: translate,
    Evaluate: evaluate,
    Report: report,
    Export: export,
    Demo: demo,
    Info: info,
}


def _train_defaults(arguments: list[str]) -> Train:
    """Defaults of `train`: of --config, of the run being resumed, or of the recipe for this machine.

    This comes before the flags are read.
    """
    from rlv2v_fast.train.recipe import choose

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config")
    early.add_argument("--out", type=Path)
    early.add_argument("--device", default="auto")
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args(arguments)
    if known.config is not None:
        return Train(run=load_config(known.config), config=known.config)
    if known.resume and known.out is not None and (known.out / "config.yaml").is_file():
        return Train(run=load_config(known.out / "config.yaml"))
    return Train(run=load_config(choose(known.device, None).preset))


def parse(arguments: list[str]) -> Train | Look | Translate | Evaluate | Report | Export | Demo | Info:
    """The command that arguments name; exits with status 2 on flags that do not exist, and with 0 after help."""
    names = {kind.__name__.lower(): kind for kind in COMMANDS}
    if arguments and arguments[0] in names:
        check_flags(arguments[0], names[arguments[0]], arguments[1:])
    is_train = bool(arguments) and arguments[0] == "train"
    defaults = _train_defaults(arguments[1:]) if is_train else Train()
    command = tyro.conf.subcommand
    train_class: Any = Train
    if is_train and not {"-h", "--help", "--help-all"}.isdisjoint(arguments):
        train_class = _train_help(defaults, "--help-all" in arguments)
        defaults = train_class()
    kinds: Any = (
        Annotated[train_class, command("train", default=defaults)]
        | Annotated[Look, command("look")]
        | Annotated[Translate, command("translate")]
        | Annotated[Evaluate, command("evaluate")]
        | Annotated[Report, command("report")]
        | Annotated[Export, command("export")]
        | Annotated[Demo, command("demo")]
        | Annotated[Info, command("info")]
    )
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    description = "Unpaired video-to-video translation. rlv2v --version prints the version."
    return tyro.cli(kinds, prog="rlv2v", description=description, args=arguments)


def _train_help(defaults: Train, everything: bool) -> type:
    """The Train that help is made from: with the settings of everyday use, or with everything."""
    run = _for_help(defaults.run, everything)
    fields = [("run", Annotated[run, tyro.conf.arg(name="")], dataclasses.field(default_factory=run))]
    shown = dataclasses.make_dataclass("Train", fields, bases=(Train,), frozen=True)
    more = "" if everything else "These are the usual settings; rlv2v train --help-all lists all of them.\n\n"
    shown.__doc__ = f"{Train.__doc__}\n\n{more}A YAML file says loss: {{cycle_from: 0.5}} for --loss.cycle-from 0.5."
    return shown


def _for_help(values: Any, everything: bool, prefix: str = "") -> type:
    """A subclass of a dataclass of settings, with `values` as its defaults, that tyro makes readable help from.

    Unless everything is asked for, fields outside COMMON are hidden. tyro does not parse a hidden flag, so arguments
    are never parsed into this class.
    """
    fields: list[Any] = []
    for name, hint in typing.get_type_hints(type(values)).items():
        value = getattr(values, name)
        if dataclasses.is_dataclass(value):
            part = _for_help(value, everything, f"{prefix}{name}.")
            fields.append((name, part, dataclasses.field(default_factory=part)))
            continue
        shown = everything or prefix + name in COMMON
        marker: Any = tyro.conf.arg(**_readable(name, hint, value)) if shown else tyro.conf.Suppress
        fields.append((name, Annotated[hint, marker], dataclasses.field(default=value)))
    subclass = dataclasses.make_dataclass(type(values).__name__, fields, bases=(type(values),), frozen=True)
    subclass.__doc__ = type(values).__doc__
    return subclass


def _readable(name: str, hint: Any, value: Any) -> dict[str, Any]:
    """Options of tyro.conf.arg that leave None and empty defaults out of the help of a field."""
    options: dict[str, Any] = {}
    if value is None or value == ():
        options["help_behavior_hint"] = "(required)" if name in ("source", "target", "out") else ""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        options["metavar"] = typing.get_args(hint)[0].__name__.upper()
    if typing.get_origin(hint) is tuple:
        options["metavar"] = f"[{'|'.join(typing.get_args(typing.get_args(hint)[0]))} ...]"
    return options


def _tell_shortfall(command: object) -> None:
    """Say where the build of the package fell short, before a command that it slows down."""
    from rlv2v_fast.ops.report import shortfall

    if isinstance(command, Train | Translate | Evaluate | Demo) and (sentence := shortfall()):
        print(f"rlv2v: {sentence}", file=sys.stderr)


def _memory_advice(command: object) -> str:
    """What to do where a command ran out of memory."""
    from rlv2v_fast.data.video import probe
    from rlv2v_fast.train.shortage import training_advice, translation_advice

    if isinstance(command, Train):
        return training_advice(resolve(command.run))
    if isinstance(command, Translate):
        height = command.max_height
        if command.input.is_file():
            height = min(probe(command.input).height, command.max_height or sys.maxsize)
        return translation_advice(str(resolve_device(command.device)), command.chunk, height)
    return "out of memory: end other programs, or use a machine with more"


def main(arguments: list[str] | None = None) -> None:
    """Run the rlv2v command, with the arguments of the process where none are given."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--version"]:
        print(f"rlv2v_fast {rlv2v_fast.__version__}")
        return
    command: object = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name may be no text. UTF-8 can give its bytes back.
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        with signals.raised(), _sentences(by_all=arguments[:1] != ["train"]):
            command = parse(arguments)
            _tell_shortfall(command)
            COMMANDS[type(command)](command)  # type: ignore[operator]
    except InputError as error:
        _say(error)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, signals.Stopped) else signals.Stopped()
        print(f"rlv2v: {stopped}", file=sys.stderr)
        raise SystemExit(stopped.exit_status) from None
    except (PipeClosedError, BrokenPipeError):
        # Silent and with the status of a program that a closed pipe ends. Nothing is left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + 13) from None
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            sentence = _memory_advice(command)
        elif isinstance(error, OSError):
            # What no part of the package foresaw: a limit of the system, a disk that fails.
            sentence = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        else:
            raise
        _say(sentence)
        raise SystemExit(2) from None


def _say(message: object) -> None:
    """Print a sentence about what went wrong, or was changed. A file's name may have lines."""
    print(f"rlv2v: {' '.join(str(message).splitlines())}", file=sys.stderr)


@contextmanager
def _sentences(*, by_all: bool) -> Iterator[None]:
    """Print what is changed or left out as one sentence each.

    Args:
        by_all: in every process that torchrun started, not only in the first: each has other videos.
    """
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, (MediaWarning, RunWarning)):
            shown(message, category, *rest, **more)
        elif by_all or os.environ.get("RANK", "0") == "0":
            _say(message)

    with warnings.catch_warnings():
        warnings.simplefilter("always", MediaWarning)
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    main()
