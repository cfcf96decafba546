#include "conv3d/cpu/winograd_simd.h"

#include "common/tile_product.h"
#include "common/winograd.h"
#include "conv3d/cpu/pixels.h"

namespace rlv2v::RLV2V_ISA {
namespace {

using V = Vec<float>;
constexpr int kWidth = kLanes<float>;

// Planes lie an odd number of cache lines apart: else the 36 stores of a transform would meet in one set of L1.
int64_t plane_size(int64_t floats) { return (ceil_div(floats, 16) | 1) * 16; }

// Channels rounded up to whole vectors: the distance of a matrix's rows.
int64_t padded(int64_t channels) { return vectors_for<float>(channels) * kWidth; }

// The inputs of a block: (position, frame, tile, channel).
int64_t inputs_plane(const Conv3dShape& s, const Conv3dBlock& block) {
  return plane_size((block.frames + 2) * block.tiles * padded(s.channels));
}

Conv3dBlock largest(const Conv3dBlocks& blocks) { return {0, 0, blocks.frames, 0, blocks.tiles}; }

const Frame<const float>* frames_of(const Frame<const float>* in, const Conv3dShape& s, const Conv3dBlock& block) {
  return in + block.clip * (s.frames + 2) + block.frame;
}

// Transforms one vector of channels of a block's tiles in one frame, kSize x kSize pixels from each tile's corner less
// its border on. Tile i goes to place(i), and the plain sums of its pixels, where kSums, `plane` behind the positions.
// `energies`, which is nullable, gets the sum of the squares of each tile's pixels.
template <int kSize, bool kSums, auto kTransform, class Place>
RLV2V_INLINE void transform_tiles(const Frame<const float>& frame, int64_t channels, const Conv3dShape& s, bool half,
                                  const Conv3dBlock& block, int64_t vector, int64_t plane, float* energies,
                                  const Place& place) {
  constexpr int kBorder = (kSize - 4) / 2;
  for_pieces(s, block.tile, block.tiles, [&](int64_t tile, int64_t row, int64_t column, int64_t count) {
    alignas(64) float pixels[kSize * kPieceColumns * kWidth];
    const int64_t columns = 4 * count + 2 * kBorder;
    load_piece(frame, channels, s, half, vector, 4 * row - kBorder, 4 * column - kBorder, kSize, columns, pixels);
    for (int64_t i = 0; i < count; ++i) {
      const float* corner = pixels + 4 * i * kWidth;
      const V squares =
          pixels_to_positions<kSize, kTransform, true>(corner, columns * kWidth, kWidth, place(tile + i), plane);
      if (energies) {
        float energy = 0;
        for (int l = 0; l < kWidth; ++l) energy += squares[l];
        energies[tile + i] = energy;
      }
      if constexpr (kSums) {
        V sum{};
        for (int y = 0; y < kSize; ++y)
          for (int x = 0; x < kSize; ++x) sum += load(corner + (y * columns + x) * kWidth);
        store<float>(place(tile + i) + kPositions * plane, sum);
      }
    }
  });
}

// Unit of a transform: one vector of channels of one frame.
void transform_input(const Frame<const float>* frames, const Conv3dShape& s, const Conv3dBlock& block, int64_t unit,
                     float* inputs, float* energies) {
  const int64_t vectors = vectors_for<float>(s.channels), frame = unit / vectors, vector = unit % vectors;
  const Frame<const float>& in = frames_of(frames, s, block)[frame];
  if (!in.data) return;
  const int64_t row = padded(s.channels), index = block.clip * (s.frames + 2) + block.frame + frame;
  float* to = inputs + frame * block.tiles * row + vector * kWidth;
  // The two frames before a block's own are measured by the block before.
  const bool measured = frame < 2 && block.frame > 0;
  transform_tiles<kPatch, false, input_transform<V>>(
      in, s.channels, s, s.half_in, block, vector, inputs_plane(s, block),
      measured ? nullptr : energies + (index * vectors + vector) * s.tiles() + block.tile,
      [to, row](int64_t tile) { return to + tile * row; });
}

// The taps [first, last) of a result are those whose frames are not zeros.
struct Taps {
  int64_t first, last;
};

Taps taps_of(const Frame<const float>* in, int64_t frame) {
  Taps taps{0, 3};
  while (taps.first < 3 && !in[frame + taps.first].data) ++taps.first;
  while (taps.last > taps.first && !in[frame + taps.last - 1].data) --taps.last;
  return taps;
}

int64_t products_plane(const Conv3dBlock& block, int64_t vectors) {
  return plane_size(block.rows() * vectors * kWidth);
}

// products[position][frame, tile][lanes] = sum over taps and channels of inputs * weight
void multiply_block(const Frame<const float>* in, const Conv3dShape& s, const Conv3dBlock& block, const float* weight,
                    int vectors, const float* inputs, float* products) {
  const int64_t row = padded(s.channels), width = vectors * kWidth;
  for (int64_t f = 0; f < block.frames;) {
    // Neighbouring results with the same taps share a product.
    const Taps taps = taps_of(in, f);
    int64_t end = f + 1;
    for (; end < block.frames; ++end) {
      const Taps next = taps_of(in, end);
      if (next.first != taps.first || next.last != taps.last) break;
    }
    for (int64_t k = 0; k < kPositions; ++k) {
      TileProduct<float> q{};
      q.a = inputs + k * inputs_plane(s, block) + (f + taps.first) * block.tiles * row;
      q.a_row_stride = row;
      q.a_segment_stride = block.tiles * row;
      q.b = weight + (k * 3 + taps.first) * s.channels * width;
      q.b_depth_stride = width;
      q.b_segment_stride = s.channels * width;
      q.out = products + k * products_plane(block, vectors) + f * block.tiles * width;
      q.out_row_stride = width;
      q.rows = (end - f) * block.tiles;
      q.depth = s.channels;
      q.segments = taps.last - taps.first;
      multiply<float, Rows::pixels>(q, vectors);
    }
    f = end;
  }
}

// Products of one vector of results to its pixels.
void put_vector(const Conv3d<float>& call, const Conv3dBlock& block, int64_t vector, const float* products,
                int64_t width, int64_t plane) {
  const Conv3dShape& s = call.shape;
  const V bias = call.bias ? load_part(call.bias + vector * kWidth, lanes_of<float>(vector, s.outputs)) : V{};
  for (int64_t f = 0; f < block.frames; ++f) {
    const Frame<float>& frame = call.out[block.clip * s.frames + block.frame + f];
    for_pieces(s, block.tile, block.tiles, [&](int64_t tile, int64_t row, int64_t column, int64_t count) {
      alignas(64) float pixels[4 * 4 * kPieceTiles * kWidth];
      for (int64_t i = 0; i < count; ++i) {
        V result[16];
        products_to_pixels<3>(products + (f * block.tiles + tile + i) * width, plane, result);
        if (s.half_out) {
#pragma GCC unroll 4
          for (int p = 0; p < 4; ++p) {
            const V* corner = result + p / 2 * 8 + p % 2 * 2;
            store<float>(pixels + (p / 2 * 2 * count + 2 * i + p % 2) * kWidth,
                         (corner[0] + corner[1]) + (corner[4] + corner[5]));
          }
        } else {
#pragma GCC unroll 16
          for (int p = 0; p < 16; ++p)
            store<float>(pixels + (p / 4 * 4 * count + 4 * i + p % 4) * kWidth, result[p] + bias);
        }
      }
      const int64_t side = s.half_out ? 2 : 4, part = s.half_out ? 2 : 1;
      store_piece(pixels, frame, s.outputs, s.height / part, s.width / part, vector, side * row, side * column, side,
                  side * count);
    });
  }
}

// The gradients of a block: (position and one more, panel, frame, tile, lanes of the panel). The last plane has the
// plain sums of a tile's gradients, for the bias.
int64_t grads_plane(const Conv3dShape& s, const Conv3dBlock& block) {
  return plane_size(block.rows() * padded(s.outputs));
}

int64_t weight_sums(const Conv3dShape& s) { return kPositions * 3 * s.channels * padded(s.outputs); }

void transform_grad(const Conv3dGradWeight<float>& call, const Conv3dBlock& block, int64_t unit, float* grads) {
  const Conv3dShape& s = call.shape;
  const int64_t total = vectors_for<float>(s.outputs), frame = unit / total, vector = unit % total;
  const int64_t first = panel_of(vector, total), width = panel_vectors(first, total) * kWidth;
  float* to = grads + first * kWidth * block.rows() + frame * block.tiles * width + (vector - first) * kWidth;
  const int64_t index = block.clip * s.frames + block.frame + frame;
  transform_tiles<4, true, output_transform_transposed<3, V>>(
      call.grad[index], s.outputs, s, false, block, vector, grads_plane(s, block),
      call.grad_energies + (index * total + vector) * s.tiles() + block.tile,
      [to, width](int64_t tile) { return to + tile * width; });
}

void sum_bias(const float* grads, int64_t rows, int64_t vectors, float* sums) {
  for (int64_t v = 0; v < vectors; ++v) {
    V sum{};
    for (int64_t n = 0; n < rows; ++n) sum += load(grads + (n * vectors + v) * kWidth);
    store<float>(sums + v * kWidth, load(sums + v * kWidth) + sum);
  }
}

// A unit is one position and one panel. The sums are (position, frame, panel, channel, lanes of the panel), then those
// of the bias.
void accumulate(const Conv3dGradWeight<float>& call, const Conv3dBlock& block, int64_t unit, const float* scratch,
                float* sums) {
  const Conv3dShape& s = call.shape;
  const Frame<const float>* in = frames_of(call.in, s, block);
  const int64_t total = vectors_for<float>(s.outputs), panels = panel_count(total);
  const int64_t k = unit / panels, first = panel_first(unit % panels, total), row = padded(s.channels);
  const int vectors = panel_vectors(first, total);
  const int64_t width = vectors * kWidth;
  const float* grads = scratch + kPositions * inputs_plane(s, block) + first * kWidth * block.rows();
  for (int64_t tap = 0; tap < 3; ++tap) {
    // Frames of zeros come before the others.
    int64_t f = 0;
    while (f < block.frames && !in[f + tap].data) ++f;
    if (f == block.frames) continue;
    TileProduct<float> q{};
    q.a = scratch + k * inputs_plane(s, block) + (f + tap) * block.tiles * row;
    q.a_depth_stride = row;
    q.b = grads + k * grads_plane(s, block) + f * block.tiles * width;
    q.b_depth_stride = width;
    q.out = sums + ((k * 3 + tap) * total + first) * kWidth * s.channels;
    q.out_row_stride = width;
    q.rows = s.channels;
    q.depth = (block.frames - f) * block.tiles;
    q.segments = 1;
    q.add = true;
    multiply<float, Rows::channels>(q, vectors);
  }
  if (k == 0)
    sum_bias(grads + kPositions * grads_plane(s, block), block.rows(), vectors, sums + weight_sums(s) + first * kWidth);
}

void finish_vector(const Conv3dGradWeight<float>& call, int64_t channel, int64_t vector, const float* sums) {
  const Conv3dShape& s = call.shape;
  const int64_t total = vectors_for<float>(s.outputs), first = panel_of(vector, total);
  const int64_t width = panel_vectors(first, total) * kWidth, plane = total * kWidth * s.channels;
  const float* from = sums + first * kWidth * s.channels + channel * width + (vector - first) * kWidth;
  V taps[27];
  for (int64_t t = 0; t < 3; ++t) {
    V positions[kPositions];
    for (int k = 0; k < kPositions; ++k) positions[k] = load(from + (k * 3 + t) * plane);
    transform_both<kPatch, 3>(positions, taps + 9 * t, filter_transform_transposed<3, V>);
  }
  for (int64_t l = 0; l < lanes_of<float>(vector, s.outputs); ++l) {
    float* to = call.grad_weight + ((vector * kWidth + l) * s.channels + channel) * 27;
    for (int t = 0; t < 27; ++t) to[t] = taps[t][l];
  }
}

}  // namespace

int64_t conv3d_vectors(int64_t channels) { return vectors_for<float>(channels); }

int64_t conv3d_inputs_size(const Conv3dBlocks& blocks) {
  return kPositions * inputs_plane(blocks.shape, largest(blocks));
}

int64_t conv3d_products_size(const Conv3dBlocks& blocks) {
  return kPositions * products_plane(largest(blocks), kTileVectors);
}

int64_t conv3d_transform_units(const Conv3dShape& s, const Conv3dBlock& block) {
  return (block.frames + 2) * vectors_for<float>(s.channels);
}

int64_t conv3d_multiply_units(const Conv3dShape& s) { return panel_count(vectors_for<float>(s.outputs)); }

void conv3d_transform(const Conv3d<float>& call, const Conv3dBlock& block, int64_t begin, int64_t end, float* inputs) {
  for (int64_t unit = begin; unit < end; ++unit)
    transform_input(call.in, call.shape, block, unit, inputs, call.energies);
}

void conv3d_multiply(const Conv3d<float>& call, const Conv3dBlock& block, int64_t begin, int64_t end,
                     const float* inputs, float* products) {
  const Conv3dShape& s = call.shape;
  const int64_t total = vectors_for<float>(s.outputs);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = panel_first(unit, total);
    const int vectors = panel_vectors(first, total);
    const float* weight = call.packed + first * kWidth * kPositions * 3 * s.channels;
    multiply_block(frames_of(call.in, s, block), s, block, weight, vectors, inputs, products);
    for (int v = 0; v < vectors; ++v)
      put_vector(call, block, first + v, products + v * kWidth, vectors * kWidth, products_plane(block, vectors));
  }
}

