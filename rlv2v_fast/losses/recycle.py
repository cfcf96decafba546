"""The ReCycle loss L_rc: a clip is translated, forecast there and translated back, and must match the true frame."""

from __future__ import annotations

from torch import Tensor

from rlv2v_fast.losses.recurrent import recurrent_loss


def recycle_loss(video: Tensor, returned: Tensor, kind: str = "l1") -> Tensor:
    """The loss of frames translated back: L_rc = mean_t d(x_{t+1}, G_x(y_1, P_y(y_1..t))_{t+1}), y = G_y(x).

    Args:
        video: (B, T, C, H, W), T >= 2.
        returned: (B, T or T-1, C, H, W), G_x of the forecasts; frame t is compared with frame t+1 of video.
        kind: "l1" or "l2".

    Source: Bansal et al. 2018, "Recycle-GAN", eq. 4, named by the paper.
    """
    return recurrent_loss(video, returned, kind)
