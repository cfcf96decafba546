"""Measuring, judged by what does not depend on how fast the machine is."""

import argparse
import json
import time

import pytest
import torch

from bench import bench_system, cli, harness, memory, regression
from bench.bench_blocks import count_between, count_block
from bench.bench_convlstm import BACKENDS, count, prepare
from bench.cases import (
    BLOCKS,
    CONVLSTM,
    Case,
    ForwardBackward,
    Operation,
    Setting,
    UnavailableError,
    Work,
    operations,
    sweep_cases,
)
from bench.harness import (
    ROW_FIELDS,
    Ceilings,
    Plan,
    interleave,
    measure,
    new_row,
    percentile,
    ratio,
    round_order,
)
from rlv2v_fast import extension

CPU = Setting(torch.device("cpu"))
REQUIRED = {
    *("op", "case", "shape", "dtype", "layout", "backend", "phase", "p20_ms", "p50_ms", "p80_ms", "peak_mb", "flops"),
    *("bytes", "ratio_to_naive", "ratio_to_compile", "device", "driver", "versions", "commit", "threads", "load"),
}
TINY = next(case for case in CONVLSTM if case.name == "tiny")


def convlstm() -> Operation:
    return operations()["convlstm"]


def tiny_rows(backends, phases=("fwd", "fwd_bwd")):
    plan = Plan(rounds=2, tiny=True)
    return [row for rows in measure(convlstm(), TINY, CPU, backends, phases, plan) for row in rows]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.2, 1.8), (0.5, 3.0), (0.8, 4.2), (1.0, 5.0), (0.25, 2.0)]
)
def test_percentile_interpolates_between_sorted_values(share, expected):
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == pytest.approx(expected)


def test_percentile_of_one_value_is_that_value():
    assert [percentile([7.0], share) for share in (0.2, 0.5, 0.8)] == [7.0] * 3


def test_ratio_is_the_median_of_the_ratios_within_each_round():
    # A slow second round hits both, so it must not count: 2, 2, 3 and not 22 / 10.
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0
    assert ratio(None, [1.0]) is None


def test_a_commit_in_the_environment_goes_before_git(monkeypatch):
    ask = harness.commit.__wrapped__
    monkeypatch.setattr(harness.subprocess, "run", lambda *_, **__: pytest.fail("git was asked"))
    monkeypatch.setenv("RLV2V_FAST_COMMIT", "0123456789ab")
    assert ask() == "0123456789ab"


def test_a_commit_is_unknown_without_git_and_environment(monkeypatch):
    def run(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(harness.subprocess, "run", run)
    monkeypatch.delenv("RLV2V_FAST_COMMIT", raising=False)
    assert harness.commit.__wrapped__() is None


def test_rounds_alternate_their_direction():
    ran: list[str] = []
    calls = {name: lambda name=name: ran.append(name) for name in "abc"}
    times = interleave(calls, rounds=3, warmup=1)
    assert "".join(ran) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert round_order(["a", "b"], 0) == ["a", "b"]


def test_a_passed_deadline_still_leaves_one_round():
    times = interleave({"a": lambda: None}, rounds=50, deadline=time.monotonic() - 1)
    assert len(times["a"]) == 1


def test_convlstm_work_matches_a_count_by_hand():
    case = Case("hand", {"B": 2, "T": 3, "C": 1, "H": 4, "W": 5, "K": 2, "k": 3})
    pixels, weights = 2 * 3 * 4 * 5, 4 * 2 * 3 * 9 + 4 * 2
    flops = 2 * pixels * 8 * 3 * 9
    assert count(case, "fwd", torch.float32) == Work(flops, 4 * (pixels * 1 + weights + pixels * 2))
    assert count(case, "fwd_bwd", torch.bfloat16) == Work(3 * flops, 2 * 3 * (pixels * 1 + weights + pixels * 2))


def test_share_is_the_binding_ceilings_time_over_the_time_taken():
    ceilings = Ceilings(copy_gbs=100.0, matmul_gflops=1000.0)
    assert ceilings.share(Work(flops=10**9, bytes=1), seconds=0.002) == pytest.approx(0.5)
    assert ceilings.share(Work(flops=1, bytes=10**9), seconds=0.02) == pytest.approx(0.5)


def test_every_row_has_the_whole_schema_and_is_json():
    rows = tiny_rows(["naive", "reference", "conv", "triton-fused"])
    assert set(ROW_FIELDS) >= REQUIRED
    for row in rows:
        assert tuple(row) == ROW_FIELDS
        assert json.loads(json.dumps(row)) == row
    assert {(row["backend"], row["phase"]) for row in rows if row["p50_ms"]} == {
        (backend, phase) for backend in ("naive", "reference", "conv") for phase in ("fwd", "fwd_bwd")
    }
    naive = next(row for row in rows if row["backend"] == "naive")
    assert naive["ratio_to_naive"] == 1.0
    assert naive["ratio_to_compile"] is None
    assert naive["p20_ms"] <= naive["p50_ms"] <= naive["p80_ms"]


def test_a_backend_that_cannot_run_gives_a_row_with_its_reason():
    row = next(row for row in tiny_rows(["naive", "triton-fused"], ["fwd"]) if row["backend"] == "triton-fused")
    assert "on a GPU" in row["skipped"]
    assert row["p50_ms"] is row["ratio_to_naive"] is row["flops"] is None


def test_a_missing_package_is_named():
    def prepare_without(case, backend, setting):
        import a_package_that_is_not_there  # noqa: F401

    operation = Operation("x", (TINY,), ("ours",), prepare_without)
    (rows,) = measure(operation, TINY, CPU, ["ours"], ["fwd"], Plan(rounds=1))
    assert rows[0]["skipped"] == "a_package_that_is_not_there is not installed"


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="got speed"):
        new_row(speed=3)