int64_t conv3d_weight_scratch_size(const Conv3dBlocks& blocks) {
  const Conv3dBlock block = largest(blocks);
  return kPositions * inputs_plane(blocks.shape, block) + (kPositions + 1) * grads_plane(blocks.shape, block);
}

int64_t conv3d_weight_sums_size(const Conv3dShape& s) { return weight_sums(s) + padded(s.outputs); }

int64_t conv3d_weight_transform_units(const Conv3dShape& s, const Conv3dBlock& block) {
  return conv3d_transform_units(s, block) + block.frames * vectors_for<float>(s.outputs);
}

int64_t conv3d_weight_accumulate_units(const Conv3dShape& s) {
  return kPositions * panel_count(vectors_for<float>(s.outputs));
}

void conv3d_weight_transform(const Conv3dGradWeight<float>& call, const Conv3dBlock& block, int64_t begin, int64_t end,
                             float* scratch) {
  const Conv3dShape& s = call.shape;
  const int64_t inputs = conv3d_transform_units(s, block);
  for (int64_t unit = begin; unit < end; ++unit)
    if (unit < inputs)
      transform_input(call.in, s, block, unit, scratch, call.energies);
    else
      transform_grad(call, block, unit - inputs, scratch + kPositions * inputs_plane(s, block));
}

void conv3d_weight_accumulate(const Conv3dGradWeight<float>& call, const Conv3dBlock& block, int64_t begin, int64_t end,
                              const float* scratch, float* sums) {
  for (int64_t unit = begin; unit < end; ++unit) accumulate(call, block, unit, scratch, sums);
}

void conv3d_weight_finish(const Conv3dGradWeight<float>& call, int64_t begin, int64_t end, const float* sums) {
  const Conv3dShape& s = call.shape;
  for (int64_t channel = begin; channel < end; ++channel)
    for (int64_t vector = 0; vector < vectors_for<float>(s.outputs); ++vector)
      finish_vector(call, channel, vector, sums);
  if (begin == 0) std::memcpy(call.grad_bias, sums + weight_sums(s), s.outputs * sizeof(float));
}

}  // namespace rlv2v::RLV2V_ISA
