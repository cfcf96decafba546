"""Tables and plots from the rows of bench/results, and the comparison of two commits."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.cases import ROOT
from bench.harness import Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
# What a row is a measurement of; the newest row of a key counts.
KEY = ("device", "op", "case", "dtype", "layout", "phase", "backend", "threads", "clock")


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Rows of .jsonl files, and of those anywhere below folders."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]


def key_of(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in KEY)


def newest(rows: Iterable[Row]) -> list[Row]:
    """The newest measured row of every key, in order of first appearance."""
    kept: dict[tuple[object, ...], Row] = {}
    for row in sorted((row for row in rows if not row["skipped"]), key=lambda row: row["time"]):
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
        lines += ["| system | backend | figure | p50 ms (p20 to p80) | over reference |", "|---|---|---|---|---|"]
        lines += [*(system_line(row) for row in system), ""]
    exponents = scaling_exponents(rows)
    if exponents:
        lines += ["Cost grows as size to the power of (T frames, B samples, HW pixels, K hidden channels):", ""]
        lines += ["| op | phase | dtype | backend | size | exponent | points |", "|---|---|---|---|---|---|---|"]
        lines += [*("| " + " | ".join(map(str, line)) + " |" for line in exponents), ""]
    return lines


def operation_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each row."""
    return [
        "| op | case | dtype | layout | phase | backend | p50 ms (p20 to p80) | over naive | over torch.compile "
        "| graph p50 ms | over naive, both graphs | of ceilings | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(operation_line(row) for row in rows),
    ]


