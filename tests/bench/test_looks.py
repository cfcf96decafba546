"""The study of looks: its shots, grades, cases and bounds; and where its pictures come from."""

import ast
import io
import itertools
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.quality import looks, pictures
from bench.quality.grades import FAMILIES, Grade, grades
from bench.quality.shots import CLIPS, FRAMES, SIZE, Shot, read_shots
from rlv2v_fast.data.writer import VideoWriter

ROOT = Path(__file__).resolve().parents[2]


def shots(count=30):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, CLIPS, FRAMES, 8, 8, 3), dtype=np.uint8)
    return [Shot(str(index), clips.repeat(8, 2).repeat(8, 3)) for index, clips in enumerate(coarse)]


@pytest.mark.parametrize("family", FAMILIES)
def test_grades_are_deterministic_and_differ(family):
    frames = np.random.default_rng(0).random((2, 32, 32, 3))
    first = Grade(family, 0)(frames)
    assert np.array_equal(first, Grade(family, 0)(frames))
    assert np.abs(first - Grade(family, 1)(frames)).mean() > 0.01
    assert first.min() >= 0
    assert first.max() <= 1


def test_families_come_equally_often():
    assert [grade.family for grade in grades(6)] == list(FAMILIES) * 2


def test_only_place_depends_on_the_place():
    grey = np.full((1, 32, 32, 3), 0.5)
    spread = {family: Grade(family, 3)(grey).std((0, 1, 2)).max() for family in FAMILIES}
    assert spread["with place"] > 0.01
    assert max(spread["tone and colour"], spread["with neighbourhood"]) < 1e-9


def test_other_families_are_refused():
    with pytest.raises(ValueError, match="family must be one of"):
        Grade("sepia", 0)


def test_shots_come_from_pictures_and_cut_films(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (100, 140, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with VideoWriter(tmp_path / "film.mp4", 96, 80, 25) as writer:
        for level in (20, 230):
            for _ in range(30):
                writer.write(np.full((80, 96, 3), level, np.uint8))
    found = read_shots(tmp_path)
    assert [shot.name for shot in found] == ["a", "film:0", "film:1"]
    assert all(shot.clips.shape == (CLIPS, FRAMES, SIZE, SIZE, 3) for shot in found)
    assert found[1].clips.mean() < 60 < 200 < found[2].clips.mean()


@pytest.mark.parametrize("matched", [False, True])
def test_cases_show_different_shots_on_each_side(matched):
    some = shots()
    for case in itertools.islice(looks.cases(some, "choosing", 10, matched=matched), 6):
        of_source, of_target = looks.SPLITS[case.split]
        assert len(case.source) == of_source * CLIPS
        assert len(case.target) == min(10, of_target * CLIPS)
        assert not any((clip == query).all() for clip in case.source for query in case.query)


def test_the_two_parts_share_no_shot_and_no_grade():
    some = shots()
    parts = [list(itertools.islice(looks.cases(some, part, 1), 6)) for part in ("choosing", "end")]
    seeds = [{grade.seed for grade in grades(*looks._GRADES[part])} for part in ("choosing", "end")]
    assert not seeds[0] & seeds[1]
    firsts = [{tuple(clip.flatten()[:40].tolist()) for case in part for clip in case.query} for part in parts]
    assert not firsts[0] & firsts[1]


def test_bounds_fitted_on_pairs_find_polynomials():
    query = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    truth = 0.5 * query**3 + 0.2 * query.flip(2) - 0.1
    torch.testing.assert_close(looks._fitted(query, truth, 3), truth, rtol=0, atol=1e-4)
    assert (looks._fitted(query, truth, 1) - truth).abs().max() > 0.01


def test_training_looks_and_test_grades_share_no_code():
    for path in (ROOT / "bench/quality/grades.py", ROOT / "bench/quality/shots.py"):
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
        }
        assert not any("looks" in name for name in names)


def test_no_picture_is_for_training_and_testing():
    uses = {}
    for picture in pictures.MANIFEST["pictures"]:
        assert uses.setdefault(picture["sha256"], picture["use"]) == picture["use"]
        assert picture["package"] in pictures.MANIFEST["packages"]
    assert {package["use"] for package in pictures.MANIFEST["pictures"]} == {"training", "testing"}
    assert all(package["licence"] for package in pictures.MANIFEST["packages"].values())


def test_files_are_read_from_debian_packages(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("./usr/a.png")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    packed = lzma.compress(data.getvalue())
    members = [(b"debian-binary", b"2.0\n"), (b"control.tar.xz", b"odd"), (b"data.tar.xz", packed)]
    package = b"!<arch>\n"
    for name, body in members:
        package += name.ljust(48) + str(len(body)).encode().ljust(10) + b"`\n" + body + b"\n" * (len(body) % 2)
    (tmp_path / "p.deb").write_bytes(package)
    assert pictures._debian_members(tmp_path / "p.deb", {"usr/a.png"}) == {"usr/a.png": b"abc"}


def test_a_picture_with_another_hash_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have the SHA-256"):
        pictures._write(tmp_path / "a.png", b"abc", "0" * 64)
