"""The real pictures and films behind the look prior: fetched from Debian's and Python's packages, each by its hash.

    python -m bench.quality.pictures build/pictures

makes build/pictures/training and build/pictures/testing. pictures.json lists the packages, their licences, and every
picture. No picture for testing is one for training.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = json.loads((Path(__file__).parent / "pictures.json").read_text())
# Archives of version 1 of the Debian package format: a magic, then a header of 60 bytes before each member.
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


def fetch(folder: Path) -> None:
    """Write every picture into folder/training or folder/testing; one that is there already is left alone.

    Raises:
        ValueError: a file is not the one that the manifest names.
        OSError: a package cannot be fetched.
    """
    for package, origin in MANIFEST["packages"].items():
        pictures = [each for each in MANIFEST["pictures"] if each["package"] == package]
        missing = [each for each in pictures if not (folder / each["use"] / name_of(each)).exists()]
        if missing:
            members = _members_of(package, origin, folder / "packages", {each["member"] for each in missing})
            for each in missing:
                _write(folder / each["use"] / name_of(each), _part(members[each["member"]], each), each["sha256"])


def name_of(picture: Mapping[str, Any]) -> str:
    """The name of a picture's file: its package and the beginning of its hash."""
    suffix = picture.get("suffix") or Path(picture["member"]).suffix
    return f"{picture['package']}-{picture['sha256'][:12]}{suffix}"


def _part(data: bytes, picture: Mapping[str, Any]) -> bytes:
    """A picture that is a member of a package, or lies within one."""
    return data[picture["offset"] :][: picture["size"]] if "offset" in picture else data


def _write(path: Path, data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name} must have the SHA-256 {sha256}; got {found}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _members_of(package: str, origin: Mapping[str, str], folder: Path, names: set[str]) -> dict[str, bytes]:
    """Files of a package by name; the package stays in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if "deb" in origin:
        path = folder / origin["deb"].rsplit("/", 1)[1]
        if not path.exists():
            with urllib.request.urlopen(origin["deb"]) as reply:
                _write(path, reply.read(), origin["sha256"])
        return _debian_members(path, names)
    asked = f"{package}=={origin['pip']}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), asked]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob(f"{package.replace('-', '_')}-{origin['pip']}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in names}


def _debian_members(path: Path, names: set[str]) -> dict[str, bytes]:
    """Files of a Debian package by their path without the leading slash."""
    data = path.read_bytes()
    assert data.startswith(_AR_MAGIC), path
    at = len(_AR_MAGIC)
    while at < len(data):
        name, size = data[at : at + 16].decode().strip().rstrip("/"), int(data[at + 48 : at + 58])
        body = data[at + _AR_HEADER : at + _AR_HEADER + size]
        if name == "data.tar.xz":
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(body))) as archive:
                found = {each.name.removeprefix("./"): each for each in archive if each.isfile()}
                return {name: archive.extractfile(found[name]).read() for name in names}  # type: ignore[union-attr]
        at += _AR_HEADER + size + size % 2
    raise ValueError(f"{path} must hold data.tar.xz")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