def gain_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each case and phase: naive's time, and each other backend's gain over it."""
    backends = [name for name in dict.fromkeys(row["backend"] for row in rows) if name != "naive"]
    lines = ["| op | case | dtype | layout | phase | naive p50 ms (p20 to p80) | " + " | ".join(backends) + " |"]
    lines.append("|---" * (6 + len(backends)) + "|")
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        name = tuple(row[field] for field in ("op", "case", "dtype", "layout", "phase"))
        cases.setdefault(name, {})[row["backend"]] = row
    for name, found in cases.items():
        naive = spread(found["naive"]) if "naive" in found else "–"
        gains = [both_gains(found[backend]) if backend in found else "–" for backend in backends]
        lines.append("| " + " | ".join([*name, naive, *gains]) + " |")
    return lines


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


def shown(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


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
    cells = [row["op"], row["case"], row["dtype"], row["layout"], row["phase"], row["backend"], spread(row)]
    cells += [gain(row["ratio_to_naive"]), gain(row["ratio_to_compile"]), shown(row["graph_p50_ms"], "{:.3g}")]
    cells += [gain(row["graph_ratio_to_naive"]), shown(row["share"], "{:.0%}"), shown(row["peak_mb"], "{:.0f}")]
    return "| " + " | ".join(cells) + " |"


def system_line(row: Row) -> str:
    figure = "–" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
    cells = [row["case"], row["backend"], figure, spread(row), gain(row["ratio_to_reference"])]
    return "| " + " | ".join(cells) + " |"


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the straight line through (log size, log cost) with least squared error."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def swept_size(row: Row) -> int:
    shape = row["shape"]
    return shape["H"] * shape["W"] if row["sweep"] == "HW" else shape[row["sweep"]]


def scaling_groups(rows: Iterable[Row]) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """(op, phase, dtype, backend, size's letter) -> (size, p50 ms), by size."""
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in rows:
        if row["sweep"] is not None and row["p50_ms"]:
            name = (row["op"], row["phase"], row["dtype"], row["backend"], row["sweep"])
            groups.setdefault(name, []).append((swept_size(row), row["p50_ms"]))
    return {name: sorted(points) for name, points in groups.items()}


def scaling_exponents(rows: Iterable[Row]) -> list[tuple[object, ...]]:
    """(op, phase, dtype, backend, letter, exponent, points) of every group of two sizes at least."""
    return [
        (*name, f"{exponent(points):.2f}", len(points))
        for name, points in scaling_groups(rows).items()
        if len({size for size, _ in points}) > 1
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


def plot(rows: Iterable[Row], folder: Path) -> list[Path]:
    """roofline.png and scaling.png where there are rows for them; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plots", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    rows = newest(rows)
    folder.mkdir(parents=True, exist_ok=True)
    counted = [row for row in rows if row["flops"] and row["p50_ms"] and row["sweep"] is None]
    paths = []
    for device in dict.fromkeys(row["device"] for row in counted):
        paths.append(plot_roofline(device, [row for row in counted if row["device"] == device], folder))
    for device in dict.fromkeys(row["device"] for row in rows if row["sweep"]):
        paths.append(plot_scaling(device, [row for row in rows if row["device"] == device], folder))
    return paths


def _slug(device: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in device).split())


def plot_roofline(device: str, rows: Sequence[Row], folder: Path) -> Path:
    """Counted GFLOP/s over counted FLOPs per byte, under the ceilings of each dtype."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    intensities = [row["flops"] / row["bytes"] for row in rows]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        ceiling = max((row for row in rows if row["dtype"] == dtype), key=lambda row: row["matmul_gflops"])
        xs = sorted({min(intensities) / 4, ceiling["matmul_gflops"] / ceiling["copy_gbs"], 4 * max(intensities)})
        axes.loglog(xs, [min(ceiling["matmul_gflops"], x * ceiling["copy_gbs"]) for x in xs], label=f"ceiling {dtype}")
    for backend in dict.fromkeys(row["backend"] for row in rows):
        own = [row for row in rows if row["backend"] == backend]
        rates = [row["flops"] / row["p50_ms"] / 1e6 for row in own]
        axes.loglog([row["flops"] / row["bytes"] for row in own], rates, "o", label=backend)
    axes.set(xlabel="counted FLOP per byte", ylabel="counted GFLOP/s", title=device)
    axes.legend(fontsize="small")
    path = folder / f"roofline_{_slug(device)}.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path


def plot_scaling(device: str, rows: Sequence[Row], folder: Path) -> Path:
    """Time over each size, with the fitted exponents."""
    from matplotlib import pyplot

    groups = scaling_groups(rows)
    letters = list(dict.fromkeys(name[-1] for name in groups))
    figure, grid = pyplot.subplots(1, len(letters), figsize=(4 * len(letters), 4), squeeze=False)
    for axes, letter in zip(grid[0], letters, strict=True):
        for name, points in groups.items():
            if name[-1] == letter and len(points) > 1:
                label = f"{name[3]} {name[1]} {name[2]} ^{exponent(points):.2f}"
                axes.loglog(*zip(*points, strict=True), "o-", label=label)
        axes.set(xlabel=letter, ylabel="p50 ms")
        axes.legend(fontsize="x-small")
    figure.suptitle(device)
    path = folder / f"scaling_{_slug(device)}.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path


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
    return [row for row in read_rows([results]) if (row["commit"] or "").startswith(name[:12])]


def run_compare(options: argparse.Namespace) -> int:
    """Print the ratios of two commits or result files."""
    pairs = compare(rows_named(options.before, options.results), rows_named(options.after, options.results))
    if not pairs:
        print(f"{options.before} and {options.after} have no measurement in common", file=sys.stderr)
        return 1
    print(compare_table(pairs))
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Print the tables, put them between the markers of the README, and draw the plots."""
    rows = read_rows([options.results])
    print(markdown(rows))
    if options.readme is not None and not write_between_markers(options.readme, markdown(rows, full=False)):
        print(f"{options.readme} has no {BEGIN} and {END}", file=sys.stderr)
        return 1
    for path in plot(rows, options.plots or (options.results if options.results.is_dir() else options.results.parent)):
        print(path)
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
        "--readme", type=Path, nargs="?", const=ROOT / "README.md", help="file to write the tables into"
    )
    command.add_argument("--plots", type=Path, help="folder of the plots (that of the results)")
    command.set_defaults(function=run_report)
