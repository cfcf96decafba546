"""The predictor P, which forecasts the next frame of a video."""

from __future__ import annotations

from rlv2v_fast.models.generator import Generator


class Predictor(Generator):
    """Forecasts frames with the generator's architecture: output frame t predicts frame t+1.

    The network is causal, so one pass over T frames gives the T forecasts P(x_1), P(x_1, x_2), ...

    Source: Figure 2 (predictors P_x, P_y); same architecture as the generator in the authors' code.
    """
