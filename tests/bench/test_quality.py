"""The quality harness on made-up clips: rows, resuming, tables and sheets."""

import json

import numpy as np
import pytest
import torch

from bench.quality.__main__ import main
from bench.quality.report import summary
from bench.quality.runs import Budget, judged_frames, open_domains, train
from bench.quality.score import baselines, read_clips, score
from bench.quality.variants import VARIANTS, changed
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.train.config import TrainConfig

TINY = {"frames": 2, "size": 16, "network__width": 2, "device": "cpu", "precision": "fp32", "rl__weight": 0.0}


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


def test_every_variant_is_a_config_and_only_one_is_the_preset():
    configs = {name: make() for name, make in VARIANTS.items()}
    assert len({repr(config) for config in configs.values()}) == len(configs)
    assert configs["+ RL (the paper's system)"] == TrainConfig()


def test_scores_of_the_truth_are_perfect_and_baselines_ignore_the_pairs(data):
    day, night = read_clips(data / "val/day"), read_clips(data / "val/night")
    truth = iter(night.values())
    perfect = score(lambda clip: next(truth), day, night, lambda frames: frames.mean(dim=(2, 3)))
    assert (perfect["ssim"], perfect["lit_iou"], perfect["temporal_error"]) == (pytest.approx(1), 1, 0)
    assert perfect["frechet"] == pytest.approx(0, abs=1e-6)
    for translate in baselines(list(read_clips(data / "train/night", 2).values())).values():
        assert score(translate, day, night, None)["psnr"] < 30


def test_training_fills_its_budget_and_keeps_the_weights_with_the_best_unpaired_score(data):
    config = changed(VARIANTS["few-shot"](), **TINY, starts=2, start_steps=1, few_shot=2, quiet=True)
    domains = open_domains(data, 2, config)
    result = train(config, domains, judged_frames(domains), Budget(0.02, "cpu"))
    assert 1 <= result.kept <= result.steps
    assert result.seconds < 3
    assert result.translate(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 16, 16)


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


def test_the_table_has_mean_and_spread_over_seeds_and_a_dash_for_what_was_not_measured():
    row = {"k": 8, "variant": "few-shot", "minutes": 4.0, "clock": "cpu", "threads": 1, "steps": 10, "ssim": 0.5}
    table = summary([{**row, "psnr": 18.0}, {**row, "psnr": 20.0}])
    assert "| 8 | few-shot | 4 cpu x1 | 2 | 10 | 19.0 ± 1.4 | 0.50 ± 0.00 | – |" in table
