#include "convlstm/cpu/direct_simd.h"

#include "common/tile_product.h"
#include "convlstm/cpu/state_update.h"

namespace rlv2v::RLV2V_ISA {
namespace {

// Rows of a in one weight-gradient unit: a few tiles, so that units outnumber threads.
constexpr int64_t kUnitRows = 16 * kTileRows;
// Products summed in registers before they go to the running total: short sums lose less to rounding.
constexpr int64_t kSumDepth = 128;
// Pixels summed in registers before a weight gradient goes back to memory.
constexpr int64_t kWeightDepth = 256;

template <class T>
struct Source {
  const T* data;  // (B, H, W, channels); null stands for no channels
  int64_t channels;
};

// Rows [row, row + rows) x columns [column, column + columns) of an image.
struct Tile {
  int64_t frame, row, column, rows, columns;
};

Tile tile_of(const ConvLSTMShape& s, const ConvLSTMTiling& tiling, int64_t number) {
  const int64_t across = tiling.across(s), down = tiling.down(s);
  const int64_t column = number % across * tiling.columns, row = number / across % down * tiling.rows;
  return {number / across / down, row, column, smaller(tiling.rows, s.height - row),
          smaller(tiling.columns, s.width - column)};
}

int64_t patch_size(const ConvLSTMShape& s, const ConvLSTMTiling& tiling, int64_t channels) {
  return (tiling.rows + s.kernel_h - 1) * (tiling.columns + s.kernel_w - 1) * channels;
}

// Copies a tile and the border that its convolution reaches. A pixel holds the channels of all sources, and zeros
// outside the image. The kw pixels under a row of the kernel are then one contiguous run of kw * channels.
template <class T>
void fill_patch(const ConvLSTMShape& s, const Tile& tile, const Source<T>* sources, int count, T* patch) {
  const int64_t rows = tile.rows + s.kernel_h - 1, columns = tile.columns + s.kernel_w - 1;
  int64_t pixel = 0;
  for (int i = 0; i < count; ++i) pixel += sources[i].data ? sources[i].channels : 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t q = 0; q < columns; ++q, patch += pixel) {
      const int64_t y = tile.row + r - s.kernel_h / 2, x = tile.column + q - s.kernel_w / 2;
      if (y < 0 || y >= s.height || x < 0 || x >= s.width) {
        std::memset(patch, 0, pixel * sizeof(T));
        continue;
      }
      T* to = patch;
      for (int i = 0; i < count; ++i) {
        const int64_t channels = sources[i].channels;
        if (!sources[i].data) continue;
        std::memcpy(to, sources[i].data + ((tile.frame * s.height + y) * s.width + x) * channels, channels * sizeof(T));
        to += channels;
      }
    }
}

// Convolution of one patch row with one panel of lanes; `packed` is (taps, depth, lanes of the panel). `depth` counts
// the channels of the patch, which are the first of the packed depth.
template <class T>
void convolve_row(const ConvLSTMShape& s, const Tile& tile, int64_t row, const T* patch, int64_t depth, const T* packed,
                  int64_t packed_depth, int vectors, T* out, int64_t out_row) {
  const int64_t patch_row = (tile.columns + s.kernel_w - 1) * depth, width = vectors * kLanes<T>;
  // With every channel present the taps of a kernel row follow each other in both operands: one long run.
  const bool whole = depth == packed_depth;
  const int64_t run = whole ? s.kernel_w * depth : depth, runs = whole ? 1 : s.kernel_w;
  TileProduct<T> q{};
  q.a_row_stride = depth;
  q.b_depth_stride = width;
  q.out = out;
  q.out_row_stride = out_row;
  q.rows = tile.columns;
  q.segments = 1;
  for (int64_t i = 0; i < s.kernel_h; ++i)
    for (int64_t j = 0; j < runs; ++j)
      for (int64_t done = 0, parts = ceil_div(run, kSumDepth); done < run; done += q.depth, --parts) {
        q.a = patch + (row + i) * patch_row + j * depth + done;
        q.b = packed + ((i * s.kernel_w + j) * packed_depth + done) * width;
        q.depth = ceil_div(run - done, parts);
        multiply<T, Rows::pixels>(q, vectors);
        q.add = true;
      }
}

template <class T>
int64_t fwd_scratch(const ConvLSTMStep<T>& step, const ConvLSTMTiling& tiling) {
  return patch_size(step.shape, tiling, step.shape.inputs()) + tiling.columns * 4 * kLanes<T>;
}

template <class T>
void fwd_row(const ConvLSTMStep<T>& step, const Tile& tile, int64_t row, int64_t hidden_vector, const T* pre) {
  const ConvLSTMShape& s = step.shape;
  const T* bias = step.bias + hidden_vector * 4 * kLanes<T>;
  const Vec<T> bias_i = load(bias), bias_f = load(bias + kLanes<T>), bias_o = load(bias + 2 * kLanes<T>),
               bias_g = load(bias + 3 * kLanes<T>);
  const int64_t first = (tile.frame * s.height + tile.row + row) * s.width + tile.column;
  for (int64_t x = 0; x < tile.columns; ++x, pre += 4 * kLanes<T>)
    update_state<T>(step, first + x, hidden_vector * kLanes<T>, lanes_of<T>(hidden_vector, s.hidden),
                    load(pre) + bias_i, load(pre + kLanes<T>) + bias_f, load(pre + 2 * kLanes<T>) + bias_o,
                    load(pre + 3 * kLanes<T>) + bias_g);
}

template <class T>
void fwd(const ConvLSTMStep<T>& step, const ConvLSTMTiling& tiling, int64_t begin, int64_t end, T* scratch) {
  const ConvLSTMShape& s = step.shape;
  const Source<T> sources[] = {{step.x, s.channels}, {step.h, s.hidden}};
  const int64_t depth = step.h ? s.inputs() : s.channels, vectors = 4 * vectors_for<T>(s.hidden);
  T* patch = scratch;
  T* pre = scratch + patch_size(s, tiling, s.inputs());
  for (int64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(s, tiling, number);
    fill_patch(s, tile, sources, 2, patch);
    for (int64_t hidden_vector = 0; hidden_vector < vectors / 4; ++hidden_vector)
      for (int64_t row = 0; row < tile.rows; ++row) {
        for (int64_t v = 0; v < 4; v += kTileVectors)
          convolve_row(s, tile, row, patch, depth,
                       step.weight + (hidden_vector * 4 + v) * kLanes<T> * s.taps() * s.inputs(), s.inputs(),
                       kTileVectors, pre + v * kLanes<T>, 4 * kLanes<T>);
        fwd_row(step, tile, row, hidden_vector, pre);
      }
  }
}

template <class T>
int64_t bwd_scratch(const ConvLSTMGradStep<T>& step, const ConvLSTMTiling& tiling) {
  return patch_size(step.shape, tiling, 4 * step.shape.hidden) + tiling.columns * kTileVectors * kLanes<T>;
}

template <class T>
void bwd(const ConvLSTMGradStep<T>& step, const ConvLSTMTiling& tiling, int64_t begin, int64_t end, T* scratch) {
  const ConvLSTMShape& s = step.shape;
  const int64_t depth = 4 * s.hidden, total = grad_vectors(step);
  const Source<T> source{step.grad_gates_next, depth};
  T* patch = scratch;
  T* grads = scratch + patch_size(s, tiling, depth);
  for (int64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(s, tiling, number);
    if (source.data) fill_patch(s, tile, &source, 1, patch);
    for (int64_t first = 0; first < total; first += panel_vectors(first, total)) {
      const int vectors = panel_vectors(first, total);
      const int64_t width = vectors * kLanes<T>;
      if (!source.data) std::memset(grads, 0, tile.columns * width * sizeof(T));
      for (int64_t row = 0; row < tile.rows; ++row) {
        if (source.data)
          convolve_row(s, tile, row, patch, depth, step.weight + first * kLanes<T> * s.taps() * depth, depth, vectors,
                       grads, width);
        const int64_t pixel = (tile.frame * s.height + tile.row + row) * s.width + tile.column;
        for (int64_t x = 0; x < tile.columns; ++x)
          for (int v = 0; v < vectors; ++v)
            put_grad<T>(step, pixel + x, first + v, load(grads + x * width + v * kLanes<T>));
      }
    }
  }
}

// Weight gradients. Scratch holds the frames zero-bordered, (frames, H + kh - 1, W + kw - 1, C + K), then their gate
// gradients as (panel, frames, H, W, lanes of the panel). The sums are (panel, kh, kw * (C + K), lanes of the panel),
// then the bias gradient (4K rounded up to vectors).
template <class T>
int64_t gate_vectors(const ConvLSTMShape& s) {
  return vectors_for<T>(4 * s.hidden);
}

int64_t bordered_row(const ConvLSTMShape& s) { return (s.width + s.kernel_w - 1) * s.inputs(); }
int64_t bordered_frame(const ConvLSTMShape& s) { return (s.height + s.kernel_h - 1) * bordered_row(s); }

template <class T>
int64_t weight_scratch(const ConvLSTMGradWeight<T>& grad, int64_t frames) {
  const ConvLSTMShape& s = grad.shape;
  return frames * (bordered_frame(s) + s.height * s.width * gate_vectors<T>(s) * kLanes<T>);
}

template <class T>
int64_t weight_sums(const ConvLSTMShape& s) {
  return gate_vectors<T>(s) * kLanes<T> * (s.taps() * s.inputs() + 1);
}

// A unit is kUnitRows of the kw * (C + K) rows of one panel and one kernel row.
template <class T>
int64_t row_part_count(const ConvLSTMShape& s) {
  return ceil_div(s.kernel_w * s.inputs(), kUnitRows);
}

template <class T>
int64_t weight_units(const ConvLSTMShape& s) {
  return panel_count(gate_vectors<T>(s)) * s.kernel_h * row_part_count<T>(s);
}

template <class T>
void weight_prepare(const ConvLSTMGradWeight<T>& grad, int64_t frame, int64_t frames, int64_t begin, int64_t end,
                    T* scratch) {
  ConvLSTMShape s = grad.shape;
  const Source<T> sources[] = {{grad.x, s.channels}, {grad.h, s.hidden}};
  const int64_t pixels = s.height * s.width, channels = 4 * s.hidden, total = gate_vectors<T>(s);
  T* panels = scratch + frames * bordered_frame(s);
  for (int64_t i = begin; i < end; ++i) {
    fill_patch(s, Tile{frame + i, 0, 0, s.height, s.width}, sources, 2, scratch + i * bordered_frame(s));
    const T* gates = grad.grad_gates + (frame + i) * pixels * channels;
    for (int64_t first = 0; first < total; first += panel_vectors(first, total)) {
      const int64_t vectors = panel_vectors(first, total);
      T* panel = panels + (first * frames + i * vectors) * pixels * kLanes<T>;
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t v = first; v < first + vectors; ++v, panel += kLanes<T>)
          store(panel, load_part(gates + p * channels + v * kLanes<T>, lanes_of<T>(v, channels)));
    }
  }
}

