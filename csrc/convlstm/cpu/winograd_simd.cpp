#include "convlstm/cpu/winograd_simd.h"

#include <type_traits>

#include "common/tile_product.h"
#include "common/winograd.h"
#include "common/winograd_guard.h"
#include "convlstm/cpu/state_update.h"

namespace rlv2v::RLV2V_ISA {
namespace {

using V = Vec<float>;
constexpr int kWidth = kLanes<float>;

// The size of a bundle: its transformed tiles and their products take about L2, though anything from 0.4 to 4 MB
// measures the same, since the products stream weights either way.
constexpr int64_t kBundleBytes = 1200 * 1024;
constexpr int64_t kMinTiles = kTileRows, kMaxTiles = 48;

struct Tile {
  int64_t frame, y, x;
};

template <int kTaps>
Tile tile_of(const ConvLSTMShape& s, int64_t index) {
  const int64_t across = ceil_div(s.width, kTile<kTaps>), down = ceil_div(s.height, kTile<kTaps>);
  return {index / (across * down), index / across % down * kTile<kTaps>, index % across * kTile<kTaps>};
}

// Distance in elements between transformed tiles. Vectors are stored whole, so there is room for the last to spill
// into.
int64_t tile_stride(int64_t channels) { return ceil_div(channels, kWidth) * kWidth + kWidth; }

int64_t tiles_per_bundle(int64_t channels, int64_t products) {
  const int64_t tiles = kBundleBytes / (kPositions * (tile_stride(channels) + products) * (int64_t)sizeof(float));
  return tiles < kMinTiles ? kMinTiles : smaller(tiles, kMaxTiles);
}

// Splits the tiles [begin, end) into equal bundles of at most `most` and calls body(first, count) for each.
template <class Body>
RLV2V_INLINE void for_bundles(int64_t begin, int64_t end, int64_t most, const Body& body) {
  int64_t bundles = ceil_div(end - begin, most);
  for (; begin < end; --bundles) {
    const int64_t count = ceil_div(end - begin, bundles);
    body(begin, count);
    begin += count;
  }
}

// Pointers to the kSize x kSize pixels whose corner is (top, left), null outside the image.
template <int kSize>
void find_pixels(const ConvLSTMShape& s, const float* frame, int64_t channels, int64_t top, int64_t left,
                 const float** pixels) {
  for (int64_t y = top; y < top + kSize; ++y)
    for (int64_t x = left; x < left + kSize; ++x, ++pixels) {
      const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
      *pixels = inside ? frame + (y * s.width + x) * channels : nullptr;
    }
}

// Transforms kSize x kSize pixels, whose corner is (top, left), into kPositions planes, `plane` elements apart; the
// first position of each vector of channels goes to place(vector). What lies beyond the image or the channels is zero,
// and gathered first.
template <int kSize, auto kTransform, class Place>
RLV2V_INLINE void transform_pixels(const ConvLSTMShape& s, const float* frame, int64_t channels, int64_t top,
                                   int64_t left, int64_t plane, const Place& place) {
  constexpr int kPixels = kSize * kSize;
  const float* pixels[kPixels];
  float gathered[kPixels * kWidth];
  const bool inside = top >= 0 && left >= 0 && top + kSize <= s.height && left + kSize <= s.width;
  const int64_t row = s.width * channels, whole = inside ? channels / kWidth : 0;
  for (int64_t v = 0; v < whole; ++v)
    pixels_to_positions<kSize, kTransform>(frame + top * row + left * channels + v * kWidth, row, channels, place(v),
                                           plane);
  if (whole * kWidth == channels) return;
  find_pixels<kSize>(s, frame, channels, top, left, pixels);
  for (int64_t v = whole; v * kWidth < channels; ++v) {
    const int64_t lanes = lanes_of<float>(v, channels);
    for (int i = 0; i < kPixels; ++i)
      store(gathered + i * kWidth, pixels[i] ? load_part(pixels[i] + v * kWidth, lanes) : V{});
    pixels_to_positions<kSize, kTransform>(gathered, kSize * kWidth, kWidth, place(v), plane);
  }
}

template <int kTaps>
void transform_inputs(const ConvLSTMShape& s, const float* frames, int64_t channels, const Tile& tile, float* to,
                      int64_t plane) {
  constexpr int kBorder = kTaps / 2;
  transform_pixels<kPatch, input_transform<V>>(s, frames + tile.frame * s.height * s.width * channels, channels,
                                               tile.y - kBorder, tile.x - kBorder, plane,
                                               [to](int64_t vector) { return to + vector * kWidth; });
}

// products[position][tile][lanes] = inputs[position][tile][depth] . packed[position][depth][lanes of the panel]
void multiply_positions(const float* inputs, int64_t stride, int64_t tiles, int64_t depth, const float* packed,
                        int64_t packed_depth, int vectors, float* products, int64_t products_row) {
  for (int64_t k = 0; k < kPositions; ++k) {
    TileProduct<float> q{};
    q.a = inputs + k * tiles * stride;
    q.a_row_stride = stride;
    q.b = packed + k * packed_depth * vectors * kWidth;
    q.b_depth_stride = vectors * kWidth;
    q.out = products + k * tiles * products_row;
    q.out_row_stride = products_row;
    q.rows = tiles;
    q.depth = depth;
    q.segments = 1;
    multiply<float, Rows::pixels>(q, vectors);
  }
}

template <int kTaps, class Body>
RLV2V_INLINE void for_pixels(const ConvLSTMShape& s, const Tile& tile, const Body& body) {
  const int64_t rows = smaller(kTile<kTaps>, s.height - tile.y), columns = smaller(kTile<kTaps>, s.width - tile.x);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      body((tile.frame * s.height + tile.y + i) * s.width + tile.x + j, i * kTile<kTaps> + j);
}

int64_t fwd_tiles(const ConvLSTMShape& s) { return tiles_per_bundle(s.inputs(), 4 * kWidth); }

template <int kTaps>
void fwd_tile(const ConvLSTMStep<float>& step, const Tile& tile, int64_t hidden_vector, const float* products,
              int64_t plane) {
  V gates[4][kTile<kTaps> * kTile<kTaps>];
  for (int g = 0; g < 4; ++g) products_to_pixels<kTaps>(products + g * kWidth, plane, gates[g]);
  const float* b = step.bias + hidden_vector * 4 * kWidth;
  const V bias[4] = {load(b), load(b + kWidth), load(b + 2 * kWidth), load(b + 3 * kWidth)};
  const int64_t lanes = lanes_of<float>(hidden_vector, step.shape.hidden);
  for_pixels<kTaps>(step.shape, tile, [&](int64_t pixel, int64_t p) {
    update_state<float>(step, pixel, hidden_vector * kWidth, lanes, gates[0][p] + bias[0], gates[1][p] + bias[1],
                        gates[2][p] + bias[2], gates[3][p] + bias[3]);
  });
}

template <int kTaps>
void fwd_bundle(const ConvLSTMStep<float>& step, int64_t first, int64_t tiles, float* scratch) {
  const ConvLSTMShape& s = step.shape;
  const int64_t stride = tile_stride(s.inputs()), row = 4 * kWidth;
  float* products = scratch + kPositions * tiles * stride;
  for (int64_t n = 0; n < tiles; ++n) {
    const Tile tile = tile_of<kTaps>(s, first + n);
    transform_inputs<kTaps>(s, step.x, s.channels, tile, scratch + n * stride, tiles * stride);
    // After x, whose last vector may have spilled here.
    if (step.h) transform_inputs<kTaps>(s, step.h, s.hidden, tile, scratch + n * stride + s.channels, tiles * stride);
  }
  for (int64_t hidden_vector = 0; hidden_vector < vectors_for<float>(s.hidden); ++hidden_vector) {
    for (int v = 0; v < 4; v += kTileVectors)
      multiply_positions(scratch, stride, tiles, step.h ? s.inputs() : s.channels,
                         step.weight + (hidden_vector * 4 + v) * kWidth * kPositions * s.inputs(), s.inputs(),
                         kTileVectors, products + v * kWidth, row);
    for (int64_t n = 0; n < tiles; ++n)
      fwd_tile<kTaps>(step, tile_of<kTaps>(s, first + n), hidden_vector, products + n * row, tiles * row);
  }
}

int64_t bwd_tiles(const ConvLSTMShape& s) { return tiles_per_bundle(4 * s.hidden, kTileVectors * kWidth); }

template <int kTaps>
void bwd_bundle(const ConvLSTMGradStep<float>& step, int64_t first, int64_t tiles, float* scratch) {
  const ConvLSTMShape& s = step.shape;
  const int64_t depth = 4 * s.hidden, stride = tile_stride(depth), total = grad_vectors(step);
  float* products = scratch + kPositions * tiles * stride;
  const bool recurrent = step.grad_gates_next != nullptr;
  for (int64_t n = 0; n < tiles && recurrent; ++n)
    transform_inputs<kTaps>(s, step.grad_gates_next, depth, tile_of<kTaps>(s, first + n), scratch + n * stride,
                            tiles * stride);
  for (int64_t v = 0; v < total; v += panel_vectors(v, total)) {
    const int vectors = panel_vectors(v, total);
    const int64_t row = vectors * kWidth;
    if (recurrent)
      multiply_positions(scratch, stride, tiles, depth, step.weight + v * kWidth * kPositions * depth, depth, vectors,
                         products, row);
    for (int64_t n = 0; n < tiles; ++n) {
      const Tile tile = tile_of<kTaps>(s, first + n);
      for (int64_t i = 0; i < vectors; ++i) {
        V grads[kTile<kTaps> * kTile<kTaps>] = {};
        if (recurrent) products_to_pixels<kTaps>(products + n * row + i * kWidth, tiles * row, grads);
        for_pixels<kTaps>(s, tile, [&](int64_t pixel, int64_t p) { put_grad<float>(step, pixel, v + i, grads[p]); });
      }
    }
  }
}

// Weight gradients. Scratch holds the transformed inputs (position, tile, C + K), then the transformed gate gradients
// (position and one more, panel, tile, lanes of the panel). The sums are (position, panel, C + K, lanes of the panel),
// then the bias gradient (4K rounded up to vectors).
int64_t gate_vectors(const ConvLSTMShape& s) { return vectors_for<float>(4 * s.hidden); }
int64_t weight_sums(const ConvLSTMShape& s) { return kPositions * gate_vectors(s) * kWidth * s.inputs(); }

// The plane after the positions holds the plain sum of a tile's gradients, for the bias.
constexpr int kSumPlane = kPositions;

// Transforms a tile, the n-th of `tiles` in scratch.
template <int kTaps>
void weight_tile(const ConvLSTMGradWeight<float>& grad, const Tile& tile, int64_t n, int64_t tiles, float* scratch) {
  const ConvLSTMShape& s = grad.shape;
  const int64_t stride = tile_stride(s.inputs()), total = gate_vectors(s), channels = 4 * s.hidden;
  transform_inputs<kTaps>(s, grad.x, s.channels, tile, scratch + n * stride, tiles * stride);
  transform_inputs<kTaps>(s, grad.h, s.hidden, tile, scratch + n * stride + s.channels, tiles * stride);
  float* panels = scratch + kPositions * tiles * stride;
  const auto place = [&](int64_t vector) {
    const int64_t first = panel_of(vector, total);
    return panels + (first * tiles + n * panel_vectors(first, total) + vector - first) * kWidth;
  };
  const int64_t plane = total * tiles * kWidth;
  transform_pixels<kTile<kTaps>, output_transform_transposed<kTaps, V>>(
      s, grad.grad_gates + tile.frame * s.height * s.width * channels, channels, tile.y, tile.x, plane, place);
  for (int64_t v = 0; v < total; ++v) {
    const int64_t lanes = lanes_of<float>(v, channels);
    V sum{};
    for_pixels<kTaps>(s, tile, [&](int64_t pixel, int64_t) {
      sum += load_part(grad.grad_gates + pixel * channels + v * kWidth, lanes);
    });
    store<float>(place(v) + kSumPlane * plane, sum);
  }
}

void sum_bias(const float* panel, int64_t tiles, int64_t vectors, float* sums) {
  for (int64_t v = 0; v < vectors; ++v) {
    V sum{};
    for (int64_t n = 0; n < tiles; ++n) sum += load(panel + (n * vectors + v) * kWidth);
    store<float>(sums + v * kWidth, load(sums + v * kWidth) + sum);
  }
}

// A unit is one position and one panel.
void weight_unit(const ConvLSTMShape& s, int64_t tiles, int64_t unit, const float* scratch, float* sums) {
  const int64_t stride = tile_stride(s.inputs()), total = gate_vectors(s), panels = panel_count(total);
  const int64_t k = unit / panels, first = panel_first(unit % panels, total), vectors = panel_vectors(first, total);
  TileProduct<float> q{};
  q.a = scratch + k * tiles * stride;
  q.a_depth_stride = stride;
  q.b = scratch + kPositions * tiles * stride + (k * total + first) * tiles * kWidth;
  q.b_depth_stride = vectors * kWidth;
  q.out = sums + (k * total + first) * kWidth * s.inputs();
  q.out_row_stride = vectors * kWidth;
  q.rows = s.inputs();
  q.depth = tiles;
  q.segments = 1;
  q.add = true;
  multiply<float, Rows::channels>(q, static_cast<int>(vectors));
  if (k == 0)
    sum_bias(q.b + kSumPlane * total * tiles * kWidth, tiles, vectors, sums + weight_sums(s) + first * kWidth);
}

// The filter gradients of one input channel and one vector of lanes of the gates.
template <int kTaps>
void finish_vector(const ConvLSTMShape& s, const float* sums, int64_t channel, int64_t vector, float* grad_weight) {
  const int64_t total = gate_vectors(s), first = panel_of(vector, total), width = panel_vectors(first, total) * kWidth;
  const float* from = sums + first * kWidth * s.inputs() + channel * width + (vector - first) * kWidth;
  V positions[kPositions], taps[kTaps * kTaps];
  for (int k = 0; k < kPositions; ++k) positions[k] = load(from + k * total * kWidth * s.inputs());
  transform_both<kPatch, kTaps>(positions, taps, filter_transform_transposed<kTaps, V>);
  const int64_t lanes = lanes_of<float>(vector, 4 * s.hidden);
  for (int64_t l = 0; l < lanes; ++l)
    for (int t = 0; t < kTaps * kTaps; ++t)
      grad_weight[((vector * kWidth + l) * s.inputs() + channel) * kTaps * kTaps + t] = taps[t][l];
}

// Calls body with the kernel's size as a compile-time constant.
template <class Body>
RLV2V_INLINE void for_kernel(const ConvLSTMShape& s, const Body& body) {
  if (s.kernel_h == 3)
    body(std::integral_constant<int, 3>{});
  else
    body(std::integral_constant<int, 5>{});
}

// The bits of floats without their signs are ordered as the floats are, and those of NaN come last.
using Bits = typename VectorOf<float>::bits;

Bits larger_bits(Bits a, Bits b) {
  const Bits first = a > b;
  return (a & first) | (b & ~first);
}

template <int kTaps>
bool find_unsafe(const ConvLSTMShape& s, const float* largest, int64_t begin, int64_t end, char* unsafe) {
  bool any = false;
  for (int64_t i = begin; i < end; ++i) {
    const Tile tile = tile_of<kTaps>(s, i);
    const float* pixels[kPatch * kPatch];
    float patch[kPatch * kPatch];
    find_pixels<kPatch>(s, largest + tile.frame * s.height * s.width, 1, tile.y - kTaps / 2, tile.x - kTaps / 2,
                        pixels);
    for (int p = 0; p < kPatch * kPatch; ++p) patch[p] = pixels[p] ? *pixels[p] : 0;
    unsafe[i] = patch_is_unsafe<kTaps>(patch);
    any = any || unsafe[i];
  }
  return any;
}

}  // namespace

void winograd_magnitudes(const float* frames, int64_t channels, int64_t begin, int64_t end, bool join, float* largest) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const float* from = frames + pixel * channels;
    Bits most{};
    for (int64_t v = 0; v < vectors_for<float>(channels); ++v)
      most = larger_bits(most, (Bits)load_part(from + v * kWidth, lanes_of<float>(v, channels)) & 0x7fffffff);
    int32_t found = 0;
    if (join) std::memcpy(&found, largest + pixel, sizeof found);
    for (int l = 0; l < kWidth; ++l) found = most[l] > found ? most[l] : found;
    std::memcpy(largest + pixel, &found, sizeof found);
  }
}

