"""Tables and plots from the rows of bench/results, and the comparison of two commits.

python -m bench report                      all tables on stdout, a draft
python -m bench report --page --readme      docs/benchmarks.md, and the few rows and the chart that README.md shows

What is published refuses rows of an uncommitted state: nobody could measure them again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.cases import FLOOR, ROOT, operations
from bench.fits import exponent, scaling_groups
from bench.harness import ROW_FIELDS, Row
from bench.memory import MIB
from bench.plots import plot, plot_gains, slug

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
# What a row is a measurement of; the newest row of a key counts.
KEY = ("device", "op", "case", "dtype", "layout", "phase", "backend", "threads", "clock")


# What README.md shows, at most 8 rows, losses included: (what, GPU or not, op, case, dtype, layout, phase, backend).
README_ROWS: tuple[tuple[Any, ...], ...] = (
    ("ConvLSTM, forward and backward (A)", False, "convlstm", "A", "float32", "contiguous", "fwd_bwd", "cpp"),
    ("ConvLSTM, one frame (streaming)", False, "convlstm", "streaming", "float32", "contiguous", "fwd", "cpp"),
    ("residual block RPB, forward and backward (B)", False, "rpb", "B", "float32", "channels_last", "fwd_bwd", "cpp"),
    ("ConvLSTM, large, forward (BIG)", True, "convlstm", "BIG", "bfloat16", "contiguous", "fwd", "triton"),
    ("ConvLSTM, small, forward and backward (A)", True, "convlstm", "A", "bfloat16", "contiguous", "fwd_bwd", "triton"),
    ("ConvLSTM, one frame (streaming)", True, "convlstm", "streaming", "float32", "contiguous", "fwd", "triton"),
    ("RPB between its convolutions (A)", True, "rpb-between", "A", "float32", "contiguous", "fwd_bwd", "cpp"),
    ("training iteration, 64x64 (bf16 autocast)", True, "system", "train-64", "default", "contiguous", None, "ours"),
)
NOT_MEASURED = "not measured on a clean commit yet"
PREFACE = """# Benchmarks

`python -m bench report --page` writes this page from the rows in [bench/results](../bench/results).
Do not edit it by hand. [performance.md](performance.md) says what the numbers mean and how they are measured.

- **naive** is the layer or block in plain PyTorch, in eager mode. A gain is the median, over interleaved rounds, of
  naive's time over a backend's time. Losses are bold, also where 0.996 is printed as 1.00.
- On a GPU, times are those of CUDA events. "As graphs" compares both peers replayed as CUDA graphs, without the time
  that the host needs to launch their kernels.
- **conv** is not a competitor: it is the time of the convolutions alone. A block's name with **-between** is the block
  without its convolutions.
- The cases are in [bench/cases.py](../bench/cases.py). A row shows the newest measurement of its kind.
"""


def row_files(paths: Iterable[Path]) -> list[Path]:
    """The .jsonl files among the paths, and anywhere below folders."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    return files


