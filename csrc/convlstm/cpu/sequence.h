// A whole sequence of the ConvLSTM on raw pointers: what the time loops of sequence_fwd.cpp and sequence_bwd.cpp take.
#pragma once

#include "convlstm/cpu/steps.h"

namespace rlv2v {

// A tensor (B, T, C, H, W) and its strides in elements; a state (B, K, H, W) has T = 1. One that is None has no data.
template <class T>
struct Frames {
  T* data = nullptr;
  int64_t batch = 0, time = 0, channel = 0, row = 0, column = 0;
};

template <class T>
struct ConvLSTMInputs {
  ConvLSTMShape shape;
  int64_t steps;
  bool exact;
  Frames<const T> x;
  const T* weight;  // (4K, C+K, kh, kw), contiguous
  const T* bias;    // (4K,), nullable
  Frames<const T> h0, c0;
};

template <class T>
struct ConvLSTMOutputs {
  Frames<T> output, h, c;
  T* cells;  // (T, B, H, W, K), nullable
  T* gates;  // (T, B, H, W, 4K), nullable
};

// What the forward call left for the backward call.
template <class T>
struct ConvLSTMSaved {
  Frames<const T> output;
  const T* cells;
  const T* gates;  // nullable: they are then computed again
};

template <class T>
struct ConvLSTMGrads {
  Frames<const T> output, h, c;  // given; each may be None
  Frames<T> x, h0, c0;           // wanted; each may be None
  T* weight;                     // (4K, C+K, kh, kw), null where not wanted; bias likewise
  T* bias;
};

// For float and double.
template <class T>
void convlstm_sequence_fwd(const ConvLSTMInputs<T>& in, const ConvLSTMOutputs<T>& out);
template <class T>
void convlstm_sequence_bwd(const ConvLSTMInputs<T>& in, const ConvLSTMSaved<T>& saved, const ConvLSTMGrads<T>& grads);

}  // namespace rlv2v