bool winograd_unsafe(const ConvLSTMShape& s, const float* largest, int64_t begin, int64_t end, char* unsafe) {
  bool any = false;
  for_kernel(s, [&](auto taps) { any = find_unsafe<taps.value>(s, largest, begin, end, unsafe); });
  return any;
}

int64_t winograd_fwd_scratch(const ConvLSTMStep<float>& step) {
  return kPositions * fwd_tiles(step.shape) * (tile_stride(step.shape.inputs()) + 4 * kWidth);
}

void winograd_fwd(const ConvLSTMStep<float>& step, int64_t begin, int64_t end, float* scratch) {
  for_kernel(step.shape, [&](auto taps) {
    for_bundles(begin, end, fwd_tiles(step.shape),
                [&](int64_t first, int64_t tiles) { fwd_bundle<taps.value>(step, first, tiles, scratch); });
  });
}

int64_t winograd_bwd_scratch(const ConvLSTMGradStep<float>& step) {
  return kPositions * bwd_tiles(step.shape) * (tile_stride(4 * step.shape.hidden) + kTileVectors * kWidth);
}

void winograd_bwd(const ConvLSTMGradStep<float>& step, int64_t begin, int64_t end, float* scratch) {
  for_kernel(step.shape, [&](auto taps) {
    for_bundles(begin, end, bwd_tiles(step.shape),
                [&](int64_t first, int64_t tiles) { bwd_bundle<taps.value>(step, first, tiles, scratch); });
  });
}

