import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips
from rlv2v_fast.errors import InputError, RunWarning, TrainingDivergedError
from rlv2v_fast.files import temporary
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.checkpoint import best_folder, checkpoints, save_best
from rlv2v_fast.train.config import LossConfig, save_config
from rlv2v_fast.train.logging import RunLog
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.trainer import Trainer
from tests.train.helpers import assert_same, small, weights

REMEDIES = {
    "target": "monte_carlo",
    "normalize": True,
    "baseline": True,
    "critics": 2,
    "critic_steps": 2,
    "first_step": 1,
}


@pytest.mark.parametrize("rl", [{}, REMEDIES, {"smoothing": 0.2, "critics": 2}])
def test_resuming_is_bit_identical_to_never_stopping(config, domains, rl):
    config = dataclasses.replace(config, rl=dataclasses.replace(config.rl, **rl))
    straight = fit(dataclasses.replace(config, steps=6, out=config.out.with_name("straight")), domains)
    fit(dataclasses.replace(config, steps=3), domains)
    resumed = fit(dataclasses.replace(config, steps=6), domains, resume=True)
    assert resumed.step == straight.step == 6
    assert_same(weights(straight), weights(resumed))
    a, b = straight.reinforcement, resumed.reinforcement
    assert_same(a.targets.state_dict(), b.targets.state_dict())
    assert_same(*({k: torch.as_tensor(v) for k, v in r.buffer.state_dict().items()} for r in (a, b)))
    assert torch.equal(a.returns.mean, b.returns.mean)
    assert a.returns.scale == b.returns.scale


def test_metrics_have_one_row_a_step_after_resuming_a_killed_run(config, domains):
    fit(dataclasses.replace(config, steps=3), domains)
    metrics = config.out / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 4, "lost": true}\n')
    fit(dataclasses.replace(config, steps=5), domains, resume=True)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert not any("lost" in row for row in rows)
    assert {"seconds", "discriminator_x", "adversarial_y", "recurrent_x", "recycle_y", "video_x"} <= rows[0].keys()


def test_a_run_leaves_checkpoints_a_preview_and_its_config(config, domains):
    fit(dataclasses.replace(config, steps=7, keep=2), domains)
    assert [p.name for p in checkpoints(config.out)] == ["step_00000006", "step_00000007"]
    previews = [f"step_0000000{step}.{kind}" for step in (4, 7) for kind in ("png", "webp")]
    assert sorted(p.name for p in (config.out / "previews").iterdir()) == previews
    with Image.open(config.out / "previews" / previews[-1]) as moving:
        assert moving.n_frames == config.frames
    assert (config.out / "config.yaml").is_file()
    assert not list((config.out / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 24}, "size cannot change when resuming: the run has 16; got 24"),
        ({"frames": 3}, "frames cannot change when resuming: the run has 4; got 3"),
        ({"seed": 9}, "seed cannot change"),
        ({"loss": LossConfig(recycle=5.0)}, "loss.recycle cannot change when resuming: the run has 0.1; got 5.0"),
    ],
)
def test_resuming_refuses_what_would_change_the_run_and_names_it(config, domains, change, message):
    fit(dataclasses.replace(config, steps=2), domains)
    before = (config.out / "config.yaml").read_text()
    with pytest.raises(InputError, match=message):
        fit(dataclasses.replace(config, **change), domains, resume=True)
    assert (config.out / "config.yaml").read_text() == before
    assert len(checkpoints(config.out)) == 1


def test_resuming_may_change_intervals_and_length(config, domains):
    fit(dataclasses.replace(config, steps=2), domains)
    changed = dataclasses.replace(config, steps=3, checkpoint_every=1, keep=1, preview_every=1)
    assert fit(changed, domains, resume=True).step == 3


def test_resuming_on_other_videos_is_refused(config, domains):
    fit(dataclasses.replace(config, steps=2), domains)
    clips = figure1_clips("target", 3, 8, 16, seed=2)
    other = {**domains, "y": Domain.from_arrays(clips, frames=config.frames, size=config.size)}
    with pytest.raises(InputError, match="target holds other videos"):
        fit(config, other, resume=True)


def test_a_run_is_not_overwritten_nor_resumed_from_nothing(config, domains):
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        fit(config, domains, resume=True)
    fit(dataclasses.replace(config, steps=2), domains)
    with pytest.raises(InputError, match="already holds a run; pass --resume"):
        fit(config, domains)


def test_a_damaged_checkpoint_is_passed_by_for_the_one_before(config, domains):
    config = small(config)
    straight = fit(dataclasses.replace(config, out=config.out.with_name("straight")), domains)
    fit(config, domains)
    newest = checkpoints(config.out)[-1]
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.warns(RunWarning, match=r"step_00000004/state\.pt' is damaged: .* goes on from .*step_00000002"):
        resumed = fit(config, domains, resume=True)
    assert_same(weights(straight), weights(resumed))
    rows = [json.loads(line)["step"] for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4]
    assert [p.name[:21] for p in sorted((config.out / "checkpoints").iterdir())] == [
        "damaged_step_00000004",
        "step_00000002",
        "step_00000004",
    ]


