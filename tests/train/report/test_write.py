import dataclasses
import json
import os
import re
import shutil
import signal
from html import escape

import pytest

from rlv2v_fast import cli
from rlv2v_fast.errors import InputError, TrainingDivergedError
from rlv2v_fast.train.config import load_config, save_config
from rlv2v_fast.train.report.write import reported, write_report
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.signals import Stopped


def test_the_page_is_one_file_with_every_part(finished):
    page = (finished / "report.html").read_text()
    for part in ("Samples", "Starts", "Curves", "Settings", "Timings", "Environment"):
        assert f"<h2>{part}</h2>" in page
    assert page.count("<video") == 4 * (3 + 2)
    assert "By the model of iteration" in page
    # Whatever a page loads is data.
    assert set(re.findall(r"""(?:src|href)=["'](\w+):""", page)) == {"data"}
    assert not re.search(r"https?://|@import|url\(|<link(?! rel=\"icon\")", page)


def test_texts_of_users_are_escaped(finished):
    page = (finished / "report.html").read_text()
    assert "<img" not in page
    (awkward,) = (finished.parent / "source").glob("<*")
    assert f"source: {escape(awkward.name)}" in page
    assert "a machine &lt;of&gt; facts" in page
    assert str(finished.parent) not in page  # whole paths may be private


def test_the_command_writes_it_again_and_says_where(run, capsys):
    (run / "report.html").unlink()
    cli.main(["report", "--run", str(run), "--device", "cpu"])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "By the model of iteration" in (run / "report.html").read_text()


def test_samples_follow_the_model_and_outlive_the_videos(run):
    (samples,) = (run / "samples").iterdir()
    samples.rename(samples.with_name("step_00000001"))
    write_report(run, device="cpu")
    assert [each.name for each in (run / "samples").iterdir()] == [samples.name]
    samples.rename(samples.with_name("step_00000001"))
    config = load_config(run / "config.yaml")
    save_config(dataclasses.replace(config, source=run / "gone"), run / "config.yaml")
    page = write_report(run, device="cpu").read_text()
    assert "Those of an earlier model: source must be an existing" in page
    assert page.count("<video") == 20
    shutil.rmtree(run / "samples")
    page = write_report(run, device="cpu").read_text()
    assert "There are none: source must be an existing" in page
    assert "<video" not in page


def test_a_run_without_files_shows_the_clips_of_training(config, domains):
    with reported(config, domains):
        fit(config, domains)
    assert "a real target: clip 1" in (config.out / "report.html").read_text()


def test_a_stopped_run_has_a_report(config, domains, monkeypatch):
    config = dataclasses.replace(config, starts=2, start_steps=2)
    # Between the first start and the second.
    monkeypatch.setattr("rlv2v_fast.train.run.tqdm.update", lambda bar: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped), reported(config, domains):
        fit(config, domains)
    page = (config.out / "report.html").read_text()
    assert "The run did not come to its end: terminated." in page
    assert "the run has saved no model yet" in page
    assert "No iteration has been recorded yet" in page


def test_a_diverged_run_has_a_report(config, domains, monkeypatch):
    save_config(config, _made(config))
    with pytest.raises(TrainingDivergedError), reported(config, domains):
        raise TrainingDivergedError("training diverged: recycle_x is nan at step 7")
    assert "recycle_x is nan at step 7" in (config.out / "report.html").read_text()


def test_a_refused_run_leaves_the_report_of_the_other(run):
    config = load_config(run / "config.yaml")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(InputError), reported(dataclasses.replace(config, out=run), {}):
        raise InputError("out already holds a run")
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_a_report_that_fails_loses_no_run(config, domains, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlv2v_fast.train.report.write.page", fail)
    with reported(config, domains):
        trainer = fit(config, domains)
    assert trainer.step == 2
    assert "the report could not be written: [Errno 28] No space left" in capsys.readouterr().err
    assert not (config.out / "report.html").exists()


def test_a_look_alone_has_a_report_with_its_doubt(run):
    words = "a look alone: the target shows no lights <in> the dark"
    doubt = {"spread": 0.0321, "matched": 7}
    record = {"alone": True, "words": words, "evidence": 0.12, "enough": 0.4, "x2y": doubt, "y2x": doubt}
    (run / "look.json").write_text(json.dumps(record))
    (run / "metrics.jsonl").unlink()
    page = write_report(run, device="cpu").read_text()
    assert "The run took a look alone: the target shows no lights &lt;in&gt; the dark." in page
    assert all(number in page for number in ("0.12", "0.0321", ">7<"))
    assert "Curves" not in page


def test_a_name_that_is_not_utf8_is_shown_all_the_same(run):
    name = os.fsdecode(b"caf\xe9.mp4")
    (index,) = run.glob("samples/*/samples.json")
    index.write_text(json.dumps({"x2y": [[name, name]]}))
    assert "caf?.mp4" in write_report(run, device="cpu").read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run must be the folder of a run, which holds config.yaml; got"):
        write_report(tmp_path)


def _made(config):
    config.out.mkdir()
    return config.out / "config.yaml"
