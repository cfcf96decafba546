// What the kernels of pixel_map take, as plain pointers. rlv2v_fast/reference/pixel_map.py says what is computed.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/portability.h"

namespace rlv2v {

struct PixelMapShape {
  int64_t frames, height, width, channels, features, hidden;
  int64_t levels;  // colours along each axis of the table; 0: there is none

  RLV2V_HD int64_t pixels() const { return height * width; }
  // What is known of a pixel: its channels and its two coordinates.
  RLV2V_HD int64_t located() const { return channels + 2; }
  RLV2V_HD int64_t table_entries() const { return levels * levels * levels; }
};

// Parameters, or their gradients; T is const where they are read. All are contiguous, matrices (outputs, inputs).
template <class T>
struct PixelMapParameters {
  T *project, *project_bias;  // (features, located)
  T *weight1, *bias1;         // (hidden, located + features)
  T *weight2, *bias2;         // (hidden, hidden)
  T *weight3, *bias3;         // (hidden, hidden)
  T *head, *head_bias;        // (2 channels, hidden)
  T* table;                   // (channels, levels, levels, levels), nullable
};

template <class T>
struct PixelMap {
  PixelMapShape shape;
  T gain, speed, slope;
  bool clamp;
  const T* frames;  // (frames, channels, height, width)
  const T* packed;  // the parameters, by pack_pixel_map
};

// The gradient needs the packed parameters with their transposes.
template <class T>
struct PixelMapGrad {
  PixelMap<T> forward;
  const T* grad_y;  // (frames, channels, height, width)
  T* grad_frames;   // the same, nullable
  bool to_weights, to_table;
};

// Whether products may round their factors to bfloat16: the processor has them, and channels fill their vectors.
inline bool has_bfloat16_products() {
#ifdef RLV2V_X86
  static const bool has = host_isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

}  // namespace rlv2v
