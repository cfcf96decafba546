"""Tables, comparison and fits from made-up rows."""

import json
import subprocess

import pytest

from bench import cli, report
from bench.fits import exponent
from bench.harness import new_row
from bench.plots import plot

VERSIONS = {"torch": "9.9", "triton": None, "cuda": None, "python": "3.99"}


def row(**fields):
    base = {
        "op": "convlstm",
        "case": "A",
        "shape": {"B": 1, "T": 2, "H": 4, "W": 4, "K": 8},
        "dtype": "float32",
        "layout": "contiguous",
        "backend": "cpp",
        "phase": "fwd",
        "clock": "wall",
        "device": "Some CPU",
        "p20_ms": 1.0,
        "p50_ms": 2.0,
        "p80_ms": 3.0,
        "ratio_to_naive": 2.0,
        "versions": VERSIONS,
        "commit": "aaaaaaaaaaaa",
        "threads": 1,
        "load": 0.5,
        "time": "2030-01-01T00:00:00+00:00",
    }
    return new_row(**(base | fields))


def test_losing_cases_are_in_the_table_and_bold():
    text = report.markdown([row(), row(case="B", ratio_to_naive=0.5)])
    assert "| B | float32 | contiguous | fwd | 1 | cpp | 2 (1 to 3) | **0.50x** |" in text
    assert "| A | float32 | contiguous | fwd | 1 | cpp | 2 (1 to 3) | 2.00x |" in text


def test_the_short_table_has_a_line_for_each_case():
    rows = [row(backend="naive", ratio_to_naive=1.0), row(), row(backend="cpp-low", ratio_to_naive=0.5)]
    rows.append(row(backend="conv", ratio_to_naive=3.0))
    rows.append(row(backend="triton", clock="events", ratio_to_naive=4.0, graph_ratio_to_naive=0.75))
    text = report.markdown(rows, full=False)
    assert "| naive p50 ms (p20 to p80) | cpp | cpp-low | triton | conv |" in text
    assert "| fwd | 1 | 2 (1 to 3) |" in text
    assert "**0.50x**" in text
    assert "4.00x (**0.75x** as graphs)" in text


def test_runs_of_different_threads_and_clocks_stay_apart():
    rows = [row(), row(threads=2, ratio_to_naive=0.5), row(clock="cpu", ratio_to_naive=3.0)]
    lines = [line for line in report.markdown(rows, full=False).splitlines() if line.startswith("| convlstm")]
    assert len(lines) == 3
    assert any("| 1, processor time |" in line and "3.00x" in line for line in lines)


def test_rows_from_before_a_field_existed_are_read(tmp_path):
    old = {name: value for name, value in row().items() if name != "saved_bytes"}
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    assert report.read_rows([tmp_path]) == [row()]


def test_a_device_never_measured_is_said_to_be_so():
    assert "GPU: not yet measured" in report.markdown([row()])
    assert "CPU: not yet measured" in report.markdown([row(clock="events", device="Some GPU")])
    assert "GPU: not yet measured" not in report.markdown([row(clock="events", device="Some GPU")])
    assert report.markdown([]).strip().split("\n\n") == ["CPU: not yet measured", "GPU: not yet measured"]


def test_the_table_says_what_it_was_measured_with():
    text = report.markdown([row(), row(case="B", commit="bbbbbbbbbbbb", load=3.0)])
    assert "**Some CPU**: commit aaaaaaaaaaaa, bbbbbbbbbbbb, threads 1, clock wall, torch 9.9, python 3.99" in text
    assert "load 0.5 to 3.0" in text


def test_the_newest_row_that_was_not_skipped_counts():
    rows = [
        row(p50_ms=9.0, time="2030-01-02T00:00:00+00:00"),
        row(p50_ms=5.0),
        row(backend="triton", skipped="no GPU", p50_ms=None),
    ]
    assert [each["p50_ms"] for each in report.newest(rows)] == [9.0]


