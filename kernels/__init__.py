"""Triton kernels and their launchers. They know nothing of autograd or dispatch; rlv2v_fast.ops does."""
