"""The names of the two domains, X and Y, and of the directions between them."""

from __future__ import annotations

DOMAINS = ("x", "y")
# domain -> the one it is translated from.
OTHER = {"x": "y", "y": "x"}
# direction -> domain of the output, which names its generator.
DIRECTIONS = {"x2y": "y", "y2x": "x"}
