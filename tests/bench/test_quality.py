"""The quality harness on made-up clips: rows, resuming, tables and sheets."""

import dataclasses
import itertools
import json
import math
import types

import numpy as np
import pytest
import torch

from bench.quality import critics, runs
from bench.quality.__main__ import main, train_variant, training_fields
from bench.quality.flow import load_motion
from bench.quality.report import CRITICS, summary
from bench.quality.runs import Budget, SharedStarts, train
from bench.quality.tasks import DayNight, Figure1
from bench.quality.variants import DAYNIGHT, FIGURE1_VARIANTS, changed
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.metrics import warping_error
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.rl.ddpg import by_domain
from rlv2v_fast.rl.rollout import step_reward
from rlv2v_fast.train.checkpoint import best_distance, model_folder
from rlv2v_fast.train.config import TrainConfig, load_config, resolve
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.starts import start_configs
from rlv2v_fast.train.trainer import Trainer

TINY = {"frames": 2, "window": 2, "size": 16, "network__width": 2, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three clips in each folder; night is a darker day, with a lit square."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for index in range(3):
            day = random.integers(100, 255, (3, 16, 16, 3)).astype(np.uint8)
            night = day // 4
            night[:, 4:8, 4:8] = (255, 231, 110)
            for name, clip in (("day", day), ("night", night)):
                folder = root / part / name / str(index)
                folder.parent.mkdir(parents=True, exist_ok=True)
                with VideoWriter(folder, 16, 16, 8) as writer:
                    for frame in clip:
                        writer.write(frame)
    return root


@pytest.mark.parametrize("variants", [DAYNIGHT, FIGURE1_VARIANTS])
def test_every_variant_of_a_task_is_another_config(variants):
    configs = {name: make() for name, make in variants.items()}
    assert len({repr(config) for config in configs.values()}) == len(configs)


def test_variants_that_differ_after_the_starts_share_them():
    names = list(DAYNIGHT)
    sharing = names[names.index("few-shot") : names.index("few-shot, paper's generator")]
    expected = start_configs(DAYNIGHT["few-shot"]())
    assert all(start_configs(DAYNIGHT[name]()) == expected for name in sharing)
    assert "few-shot + RL" in sharing


def test_plain_variants_are_the_papers_system_and_the_presets():
    assert DAYNIGHT["+ RL (the paper's system)"]() == load_config("paper")
    assert DAYNIGHT["+ video loss"]() == TrainConfig()
    assert DAYNIGHT["few-shot"]() == load_config("few-shot-cpu")
    assert FIGURE1_VARIANTS["+ video loss, frames judged alone"]() == load_config("figure1-cpu")


def test_the_truth_scores_best_and_baselines_ignore_the_pairs(data):
    task = DayNight(lambda frames: frames.mean(dim=(2, 3)), None, data)
    truth = itertools.cycle(pair.truth for pair in task.pairs)
    perfect = task.scores(lambda clip: next(truth))
    assert (perfect["ssim"], perfect["lit_iou"], perfect["temporal_error"]) == (pytest.approx(1), 1, 0)
    assert perfect["frechet"] == pytest.approx(0, abs=1e-6)
    assert perfect["warping_error"] is None
    for translate in task.baselines(2).values():
        assert task.scores(translate)["psnr"] < 30


def test_figure_1_scores_each_halfs_background_and_the_digits():
    task = Figure1(None, None)
    truths = iter([pair.truth for pair in task.pairs] * 2)
    perfect = task.scores(lambda clip: next(truths))
    assert perfect["background_at"] == [1.0] * 8
    assert perfect["digit_iou"] > 0.9
    # Blue all along is right in the first half only.
    blue = task.scores(lambda clip: torch.tensor([-1.0, -1.0, 1.0])[:, None, None].expand_as(clip))
    assert (blue["background_at"], blue["background"], blue["digit_iou"]) == ([1.0] * 4 + [0.0] * 4, 0.5, 0.0)


def test_optical_flow_finds_a_shift_and_warping_undoes_it():
    motion = load_motion()
    if motion is None:
        pytest.skip("needs opencv-python-headless")
    # A smooth texture that moves two pixels to the right from frame to frame.
    x, y = torch.meshgrid(torch.arange(48.0), torch.arange(32.0), indexing="xy")
    texture = [torch.sin((x - 2 * t) / 3) * torch.cos((x - 2 * t) / 5 + y / 4) for t in range(3)]
    clip = torch.stack(texture)[:, None].expand(-1, 3, -1, -1)
    flow, visible = motion(clip)
    middle = flow[:, :, 8:-8, 8:-8]
    assert middle[:, 0].mean().item() == pytest.approx(-2, abs=0.1)
    assert middle[:, 1].abs().mean() < 0.1
    assert visible[:, 8:-8, 8:-8].float().mean() > 0.95
    assert warping_error(clip, flow, visible) < 0.1 * warping_error(clip, torch.zeros_like(flow), visible)


def tiny_task(data):
    """DayNight with one variant that trains at once."""
    task = DayNight(None, None, data)
    config = changed(DAYNIGHT["tuned + RL"](), **TINY, rl__rollout_every=2, rl__critic_warmup=0)
    object.__setattr__(task, "variants", {"tiny": lambda: config})
    return task


@pytest.fixture
def step_clock(monkeypatch):
    """A clock "steps" that knows of iterations alone: each takes 0.1 seconds, or what `step_clock` is set to."""
    iterate = Trainer.iterate
    clock = types.SimpleNamespace(now=0.0, step=0.1)

    def timed(trainer):
        clock.now += clock.step
        return iterate(trainer)

    monkeypatch.setattr(Trainer, "iterate", timed)
    monkeypatch.setitem(runs.CLOCKS, "steps", lambda: clock.now)
    return clock


def test_training_fills_its_budget_and_keeps_the_best_weights(data, step_clock):
    task = tiny_task(data)
    config = changed(task.variants["tiny"](), rl__weight=0.0, starts=2, start_steps=1, few_shot=2, quiet=True)
    result = train(config, task.domains(config, 2), Budget(0.03, "steps"), selects=True)
    # 1.8 s hold 18 steps, of which the two starts take one each.
    assert (result.starts, result.steps) == (2, 16)
    assert result.seconds == pytest.approx(1.8)
    assert result.criterion > 0
    assert 1 <= result.kept <= result.steps
    assert result.model.translate(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 16, 16)


def test_a_machine_that_slows_down_ends_a_run_early(data, step_clock, monkeypatch):
    task = tiny_task(data)
    config = changed(task.variants["tiny"](), rl__weight=0.0, few_shot=2, quiet=True)
    monkeypatch.setattr(runs, "_affordable", lambda *_: (1, 10))
    step_clock.step = 0.4
    result = train(config, task.domains(config, 2), Budget(0.03, "steps"), selects=True)
    assert (result.steps, result.kept > 0) == (5, True)
    assert result.seconds == pytest.approx(2.0)


def test_time_is_shared_out_by_the_cost_of_starts_and_steps(monkeypatch):
    config = changed(DAYNIGHT["few-shot"](), start_steps=10, loss__cycle_from=0.25)
    first = start_configs(config)[0]

    def cost(config, *_):
        return 0.1 if config == first else 0.3 if config.loss.cycle else 0.2

    monkeypatch.setattr(runs, "_step_seconds", cost)
    mean = 0.25 * 0.2 + 0.75 * 0.3
    assert affordable(config, 1.0) == (12, int((60 - 12) / mean))
    assert affordable(config, 0.1) == (4, int((6 - 4) / mean))
    shared = SharedStarts(3.0, start_configs(config))
    assert runs._affordable(config, {}, Budget(0.1), 0.1, shared) == (12, int((6 - 3) / mean))
    assert affordable(changed(config, starts=1), 1.0) == (1, int(60 / mean))
    assert affordable(changed(config, loss__cycle=0.0, starts=1), 1.0) == (1, 300)


def affordable(config, minutes):
    return runs._affordable(config, {}, Budget(minutes), minutes, SharedStarts())


def test_a_whole_run_has_its_own_starts_and_keeps_its_last_model(data):
    task = tiny_task(data)
    config = changed(task.variants["tiny"](), rl__weight=0.0, starts=2, start_steps=2, steps=3, few_shot=2, quiet=True)
    result = train(config, task.domains(config, 2), Budget(None, "cpu"), selects=True)
    assert (result.starts, result.steps, result.kept) == (2, 3, 3)
    assert math.isnan(result.criterion)
    last, kept = result.trainer.model.state_dict(), result.model.state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in kept.items())