def test_a_damaged_best_model_is_set_aside_when_resuming(config, domains):
    config = small(config)
    fit(dataclasses.replace(config, steps=2), domains)
    best = save_best(config.out, 2, RLV2VGAN(ModelConfig(width=1, critics=False)), 0.5)
    (best / "best.json").write_text("{}")
    with pytest.warns(RunWarning, match=r"best\.json' is damaged: .*; the best model is sought anew"):
        fit(dataclasses.replace(config, steps=2), domains, resume=True)
    assert best_folder(config.out) is None


def test_a_run_killed_before_its_first_checkpoint_begins_again(config, domains):
    config = small(config)
    straight = fit(dataclasses.replace(config, out=config.out.with_name("straight")), domains)
    config.out.mkdir()
    save_config(config, config.out / "config.yaml")
    (config.out / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    save_best(config.out, 1, RLV2VGAN(ModelConfig(width=1, critics=False)), 0.0)
    with pytest.raises(InputError, match=r"rl\.gamma cannot change when resuming"):
        fit(dataclasses.replace(config, rl=dataclasses.replace(config.rl, gamma=0.5)), domains, resume=True)
    assert_same(weights(straight), weights(fit(config, domains, resume=True)))
    rows = [json.loads(line)["step"] for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4]


def test_a_log_keeps_each_step_once_whatever_was_in_it(tmp_path):
    rows = b'{"step": 1}\n\xff\xfe\n{"step": 2}\n{"step": 2}\n[]\n{"step": null}\n{"step": 4}\n{"step": 3}\n{"st'
    (tmp_path / "metrics.jsonl").write_bytes(rows)
    log = RunLog(tmp_path, 3, 5, quiet=True)
    log.row(4, 0.0, {})
    log.close()
    kept = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept == [1, 2, 3, 4]


def test_a_second_process_may_not_train_into_the_same_folder(config, domains):
    config = small(config)
    config.out.mkdir()
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(600)"
    lock = config.out / ".lock"
    other = subprocess.Popen([sys.executable, "-c", hold, lock], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        for resume in (False, True):
            with pytest.raises(InputError, match=r"run' is in use: another process trains into it"):
                fit(config, domains, resume=resume)
    finally:
        other.kill()
        other.communicate()
    fit(config, domains)
    assert not lock.exists()


def test_a_new_run_refuses_a_folder_with_another_runs_best_model(config, domains):
    save_best(config.out, 3, RLV2VGAN(ModelConfig(width=1, critics=False)), 0.5)
    with pytest.raises(InputError, match="already holds the best model of a run; remove it, or pass another folder"):
        fit(config, domains)


def test_the_next_run_removes_what_killed_ones_left_unfinished(config, domains):
    (config.out / "checkpoints" / ".step_00000002.1a2b").mkdir(parents=True)
    (config.out / "previews").mkdir()
    for folder in (config.out, config.out / "previews"):
        temporary(folder / "a.png").touch()
    fit(config, domains)
    assert sorted(p.name for p in (config.out / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]
    assert list(config.out.rglob(".*")) == []


def test_tensorboard_is_missed_before_anything_is_trained(config, domains, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(Trainer, "iterate", None)
    with pytest.raises(InputError, match="tensorboard needs the extra"):
        fit(dataclasses.replace(config, tensorboard=True, starts=2), domains)


def test_an_output_that_cannot_be_written_is_named(config, domains, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out '.*file/run' cannot be written"):
        fit(dataclasses.replace(config, out=tmp_path / "file" / "run"), domains)


def test_divergence_names_the_loss_and_keeps_the_last_checkpoint(config, domains):
    class Poisoned:
        """Clips that hold a NaN from the third draw on."""

        draws = 0

        def batch(self, generator, size, window=None):
            clips = domains["x"].batch(generator, size, window)
            Poisoned.draws += 1
            return clips if Poisoned.draws < 3 else clips * float("nan")

        def fingerprint(self):
            return domains["x"].fingerprint()

    with pytest.raises(
        TrainingDivergedError, match=r"training diverged: \w+ is nan at step 3; the last good checkpoint is .*02"
    ):
        fit(config, {**domains, "x": Poisoned()})
    kept = checkpoints(config.out)
    assert [p.name for p in kept] == ["step_00000002"]
    assert all(t.isfinite().all() for t in RLV2VGAN.from_pretrained(kept[0]).state_dict().values())


SCRIPT = """
import pathlib, sys
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips
from rlv2v_fast.train.config import NetworkConfig, RLConfig, TrainConfig, resolve
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.trainer import Trainer

out, steps, resume = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
config = resolve(TrainConfig(out=out, size=16, frames=4, quiet=True, device="cpu", steps=steps, checkpoint_every=5,
                             network=NetworkConfig(width=2),
                             rl=RLConfig(weight=0.1, rollout_every=2, critic_warmup=1, capacity=40)))
clips = lambda kind: Domain.from_arrays(figure1_clips(kind, 2, 8, 16), frames=4, size=16)
try:
    fit(config, {"x": clips("source"), "y": clips("target")}, resume=resume)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def start(run, steps, mode="fresh"):
    """A training process in folder run."""
    command = [sys.executable, "-c", SCRIPT, str(run), str(steps), mode]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for_rows(process, run, count):
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= count):
        assert process.poll() is None
        time.sleep(0.05)


def test_the_first_interrupt_saves_and_stops(tmp_path):
    process = start(tmp_path / "run", 10**6)
    wait_for_rows(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    assert int(checkpoints(tmp_path / "run")[-1].name.split("_")[1]) == rows