int64_t winograd_weight_scratch(const ConvLSTMShape& s, int64_t tiles) {
  return tiles * (kPositions * tile_stride(s.inputs()) + (kPositions + 1) * gate_vectors(s) * kWidth);
}

int64_t winograd_weight_sums(const ConvLSTMShape& s) { return weight_sums(s) + gate_vectors(s) * kWidth; }

int64_t winograd_weight_units(const ConvLSTMShape& s) { return kPositions * panel_count(gate_vectors(s)); }

void winograd_weight_prepare(const ConvLSTMGradWeight<float>& grad, int64_t first, int64_t tiles, int64_t begin,
                             int64_t end, float* scratch) {
  for_kernel(grad.shape, [&](auto taps) {
    for (int64_t n = begin; n < end; ++n)
      weight_tile<taps.value>(grad, tile_of<taps.value>(grad.shape, first + n), n, tiles, scratch);
  });
}

void winograd_weight_accumulate(const ConvLSTMShape& s, int64_t tiles, int64_t begin, int64_t end, const float* scratch,
                                float* sums) {
  for (int64_t unit = begin; unit < end; ++unit) weight_unit(s, tiles, unit, scratch, sums);
}

void winograd_weight_finish(const ConvLSTMShape& s, const float* sums, int64_t begin, int64_t end, float* grad_weight,
                            float* grad_bias) {
  for_kernel(s, [&](auto taps) {
    for (int64_t channel = begin; channel < end; ++channel)
      for (int64_t vector = 0; vector < gate_vectors(s); ++vector)
        finish_vector<taps.value>(s, sums, channel, vector, grad_weight);
  });
  if (begin == 0) std::memcpy(grad_bias, sums + weight_sums(s), 4 * s.hidden * sizeof(float));
}

}  // namespace rlv2v::RLV2V_ISA
