"""Two processes that train together over gloo, against each other and against one process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from rlv2v_fast.data.synthetic import write_figure1
from rlv2v_fast.errors import InputError
from rlv2v_fast.train import distributed
from rlv2v_fast.train.checkpoint import checkpoints
from rlv2v_fast.train.run import fit

WORKER = Path(__file__).with_name("distributed_worker.py")
ROOT = WORKER.parents[2]
spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch was built without torch.distributed")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gloo")


@pytest.fixture(scope="module")
def together(folder):
    """What each of two processes found; started once for every case, as starting is what takes time."""
    running = []
    for rank in range(2):
        command = [sys.executable, WORKER, str(rank), folder]
        running.append(subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True))
    try:
        messages = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], messages
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_two_processes_with_a_clip_each_are_one_with_both(together):
    alone = worker.exact_steps()
    for part in together:
        torch.testing.assert_close(part["exact"]["model"], alone["model"], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(part["exact"]["losses"], alone["losses"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "case", ["straight", "stopped", "resumed", "out of time", "waiting", "without rl", "apart", "starts"]
)
def test_all_processes_hold_the_same_state(together, case):
    first, second = (part[case] for part in together)
    assert first["step"] == second["step"]
    assert_same(first["model"], second["model"])
    if "targets" in first:
        assert_same(first["targets"], second["targets"])


def test_processes_draw_their_own_clips_and_choices(together):
    first, second = (part["straight"] for part in together)
    for name in ("data_random", "random"):
        assert not torch.equal(first[name], second[name])
    assert not torch.equal(first["buffer"]["frames"], second["buffer"]["frames"])


def test_each_process_resumes_bit_for_bit(together):
    for part in together:
        assert part["resumed"]["step"] == 2
        assert_same(part["resumed"], part["straight"])
        assert_same(part["resumed starts"], part["starts"])


def test_the_first_process_alone_writes_and_each_keeps_its_state(together, folder):
    run = folder / "run"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert [p.name for p in checkpoints(run)] == ["step_00000001", "step_00000002"]
    names = {p.name for p in checkpoints(run)[-1].iterdir()}
    assert names == {"README.md", "SHA256SUMS", "config.json", "model.safetensors", "state.pt", "state_1.pt"}
    assert not list((run / "checkpoints").glob(".*"))


def test_resuming_with_another_number_of_processes_is_refused(together, folder):
    config = worker.settings(folder / "run", steps=3)
    with pytest.raises(InputError, match="processes cannot change when resuming: the run has 2; got 1"):
        fit(config, worker.domains(), resume=True)


def test_all_processes_get_the_error_of_the_first(together):
    for part in together:
        assert "already holds a run" in part["taken"]


def test_a_loss_that_diverges_in_one_process_stops_all(together):
    for part in together:
        assert part["diverged"].startswith("TrainingDivergedError: training diverged: ")


def test_reinforcement_learning_off_equals_not_yet_begun(together):
    waiting, without = together[0]["waiting"]["model"], together[0]["without rl"]["model"]
    assert_same({n: t for n, t in waiting.items() if not n.startswith("critics")}, without)


def test_averages_are_over_the_processes_that_have_the_value(together):
    for part in together:
        both, one, none = part["gradients"]
        assert (both.tolist(), one.tolist(), none) == ([1.5, 3.0], [5.0, 7.0], None)
        assert part["numbers"] == {"both": 0.5, "only 0": 3.0, "only 1": 3.0}


def test_a_lone_process_is_left_as_it_is():
    assert (distributed.count(), distributed.rank(), distributed.seed_offset()) == (1, 0, 0)
    assert distributed.any_true(True)
    assert not distributed.any_true(False)
    numbers = {"a": 1.0}
    assert distributed.average_numbers(numbers) is numbers
    with distributed.joined("cuda") as device:
        assert device == "cuda"


def test_buckets_hold_every_tensor_in_order(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 16)
    tensors = [torch.zeros(n) for n in (1, 4, 0, 2, 9, 1)]
    buckets = list(distributed._buckets(tensors))
    assert [id(t) for bucket in buckets for t in bucket] == [id(t) for t in tensors]
    assert [len(bucket) for bucket in buckets] == [2, 3, 1]


def test_torchrun_trains_from_the_command_line(tmp_path):
    write_figure1(tmp_path, 2, 2, frames=6, size=16)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        *launch, "-m", "rlv2v_fast.cli", "train", "--source", tmp_path / "source", "--target", tmp_path / "target",
        "--out", tmp_path / "run", "--steps", "1", "--size", "16", "--frames", "4", "--network.width", "2",
        "--config", "paper", "--rl.weight", "0", "--rl.capacity", "20", "--device", "cpu", "--quiet",
        "--cache", tmp_path / "cache",
    ]  # fmt: skip
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("1 steps done") == 1
    assert (checkpoints(tmp_path / "run")[-1] / "state_1.pt").is_file()
