"""The ReCycle loss L_rc: translate, forecast there, translate back, and meet the true next frame."""

from __future__ import annotations

from torch import Tensor

from rlv2v_fast.losses.recurrent import recurrent_loss


def recycle_loss(video: Tensor, returned: Tensor, kind: str = "l1") -> Tensor:
    """L_rc = mean_t d(x_{t+1}, G_x(y_1, P_y(y_1..t))_{t+1}), y = G_y(x).

    Args:
        video: (B, T, C, H, W), T >= 2.
        returned: (B, T or T-1, C, H, W), what G_x makes of the forecasts; frame t meets frame t+1 of video.
        kind: "l1" or "l2".

    Source: Bansal et al. 2018, "Recycle-GAN", eq. 4, named by the paper.
    """
    return recurrent_loss(video, returned, kind)
