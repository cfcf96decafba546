import json
from datetime import datetime

import pytest

from rlv2v_fast.train.config import save_config
from rlv2v_fast.train.report.facts import collect
from rlv2v_fast.train.report.page import page


@pytest.fixture
def written(config, tmp_path):
    """The page of a run whose folder holds these files beside its settings."""

    def write(**files):
        save_config(config, tmp_path / "config.yaml")
        for name, value in files.items():
            path = tmp_path / f"{name}.{'jsonl' if name in ('metrics', 'sessions') else 'json'}"
            path.write_text(value if isinstance(value, str) else json.dumps(value))
        return page(collect(tmp_path), {}, "There are none.", datetime(2026, 1, 2, 3, 4))

    return write


def test_a_run_that_has_only_begun_has_a_page(written):
    text = written()
    assert "No iteration has been recorded yet" in text
    assert "written 2026-01-02 03:04" in text
    assert "<video" not in text
    assert 'id="play"' not in text


def test_one_row_is_drawn_and_so_are_rows_with_gaps(written):
    assert written(metrics='{"step": 1, "recycle_x": 0.5}').count("<circle") == 1
    rows = [f'{{"step": {step}, "recycle_x": {"NaN" if step == 3 else step}}}' for step in range(1, 6)]
    text = written(metrics="\n".join(rows))
    assert text.count('<path class="line c1 dashed" d="M') == 2
    assert "Gaps are where a number was not finite" in text
    assert ">nan<" not in text.lower()


def test_a_number_of_an_unknown_name_is_drawn_under_its_name(written):
    assert "<h3>Others</h3>" in written(metrics='{"step": 1, "<b>_x": 0.5}')
    assert "<b>_x" not in written(metrics='{"step": 1, "<b>_x": 0.5, "<b>_y": 0.5}')


def test_starts_tell_the_chosen_and_the_diverged(written):
    text = written(starts={"x2y": [0.5, None, 0.25], "y2x": [None, None, None]})
    assert "<b>0.25 chosen</b>" in text
    assert text.count("diverged") == 4
    assert "1 short run from" in written(starts={"x2y": [0.5], "y2x": [0.4]})


def test_a_failed_run_and_a_stopped_one_say_so(written):
    verdict = {"distance": 0.31, "source": 0.4, "allowed": 0.03, "failed": True}
    text = written(verdict=verdict, sessions='{"how": "hung <up>"}')
    assert "This run has probably failed" in text
    assert "The source is at 0.4; runs that worked end below 0.03" in text
    assert "The run did not come to its end: hung &lt;up&gt;." in text
