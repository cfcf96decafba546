"""Some of the damaged files of `make trust`, and what a few bytes must not make the package do."""

import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from rlv2v_fast.data import probe, read_frames
from rlv2v_fast.data.names import MOST_PIXELS
from rlv2v_fast.data.y4m import Y4mReader
from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from tests.trust import hostile

ROOT = Path(__file__).resolve().parents[2]


def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path):
    counts = hostile.try_all(hostile.Originals(tmp_path), 110, tmp_path / "evil", 1)
    assert counts.total() >= 100
    assert min(counts["read"], counts["refused"]) > 10


def test_odd_names_are_read_and_pipes_devices_and_loops_refused(tmp_path):
    hostile.places(1, None, tmp_path)


def png(width, height):
    """A few bytes that declare a large picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_cannot_ask_for_a_huge_frame(tmp_path):
    side = 12000
    assert side**2 > MOST_PIXELS
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(png(side, side))
    header = f"YUV4MPEG2 W{side} H{side} F25:1 C420\n".encode()
    (tmp_path / "a.y4m").write_bytes(header + b"FRAME\n" + bytes(999))
    for path in (tmp_path / "frames", tmp_path / "a.y4m"):
        for read in (probe, lambda path: next(iter(read_frames(path)))):
            with pytest.raises(InputError, match=f"at most {MOST_PIXELS} pixels a frame; got {side}x{side}"):
                read(path)
    with (tmp_path / "a.y4m").open("rb") as stream, pytest.raises(InputError, match="input '-' must have at most"):
        Y4mReader(stream)


@pytest.mark.parametrize(("field", "value"), [("width", 10**6), ("critics", 10**9), ("norm", "[]")])
def test_a_model_cannot_ask_for_huge_networks(tmp_path, field, value):
    RLV2VGAN(ModelConfig(width=1, critics=0)).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    before = '"norm": "batch"' if field == "norm" else f'"{field}": {int(field == "width")}'
    text = config.read_text()
    assert before in text
    config.write_text(text.replace(before, f'"{field}": {value}'))
    with pytest.raises(InputError, match=r"model file .*(holds another architecture|fewer than|cannot be used)"):
        RLV2VGAN.from_pretrained(tmp_path)


def test_a_list_of_addresses_with_a_videos_name_opens_none(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n")
        (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile '{address}'\n")
        for name in ("a.mp4", "b.mp4"):
            with pytest.raises(InputError, match=f"{name}' (is damaged or not a video|cannot be read)"):
                probe(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


OFFLINE = """
import socket, sys
def refuse(event, args):
    if event.startswith("socket.") and event != "socket.gethostname":
        raise RuntimeError(f"the package used the network: {event} {args}")
sys.addaudithook(refuse)
from pathlib import Path
import rlv2v_fast, rlv2v_fast.nn, rlv2v_fast.ops, rlv2v_fast.convert, rlv2v_fast.looks
from rlv2v_fast import cli
folder = Path(sys.argv[1])
cli.main(["info"])
cli.main(["train", "--source", str(folder), "--target", str(folder), "--out", str(folder / "run"), "--device", "cpu",
          "--steps", "1", "--size", "16", "--frames", "2", "--starts", "1", "--quiet", "--look", "never",
          "--cache", str(folder / "cache")])
cli.main(["translate", "--model", str(folder / "run"), str(folder / "video.mp4"), str(folder / "out.mp4"), "--quiet"])
"""


def test_importing_training_and_translating_open_no_socket(tmp_path):
    (tmp_path / "all").mkdir()
    hostile.make_originals(tmp_path / "all")
    (tmp_path / "videos").mkdir()
    os.rename(tmp_path / "all" / "video.mp4", tmp_path / "videos" / "video.mp4")
    command = [sys.executable, "-c", OFFLINE, tmp_path / "videos"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "videos" / "out.mp4").is_file()
