"""The predictor P: the next frame of a video, from those so far."""

from __future__ import annotations

from rlv2v_fast.models.generator import Generator


class Predictor(Generator):
    """The generator's architecture read as a forecast: output frame t is the prediction of frame t+1.

    Causality makes one pass over T frames give the T forecasts P(x_1), P(x_1, x_2), ... without a leak.

    Source: Figure 2 (predictors P_x, P_y); same architecture as the generator in the authors' code.
    """
