"""Whether the package has become slower, judged by ratios within one interleaved run and never by a time.

python -m bench regression --update       store the ratios of this machine in bench/results/<device>/baseline.json
python -m bench regression                measure again; status 1 where a ratio falls below its band

A ratio below its band is measured a second time, and the better of the two counts. Another process can take the cache
from one peer for a whole run, but a slower kernel is slow both times.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cases import Setting, operations
from bench.harness import Plan, Row, measure, results_folder

# Share of a ratio that may be lost. Other processes on a shared processor take its cache from one peer more than from
# another: two runs a minute apart gave ratios of 2.0 and 2.9.
BAND = 0.35
BASELINE = "baseline.json"
# Cases that take a second or two each. A whole block would mostly measure the library's convolutions.
CASES = ["convlstm/A", "convlstm/C", "rpb-between/B", "urb-between/B"]


@dataclass(frozen=True)
class Verdict:
    """One stored ratio and the ratio now. status: "ok", "slower", "faster" (beyond the band) or "missing"."""

    name: str
    stored: float
    now: float | None
    status: str


def name_of(row: Row) -> str:
    return "/".join(str(row[field]) for field in ("op", "case", "dtype", "layout", "phase", "backend"))


def ratios(rows: Iterable[Row]) -> dict[str, float]:
    """The gain over naive, by name, of every row that has one and is not the naive peer itself."""
    return {name_of(row): row["ratio_to_naive"] for row in rows if row["ratio_to_naive"] and row["backend"] != "naive"}


def judge(stored: Mapping[str, float], now: Mapping[str, float], band: float) -> list[Verdict]:
    """A verdict on each stored ratio: slower if now < stored * (1 - band), faster if now > stored / (1 - band)."""
    verdicts = []
    for name, ratio in stored.items():
        current = now.get(name)
        if current is None:
            status = "missing"
        elif current < ratio * (1 - band):
            status = "slower"
        else:
            status = "faster" if current > ratio / (1 - band) else "ok"
        verdicts.append(Verdict(name, ratio, current, status))
    return verdicts


def measure_cases(options: argparse.Namespace, conditions: Mapping[str, Any], names: Iterable[str]) -> list[Row]:
    """The rows of naive and of our backend, for the cases ("op/case") and conditions given."""
    torch.set_num_threads(conditions["threads"])
    setting, known = Setting(torch.device(options.device)), operations()
    plan = Plan(options.rounds, conditions["clock"], graphs=False)
    rows: list[Row] = []
    for name in names:
        op, case_name = name.split("/")
        operation = known[op]
        case = next(case for case in operation.cases if case.name == case_name)
        ours = "triton" if setting.device.type == "cuda" and "triton" in operation.backends else "cpp"
        for phase_rows in measure(operation, case, setting, ["naive", ours], operation.phases, plan):
            rows += phase_rows
    return rows


def judge_all(options: argparse.Namespace, baseline: Mapping[str, Any]) -> list[Verdict]:
    """A verdict on every stored ratio, after a second measurement of the cases that seem slower."""
    band = baseline["band"] if options.band is None else options.band
    conditions, stored = baseline["conditions"], baseline["ratios"]
    now = ratios(measure_cases(options, conditions, conditions["cases"]))
    doubtful = [verdict.name for verdict in judge(stored, now, band) if verdict.status == "slower"]
    doubtful_cases = dict.fromkeys("/".join(name.split("/")[:2]) for name in doubtful)
    for name, ratio in ratios(measure_cases(options, conditions, doubtful_cases)).items():
        now[name] = max(ratio, now.get(name, 0.0))
    return judge(stored, now, band)


def regression(options: argparse.Namespace) -> int:
    """Compare this machine's ratios with the stored ones, or store them."""
    path = options.baseline or results_folder(torch.device(options.device), options.results) / BASELINE
    if options.update:
        conditions = {"cases": options.case, "threads": options.threads, "clock": options.clock}
        return store(path, conditions, measure_cases(options, conditions, options.case))
    if not path.is_file():
        print(f"{path} does not exist: python -m bench regression --update makes it")
        return 2
    verdicts = judge_all(options, json.loads(path.read_text()))
    for verdict in verdicts:
        now = "not measured" if verdict.now is None else f"{verdict.now:.2f}x"
        print(f"{verdict.status:8} {verdict.name:50} {verdict.stored:.2f}x stored, {now}")
    return int(any(verdict.status in ("slower", "missing") for verdict in verdicts))


def store(path: Path, conditions: Mapping[str, Any], rows: list[Row]) -> int:
    """Write the ratios with their conditions and the band; gives the exit status."""
    path.parent.mkdir(parents=True, exist_ok=True)
    context = {field: rows[0][field] for field in ("device", "commit", "versions", "load", "time")} if rows else {}
    stored = {name: round(ratio, 3) for name, ratio in ratios(rows).items()}
    record = {"band": BAND, "conditions": conditions, **context, "ratios": stored}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(stored)} ratios in {path}")
    return 0 if stored else 1


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], results: Path) -> None:
    """Add the command regression."""
    command = commands.add_parser("regression", help="compare ratios with the stored ones of this device")
    command.add_argument("--update", action="store_true", help="store the ratios instead")
    command.add_argument("--baseline", type=Path, help="file of stored ratios")
    command.add_argument("--results", type=Path, default=results)
    command.add_argument("--band", type=float, help=f"part of a ratio that may be lost (stored; {BAND})")
    command.add_argument("--case", nargs="+", default=CASES, help="op/case, with --update")
    command.add_argument("--threads", type=int, default=1, help="with --update")
    command.add_argument("--clock", choices=["wall", "cpu"], default="cpu", help="with --update")
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.set_defaults(function=regression)
