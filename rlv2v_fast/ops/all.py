"""Importing it registers every operator with PyTorch."""

from rlv2v_fast.ops import bn_add_relu, bn_add_relu_pool, bn_relu, bn_stats, causal_conv3d, convlstm, flops, pixel_map

__all__ = ["bn_add_relu", "bn_add_relu_pool", "bn_relu", "bn_stats", "causal_conv3d", "convlstm", "flops", "pixel_map"]
