"""Look: its map, its parts, and what it refuses."""

import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.look import Look, blur, identity_table, looked_up


def changed(**parts):
    own = Look.identity()
    values = {"table": own.table, "place": own.place, "neighbourhood": own.neighbourhood, **parts}
    return Look(**values)


def video(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("shape", [(3, 9, 5), (2, 3, 64, 48), (1, 2, 3, 70, 130), (1, 1, 3, 1, 1)])
def test_the_identity_changes_nothing(shape):
    torch.testing.assert_close(Look.identity().apply(video(*shape)), video(*shape), rtol=0, atol=1e-5)


def test_dtypes_and_shapes_are_kept():
    for dtype in (torch.float64, torch.bfloat16):
        x = video(2, 3, 8, 8).to(dtype)
        assert Look.identity().apply(x).dtype == dtype
        assert Look.identity().apply(x).shape == x.shape


def test_the_table_is_trilinear_between_its_colours():
    table = identity_table(3)
    table[:, 2, 1, 0] = torch.tensor([0.9, 0.8, 0.7])
    colours = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.5, 1.0]])
    found = looked_up(table[None], colours[None])[0]
    torch.testing.assert_close(found[0], torch.tensor([0.9, 0.8, 0.7]))
    torch.testing.assert_close(found[1], (torch.tensor([0.9, 0.8, 0.7]) + torch.tensor([0.5, 0.5, 1.0])) / 2)


def test_place_darkens_the_corners():
    found = changed(place=torch.tensor([-0.5, 0, 0, 0, 0, 0, 0, 0])).apply(torch.ones(1, 3, 33, 33))
    assert found[0, 0, 16, 16] == 1
    torch.testing.assert_close((found[0, 0, 0, 0] + 1) / 2, torch.tensor(-1.0).exp())


def test_glow_brightens_around_a_light():
    x = -torch.ones(1, 3, 64, 64)
    x[..., 30:34, 30:34] = 1
    found = changed(neighbourhood=torch.tensor([0, 0, 0.5, 0, 0, 0, 0, 0])).apply(x)
    assert found[0, 0, 32, 36] > -1 + 0.02
    torch.testing.assert_close(found[0, 1], x[0, 1])


@pytest.mark.parametrize("size", [(9, 70), (300, 270), (517, 300)])
@pytest.mark.parametrize("colour_only", [True, False])
def test_bands_of_rows_change_no_bit(monkeypatch, size, colour_only):
    parts = {} if colour_only else {"place": video(8), "neighbourhood": video(8).abs() / 3}
    look = changed(table=torch.rand(3, 5, 5, 5, generator=torch.Generator().manual_seed(1)), **parts)
    x = video(2, 3, *size)
    found = []
    for band in (2**30, 2**13, 1):
        monkeypatch.setattr("rlv2v_fast.looks.look._BAND", band)
        found.append(look.apply(x))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_look_does_not_depend_on_the_resolution():
    small = torch.nn.functional.interpolate(video(1, 3, 8, 8), 64, mode="bicubic").clamp(-1, 1)
    large = torch.nn.functional.interpolate(small, 256, mode="bilinear")
    look = changed(
        place=torch.tensor([-0.5, -0.1, 0.1, 0, 0, 0, 0.1, 0]), neighbourhood=torch.tensor([0.3, 0.2] + [0.2] * 6)
    )
    reduced = torch.nn.functional.avg_pool2d(look.apply(large), 4)
    assert (reduced - look.apply(small)).abs().mean() < 0.01


def test_a_blur_keeps_constants_and_means():
    x = video(1, 2, 16, 24)
    torch.testing.assert_close(blur(torch.ones(1, 1, 5, 7), 3.0), torch.ones(1, 1, 5, 7))
    assert blur(x, 2.0).var() < x.var() / 4


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 4), torch.zeros(2, 4, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(0, 3, 8, 8)]
)
def test_other_videos_are_refused(x):
    with pytest.raises(ValueError, match=r"video must be floating point of shape \(..., 3, H, W\)"):
        Look.identity().apply(x)


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        ({"table": torch.zeros(3, 1, 1, 1)}, r"table must have shape \(3, n, n, n\)"),
        ({"table": torch.zeros(3, 2, 2, 3)}, r"table must have shape \(3, n, n, n\)"),
        ({"place": torch.zeros(7)}, r"place must have shape \(8,\); got \(7,\)"),
    ],
)
def test_parts_of_other_shapes_are_refused(part, rule):
    with pytest.raises(ValueError, match=rule):
        changed(**part)


def test_a_look_goes_one_way():
    with pytest.raises(InputError, match="direction must be x2y"):
        Look.identity().translate(video(1, 3, 8, 8), "y2x")