@pytest.mark.parametrize("backend", ["naive", "reference", "conv"])
def test_a_peers_backward_gives_every_gradient(backend):
    grads = prepare(TINY, backend, CPU)["fwd_bwd"]()
    shape = TINY.shape
    assert grads[0].shape == (shape["B"], shape["T"], shape["C"], shape["H"], shape["W"])
    assert [g.shape for g in grads[1:]] == [(32, 12, 3, 3), (32,)]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_backends_compute_the_same_from_the_same_weights(backend, layout):
    setting = Setting(CPU.device, layout=layout)
    if backend == "cpp" and extension.why_not_cpu() is not None:
        pytest.skip("the C++ operators are not built")
    for phase in ("fwd", "fwd_bwd"):
        want, got = (prepare(TINY, name, setting)[phase]() for name in ("naive", backend))
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_a_sweep_varies_one_size_at_a_time():
    base = next(case for case in CONVLSTM if case.name == "A")
    for case in sweep_cases(base):
        changed = {letter for letter in base.shape if case.shape[letter] != base.shape[letter]}
        assert changed <= ({"H", "W"} if case.sweep == "HW" else {case.sweep})
    pixels = [case.shape["H"] * case.shape["W"] for case in sweep_cases(base) if case.sweep == "HW"]
    assert pixels == [1024, 2116, 4096, 8100]


def test_a_sweep_of_a_block_varies_channels_and_keeps_sides_even():
    cases = sweep_cases(next(case for case in BLOCKS if case.name == "tiny"))
    assert {case.sweep for case in cases} == {"T", "B", "HW", "C"}
    assert all(case.shape["H"] % 2 == 0 for case in cases)


def test_every_operation_and_its_backends_are_registered_once():
    found = operations()
    assert {"convlstm", "system"} <= set(found)
    for operation in found.values():
        names = [case.name for case in operation.cases]
        assert len(names) == len(set(names))
    assert len(BACKENDS) == len(set(BACKENDS))


def test_run_writes_rows_and_prints_where(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    arguments = ["run", "--op", "convlstm", "--case", "tiny", "--backend", "naive", "cpp", "--phase", "fwd", "--tiny"]
    arguments += ["--device", "cpu", "--rounds", "2", "--threads", str(torch.get_num_threads()), "--out", str(out)]
    assert cli.main(arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["backend"] for row in rows} == {"naive", "cpp"}
    assert f"2 rows in {out}" in capsys.readouterr().out


def test_the_system_has_rows_only_for_backends_of_its_parts():
    system = operations()["system"]
    cases = {case.name: case for case in system.cases}
    assert system.applies is not None
    having = {
        name: [b for b in system.backends if system.applies(cases[name], b)]
        for name in ("train-32", "stream-64", "replay-add", "import")
    }
    assert having == {
        "train-32": ["ours", "reference", "compile"],
        "stream-64": ["ours", "reference"],
        "replay-add": ["ours"],
        "import": ["ours", "python", "torch"],
    }


def test_a_wheel_that_does_not_exist_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_system, "ROOT", tmp_path)
    with pytest.raises(UnavailableError, match="no wheel"):
        bench_system.newest_wheel()


def test_replay_throughput_is_transitions_over_seconds():
    system = operations()["system"]
    case = next(case for case in system.cases if case.name == "replay-sample")
    assert system.value is not None
    assert system.value(case, 0.5) == (case.shape["N"] / 0.5, "transitions/s")


def test_what_runs_once_is_timed_by_its_first_call():
    ran = []
    operation = Operation("x", (), ("ours",), lambda *_: {"run": lambda: ran.append(1)}, phases=("run",), system=True)
    ((row,),) = measure(operation, Case("slow", {}, once=True), CPU, ["ours"], ["run"], Plan(rounds=5))
    assert len(ran) == row["rounds"] == 1
    assert row["p20_ms"] == row["p50_ms"] == row["p80_ms"] > 0


