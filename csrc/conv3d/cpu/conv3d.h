// What the kernels of the causal convolution take, as plain pointers: a 3x3x3 kernel over frames that lie anywhere.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/portability.h"

namespace rlv2v {

// One frame: channel c of the pixel (y, x) is data[c * channel + y * row + x * column]. Without data it is all zeros,
// if it is read.
template <class T>
struct Frame {
  T* data;
  int64_t channel, row, column;
};

// A clip has `frames` results of `outputs` channels; result f sees the frames f, f + 1 and f + 2 that are read, so that
// there are two more of those. half_in and half_out: the frames read or written have half the height and width. One
// that is read is repeated 2x2, one that is written holds the sums of 2x2 pixels.
struct Conv3dShape {
  int64_t clips, frames, height, width, channels, outputs;
  bool half_in, half_out;

  RLV2V_HD int64_t across() const { return (width + 3) / 4; }
  // Tiles of 4x4 pixels in a frame, numbered row by row.
  RLV2V_HD int64_t tiles() const { return (height + 3) / 4 * across(); }
};

// The forward, or the gradient of what it reads.
template <class T>
struct Conv3d {
  Conv3dShape shape;
  const Frame<const T>* in;  // (clips, frames + 2)
  const Frame<T>* out;       // (clips, frames)
  const T* packed;           // the weight, by pack_conv3d
  const T* bias;             // (outputs,), nullable
  T* energies;               // what is read, (clips, frames + 2, vectors, tiles): the sum of squares of each patch
};

// The gradient of the weight and of the bias. shape is that of the forward.
template <class T>
struct Conv3dGradWeight {
  Conv3dShape shape;
  const Frame<const T>* in;    // (clips, frames + 2)
  const Frame<const T>* grad;  // (clips, frames), of the result
  T* grad_weight;              // (outputs, channels, 3, 3, 3)
  T* grad_bias;                // (outputs,)
  T* energies;                 // of what is read, as in Conv3d
  T* grad_energies;            // of the gradients, (clips, frames, vectors, tiles), without their patches' borders
};

// What is computed at once: some tiles of some frames of one clip.
struct Conv3dBlock {
  int64_t clip, frame, frames, tile, tiles;

  // Rows of the matrices that are multiplied.
  RLV2V_HD int64_t rows() const { return frames * tiles; }
};

// How the tiles and frames of a call are cut into blocks of nearly equal size.
struct Conv3dBlocks {
  Conv3dShape shape;
  // The most frames and tiles of a block.
  int64_t frames, tiles;

  RLV2V_HD int64_t frame_blocks() const { return (shape.frames + frames - 1) / frames; }
  RLV2V_HD int64_t tile_blocks() const { return (shape.tiles() + tiles - 1) / tiles; }
  RLV2V_HD int64_t count() const { return shape.clips * tile_blocks() * frame_blocks(); }

  RLV2V_HD Conv3dBlock at(int64_t index) const {
    const int64_t f = index % frame_blocks() * frames, t = index / frame_blocks() % tile_blocks() * tiles;
    const int64_t rest_f = shape.frames - f, rest_t = shape.tiles() - t;
    return {index / frame_blocks() / tile_blocks(), f, rest_f < frames ? rest_f : frames, t,
            rest_t < tiles ? rest_t : tiles};
  }
};

}  // namespace rlv2v