def test_a_whole_run_keeps_the_weights_that_the_package_would(data, tmp_path):
    task = tiny_task(data)
    config = changed(task.variants["tiny"](), rl__weight=0.0, steps=4, select_every=1, few_shot=2, quiet=True)
    config = resolve(changed(config, out=tmp_path / "run"))
    domains = task.domains(config, 2)
    result = train(config, domains, Budget(None, "cpu"), selects=True)
    fit(config, domains)
    folder = model_folder(tmp_path / "run")
    assert folder.name == f"step_{result.kept:08d}"
    shipped, kept = RLV2VGAN.from_pretrained(folder).state_dict(), result.model.state_dict()
    assert all(torch.equal(shipped[name], tensor) for name, tensor in kept.items())


def test_variants_with_equal_starts_share_them(data):
    task, shared = tiny_task(data), SharedStarts()
    config = changed(task.variants["tiny"](), rl__weight=0.0, starts=2, start_steps=2, few_shot=2, quiet=True)
    domains, budget = task.domains(config, 2), Budget(None, "cpu")

    def begun(**values):
        each = changed(config, **values)
        trainer, seconds = shared.begin(each, domains, budget)
        expected, _ = SharedStarts().begin(each, domains, budget)
        weights = expected.model.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.model.state_dict().items())
        assert trainer.config == each
        return seconds

    first = begun()
    assert begun(loss__cycle=1.0, loss__cycle_from=0.5, loss__augment=("cutout",), optim__decay=True, steps=7) == first
    assert begun(rl__weight=0.1, loss__video=1.0, loss__recycle=1.0) == first
    assert begun(seed=9) != first
    assert begun(starts=1) != first