def test_system_rows_show_their_figure():
    text = report.markdown([row(op="system", case="stream-64", phase=None, value=123.456, unit="frames/s")])
    assert "| stream-64 | 1 | cpp | 123.5 frames/s |" in text


def test_compare_gives_ratios_of_times_and_of_gains():
    before = [row(p50_ms=4.0, ratio_to_naive=2.0), row(case="only before")]
    after = [row(p50_ms=2.0, ratio_to_naive=3.0, commit="bbbbbbbbbbbb"), row(case="only after")]
    ((_, _, faster, relative),) = report.compare(before, after)
    assert (faster, relative) == (2.0, 1.5)


def test_compare_takes_commits_or_files(tmp_path, capsys):
    old, new = row(p50_ms=1.0), row(p50_ms=4.0, commit="bbbbbbbbbbbb")
    for name, rows in (("old.jsonl", [old]), ("new.jsonl", [new])):
        (tmp_path / name).write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert cli.main(["compare", "aaaaaaa", "bbbbbbb", "--results", str(tmp_path)]) == 0
    by_commit = capsys.readouterr().out
    assert "| 1 | 4 | **0.25x** |" in by_commit
    assert cli.main(["compare", str(tmp_path / "old.jsonl"), str(tmp_path / "new.jsonl")]) == 0
    assert capsys.readouterr().out == by_commit
    assert cli.main(["compare", "aaaaaaa", "ccccccc", "--results", str(tmp_path)]) == 1


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power):
    assert exponent([(size, 3.0 * size**power) for size in (1, 2, 4, 16)]) == pytest.approx(power)


def test_scaling_rows_give_exponents_and_no_ratios():
    shapes = [{"T": t, "H": 4, "W": 4} for t in (2, 4, 8)]
    rows = [row(case=f"A[T={s['T']}]", shape=s, sweep="T", p50_ms=0.5 * s["T"] ** 2, peak_mb=s["T"]) for s in shapes]
    text = report.markdown(rows)
    assert "| op | phase | dtype | backend | T |" in text
    assert "| convlstm | fwd | float32 | cpp | 2.00 / 1.00 |" in text
    assert "A[T=4]" not in text


