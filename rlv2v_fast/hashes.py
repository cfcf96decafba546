"""Hashes of the files of a folder, written beside them, so that damage is found and named.

SHA256SUMS is what `sha256sum --check` reads. Its last line, a comment, is the hash of the lines above.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from rlv2v_fast.errors import InputError

HASHES_FILE = "SHA256SUMS"


def write_hashes(folder: Path) -> None:
    """Write SHA256SUMS of the files that are in folder. OSError where it cannot be written."""
    files = sorted(path for path in folder.iterdir() if path.name != HASHES_FILE)
    lines = "".join(f"{_hash_of(path)}  {path.name}\n" for path in files)
    (folder / HASHES_FILE).write_text(f"{lines}# {_hash(lines.encode())}\n")


def check_hashes(folder: Path) -> None:
    """Raise InputError where a file of folder is not as it was written; it names the file.

    A folder without SHA256SUMS, as earlier versions wrote it, passes.
    """
    for name in sorted(_recorded(folder)):
        check_hash(folder / name)


def check_hash(path: Path) -> None:
    """Raise InputError where SHA256SUMS beside path has another hash of it than the file has.

    A file that SHA256SUMS does not name passes, and so does one without SHA256SUMS beside it.
    """
    wanted = _recorded(path.parent).get(path.name)
    if wanted is None:
        return
    try:
        found = _hash_of(path)
    except OSError as error:
        raise InputError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    if found != wanted:
        raise InputError(f"file {str(path)!r} is damaged: its SHA-256 is not the one that {HASHES_FILE} beside it has")


def _recorded(folder: Path) -> dict[str, str]:
    """The hashes that SHA256SUMS in folder has, by file name."""
    path = folder / HASHES_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    lines, _, own = text.rpartition(b"# ")
    if own != f"{_hash(lines)}\n".encode():
        raise InputError(f"file {str(path)!r} is damaged: its last line is not the SHA-256 of the lines above")
    pairs = (line.split("  ", 1) for line in lines.decode(errors="replace").splitlines())
    # A name with a folder in it would lead out of this one; no writer of this package has one.
    return {name: digest for digest, name in pairs if name == os.path.basename(name)}


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
