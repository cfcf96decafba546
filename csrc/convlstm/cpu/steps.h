// What the kernels of one time step take. Inside, every tensor is NHWC with dense channels, so that a
// vector is a run of channels of one pixel; kernels.h copies the user's tensors into it, one time step at a time.
// Pointers that may be null say so; null means the zero tensor for an input and "not wanted" for an output.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/portability.h"

namespace rlv2v {

struct ConvLSTMShape {
  int64_t batch, channels, hidden, height, width, kernel_h, kernel_w;

  // Input channels of the convolution: x first, then h.
  RLV2V_HD int64_t inputs() const { return channels + hidden; }
  RLV2V_HD int64_t pixels() const { return batch * height * width; }
  RLV2V_HD int64_t taps() const { return kernel_h * kernel_w; }
};

// One time step: gates = weight * cat[x, h] + bias, then the state update.
template <class T>
struct ConvLSTMStep {
  ConvLSTMShape shape;
  const T* x;
  const T* h;       // nullable
  const T* c;       // nullable
  const T* weight;  // packed by pack_weight
  const T* bias;    // packed by pack_bias
  T* h_next;        // nullable
  T* c_next;        // nullable; may be c itself
  T* gates;         // nullable; (pixels, 4, K), i, f, o, g after their nonlinearities
};

// One step back. The gradient that reaches h of this step through the next one is the transposed convolution of the
// next step's gate gradients, which yields the gradient of the next step's x in the same pass.
template <class T>
struct ConvLSTMGradStep {
  ConvLSTMShape shape;
  const T* grad_gates_next;  // nullable: there is no next step
  const T* weight;           // packed by pack_weight_transposed
  T* grad_x_next;            // nullable
  const T* grad_h;           // nullable; the gradient that reaches h from outside
  const T* gates;  // null before the first step: the sum of gradients goes to grad_h0 and nothing else is done
  const T* c;      // nullable
  const T* c_next;
  T* grad_c;      // in: of this step's c_next, out: of its c
  T* grad_gates;  // of the pre-activations; may be gates itself
  T* grad_h0;
};

// Steps that follow each other in memory, (steps, pixels, channels), over which weight gradients are summed.
template <class T>
struct ConvLSTMGradWeight {
  ConvLSTMShape shape;
  int64_t steps;
  const T* x;
  const T* h;
  const T* grad_gates;
};

// How the direct kernels cut images into tiles: each is rows x columns pixels of one frame.
struct ConvLSTMTiling {
  int64_t rows, columns;

  RLV2V_HD int64_t down(const ConvLSTMShape& s) const { return (s.height + rows - 1) / rows; }
  RLV2V_HD int64_t across(const ConvLSTMShape& s) const { return (s.width + columns - 1) / columns; }
  RLV2V_HD int64_t tiles(const ConvLSTMShape& s) const { return s.batch * down(s) * across(s); }
};

// An image to be copied to or from NHWC, or added where `add`. from_* and to_* are strides in elements.
template <class T>
struct ConvLSTMFrameCopy {
  const T* from;
  int64_t from_channel, from_row, from_column;
  T* to;
  int64_t to_channel, to_row, to_column;
  int64_t channels, width;
  bool add;
};

}  // namespace rlv2v