def test_only_the_text_between_the_markers_is_replaced(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.write_between_markers(path, "new\n")
    assert path.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    path.write_text("no markers")
    assert not report.write_between_markers(path, "new")
    assert path.read_text() == "no markers"


def test_plots_are_drawn_for_counted_and_swept_rows(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row(flops=10**9, bytes=10**7, copy_gbs=10.0, matmul_gflops=100.0)]
    rows += [row(case=f"A[K={k}]", shape={"K": k, "H": 4, "W": 4}, sweep="K", p50_ms=float(k)) for k in (8, 16)]
    paths = plot(rows, tmp_path)
    assert [path.name for path in paths] == ["roofline_Some-CPU.png", "scaling_Some-CPU_convlstm.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def test_report_prints_every_column(tmp_path, capsys):
    counted = row(flops=10**9, bytes=10**7, copy_gbs=10.0, matmul_gflops=100.0, saved_bytes=2**21)
    write_rows(tmp_path / "rows.jsonl", counted)
    assert cli.main(["report", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("| saved MiB |") for line in lines)
    assert any(line.endswith("| 1 | 10 | – | 2 |") for line in lines)


@pytest.mark.parametrize("option", ["--page", "--readme"])
def test_rows_of_an_uncommitted_state_are_refused(tmp_path, capsys, option):
    write_rows(tmp_path / "clean.jsonl", row())
    write_rows(tmp_path / "other.jsonl", row(case="B", commit="bbbbbbbbbbbb-dirty"))
    target = tmp_path / "target.md"
    target.write_text(f"{report.BEGIN}\n{report.END}\n")
    assert cli.main(["report", "--results", str(tmp_path), option, str(target)]) == 1
    assert f"{tmp_path / 'other.jsonl'}: commit bbbbbbbbbbbb-dirty is not clean" in capsys.readouterr().err
    assert target.read_text() == f"{report.BEGIN}\n{report.END}\n"


def test_committed_rows_are_all_of_clean_commits():
    listed = subprocess.run(["git", "ls-files", "*.jsonl"], cwd=cli.RESULTS, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [cli.RESULTS / name for name in listed.stdout.splitlines()]
    assert files
    assert report.uncommitted(files) == []


def test_the_page_has_gains_rows_notes_plots_and_gaps(tmp_path):
    pytest.importorskip("matplotlib")
    counted = {"flops": 10**9, "bytes": 10**7, "copy_gbs": 10.0, "matmul_gflops": 100.0}
    write_rows(tmp_path / "results/rows.jsonl", row(**counted), row(**counted, backend="naive", ratio_to_naive=1.0))
    folder = tmp_path / "results/Some-CPU"
    folder.mkdir()
    (folder / "notes.md").write_text("Somebody watched a film meanwhile.\n")
    (folder / "stages.txt").write_text("tests: status 1, 78 s\n")
    target = tmp_path / "docs/page.md"
    target.parent.mkdir()
    assert cli.main(["report", "--results", str(tmp_path / "results"), "--page", str(target)]) == 0
    text = target.read_text()
    assert "| naive p50 ms (p20 to p80) | cpp |" in text
    assert "| backend | p50 ms (p20 to p80) |" in text
    assert "Somebody watched a film meanwhile." in text
    assert "tests: status 1, 78 s" in text
    assert "- [roofline Some-CPU](../results/roofline_Some-CPU.png)" in text
    gaps = text.split("## Not measured on a clean commit yet")[1]
    assert "- CPU, convlstm: B, C, D, streaming\n" in gaps
    assert "- CPU, convlstm: torch.compile\n" in gaps
    assert "- GPU, convlstm: A, B, C, D, BIG, streaming\n" in gaps


def test_the_readme_shows_its_rows_with_losses_and_gaps(tmp_path):
    pytest.importorskip("matplotlib")
    names = {"case": "streaming", "backend": "triton", "clock": "events", "device": "Some GPU"}
    ours = row(**names, ratio_to_naive=0.5, graph_ratio_to_naive=1.5)
    write_rows(tmp_path / "results/rows.jsonl", ours, row(**{**names, "backend": "naive"}, p50_ms=1.0))
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    assert cli.main(["report", "--results", str(tmp_path / "results"), "--readme", str(readme)]) == 0
    lines = readme.read_text().splitlines()
    assert "| Some GPU: ConvLSTM, one frame (streaming), float32 | 1 ms | 2 ms | **0.50x** | 1.50x |" in lines
    assert sum("not measured on a clean commit yet" in line for line in lines) == len(report.README_ROWS) - 1
    assert (tmp_path / "docs/images/speed.png").stat().st_size > 1000


def test_the_readme_shows_one_iterations_time_and_no_dtype():
    names = {"op": "system", "case": "train-64", "dtype": "default", "phase": None, "clock": "events", "device": "G"}
    times = {"p50_ms": 2000.0, "value": 0.5, "unit": "s/iteration", "ratio_to_naive": None, "ratio_to_reference": 0.8}
    ours = row(**names, **times, backend="ours")
    theirs = row(**names, **{**times, "value": 0.4, "ratio_to_reference": 1.0}, backend="reference")
    lines = report.readme_table([ours, theirs]).splitlines()
    assert "| G: training iteration, 64x64 (bf16 autocast) | 400 ms | 500 ms | **0.80x** | – |" in lines


def test_the_readme_agrees_with_the_committed_rows():
    text = (report.ROOT / "README.md").read_text()
    shown = text.split(report.BEGIN)[1].split(report.END)[0].strip()
    assert shown == report.readme_table(report.read_rows([cli.RESULTS]))
