"""Kinds of videos by their names, and what messages call them."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from rlv2v_fast.errors import InputError

# By container: what libavformat reads and this package checks for damage.
CONTAINERS = {
    "mov": (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v"),
    "matroska": (".mkv", ".webm"),
    "avi": (".avi", ".divx"),
    "mpegts": (".ts", ".mts", ".m2ts"),
    "mpeg": (".mpg", ".mpeg", ".vob"),
    "flv": (".flv",),
    "asf": (".wmv", ".asf"),
    "ogg": (".ogv",),
    "mxf": (".mxf",),
    "yuv4mpegpipe": (".y4m",),
    "nut": (".nut",),
    "apng": (".apng",),
}
CONTAINER_SUFFIXES = frozenset(suffix for suffixes in CONTAINERS.values() for suffix in suffixes)
ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = CONTAINER_SUFFIXES | ANIMATION_SUFFIXES

# Pixels of the largest frame that is decoded: 16K video has 15360 x 8640. Decoding one takes up to 2 GiB.
MOST_PIXELS = 2**27

# Errors of reading that are no fault of the video.
_SYSTEM = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ENOENT})

# What messages list; docs/video.md has all.
USUAL_VIDEOS = ".avi, .gif, .mkv, .mov, .mp4, .webm, .webp"
USUAL_FRAMES = ".jpeg, .jpg, .png"

# Other kinds of videos and pictures, which a folder may hold and which are not read.
OTHER_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("amv", "dv", "flc", "fli", "h264", "h265", "hevc", "insv", "ivf", "lrv", "m1v", "m2v", "m3u8", "mj2"),
        *("mjpeg", "mjpg", "mk3d", "mpe", "mpv", "ogg", "ogm", "r3d", "rm", "rmvb", "wtv", "yuv"),
        *("avif", "dng", "exr", "heic", "heif", "jp2", "jxl", "jpe", "pbm", "pgm", "ppm", "raw", "svg", "tga"),
    )
)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def frame_files(folder: Path) -> list[Path]:
    """The picture files directly inside ``folder``, in natural order, without hidden files."""
    files = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    frames = [entry for entry in files if entry.suffix.lower() in FRAME_SUFFIXES and entry.is_file()]
    return sorted(frames, key=lambda entry: natural_key(entry.name))


def existing(path: str | os.PathLike[str]) -> Path:
    """``path``, which is a folder or a file of a known kind.

    Raises:
        InputError: it is neither, or may not be read.
    """
    path = Path(path)
    try:
        path.stat()
        if not path.is_dir():
            if path.suffix.lower() not in VIDEO_SUFFIXES:
                known = f"{USUAL_VIDEOS} (docs/video.md lists more)"
                raise InputError(f"video '{path}' must be a folder of frames or end in one of {known}")
            if not path.is_file():  # reading a pipe or a device may never end
                raise InputError(f"video '{path}' must be a file or a folder; it is neither")
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        raise InputError(f"video '{path}' does not exist") from None
    except OSError as error:
        raise InputError(f"video '{path}' cannot be read: {error.strerror}") from error
    return path


def damaged(path: Path, reason: object) -> InputError:
    """The error for a video that cannot be decoded, or for what keeps the system from reading it."""
    if isinstance(reason, OSError) and reason.errno in _SYSTEM:
        return InputError(f"video '{path}' cannot be read: {reason.strerror}")
    text = getattr(reason, "strerror", None) or str(reason) or "it ends early"
    return InputError(f"video '{path}' is damaged or not a video: {text.splitlines()[0]}")


def check_pixels(what: str, width: int, height: int) -> None:
    """Raise InputError where a frame of this size would be too large to decode: a small file can declare any size.

    Args:
        what: the video as messages name it, such as "video 'walk.mp4'".
    """
    if width * height > MOST_PIXELS:
        raise InputError(f"{what} must have at most {MOST_PIXELS} pixels a frame; got {width}x{height}")


def libav_name(path: Path) -> str:
    """What libav takes for the file ``path`` whatever its name, which may start like a protocol ("http:walk.mp4")."""
    return f"file:{os.fspath(path)}"
