"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

import torch

from bench import memory, regression, report
from bench.cases import GRADIENT_PHASES, PHASES, Case, Operation, Setting, operations, sweep_cases
from bench.harness import RESULTS, Plan, Row, commit, measure, results_folder

ALL_PHASES = (*PHASES, *GRADIENT_PHASES)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def row_line(row: Row) -> str:
    """A row as one line of text."""
    what = f"{row['op']} {row['case']} {row['phase'] or ''} {row['dtype']} {row['layout']} {row['backend']}"
    if row["skipped"]:
        return f"{what:64} skipped: {row['skipped']}"
    parts = [] if row["p50_ms"] is None else [f"{row['p50_ms']:9.3f} ms ({row['p20_ms']:.3f} to {row['p80_ms']:.3f})"]
    for field, form in (
        ("graph_p50_ms", "graph {:.3f} ms"),
        ("ratio_to_naive", "{:.2f}x naive"),
        ("graph_ratio_to_naive", "{:.2f}x naive as graphs"),
        ("share", "{:.0%} of ceilings"),
        ("peak_mb", "peak {:.0f} MiB"),
        ("saved_bytes", "{:.3g} bytes saved"),
        ("compile_s", "compiled in {:.1f} s"),
    ):
        if row[field] is not None:
            parts.append(form.format(row[field]))
    if row["value"] is not None:
        parts.append(f"{row['value']:.4g} {row['unit']}")
    return f"{what:64} {'  '.join(parts)}"


def chosen_cases(operation: Operation, names: Sequence[str] | None, device: torch.device) -> list[Case]:
    """The named cases, or the default ones, that are meant for the device."""
    cases = [case for case in operation.cases if device.type in case.devices]
    return [case for case in cases if (case.default if names is None else case.name in names)]


def settings_of(options: argparse.Namespace, operation: Operation) -> list[Setting]:
    """The settings that options ask for. A part of the system has one, because it has its own precision."""
    device = torch.device(options.device)
    if operation.system:
        return [Setting(device)]
    dtypes = options.dtype or (["float32", "bfloat16"] if device.type == "cuda" else ["float32"])
    layouts = [layout for layout in options.layout if layout in operation.layouts]
    return [Setting(device, DTYPES[dtype], layout) for dtype in dtypes for layout in layouts]


def plan_of(options: argparse.Namespace) -> Plan:
    deadline = None if options.budget is None else time.monotonic() + options.budget
    return Plan(options.rounds, options.clock, options.memory, not options.no_graphs, deadline, options.tiny)


def run(options: argparse.Namespace) -> int:
    """Measure the chosen cases and append their rows to a file."""

    def cases(operation: Operation, setting: Setting) -> Iterable[Case]:
        return chosen_cases(operation, options.case, setting.device)

    return measure_into_file(options, cases)


def scaling(options: argparse.Namespace) -> int:
    """Measure how the cost grows with T, B, the pixels and K, one at a time, from each case named (A)."""

    def cases(operation: Operation, setting: Setting) -> Iterable[Case]:
        bases = [] if operation.system else chosen_cases(operation, options.case or ["A"], setting.device)
        return [each for base in bases for each in sweep_cases(base)]

    return measure_into_file(options, cases)


def measure_into_file(options: argparse.Namespace, cases: Callable[[Operation, Setting], Iterable[Case]]) -> int:
    """Measure and write row after row, so that a run that stops early leaves its rows; gives the exit status."""
    torch.set_num_threads(options.threads)
    plan, known = plan_of(options), operations()
    path = results_file(options)
    written = 0
    with path.open("a") as file:
        for name in options.op or known:
            operation = known[name]
            for setting in settings_of(options, operation):
                for case in cases(operation, setting):
                    if plan.late():
                        print(f"out of time before {name} {case.name}", file=sys.stderr)
                        continue
                    written += measure_case(options, operation, case, setting, plan, file)
    print(f"{written} rows in {path}")
    return 0 if written else 1


def measure_case(
    options: argparse.Namespace, operation: Operation, case: Case, setting: Setting, plan: Plan, file: TextIO
) -> int:
    """The number of rows written for one case."""
    backends = [name for name in options.backend or operation.backends if name in operation.backends]
    phases = [phase for phase in operation.phases if operation.system or phase in options.phase]
    if "compile" in backends:
        torch.compiler.reset()
    written = 0
    for rows in measure(operation, case, setting, backends, phases, plan):
        for row in rows:
            file.write(json.dumps(row) + "\n")
            print(row_line(row), flush=True)
        file.flush()
        written += len(rows)
    return written


def results_file(options: argparse.Namespace) -> Path:
    """The file that rows are appended to: --out, or a new file in the folder --out or in the device's folder."""
    out = options.out or results_folder(torch.device(options.device))
    if out.suffix == ".jsonl":
        out.parent.mkdir(parents=True, exist_ok=True)
        return out
    out.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return out / f"{stamp}_{commit() or 'nocommit'}.jsonl"


def peak(options: argparse.Namespace) -> int:
    """Print the peak MiB of each call in a request; --memory starts a process that runs this."""
    print(json.dumps(memory.answer(json.loads(options.request))))
    return 0


def measuring_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", nargs="+", help="operations (all)")
    parser.add_argument("--case", nargs="+", help="cases by name (all that are meant for the device)")
    parser.add_argument("--backend", nargs="+", help="backends (all)")
    parser.add_argument("--phase", nargs="+", choices=ALL_PHASES, default=ALL_PHASES)
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), help="float32, and bfloat16 on a GPU")
    parser.add_argument("--layout", nargs="+", choices=["contiguous", "channels_last"], default=["contiguous"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time, for --threads 1")
    parser.add_argument("--memory", action="store_true", help="also peak memory and saved bytes")
    parser.add_argument("--no-graphs", action="store_true", help="no CUDA graphs")
    parser.add_argument("--budget", type=float, help="seconds after which nothing new starts")
    parser.add_argument("--tiny", action="store_true", help="tiny ceilings, for trying the harness out")
    parser.add_argument("--out", type=Path, help="folder, or a .jsonl file to append to")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("scaling", scaling)):
        command = commands.add_parser(name, help=(function.__doc__ or "").splitlines()[0])
        measuring_options(command)
        command.set_defaults(function=function)
    command = commands.add_parser("peak", help="MiB of calls (used by --memory)")
    command.add_argument("request", help="JSON")
    command.set_defaults(function=peak)
    report.add_commands(commands, RESULTS)
    regression.add_command(commands, RESULTS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = make_parser().parse_args(arguments)
    return int(options.function(options))