def rows_of(file: Path) -> list[Row]:
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    # A row written before a field existed has None there.
    return [dict.fromkeys(ROW_FIELDS) | json.loads(line) for line in lines]


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Rows of .jsonl files, and of those anywhere below folders."""
    return [row for file in row_files(paths) for row in rows_of(file)]


def uncommitted(paths: Iterable[Path]) -> list[str]:
    """A sentence for each file and commit whose rows were measured with changes that no commit holds."""
    sources = dict.fromkeys((file, row["commit"]) for file in row_files(paths) for row in rows_of(file))
    return [
        f"{file}: commit {commit} is not clean, so its rows cannot be published"
        for file, commit in sources
        if is_dirty(commit)
    ]


def is_dirty(commit: str | None) -> bool:
    return (commit or "").endswith("-dirty")


def key_of(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in KEY)


def newest(rows: Iterable[Row]) -> list[Row]:
    """The newest measured row of every key, in order of first appearance; a single round replaces no more of them."""
    kept: dict[tuple[object, ...], Row] = {}
    for row in sorted((row for row in rows if not row["skipped"]), key=lambda row: row["time"]):
        before = kept.get(key_of(row))
        if before is None or row["rounds"] != 1 or before["rounds"] in (None, 1):
            kept[key_of(row)] = row
    return list(kept.values())


def is_gpu(row: Row) -> bool:
    return row["clock"] == "events"


def markdown(rows: Iterable[Row], *, full: bool = True) -> str:
    """Tables of the newest rows by device; slower cases are listed like the others.

    full: a line for each row. Otherwise a line for each case with the gains of all backends over naive.
    """
    rows = newest(rows)
    lines: list[str] = []
    devices = list(dict.fromkeys(row["device"] for row in rows))
    for device in devices:
        lines += device_table(device, [row for row in rows if row["device"] == device], full)
    if not any(not is_gpu(row) for row in rows):
        lines += ["CPU: not yet measured", ""]
    if not any(is_gpu(row) for row in rows):
        lines += ["GPU: not yet measured", ""]
    return "\n".join(lines)


def device_table(device: str, rows: Sequence[Row], full: bool) -> list[str]:
    """The ratios of operations, the figures of the system, and the exponents of scaling runs."""
    lines = [f"**{device}**: {conditions(rows)}", ""]
    operations = [row for row in rows if row["phase"] is not None and row["sweep"] is None]
    system = [row for row in rows if row["phase"] is None]
    if operations:
        operations.sort(key=lambda row: [str(value) for value in key_of(row)[1:6]])
        lines += [*(operation_lines(operations) if full else gain_lines(operations)), ""]
    if system:
        lines += ["| system | threads | backend | figure | p50 ms (p20 to p80) | over reference |", "|---" * 6 + "|"]
        lines += [*(system_line(row) for row in system), ""]
    exponents = exponent_lines(rows)
    if exponents:
        sizes = "T frames, B samples, HW pixels, K or in blocks C channels"
        lines += [f"Cost grows as size to the power of ({sizes}), time / peak memory:", "", *exponents, ""]
    return lines


def operation_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each row."""
    return [
        "| op | case | dtype | layout | phase | threads | backend | p50 ms (p20 to p80) | over naive "
        "| over torch.compile | compiled in s | graph p50 ms | over naive, both graphs | of ceilings | GFLOP | MB "
        "| peak MiB | saved MiB |",
        "|---" * 18 + "|",
        *(operation_line(row) for row in rows),
    ]


def gain_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each case and phase: naive's time, and each other backend's gain over it, the floor's last."""
    names = dict.fromkeys(row["backend"] for row in rows)
    backends = sorted((name for name in names if name != "naive"), key=lambda name: (name == FLOOR, name))
    lines = [
        "| op | case | dtype | layout | phase | threads | naive p50 ms (p20 to p80) | " + " | ".join(backends) + " |"
    ]
    lines.append("|---" * (7 + len(backends)) + "|")
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        name = *(row[field] for field in ("op", "case", "dtype", "layout", "phase")), threads(row)
        cases.setdefault(name, {})[row["backend"]] = row
    for name, found in cases.items():
        naive = spread(found["naive"]) if "naive" in found else "–"
        gains = [both_gains(found[backend]) if backend in found else "–" for backend in backends]
        lines.append("| " + " | ".join([*name, naive, *gains]) + " |")
    return lines


def threads(row: Row) -> str:
    """The row's threads; whose time it is where that is not the wall clock's."""
    return f"{row['threads']}, processor time" if row["clock"] == "cpu" else str(row["threads"])


def both_gains(row: Row) -> str:
    """The gain over naive, and the one between the two as CUDA graphs where there is one."""
    graphs = row["graph_ratio_to_naive"]
    return gain(row["ratio_to_naive"]) + ("" if graphs is None else f" ({gain(graphs)} as graphs)")


