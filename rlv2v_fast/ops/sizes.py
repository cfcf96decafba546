"""The sizes from which a call takes another way, as measured (docs/performance.md).

They hold in eager mode only: while a compiler or exporter traces, they would bind the graph to sizes on one side.
"""

from __future__ import annotations

# A fused operator of the blocks costs more before it starts than PyTorch's own: with fewer numbers in x it was measured
# to be slower. On an H200 it lost with 2^23 numbers and won with 2^26; the border between is an estimate. In 16 bits on
# a CPU it won with 2^16, the fewest tried.
BLOCK_ELEMENTS = {"cpu": 2**17, "cpu in 16 bits": 2**16, "cuda": 2**24}

# The causal convolution: with fewer tiles of 4x4 pixels in a frame PyTorch was measured to be faster on a CPU. Batch
# and time are left out, so that a stream takes the kernel that its clip takes. 16 bits, computed in float32, have the
# same rule: with AVX512-BF16 they had 0.92 to 2.1 times the speed of PyTorch in bfloat16, and 1000 times in float16.
CONV3D_TILES = 4

# URB's first convolution in bfloat16: from these sizes on the transposed convolution was faster on a CPU: numbers of x
# times output channels, and pixels, to which it owes the time that summing the weights takes.
UPSAMPLE_PRODUCTS, UPSAMPLE_PIXELS = 2**16, 256

# On a GPU, PyTorch launches one or two steps of few numbers in x sooner than the Triton sequence does: on an H200 that
# had 0.48 times the speed with one step and 2^16 numbers, 0.63 with two and 2^18. With more it was not measured.
LAUNCH_STEPS, LAUNCH_ELEMENTS = 2, 2**18 + 1
