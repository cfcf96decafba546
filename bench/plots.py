"""Roofline and scaling plots of a device's rows, and the chart of gains that README.md shows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.fits import exponent, scaling_groups
from bench.harness import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^vD*PX<>"
# One colour a backend in every plot; others take what is left.
COLOURS = {
    "naive": "#888888",
    "reference": "#333333",
    "compile": "#e69f00",
    "conv": "#bcbd22",
    "cpp": "#d55e00",
    "cpp-exact": "#cc79a7",
    "cpp-low": "#8c564b",
    "triton": "#0072b2",
    "triton-low": "#56b4e9",
    "triton-fused": "#009e73",
}

# The chart of gains: a panel for each kind of machine, (label, op, case, dtype, layout, phase, backend) a line.
GAINS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "CPU": (
        ("ConvLSTM A, forward", "convlstm", "A", "float32", "contiguous", "fwd", "cpp"),
        ("ConvLSTM A, with backward", "convlstm", "A", "float32", "contiguous", "fwd_bwd", "cpp"),
        ("ConvLSTM C, with backward", "convlstm", "C", "float32", "contiguous", "fwd_bwd", "cpp"),
        ("ConvLSTM D (5x5), with backward", "convlstm", "D", "float32", "contiguous", "fwd_bwd", "cpp"),
        ("ConvLSTM, one frame", "convlstm", "streaming", "float32", "contiguous", "fwd", "cpp"),
        ("RPB A, with backward", "rpb", "A", "float32", "contiguous", "fwd_bwd", "cpp"),
        ("URB A, with backward", "urb", "A", "float32", "contiguous", "fwd_bwd", "cpp"),
    ),
    "GPU": (
        ("ConvLSTM BIG, forward, bf16", "convlstm", "BIG", "bfloat16", "contiguous", "fwd", "triton"),
        ("ConvLSTM BIG, with backward, fp32", "convlstm", "BIG", "float32", "contiguous", "fwd_bwd", "triton"),
        ("ConvLSTM A, with backward, bf16", "convlstm", "A", "bfloat16", "contiguous", "fwd_bwd", "triton"),
        (
            "ConvLSTM D (5x5), with backward, bf16",
            "convlstm",
            "D",
            "bfloat16",
            "contiguous",
            "fwd_bwd",
            "triton",
        ),
        ("ConvLSTM, one frame, fp32", "convlstm", "streaming", "float32", "contiguous", "fwd", "triton"),
        ("RPB between convolutions, BIG, bf16", "rpb-between", "BIG", "bfloat16", "contiguous", "fwd_bwd", "cpp"),
        ("RPB between convolutions, A, bf16", "rpb-between", "A", "bfloat16", "contiguous", "fwd_bwd", "cpp"),
        ("training iteration, 64x64, bf16", "system", "train-64", "default", "contiguous", None, "ours"),
    ),
}

# The bars of that chart: (label, backend or None for the line's own, field, colour).
BARS: dict[str, tuple[tuple[str, str | None, str, str], ...]] = {
    "CPU": (
        ("torch.compile", "compile", "ratio_to_naive", COLOURS["compile"]),
        ("rlv2v_fast", None, "ratio_to_naive", COLOURS["cpp"]),
    ),
    "GPU": (
        ("rlv2v_fast, eager", None, "ratio_to_naive", COLOURS["triton"]),
        ("rlv2v_fast, both as CUDA graphs", None, "graph_ratio_to_naive", COLOURS["triton-low"]),
    ),
}


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """A roofline for each device and a scaling plot for each operation swept on it; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plots", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device]
        counted = [row for row in own if row["flops"] and row["p50_ms"] and row["sweep"] is None]
        if counted:
            paths.append(plot_roofline(device, counted, folder))
        for op in dict.fromkeys(row["op"] for row in own if row["sweep"]):
            paths.append(plot_scaling(device, op, [row for row in own if row["op"] == op], folder))
    return paths


def slug(device: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in device).split())


def save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return path


def legend_entry(label: str, colour: str = "black", marker: str = "", line: Any = "", fill: bool = True) -> Any:
    from matplotlib.lines import Line2D

    face = colour if fill else "none"
    return Line2D([], [], color=colour, marker=marker, linestyle=line, markerfacecolor=face, label=label)


def colour(backend: str) -> str:
    return COLOURS.get(backend, "#17becf")


