import pytest
import torch
import torch.nn.functional as F

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import patch_distance


def frames(count=4, size=20, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_sets_are_at_distance_zero_and_similar_ones_near():
    every = 4 * 14 * 14
    assert patch_distance(frames(), frames().flip(0), samples=every).item() == pytest.approx(0, abs=1e-5)
    many = frames(40), frames(40, seed=1)
    assert patch_distance(*many) < 0.3 * patch_distance(many[0], many[1] * 0.5)


def test_it_sees_where_in_the_frame_something_is():
    sky = frames()
    sky[:, :, :10] = 0.8
    ground = sky.flip(2)
    assert patch_distance(sky, ground) > 2 * patch_distance(sky, sky.flip(3))


def test_the_distance_does_not_use_the_global_random_stream():
    first = patch_distance(frames(), frames(seed=1), samples=50)
    torch.rand(3)
    assert torch.equal(patch_distance(frames(), frames(seed=1), samples=50), first)


@pytest.mark.parametrize("shapes", [((2, 3, 8, 8), (2, 3, 8, 8)), ((2, 3, 16, 16), (2, 3, 16, 20)), ((3, 16, 16),) * 2])
def test_sets_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(InputError):
        patch_distance(*(torch.zeros(shape) for shape in shapes))


def test_patches_of_two_scales_are_projected_with_their_height():
    a, b = frames()[..., 3:], frames(seed=1)[..., 3:]
    random, expected = torch.Generator().manual_seed(5), []
    for scale in (1, 2):
        vectors = torch.randn(256, a.shape[1], 7, 7, generator=random)
        vectors /= vectors.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        slope = torch.randn(256, 1, 1, generator=random)
        ordered = []
        for clip in (a, b):
            values = F.conv2d(F.avg_pool2d(clip, scale), vectors)
            values = values + slope * torch.linspace(-1, 1, values.shape[2]).view(1, -1, 1)
            ordered.append(values.transpose(0, 1).flatten(1).sort(1)[0])
            torch.randperm(ordered[-1].shape[1], generator=random)
        expected.append((ordered[0] - ordered[1]).abs().mean())
    found = patch_distance(a, b, samples=10**6)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)
