"""rlv2v_fast: fused ConvLSTM and residual-block kernels for PyTorch, and RL-V2V-GAN built on them."""

__version__ = "0.1.0"