def plot_roofline(device: str, rows: Sequence[Row], folder: Path) -> Path:
    """Counted GFLOP/s over counted FLOPs per byte, under the ceilings: a panel for each dtype."""
    from matplotlib import pyplot

    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, grid = pyplot.subplots(1, len(dtypes), figsize=(7 * len(dtypes), 5), squeeze=False, sharey=True)
    markers = dict(zip(dict.fromkeys(row["op"] for row in rows), MARKERS * 2, strict=False))
    for axes, dtype in zip(grid[0], dtypes, strict=True):
        own = [row for row in rows if row["dtype"] == dtype]
        draw_ceiling(axes, own)
        for row in own:
            face = colour(row["backend"]) if row["phase"] == "fwd" else "none"
            style = {"marker": markers[row["op"]], "markersize": 6, "markeredgecolor": colour(row["backend"])}
            point = row["flops"] / row["bytes"], row["flops"] / row["p50_ms"] / 1e6
            axes.loglog(*([value] for value in point), markerfacecolor=face, linestyle="", **style)
        axes.set(xlabel="counted FLOP per byte", title=f"{device}, {dtype}")
        axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("counted GFLOP/s")
    entries = [legend_entry("copy and product ceilings", line="-")]
    entries += [legend_entry(op, marker=marker) for op, marker in markers.items()]
    entries += [
        legend_entry("filled: forward", marker="o"),
        legend_entry("hollow: with backward", marker="o", fill=False),
    ]
    entries += [legend_entry(name, colour(name), "s") for name in dict.fromkeys(row["backend"] for row in rows)]
    grid[0][-1].legend(handles=entries, fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return save(figure, folder / f"roofline_{slug(device)}.png")


def plot_gains(rows: Sequence[Row], folder: Path) -> Path | None:
    """Gains over plain PyTorch, losses left of the line: a panel for CPUs and one for GPUs. None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no chart of gains", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, panels = pyplot.subplots(1, 2, figsize=(13, 4), layout="constrained")
    for axes, (kind, lines) in zip(panels, GAINS.items(), strict=True):
        own = [row for row in rows if (row["clock"] == "events") == (kind == "GPU") and row["clock"] != "cpu"]
        draw_gains(axes, kind, own, lines)
    figure.suptitle("Speed over plain PyTorch (1 is equal), medians of interleaved rounds")
    return save(figure, folder / "speed.png")


def draw_gains(axes: Axes, kind: str, rows: Sequence[Row], lines: Sequence[Sequence[Any]]) -> None:
    """Two bars a line, as BARS says; a measurement that does not exist has no bar."""
    measured = {tuple(row[name] for name in ("op", "case", "dtype", "layout", "phase", "backend")): row for row in rows}
    drawn: list[Row] = []
    for offset, (label, backend, field, face) in zip((-0.2, 0.2), BARS[kind], strict=True):
        own = [measured.get((*names[:-1], backend or names[-1])) for _, *names in lines]
        drawn += [row for row in own if row]
        gains = [plain_gain(row, field) if row else None for row in own]
        ratios = {place + offset: ratio for place, ratio in enumerate(gains) if ratio}
        widths = [ratio - 1 for ratio in ratios.values()]
        axes.barh(list(ratios), widths, left=1, height=0.38, color=face, label=label)
        for place, ratio in ratios.items():
            near: Any = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
            near |= {"ha": "left", "xytext": (3, 0)} if ratio >= 1 else {"ha": "right", "xytext": (-3, 0)}
            axes.annotate(f"{ratio:.2f}x", (ratio, place), **near)
    axes.set_yticks(range(len(lines)), [label for label, *_ in lines])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlim=(0.25, 14))
    axes.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    threads = "" if kind == "GPU" else ", {threads} threads, float32"
    machines = dict.fromkeys(("{device}" + threads).format_map(row) for row in drawn)
    axes.set_title(", ".join(machines) or f"{kind}: not measured on a clean commit yet")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)
    axes.grid(axis="x", alpha=0.25)


def plain_gain(row: Row, field: str) -> float | None:
    """A row's gain over plain PyTorch, which in the whole system is the package's own reference."""
    name = "ratio_to_reference" if row["op"] == "system" and field == "ratio_to_naive" else field
    return row[name]


def draw_ceiling(axes: Axes, rows: Sequence[Row]) -> None:
    """The copy's ramp and the product's flat top, of the run that saw the highest ones."""
    copy, product = (max(row[name] for row in rows) for name in ("copy_gbs", "matmul_gflops"))
    intensities = [row["flops"] / row["bytes"] for row in rows]
    xs = sorted([min(intensities) / 2, product / copy, 8 * max(*intensities, product / copy)])
    axes.loglog(xs, [min(product, x * copy) for x in xs], "k-")
    near: Any = {"textcoords": "offset points", "fontsize": "small", "ha": "right"}
    axes.annotate(f"{product:.0f} GFLOP/s", (xs[-1], product), xytext=(0, 4), **near)
    middle = (xs[0] * xs[1]) ** 0.5
    axes.annotate(f"{copy:.0f} GB/s", (middle, middle * copy), xytext=(-8, 2), **near)


def plot_scaling(device: str, op: str, rows: Sequence[Row], folder: Path) -> Path:
    """Time, and peak memory where it was measured, over each size; the fitted exponents stand in the legends."""
    from matplotlib import pyplot

    fields = {"p50_ms": "p50 ms", "peak_mb": "peak MiB"}
    found = {field: groups for field in fields if (groups := scaling_groups(rows, field))}
    letters = list(dict.fromkeys(name[-1] for groups in found.values() for name in groups))
    shape: Any = {"nrows": len(found), "ncols": len(letters), "squeeze": False, "sharey": "row"}
    size = (4.2 * len(letters), 3.8 * len(found))
    figure, grid = pyplot.subplots(**shape, figsize=size, layout="constrained")
    for line, (field, groups) in zip(grid, found.items(), strict=True):
        for axes, letter in zip(line, letters, strict=True):
            draw_scaling(axes, letter, {name: points for name, points in groups.items() if name[-1] == letter})
        line[0].set_ylabel(fields[field])
    figure.suptitle(f"{op} on {device}: cost against one size, and size to the power of")
    return save(figure, folder / f"scaling_{slug(device)}_{op}.png")


def draw_scaling(axes: Axes, letter: str, groups: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    several = {name[2] for name in groups}
    for (_, phase, dtype, backend, _), points in groups.items():
        label = f"{backend} {phase}{f' {dtype}' if len(several) > 1 else ''}: {exponent(points):.2f}"
        style: Any = {"marker": "o", "markersize": 4, "linestyle": "-" if phase == "fwd" else "--"}
        axes.loglog(*zip(*points, strict=True), color=colour(backend), label=label, **style)
    sizes = sorted({size for points in groups.values() for size, _ in points})
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_xticks(sizes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel({"HW": "H × W"}.get(letter, letter))
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize="x-small")
