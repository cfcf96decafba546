"""python -m bench.quality run --task figure1 | run --task daynight --data DIR | score RUN... | report FILE...

run trains every variant from k target videos, all for the same time or each at its full length. It scores each on
aligned pairs that training never sees, and appends a JSON row. score does so for finished runs of `rlv2v train`. DIR
holds train/day, train/night, val/day and val/night; only scoring reads val.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.harness import environment
from bench.quality.flow import load_motion
from bench.quality.report import summary, write_sheet
from bench.quality.rows import Row, append, read_rows
from bench.quality.runs import CLOCKS, Budget, Result, SharedStarts, train
from bench.quality.score import NETWORK, Translate, load_features
from bench.quality.tasks import DayNight, Figure1, Task
from bench.quality.variants import changed
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.checkpoint import best_distance, model_folder, step_of
from rlv2v_fast.train.config import load_config, to_dict

# The fields that identify a measurement. One that the file already holds is not repeated.
IDENTITY = ("task", "variant", "k", "seed", "minutes", "clock", "threads")
NEVER_TRAINED: Row = {"seed": None, "minutes": 0.0, "clock": None, "threads": None}


def run(options: argparse.Namespace) -> int:
    """Measure the variants and append their rows to a file, without those that it already holds."""
    torch.set_num_threads(options.threads)
    task = open_task(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    shared = SharedStarts()
    for key in planned_rows(options, task):
        if any(all(row.get(name) == key[name] for name in IDENTITY) for row in read_rows([options.out])):
            continue
        record(options.out, {**environment(torch.device("cpu")), **key, **measure(key, options, task, shared)})
    return 0


def score(options: argparse.Namespace) -> int:
    """Append a row for each finished run, with the scores of the model that `rlv2v translate` would use."""
    torch.set_num_threads(options.threads)
    task = open_task(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for run_folder in options.runs:
        config = load_config(run_folder / "config.yaml")
        folder = model_folder(run_folder)
        model = RLV2VGAN.from_pretrained(folder)
        # Its minutes stay 0: starts write no rows, so the files of a run do not hold the time of its starts.
        key = {**NEVER_TRAINED, "task": task.name, "variant": options.name, "k": config.few_shot, "seed": config.seed}
        if options.sheets is not None:
            write_sheet(options.sheets / f"{task.name}_{run_folder.name}.png", model.translate, task.pairs)
        # The places of somebody's files are not part of a measurement.
        config_fields = to_dict(changed(config, source=None, target=None, out=None))
        kept, distance = step_of(folder), best_distance(run_folder)
        training: Row = {"starts": config.starts, "steps": config.steps, "kept": kept, "config": config_fields}
        training["criterion"] = distance if math.isfinite(distance) else None
        if any(
            all(row.get(name) == value for name, value in (key | training).items()) for row in read_rows([options.out])
        ):
            continue
        back = task.back_scores(lambda clip, model=model: model.translate(clip, "y2x"))  # type: ignore[misc]
        record(
            options.out,
            {**environment(torch.device("cpu")), **key, **training, **task.scores(model.translate), "back": back},
        )
    return 0


SHOWN = ("variant", "k", "seed", "steps", "psnr", "ssim", "temporal_error")


def record(path: Path, row: Row) -> None:
    """Append a row to a file of rows, and print some of its fields."""
    append(path, row)
    shown = {name: round(row[name], 4) if isinstance(row[name], float) else row[name] for name in SHOWN}
    print(shown, flush=True)


def open_task(options: argparse.Namespace) -> Task:
    features, motion = load_features(), load_motion()
    if features is None or motion is None:
        print("some scores are left out: pip install rlv2v_fast[quality] has what they need", file=sys.stderr)
    if options.task == Figure1.name:
        return Figure1(features, motion)
    if options.data is None:
        raise SystemExit("--data must name the folder with train/ and val/ for --task daynight")
    return DayNight(features, motion, options.data)


def planned_rows(options: argparse.Namespace, task: Task) -> Iterator[Row]:
    """The identities of all rows that options ask for, seed by seed: after each seed all variants are compared.

    SystemExit names a variant that the task does not have.
    """
    untrained = task.baselines(1)
    known = [*untrained, *task.variants]
    wanted = options.variant or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"--variant must be of {', '.join(map(repr, known))} for {task.name}; got {unknown[0]!r}")
    for k in options.k:
        for name in untrained:
            if name in wanted:
                yield {"task": task.name, "variant": name, "k": k, **NEVER_TRAINED}
    budget = {"minutes": None if options.whole else options.minutes, "clock": options.clock, "threads": options.threads}
    for seed in options.seed:
        for k in options.k:
            for name in task.variants:
                if name in wanted:
                    yield {"task": task.name, "variant": name, "k": k, "seed": seed, **budget}


def measure(key: Row, options: argparse.Namespace, task: Task, shared: SharedStarts) -> Row:
    """The scores of one row and the fields of its training; writes its contact sheet."""
    if key["seed"] is None:
        translate: Translate = task.baselines(key["k"])[key["variant"]]
        training: Row = {"steps": 0}
    else:
        result = train_variant(key, task, shared)
        translate, training = result.model.translate, training_fields(result, task)
    if options.sheets is not None:
        seed = "" if key["seed"] is None else f"_s{key['seed']}"
        name = key["variant"].replace(" ", "-").replace(",", "")
        write_sheet(options.sheets / f"{task.name}_{name}_k{key['k']}{seed}.png", translate, task.pairs)
    return {**training, **task.scores(translate), "feature_network": NETWORK if task.features else None}


def train_variant(key: Row, task: Task, shared: SharedStarts) -> Result:
    """The result of training the variant of a row from its k target videos."""
    config = changed(task.variants[key["variant"]](), seed=key["seed"], few_shot=key["k"], device="cpu", quiet=True)
    domains = task.domains(config, key["k"])
    return train(config, domains, Budget(key["minutes"], key["clock"]), shared, selects=task.selects)


def training_fields(result: Result, task: Task) -> Row:
    """The fields of a row about its run, the other direction's scores, and what critics know of held-out clips."""
    trainer = result.trainer
    row: Row = {
        "starts": result.starts,
        "steps": result.steps,
        "kept": result.kept,
        "seconds": round(result.seconds, 1),
        "criterion": None if math.isnan(result.criterion) else result.criterion,
        "back": task.back_scores(lambda clip: result.model.translate(clip, "y2x")),
        "gradients": result.gradients,
        "config": to_dict(trainer.config),
    }
    if trainer.reinforcement is not None:
        row["critics"] = trainer.reinforcement.examine(task.heldout(trainer.config))
    return row