def test_saved_bytes_count_each_saved_tensor_once_and_no_leaf():
    x, y = (torch.randn(100, requires_grad=True) for _ in range(2))
    # The product saves both leaves, the exponential its result, and the squares that result again.
    call = ForwardBackward(lambda: ((x * y).exp().square(),), [x, y])
    assert memory.saved_bytes(call) == 400
    assert memory.saved_bytes(lambda: None) is None
    assert [grad.shape for grad in call()] == [(100,), (100,)]


def test_peak_memory_on_a_cpu_holds_at_least_what_is_saved():
    operation = convlstm()
    case = Case("larger", {"B": 2, "T": 4, "C": 8, "H": 64, "W": 64, "K": 16, "k": 3})
    calls = {name: prepare(case, name, CPU)["fwd_bwd"] for name in ("naive", "reference")}
    found = memory.peaks(operation, case, CPU, "fwd_bwd", calls)
    for name, call in calls.items():
        assert found[name] > 0.9 * memory.saved_bytes(call) / memory.MIB


@pytest.mark.parametrize("backend", ["naive-other", "reference", "cpp"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_backends_of_the_convolution_compute_what_naive_computes(backend, layout):
    if backend == "cpp" and extension.why_not_cpu() is not None:
        pytest.skip("the C++ operators are not built")
    operation, setting = operations()["conv3d"], Setting(CPU.device, layout=layout)
    case = next(case for case in operation.cases if case.name == "tiny")
    naive, ours = (operation.prepare(case, name, setting) for name in ("naive", backend))
    for phase in operation.phases:
        for want, got in zip(naive[phase](), ours[phase](), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["rpb", "urb", "rpb-between", "urb-between"])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_backends_of_the_blocks_compute_what_naive_computes(op, backend, layout):
    if backend == "cpp" and extension.why_not_cpu() is not None:
        pytest.skip("the C++ operators are not built")
    operation, setting, results = operations()[op], Setting(CPU.device, layout=layout), {}
    case = next(case for case in operation.cases if case.name == "tiny")
    for name in ("naive", backend):
        torch.manual_seed(0)
        calls = operation.prepare(case, name, setting)
        # The same numbers for what is random in each.
        torch.manual_seed(1)
        inputs = [leaf for leaf in calls["fwd_bwd"].leaves if leaf.dim() == 5 and leaf.shape[0] == case.shape["B"]]
        for leaf in inputs:
            leaf.data.normal_()
        results[name] = [*calls["fwd"](), *calls["fwd_bwd"]()[: len(inputs)]]
    for want, got in zip(results["naive"], results[backend], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_the_work_of_a_block_matches_a_count_by_hand():
    case = Case("hand", {"B": 1, "T": 2, "C": 4, "H": 8, "W": 8})
    full, weights = 4 * 2 * 64, 2 * 27 * 16
    assert count_block("RPB", case, "fwd", torch.float32) == Work(4 * full * 4 * 27, 4 * (full + weights + full // 4))
    between = count_between("URB", case, "fwd_bwd", torch.bfloat16)
    assert between.bytes == 2 * (3 * (2 * full + full // 4) + 2 * 2 * full)
    assert between.flops == 3 * full * 18


@pytest.mark.parametrize(
    ("now", "status"), [(2.0, "ok"), (1.61, "ok"), (1.59, "slower"), (2.49, "ok"), (2.51, "faster"), (None, "missing")]
)
def test_a_ratio_is_judged_by_its_band(now, status):
    found = {} if now is None else {"a": now}
    assert [verdict.status for verdict in regression.judge({"a": 2.0}, found, band=0.2)] == [status]


def test_a_ratio_that_seems_slower_is_measured_again(monkeypatch):
    looks = iter([{"a/A/f": 1.0, "b/A/f": 1.0}, {"a/A/f": 1.9, "b/A/f": 1.1}])
    asked = []
    monkeypatch.setattr(regression, "measure_cases", lambda options, conditions, names: asked.append(list(names)))
    monkeypatch.setattr(regression, "ratios", lambda rows: next(looks))
    baseline = {"band": 0.3, "conditions": {"cases": ["a/A", "b/A"]}, "ratios": {"a/A/f": 2.0, "b/A/f": 2.0}}
    verdicts = regression.judge_all(argparse.Namespace(band=None), baseline)
    assert [verdict.status for verdict in verdicts] == ["ok", "slower"]
    assert asked == [["a/A", "b/A"], ["a/A", "b/A"]]


def test_regression_stores_ratios_and_never_times(tmp_path):
    rows = tiny_rows(["naive", "reference"], ["fwd"])
    conditions = {"cases": ["tiny"], "threads": 1, "clock": "wall"}
    path = tmp_path / "baseline.json"
    assert regression.store(path, conditions, rows) == 0
    record = json.loads(path.read_text())
    assert list(record["ratios"]) == ["convlstm/tiny/float32/contiguous/fwd/reference"]
    assert "ms" not in path.read_text()
    arguments = ["regression", "--device", "cpu", "--baseline", str(tmp_path / "none.json")]
    assert cli.main(arguments) == 2