template <class T>
void sum_bias(const T* panel, int64_t pixels, int64_t vectors, T* sums) {
  for (int64_t v = 0; v < vectors; ++v) {
    Vec<T> sum{};
    for (int64_t p = 0; p < pixels; ++p) sum += load(panel + (p * vectors + v) * kLanes<T>);
    store<T>(sums + v * kLanes<T>, load(sums + v * kLanes<T>) + sum);
  }
}

template <class T>
void weight_accumulate(const ConvLSTMGradWeight<T>& grad, int64_t frames, int64_t begin, int64_t end, const T* scratch,
                       T* sums) {
  const ConvLSTMShape& s = grad.shape;
  const int64_t total = gate_vectors<T>(s), pixels = s.height * s.width, window = s.kernel_w * s.inputs();
  const int64_t row_parts = row_part_count<T>(s), deep = kWeightDepth / s.width > 0 ? kWeightDepth / s.width : 1;
  const T* panels = scratch + frames * bordered_frame(s);
  T* bias = sums + total * kLanes<T> * s.taps() * s.inputs();
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = panel_first(unit / row_parts / s.kernel_h, total), vectors = panel_vectors(first, total);
    const int64_t i = unit / row_parts % s.kernel_h, row = unit % row_parts * kUnitRows, width = vectors * kLanes<T>;
    const T* panel = panels + first * frames * pixels * kLanes<T>;
    TileProduct<T> q{};
    q.a_depth_stride = s.inputs();
    q.a_segment_stride = bordered_row(s);
    q.b_depth_stride = width;
    q.b_segment_stride = s.width * width;
    q.out = sums + first * kLanes<T> * s.taps() * s.inputs() + (i * window + row) * width;
    q.out_row_stride = width;
    q.rows = smaller(kUnitRows, window - row);
    q.depth = s.width;
    q.add = true;
    for (int64_t frame = 0; frame < frames; ++frame)
      for (int64_t y = 0; y < s.height; y += deep) {
        q.a = scratch + frame * bordered_frame(s) + (y + i) * bordered_row(s) + row;
        q.b = panel + (frame * s.height + y) * s.width * width;
        q.segments = smaller(deep, s.height - y);
        multiply<T, Rows::channels>(q, static_cast<int>(vectors));
        if (i == 0 && row == 0) sum_bias(q.b, q.segments * s.width, vectors, bias + first * kLanes<T>);
      }
  }
}

