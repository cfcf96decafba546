import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import lit_iou, lit_pixels

YELLOW, WHITE, SKY, STREET = (255, 231, 110), (255, 255, 255), (176, 208, 240), (101, 86, 48)


def video(*colours, frames=2):
    """(T, 3, 1, len(colours)) in [-1, 1], a column of each colour."""
    row = torch.tensor(colours, dtype=torch.float32).T / 127.5 - 1
    return row.view(1, 3, 1, -1).expand(frames, -1, -1, -1)


def test_a_yellow_window_is_lit_and_white_sky_and_street_are_not():
    assert lit_pixels(video(YELLOW, WHITE, SKY, STREET))[0, 0].tolist() == [True, False, False, False]


def test_iou_counts_all_frames_of_a_clip_together():
    true = torch.cat([video(YELLOW, STREET, frames=1), video(YELLOW, YELLOW, frames=1)])
    found = torch.cat([video(YELLOW, YELLOW, frames=1), video(YELLOW, STREET, frames=1)])
    assert lit_iou(found, true).item() == 0.5


def test_a_batch_is_scored_by_clip_and_darkness_matches_darkness():
    true = torch.stack([video(YELLOW, STREET), video(STREET, SKY)])
    found = torch.stack([video(SKY, YELLOW), video(SKY, SKY)])
    assert lit_iou(found, true).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 4, 4), (1, 1, 2, 3, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError):
        lit_iou(torch.zeros(shape), torch.zeros(shape))