def conditions(rows: Sequence[Row]) -> str:
    """What the rows of one device have been measured with; all values where they differ."""
    parts = []
    for name in ("commit", "threads", "clock", "driver", "tf32"):
        values = sorted({str(row[name]) for row in rows if row[name] is not None})
        if values:
            parts.append(f"{name} {', '.join(values)}")
    for package in ("torch", "triton", "cuda", "python"):
        values = sorted({str(row["versions"].get(package)) for row in rows if row["versions"].get(package)})
        if values:
            parts.append(f"{package} {', '.join(values)}")
    loads = [row["load"] for row in rows]
    dates = sorted(row["time"][:10] for row in rows)
    return ", ".join([*parts, f"load {min(loads)} to {max(loads)}", f"{dates[0]} to {dates[-1]}"])


def shown(value: float | None, form: str, unit: float = 1) -> str:
    return "–" if value is None else form.format(value / unit)


def spread(row: Row) -> str:
    if row["p50_ms"] is None:
        return "–"
    middle, low, high = (f"{row[p]:.3g}" if row[p] < 1000 else f"{row[p]:.0f}" for p in ("p50_ms", "p20_ms", "p80_ms"))
    return f"{middle} ({low} to {high})"


def gain(value: float | None) -> str:
    """A ratio, in bold where it is a loss: slow cases must be easy to find."""
    if value is None:
        return "–"
    return f"{value:.2f}x" if value >= 1 else f"**{value:.2f}x**"


def operation_line(row: Row) -> str:
    cells = [*(row[name] for name in ("op", "case", "dtype", "layout", "phase")), threads(row), row["backend"]]
    cells += [
        spread(row),
        gain(row["ratio_to_naive"]),
        gain(row["ratio_to_compile"]),
        shown(row["compile_s"], "{:.1f}"),
    ]
    cells += [shown(row["graph_p50_ms"], "{:.3g}"), gain(row["graph_ratio_to_naive"]), shown(row["share"], "{:.0%}")]
    cells += [shown(row["flops"], "{:.3g}", 1e9), shown(row["bytes"], "{:.3g}", 1e6)]
    cells += [shown(row["peak_mb"], "{:.0f}"), shown(row["saved_bytes"], "{:.3g}", MIB)]
    return "| " + " | ".join(cells) + " |"


def system_line(row: Row) -> str:
    figure = "–" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
    compiled = "" if row["compile_s"] is None else f" (compiled in {row['compile_s']:.0f} s)"
    cells = [row["case"], threads(row), row["backend"] + compiled, figure, spread(row), gain(row["ratio_to_reference"])]
    return "| " + " | ".join(cells) + " |"