template <class T>
void weight_finish(const ConvLSTMShape& s, const T* sums, int64_t begin, int64_t end, T* grad_weight, T* grad_bias) {
  const int64_t total = gate_vectors<T>(s), inputs = s.inputs();
  const T* bias = sums + total * kLanes<T> * s.taps() * inputs;
  for (int64_t o = begin; o < end; ++o) {
    const int64_t first = panel_of(o / kLanes<T>, total);
    const int64_t width = panel_vectors(first, total) * kLanes<T>;
    const T* from = sums + first * kLanes<T> * s.taps() * inputs + o - first * kLanes<T>;
    for (int64_t c = 0; c < inputs; ++c)
      for (int64_t t = 0; t < s.taps(); ++t)
        grad_weight[(o * inputs + c) * s.taps() + t] = from[(t * inputs + c) * width];
    grad_bias[o] = bias[o];
  }
}

}  // namespace

#define RLV2V_DEFINE(T)                                                                                                \
  int64_t direct_fwd_scratch(const ConvLSTMStep<T>& step, const ConvLSTMTiling& tiling) {                              \
    return fwd_scratch(step, tiling);                                                                                  \
  }                                                                                                                    \
  void direct_fwd(const ConvLSTMStep<T>& step, const ConvLSTMTiling& tiling, int64_t begin, int64_t end, T* scratch) { \
    fwd(step, tiling, begin, end, scratch);                                                                            \
  }                                                                                                                    \
  int64_t direct_bwd_scratch(const ConvLSTMGradStep<T>& step, const ConvLSTMTiling& tiling) {                          \
    return bwd_scratch(step, tiling);                                                                                  \
  }                                                                                                                    \
  void direct_bwd(const ConvLSTMGradStep<T>& step, const ConvLSTMTiling& tiling, int64_t begin, int64_t end,           \
                  T* scratch) {                                                                                        \
    bwd(step, tiling, begin, end, scratch);                                                                            \
  }                                                                                                                    \
  int64_t direct_weight_scratch(const ConvLSTMGradWeight<T>& grad, int64_t frames) {                                   \
    return weight_scratch(grad, frames);                                                                               \
  }                                                                                                                    \
  int64_t direct_weight_sums(const ConvLSTMShape& shape, const T*) { return weight_sums<T>(shape); }                   \
  int64_t direct_weight_units(const ConvLSTMShape& shape, const T*) { return weight_units<T>(shape); }                 \
  void direct_weight_prepare(const ConvLSTMGradWeight<T>& grad, int64_t frame, int64_t frames, int64_t begin,          \
                             int64_t end, T* scratch) {                                                                \
    weight_prepare(grad, frame, frames, begin, end, scratch);                                                          \
  }                                                                                                                    \
  void direct_weight_accumulate(const ConvLSTMGradWeight<T>& grad, int64_t frames, int64_t begin, int64_t end,         \
                                const T* scratch, T* sums) {                                                           \
    weight_accumulate(grad, frames, begin, end, scratch, sums);                                                        \
  }                                                                                                                    \
  void direct_weight_finish(const ConvLSTMShape& shape, const T* sums, int64_t begin, int64_t end, T* grad_weight,     \
                            T* grad_bias) {                                                                            \
    weight_finish(shape, sums, begin, end, grad_weight, grad_bias);                                                    \
  }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
