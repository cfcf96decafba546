"""Looks as .cube files."""

import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.cube import read_cube, write_cube
from rlv2v_fast.looks.look import Look, identity_table

SMALL = "LUT_3D_SIZE 2\n" + "\n".join(f"{r} {g} {b}" for b in (0, 1) for g in (0, 1) for r in (0, 1)) + "\n"


def written(tmp_path, text):
    path = tmp_path / "table.cube"
    path.write_text(text)
    return path


def test_a_written_table_is_read_back(tmp_path):
    table = (identity_table() + 0.1 * torch.rand(3, 9, 9, 9)).clamp(0, 1)
    write_cube(Look(table, torch.zeros(8), torch.zeros(8)), tmp_path / "a" / "look.cube", 'a "title"\n')
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    found = read_cube(tmp_path / "a" / "look.cube").apply(x)
    torch.testing.assert_close(found, Look(table, torch.zeros(8), torch.zeros(8)).apply(x), rtol=0, atol=1e-4)


def test_red_varies_fastest(tmp_path):
    text = SMALL.replace("1 0 0", "0.25 0.5 0.75")
    red = torch.tensor([1.0, -1, -1])[:, None, None]
    found = read_cube(written(tmp_path, text)).apply(red)
    torch.testing.assert_close((found.flatten() + 1) / 2, torch.tensor([0.25, 0.5, 0.75]))


def test_comments_titles_and_unknown_words_are_passed(tmp_path):
    text = '\ufeff# made by hand\n\nTITLE "x"\nLUT_IN_VIDEO_RANGE\n' + SMALL
    assert torch.equal(read_cube(written(tmp_path, text)).table, identity_table(2))


@pytest.mark.parametrize("bounds", ["DOMAIN_MIN 0 0 0\nDOMAIN_MAX 2 2 2\n", "LUT_3D_INPUT_RANGE 0 2\n"])
def test_a_table_of_another_domain_is_brought_to_ours(tmp_path, bounds):
    found = read_cube(written(tmp_path, bounds + SMALL)).apply(torch.ones(3, 1, 1))
    torch.testing.assert_close(found, torch.zeros(3, 1, 1))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must hold LUT_3D_SIZE"),
        (SMALL.replace("2", "1", 1), "LUT_3D_SIZE must be an integer from 2 to 256; got '1'"),
        (SMALL.replace("2", "900", 1), "from 2 to 256"),
        (SMALL + "0 0 0\n", "must hold 2\\^3 = 8 colours"),
        (SMALL.replace("1 0 0", "1 0"), "line 3: must hold 3 finite numbers; got '1 0'"),
        (SMALL.replace("1 0 0", "1 0 nan"), "line 3: must hold 3 finite numbers"),
        ("LUT_1D_SIZE 2\n0 0 0\n1 1 1\n", "line 1: must hold a three-dimensional table"),
        ("DOMAIN_MIN 1 1 1\n" + SMALL, "DOMAIN_MIN below DOMAIN_MAX"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, text, rule):
    with pytest.raises(InputError, match=rule):
        read_cube(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_cube(tmp_path / "none.cube")


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out .* cannot be written"):
        write_cube(Look.identity(), tmp_path / "file" / "look.cube")