def exponent_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each operation, phase, dtype and backend; a column for each size swept."""
    fits: dict[tuple[str, ...], dict[str, str]] = {}
    memory = scaling_groups(rows, "peak_mb")
    for name, points in scaling_groups(rows).items():
        fit = f"{exponent(points):.2f}"
        if name in memory:
            fit += f" / {exponent(memory[name]):.2f}"
        fits.setdefault(name[:-1], {})[name[-1]] = fit
    letters = list(dict.fromkeys(letter for found in fits.values() for letter in found))
    if not fits:
        return []
    lines = ["| op | phase | dtype | backend | " + " | ".join(letters) + " |", "|---" * (4 + len(letters)) + "|"]
    return lines + [
        "| " + " | ".join([*name, *(found.get(letter, "–") for letter in letters)]) + " |"
        for name, found in fits.items()
    ]


def write_between_markers(path: Path, text: str) -> bool:
    """Replace what stands between the markers of a file; False where it has none."""
    content = path.read_text()
    if BEGIN not in content or END not in content:
        return False
    head, rest = content.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    path.write_text(f"{head}{BEGIN}\n{text.strip()}\n{END}{tail}")
    return True


def compare(before: Iterable[Row], after: Iterable[Row]) -> list[tuple[Row, Row, float, float | None]]:
    """(row before, row after, time ratio, ratio of the gains over naive) of keys in both; above 1 is faster after.

    The gains over naive come from within one run each, so they stand a noisy machine better than the times do.
    """
    old = {key_of(row): row for row in newest(before) if row["p50_ms"]}
    pairs = []
    for row in newest(after):
        base = old.get(key_of(row))
        if base is None or not row["p50_ms"]:
            continue
        gains = [each["ratio_to_naive"] for each in (base, row)]
        relative = gains[1] / gains[0] if all(gains) else None
        pairs.append((base, row, base["p50_ms"] / row["p50_ms"], relative))
    return pairs


def compare_table(pairs: Sequence[tuple[Row, Row, float, float | None]]) -> str:
    lines = [
        "| op | case | dtype | layout | phase | backend | before ms | after ms | faster | faster relative to naive |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for base, row, faster, relative in pairs:
        cells = [row[name] or "–" for name in ("op", "case", "dtype", "layout", "phase", "backend")]
        cells += [f"{base['p50_ms']:.3g}", f"{row['p50_ms']:.3g}", gain(faster), gain(relative)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows_named(name: str, results: Path) -> list[Row]:
    """Rows of a file or folder, or those of a commit in the results."""
    if Path(name).exists():
        return read_rows([Path(name)])
    revision = hash_of(name)[:12]
    return [row for row in read_rows([results]) if (row["commit"] or "").startswith(revision)]


def hash_of(name: str) -> str:
    """The hash of a revision such as HEAD~1; the name itself where git does not know it."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return name


def run_compare(options: argparse.Namespace) -> int:
    """Print the ratios of two commits or result files."""
    pairs = compare(rows_named(options.before, options.results), rows_named(options.after, options.results))
    if not pairs:
        print(f"{options.before} and {options.after} have no measurement in common", file=sys.stderr)
        return 1
    print(compare_table(pairs))
    return 0


def page(rows: Iterable[Row], results: Path, links: Sequence[str]) -> str:
    """docs/benchmarks.md: each device's gains, notes and rows, and what has not been measured."""
    rows = newest(rows)
    parts = [PREFACE]
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device]
        parts += [f"## {device}\n", *notes(results / slug(device))]
        parts += ["\n".join(device_table(device, own, full=False))]
        parts += ["### Every row\n", "\n".join(device_table(device, own, full=True)[2:])]
    if links:
        parts += ["## Plots\n", *(f"- {link}" for link in links), ""]
    parts += [f"## {NOT_MEASURED.capitalize()}\n", *missing(rows), ""]
    return "\n".join(parts).rstrip() + "\n"


def notes(folder: Path) -> list[str]:
    """What a device's folder says about its run: notes.md, and the stages of bench/gpu.sh."""
    parts = []
    if (folder / "notes.md").is_file():
        parts += [(folder / "notes.md").read_text()]
    if (folder / "stages.txt").is_file():
        parts += ["Stages of `bench/gpu.sh`:\n", f"```\n{(folder / 'stages.txt').read_text().strip()}\n```\n"]
    return parts


def missing(rows: Sequence[Row]) -> list[str]:
    """A line for each operation with the cases and backends that no row measures, on CPUs and on GPUs."""
    lines = []
    for name, device_type, gpu in (("CPU", "cpu", False), ("GPU", "cuda", True)):
        for operation in operations().values():
            own = [row for row in rows if row["op"] == operation.name and is_gpu(row) == gpu]
            cases = [case.name for case in operation.cases if case.default and device_type in case.devices]
            absent = [case for case in cases if case not in {row["case"] for row in own}]
            if absent:
                lines.append(f"- {name}, {operation.name}: {', '.join(absent)}")
            if own and not operation.system and "compile" not in {row["backend"] for row in own}:
                lines.append(f"- {name}, {operation.name}: torch.compile")
    return lines


