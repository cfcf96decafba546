"""python -m bench.quality run --data DIR | report FILE...

Trains every variant for the same time from k target videos, scores it on aligned pairs it never saw, and appends a
JSON row. DIR holds train/day, train/night, val/day and val/night; only scoring reads val.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.harness import environment
from bench.quality.report import summary, write_sheet
from bench.quality.runs import CLOCKS, Budget, judged_frames, open_domains, train
from bench.quality.score import NETWORK, Features, Translate, baselines, load_features, read_clips, score
from bench.quality.variants import VARIANTS, changed
from rlv2v_fast.train.config import to_dict

Row = dict[str, Any]
# What makes a row the same measurement: one found in the file is not repeated.
IDENTITY = ("variant", "k", "seed", "minutes", "clock", "threads")


@dataclasses.dataclass(frozen=True)
class Judge:
    """The aligned clips and the feature network: everything a score needs."""

    sources: Mapping[str, Tensor]
    truths: Mapping[str, Tensor]
    features: Features | None

    def row(self, translate: Translate) -> Row:
        network = NETWORK if self.features is not None else None
        return {**score(translate, self.sources, self.truths, self.features), "feature_network": network}


def run(options: argparse.Namespace) -> int:
    """Measure the variants and append their rows to a file, leaving out those it already holds."""
    torch.set_num_threads(options.threads)
    features = load_features()
    if features is None:
        print("no frechet and kernel distances: pip install rlv2v_fast[quality] has their network", file=sys.stderr)
    judge = Judge(read_clips(options.data / "val/day"), read_clips(options.data / "val/night"), features)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for key in planned(options):
        if any(all(row.get(name) == key[name] for name in IDENTITY) for row in read_rows([options.out])):
            continue
        row = {**environment(torch.device("cpu")), **key, **measure(key, options, judge)}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: round(row[name], 4) if isinstance(row[name], float) else row[name] for name in SHOWN}, flush=True)
    return 0


SHOWN = ("variant", "k", "seed", "steps", "psnr", "ssim", "lit_iou", "temporal_error")


def planned(options: argparse.Namespace) -> Iterator[Row]:
    """The identities of all rows asked for; seeds come last, so that an early end leaves whole comparisons."""
    for k in options.k:
        for name in BASELINES:
            if name in options.variant:
                yield {"variant": name, "k": k, "seed": None, "minutes": 0.0, "clock": None, "threads": None}
    for seed in options.seed:
        for k in options.k:
            for name in VARIANTS:
                if name in options.variant:
                    budget = {"minutes": options.minutes, "clock": options.clock, "threads": options.threads}
                    yield {"variant": name, "k": k, "seed": seed, **budget}


BASELINES = ("identity", "mean frame", "mean-std", "histogram")


def measure(key: Row, options: argparse.Namespace, judge: Judge) -> Row:
    """Scores of one row, and how it was trained; writes its sheet."""
    if key["seed"] is None:
        targets = list(read_clips(options.data / "train/night", key["k"]).values())
        translate, how = baselines(targets)[key["variant"]], {"steps": 0}
    else:
        translate, how = trained(key, options)
    if options.sheets is not None:
        seed = "" if key["seed"] is None else f"_s{key['seed']}"
        write_sheet(
            options.sheets / f"{key['variant'].replace(' ', '-')}_k{key['k']}{seed}.png",
            translate,
            judge.sources,
            judge.truths,
        )
    return {**how, **judge.row(translate)}


def trained(key: Row, options: argparse.Namespace) -> tuple[Translate, Row]:
    config = changed(VARIANTS[key["variant"]](), seed=key["seed"], few_shot=key["k"], device="cpu", quiet=True)
    domains = open_domains(options.data, key["k"], config)
    result = train(config, domains, judged_frames(domains), Budget(key["minutes"], key["clock"]))
    how: Row = {
        "starts": result.starts,
        "steps": result.steps,
        "kept": result.kept,
        "seconds": round(result.seconds, 1),
    }
    return result.translate, {**how, "criterion": result.criterion, "config": to_dict(config)}


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of JSON files, one a line; a file that is not there has none."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def report(options: argparse.Namespace) -> int:
    """Print the table of means and spreads over the seeds."""
    print(summary(read_rows(options.rows)))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help=run.__doc__)
    command.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    command.add_argument("--out", type=Path, default=Path("quality.jsonl"), help="file to append to")
    command.add_argument("--sheets", type=Path, help="folder for contact sheets")
    command.add_argument("--k", type=int, nargs="+", default=[1, 8, 40], help="target videos")
    command.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    command.add_argument("--minutes", type=float, default=8.0, help="training time of each variant")
    command.add_argument("--clock", choices=list(CLOCKS), default="wall")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    everything = [*BASELINES, *VARIANTS]
    command.add_argument("--variant", nargs="+", choices=everything, default=everything, metavar="NAME")
    command.set_defaults(function=run)
    command = commands.add_parser("report", help=report.__doc__)
    command.add_argument("rows", type=Path, nargs="+")
    command.set_defaults(function=report)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return int(options.function(options))


if __name__ == "__main__":
    raise SystemExit(main())
