"""Folders of videos translated into folders, by one process or several."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlv2v_fast.errors import InputError
from rlv2v_fast.train.folder import RECORD, Outcome, Task, _share, translate_folder
from tests.train.test_translate import write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path):
    for name in ("walk.mp4", "b/run.mkv", "b/c/jump.gif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / name, 3)
    return tmp_path / "in"


class Copying:
    """Translates by copying, and remembers what."""

    def __init__(self):
        self.names = []

    def __call__(self, source, output):
        self.names.append(source.name)
        if b"not a video" in source.read_bytes():
            raise InputError(f"video '{source}' is damaged")
        shutil.copy(source, output)
        return 3


def translated(source, output, **settings):
    copying = Copying()
    return translate_folder(source, output, settings, copying), sorted(copying.names)


def test_every_video_keeps_its_name_and_place(source, tmp_path):
    outcome, _ = translated(source, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert found == {"walk.mp4", "b/run.mkv", "b/c/jump.gif", RECORD}
    assert str(outcome) == "3 translated (9 frames)"


def test_what_is_done_is_skipped_until_something_changes(source, tmp_path):
    out = tmp_path / "out"
    translated(source, out, model="a")
    outcome, names = translated(source, out, model="a")
    assert (str(outcome), names) == ("0 translated (0 frames), 3 already there", [])
    os.utime(source / "walk.mp4", (9, 9))
    (out / "b" / "run.mkv").unlink()
    outcome, names = translated(source, out, model="a")
    assert (outcome.already, names) == (1, ["run.mkv", "walk.mp4"])
    assert translated(source, out, model="b")[1] == ["jump.gif", "run.mkv", "walk.mp4"]


def test_a_video_that_fails_does_not_end_the_others(source, tmp_path):
    (source / "a.mp4").write_bytes(b"not a video")
    outcome, _ = translated(source, tmp_path / "out")
    assert (outcome.translated, len(outcome.failed)) == (3, 1)
    assert "a.mp4' is damaged" in outcome.failed[0]
    assert translated(source, tmp_path / "out")[1] == ["a.mp4"]


def test_a_file_of_somebody_else_is_never_replaced(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "walk.mp4").write_bytes(b"precious")
    outcome, names = translated(source, tmp_path / "out")
    assert (tmp_path / "out" / "walk.mp4").read_bytes() == b"precious"
    assert names == ["jump.gif", "run.mkv"]
    assert "walk.mp4 is there already and is no translation of this command" in outcome.failed[0]


@pytest.mark.parametrize("lines", [1, 2], ids=["after the file", "before the file"])
def test_translations_of_a_killed_process_are_made_again(source, tmp_path, lines):
    out = tmp_path / "out"
    translated(source, out)
    kept = (out / RECORD).read_text().splitlines()
    last = json.loads(kept[-1])["output"]
    (out / RECORD).write_text("\n".join(kept[:-lines]) + "\n" + kept[-lines][:25])
    if lines == 2:
        (out / last).unlink()
    outcome, names = translated(source, out)
    assert (names, outcome.failed) == ([Path(last).name], [])
    assert str(translated(source, out)[0]) == "0 translated (0 frames), 3 already there"


def test_a_kind_that_is_not_written_becomes_mp4(tmp_path, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.train.folder.OUTPUT_SUFFIXES", frozenset({".mp4"}))
    for name in ("walk.mp4", "walk.mov", "run.gif"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write(tmp_path / "in" / name, 2)
    translated(tmp_path / "in", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"walk.mp4", "walk.mov.mp4", "run.mp4", RECORD}


def test_an_output_inside_the_input_is_left_out(source):
    assert translated(source, source / "out")[0].translated == 3
    outcome, names = translated(source, source / "out")
    assert (outcome.already, names) == (3, [])


def test_places_that_do_not_fit_are_refused(source, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for output, message in (
        (source, "output must be another folder than input"),
        (tmp_path / "out.mp4", "output must be a folder, as input .* is one of videos; got .*out.mp4"),
        (tmp_path / "file", "output must be a folder"),
        (tmp_path / "file" / "out", "cannot be written: Not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            translated(source, output)
    with pytest.raises(InputError, match="input must hold video files"):
        translated(tmp_path / "empty", tmp_path / "out")


def test_shares_are_about_equal_and_complete():
    sizes = [1, 50, 3, 20, 20, 9, 1, 1]
    tasks = [Task(Path(str(i)), Path(str(i)), {"size": size}) for i, size in enumerate(sizes)]
    shares = [_share(tasks, rank, 2) for rank in range(2)]
    assert sorted(int(task.source.name) for share in shares for task in share) == list(range(8))
    loads = [sum(task.made_of["size"] for task in share) for share in shares]
    assert abs(loads[0] - loads[1]) <= 5
    assert _share(tasks[:1], 1, 2) == []


def test_the_outcome_says_what_happened():
    assert str(Outcome(2, 30, 1, ["a"])) == "2 translated (30 frames), 1 already there, 1 failed"


def test_processes_of_torchrun_share_a_folder(source, tmp_path):
    (tmp_path / "look.cube").write_text("LUT_3D_SIZE 2\n" + "0.5 0.5 0.5\n" * 8)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        *launch,
        "-m",
        "rlv2v_fast",
        "translate",
        "--model",
        tmp_path / "look.cube",
        "--device",
        "cpu",
        "--quiet",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--quiet", source, tmp_path / "out"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}: 3 translated (9 frames)\n"
    rows = [json.loads(line) for line in (tmp_path / "out" / RECORD).read_text().splitlines()]
    assert sorted(row["output"] for row in rows if row["frames"]) == ["b/c/jump.gif", "b/run.mkv", "walk.mp4"]