def readme_table(rows: Iterable[Row]) -> str:
    """The few rows that README.md shows."""
    rows = newest(rows)
    lines = ["| | plain PyTorch | here | gain | as CUDA graphs |", "|---" * 5 + "|"]
    for what, gpu, *names in README_ROWS:
        # Plain PyTorch is a layer written for comparison, or in the whole system the package's own reference.
        plain = "reference" if names[0] == "system" else "naive"
        ours = measurement(rows, gpu, names)
        theirs = measurement(rows, gpu, [*names[:-1], plain])
        if ours is None or theirs is None:
            lines.append(f"| {'GPU' if gpu else 'CPU'}: {what} | – | {NOT_MEASURED} | – | – |")
            continue
        place = ours["device"].removeprefix("NVIDIA ") if gpu else f"CPU, {ours['threads']} threads"
        label = f"{place}: {what}" if ours["dtype"] == "default" else f"{place}: {what}, {ours['dtype']}"
        times = [f"{milliseconds(row):.3g} ms" for row in (theirs, ours)]
        gains = [gain(ours[ratio]) for ratio in (f"ratio_to_{plain}", "graph_ratio_to_naive")]
        lines.append("| " + " | ".join([label, *times, *gains]) + " |")
    return "\n".join(lines)


def milliseconds(row: Row) -> float:
    """The time of a call; of a call that trains for several iterations, that of one."""
    return 1e3 * row["value"] if row["unit"] == "s/iteration" else row["p50_ms"]


def measurement(rows: Iterable[Row], gpu: bool, names: Sequence[str]) -> Row | None:
    """The newest wall-clock or GPU row with these op, case, dtype, layout, phase and backend."""
    fields = ("op", "case", "dtype", "layout", "phase", "backend")
    matching = [
        row
        for row in rows
        if is_gpu(row) == gpu and row["clock"] != "cpu" and [row[field] for field in fields] == list(names)
    ]
    return max(matching, key=lambda row: row["time"], default=None)


def run_report(options: argparse.Namespace) -> int:
    """Print the tables and draw the plots; with --page or --readme write what is published instead of printing."""
    dirty = uncommitted([options.results])
    publish = options.page is not None or options.readme is not None
    for sentence in dirty:
        print(sentence, file=sys.stderr)
    if dirty and publish:
        return 1
    rows = read_rows([options.results])
    if not publish:
        print(markdown(rows))
    beside = options.results if options.results.is_dir() else options.results.parent
    paths = plot(newest(rows), options.plots or beside)
    for path in paths:
        print(path, file=sys.stderr)
    if options.page is not None:
        above = options.page.parent
        links = [f"[{path.stem.replace('_', ' ')}]({os.path.relpath(path, above)})" for path in paths]
        options.page.write_text(page(rows, beside, links))
    if options.readme is None:
        return 0
    plot_gains(newest(rows), options.readme.parent / "docs/images")
    if not write_between_markers(options.readme, readme_table(rows)):
        print(f"{options.readme} has no {BEGIN} and {END}", file=sys.stderr)
        return 1
    return 0


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], results: Path) -> None:
    """compare and report."""
    command = commands.add_parser("compare", help="ratios of two commits or result files")
    command.add_argument("before", help="commit, or file or folder of rows")
    command.add_argument("after", help="likewise")
    command.add_argument("--results", type=Path, default=results)
    command.set_defaults(function=run_compare)
    command = commands.add_parser("report", help="tables and plots")
    command.add_argument("--results", type=Path, default=results, help="file or folder of rows")
    command.add_argument(
        "--readme", type=Path, nargs="?", const=ROOT / "README.md", help="file to write a few rows and a chart into"
    )
    command.add_argument(
        "--page", type=Path, nargs="?", const=ROOT / "docs/benchmarks.md", help="file to write every table into"
    )
    command.add_argument("--plots", type=Path, help="folder of the plots (that of the results)")
    command.set_defaults(function=run_report)