def test_a_row_has_both_directions_and_what_the_critics_know(data):
    task = tiny_task(data)
    key = {"variant": "tiny", "k": 2, "seed": 0, "minutes": 0.02, "clock": "cpu"}
    row = training_fields(train_variant(key, task, SharedStarts()), task)
    assert row["back"]["psnr"] > 0
    assert set(row["gradients"]) == {"gradient_policy", "gradient_actor"}
    assert {"explained_variance_x", "explained_variance_y", "reward_x", "final_reward_y"} <= set(row["critics"])


def test_a_row_found_in_the_file_is_not_measured_again(data, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    command = ["run", "--data", str(data), "--out", str(out), "--sheets", str(tmp_path / "sheets"), "--k", "2"]
    command += ["--variant", "identity", "mean frame"]
    assert main(command) == 0
    assert main([*command, "histogram"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["variant"] for row in rows] == ["identity", "mean frame", "histogram"]
    assert all(row["commit"] and row["versions"] for row in rows)
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 3
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert "mean frame" in capsys.readouterr().out


def test_a_finished_run_is_scored_under_the_name_given(data, tmp_path):
    config = changed(tiny_task(data).variants["tiny"](), rl__weight=0.0, few_shot=2, steps=2, quiet=True)
    config = dataclasses.replace(config, out=tmp_path / "run", seed=5, select_every=1)
    fit(resolve(config), tiny_task(data).domains(config, 2))
    out = tmp_path / "rows.jsonl"
    for _ in range(2):  # a run already there is no other seed
        assert main(["score", str(tmp_path / "run"), "--data", str(data), "--name", "whole", "--out", str(out)]) == 0
    (row,) = (json.loads(line) for line in out.read_text().splitlines())
    assert (row["variant"], row["k"], row["seed"], row["steps"], row["minutes"]) == ("whole", 2, 5, 2, 0.0)
    assert {"psnr", "lit_iou", "back"} <= set(row)
    assert (row["kept"], row["criterion"]) == (2, best_distance(tmp_path / "run"))
    assert str(tmp_path) not in json.dumps(row)


def test_a_variant_that_a_task_lacks_is_named(data):
    with pytest.raises(SystemExit, match=r"--variant must be of .*'histogram'.* for daynight; got 'few-shots'"):
        main(["run", "--data", str(data), "--variant", "few-shots"])
    with pytest.raises(SystemExit, match="--data must name"):
        main(["run"])


def test_the_table_has_mean_and_spread_and_no_empty_column():
    row = {
        "task": "daynight",
        "k": 8,
        "variant": "few-shot",
        "minutes": 4.0,
        "clock": "cpu",
        "threads": 1,
        "steps": 10,
        "ssim": 0.5,
    }
    table = summary([{**row, "psnr": 18.0}, {**row, "psnr": 20.0}])
    lines = table.splitlines()
    assert lines[2] == "| 8 | few-shot | 4 cpu x1 | 2 | 10 | 19.0 ± 1.4 | 0.50 ± 0.00 |"
    assert "frame 1" not in table
    whole = summary([{**row, "minutes": None, "seconds": 66.0, "psnr": 18.0}])
    assert "| 8 | few-shot | 1.1 cpu x1 | 1 | 10 | 18.0 | 0.50 |" in whole
    assert "lit IoU" not in lines[0]


def test_positions_and_critics_have_tables_of_their_own():
    critics = {name: 0.25 for name, _, _ in CRITICS}
    norms = {"gradient_actor": 1.0, "gradient_policy": 3.0}
    row = {"task": "figure1", "k": 40, "variant": "+ RL", "minutes": 2.0, "clock": "cpu", "threads": 1, "steps": 10}
    table = summary([{**row, "background_at": [1.0, 0.5], "critics": critics, "gradients": norms}])
    assert "| 40 | + RL | 2 cpu x1 | 1.00 | 0.50 |" in table
    assert "| 40 | + RL | 2 cpu x1 | 0.2500 | 0.25 |" in table


def test_a_study_of_critics_covers_both_baselines_and_every_seed():
    tiny = {**TINY, "frames": 4, "window": None, "rl__first_step": 1}
    rows = []
    for seed in (0, 1):
        config = resolve(changed(FIGURE1_VARIANTS["+ RL"](), seed=seed, **tiny))
        rows += critics.study(Figure1(None, None, frames=4, size=16), config, [1, 2], rollouts=1)
    # Seeds, discounts, baselines, domains, updates.
    assert len(rows) == 2 * 2 * 2 * 2 * 2
    assert all(row["explained"] <= 1 and row["within"] <= 1 and -1 <= row["cosine"] <= 1 for row in rows)
    lines = critics.table(rows).splitlines()
    assert len(lines) == 2 + 2 * 2 * 2
    assert lines[2].startswith("| 0.99 | no | 1 | 2 |")


def test_a_critic_that_is_the_reward_has_its_gradient():
    """The cosine is 1 for the reward itself as the critic, and -1 for its negative."""
    config = resolve(changed(FIGURE1_VARIANTS["+ RL"](), seed=0, few_shot=2, device="cpu"))
    task = Figure1(None, None)
    trainer = Trainer(config, task.domains(config, 2))
    learner = trainer.reinforcement
    held = by_domain(learner.roll(task.heldout(config), torch.Generator().manual_seed(0)))["y"]
    some = held[(~held.done).nonzero().flatten()[:4]]

    class Reward(torch.nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, state, action, position):
            weight = torch.full((len(action),), learner.weights.recurrent)
            judge = learner.networks.discriminators["y"]
            return self.sign * step_reward(judge, state, action, some.true_action, weight, learner.weights.kind)

    for sign in (1, -1):
        assert critics._cosine(learner, Reward(sign), "y", some) == pytest.approx(sign, abs=1e-5)
