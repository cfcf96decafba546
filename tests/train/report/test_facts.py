import json
import math

from rlv2v_fast.train.config import save_config
from rlv2v_fast.train.report.facts import collect


def test_a_run_that_has_only_begun_has_no_numbers(config, tmp_path):
    save_config(config, tmp_path / "config.yaml")
    facts = collect(tmp_path)
    assert (facts.rows, facts.starts, facts.look, facts.sessions, facts.model) == ([], {}, {}, [], None)


def test_damaged_files_are_in_the_way_of_nothing(config, tmp_path):
    save_config(config, tmp_path / "config.yaml")
    lines = [
        '{"step": 1, "recycle_x": NaN}',
        "[1]",
        '{"loss": 1}',
        '{"step": 2, "note": "x", "recycle_x": 0.5}',
        '{"st',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "starts.json").write_text("{")
    (tmp_path / "look.json").write_bytes(b"\xff")
    facts = collect(tmp_path)
    assert math.isnan(facts.rows[0]["recycle_x"])
    assert facts.rows[1] == {"step": 2, "recycle_x": 0.5}
    assert facts.unread == 3
    assert (facts.starts, facts.look) == ({}, {})


def test_a_start_that_diverged_has_no_distance(config, tmp_path):
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "starts.json").write_text(json.dumps({"x2y": [0.5, None], "y2x": []}))
    assert collect(tmp_path).starts == {"x2y": [0.5, None]}