def report(options: argparse.Namespace) -> int:
    """Print tables of means and spreads over the seeds."""
    print(summary(read_rows(options.rows)))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help=run.__doc__)
    _add_common(command)
    command.add_argument("--k", type=int, nargs="+", default=[1, 8, 40], help="target videos")
    command.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    command.add_argument("--minutes", type=float, default=8.0, help="training time of each variant")
    command.add_argument("--whole", action="store_true", help="each variant's own starts, steps and choice of weights")
    command.add_argument("--clock", choices=list(CLOCKS), default="wall")
    command.add_argument("--variant", nargs="+", metavar="NAME", help="all of the task by default")
    command.set_defaults(function=run)
    command = commands.add_parser("score", help=score.__doc__)
    _add_common(command)
    command.add_argument("runs", type=Path, nargs="+", help="folders that rlv2v train made")
    command.add_argument("--name", required=True, help="what the table calls them")
    command.set_defaults(function=score)
    command = commands.add_parser("report", help=report.__doc__)
    command.add_argument("rows", type=Path, nargs="+")
    command.set_defaults(function=report)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--task", choices=[DayNight.name, Figure1.name], default=DayNight.name)
    command.add_argument("--data", type=Path, help="folder with train/ and val/ of daynight")
    command.add_argument("--out", type=Path, default=Path("quality.jsonl"), help="file to append to")
    command.add_argument("--sheets", type=Path, help="folder for contact sheets")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return int(options.function(options))


if __name__ == "__main__":
    raise SystemExit(main())
