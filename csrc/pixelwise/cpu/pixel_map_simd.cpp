#include "pixelwise/cpu/pixel_map_simd.h"

#include "common/vector_sine.h"
#include "pixelwise/cpu/numbers.h"

// Quads of doubles are wider than the baseline's vectors. No call passes one: all functions that do are inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace rlv2v::RLV2V_ISA {
namespace {

// Pixels of a block: whole tiles of rows, whole vectors of pixels, and activations that stay in L2.
constexpr int64_t kBlock = 96;

// Hands out parts of one run of memory.
template <class T>
struct Parts {
  T* next;

  RLV2V_INLINE T* take(int64_t count) {
    T* part = next;
    // Whole cache lines.
    next += ceil_div(count, 64 / sizeof(T)) * (64 / sizeof(T));
    return part;
  }
};

template <class T>
int64_t padded(int64_t lanes) {
  return vectors_for<T>(lanes) * kLanes<T>;
}

// Where things lie. All lanes are padded to whole vectors with zeros.
template <class N, class T = typename N::Real>
struct Sizes {
  int64_t channels, located, features, hidden;                       // as they are
  int64_t feature_lanes, hidden_lanes, output_lanes, channel_lanes;  // padded
  int64_t levels, table;

  explicit Sizes(const PixelMapShape& s)
      : channels(s.channels),
        located(s.located()),
        features(s.features),
        hidden(s.hidden),
        feature_lanes(padded<T>(s.features)),
        hidden_lanes(padded<T>(s.hidden)),
        // An entry of the table is added as four numbers.
        output_lanes(padded<T>(2 * s.channels + (s.levels ? 1 : 0))),
        channel_lanes(padded<T>(s.channels)),
        levels(s.levels),
        table(4 * s.table_entries()) {}

  static int64_t cells(int64_t numbers) { return ceil_div(numbers, N::kPack); }
};

// The parameters as the loops read them: (depth, lanes), and with the suffix _t transposed.
template <class N, class T = typename N::Real>
struct Packed {
  T *project, *project_bias, *waves1, *located1, *bias1, *weight2, *bias2, *weight3, *bias3, *head, *head_bias;
  T *head_t, *weight3_t, *weight2_t, *waves1_t, *located1_t, *project_t;
  T *table, *rows, *columns;  // coordinates of a frame's rows and columns
  T* end;

  Packed(const PixelMapShape& shape, T* memory) {
    const Sizes<N> s(shape);
    Parts<T> parts{memory};
    project = parts.take(s.located * s.feature_lanes);
    project_bias = parts.take(s.feature_lanes);
    waves1 = parts.take(s.cells(s.features) * s.hidden_lanes);
    located1 = parts.take(s.cells(s.located) * s.hidden_lanes);
    bias1 = parts.take(s.hidden_lanes);
    weight2 = parts.take(s.cells(s.hidden) * s.hidden_lanes);
    bias2 = parts.take(s.hidden_lanes);
    weight3 = parts.take(s.cells(s.hidden) * s.hidden_lanes);
    bias3 = parts.take(s.hidden_lanes);
    head = parts.take(s.cells(s.hidden) * s.output_lanes);
    head_bias = parts.take(s.output_lanes);
    head_t = parts.take(s.cells(2 * s.channels) * s.hidden_lanes);
    weight3_t = parts.take(s.cells(s.hidden) * s.hidden_lanes);
    weight2_t = parts.take(s.cells(s.hidden) * s.hidden_lanes);
    waves1_t = parts.take(s.cells(s.hidden) * s.feature_lanes);
    located1_t = parts.take(s.cells(s.hidden) * s.channel_lanes);
    project_t = parts.take(s.features * s.channel_lanes);
    table = parts.take(s.table);
    rows = parts.take(shape.height);
    columns = parts.take(shape.width);
    end = parts.next;
  }
};

// to (cells of depth, lanes) from element(r, l), zero beyond both.
template <class N, class Element, class T = typename N::Real>
void pack_matrix(int64_t depth, int64_t lanes, T* to, const Element& element) {
  const int64_t width = padded<T>(lanes);
  const auto at = [&](int64_t r, int64_t l) { return r < depth && l < lanes ? element(r, l) : T{}; };
  for (int64_t r = 0; r < depth; r += N::kPack)
    for (int64_t l = 0; l < width; ++l) *to++ = N::cell(at(r, l), at(r + 1, l));
}

template <class T>
void pack_vector(const T* from, int64_t count, int64_t lanes, T* to) {
  for (int64_t i = 0; i < lanes; ++i) to[i] = i < count ? from[i] : T{};
}

// `count` numbers evenly from -1 to 1; one is -1.
template <class T>
void fill_coordinates(int64_t count, T* to) {
  const T step = count > 1 ? T(2) / static_cast<T>(count - 1) : T{};
  for (int64_t i = 0; i < count; ++i) to[i] = step * static_cast<T>(i) - T(1);
}

template <class N, class T = typename N::Real>
void pack(const PixelMap<T>& call, const PixelMapParameters<const T>& from, T* memory) {
  const Sizes<N> s(call.shape);
  const Packed<N> to(call.shape, memory);
  const int64_t inputs = s.located + s.features, outputs = 2 * s.channels;
  const auto transposed = [](const T* matrix, int64_t columns) {
    return [=](int64_t r, int64_t l) { return matrix[l * columns + r]; };
  };
  const auto straight = [](const T* matrix, int64_t columns) {
    return [=](int64_t r, int64_t l) { return matrix[r * columns + l]; };
  };
  pack_matrix<Plain<T>>(s.located, s.features, to.project, transposed(from.project, s.located));
  pack_vector(from.project_bias, s.features, s.feature_lanes, to.project_bias);
  pack_matrix<N>(s.features, s.hidden, to.waves1, transposed(from.weight1 + s.located, inputs));
  pack_matrix<N>(s.located, s.hidden, to.located1, transposed(from.weight1, inputs));
  pack_vector(from.bias1, s.hidden, s.hidden_lanes, to.bias1);
  pack_matrix<N>(s.hidden, s.hidden, to.weight2, transposed(from.weight2, s.hidden));
  pack_vector(from.bias2, s.hidden, s.hidden_lanes, to.bias2);
  pack_matrix<N>(s.hidden, s.hidden, to.weight3, transposed(from.weight3, s.hidden));
  pack_vector(from.bias3, s.hidden, s.hidden_lanes, to.bias3);
  pack_vector(from.head_bias, outputs, s.output_lanes, to.head_bias);
  for (int64_t c = 0; c < s.channels; ++c) to.head_bias[c] += call.gain;
  // Lanes beyond the outputs: the table's quads may be one wider.
  const auto of_head = [&](int64_t r, int64_t l) { return l < outputs ? from.head[l * s.hidden + r] : T{}; };
  pack_matrix<N>(s.hidden, s.output_lanes, to.head, of_head);
  pack_matrix<N>(outputs, s.hidden, to.head_t, straight(from.head, s.hidden));
  pack_matrix<N>(s.hidden, s.hidden, to.weight3_t, straight(from.weight3, s.hidden));
  pack_matrix<N>(s.hidden, s.hidden, to.weight2_t, straight(from.weight2, s.hidden));
  pack_matrix<N>(s.hidden, s.features, to.waves1_t, straight(from.weight1 + s.located, inputs));
  pack_matrix<N>(s.hidden, s.channels, to.located1_t, straight(from.weight1, inputs));
  pack_matrix<Plain<T>>(s.features, s.channels, to.project_t, straight(from.project, s.located));
  const int64_t entries = call.shape.table_entries();
  for (int64_t i = 0; i < entries; ++i)
    for (int64_t c = 0; c < 4; ++c)
      to.table[4 * i + c] = c < s.channels ? call.speed * from.table[c * entries + i] : T{};
  fill_coordinates(call.shape.height, to.rows);
  fill_coordinates(call.shape.width, to.columns);
}

// Activations of a block's pixels. Planes are (channel, pixel), the others (pixel, lanes). Some things are kept in
// several forms, because a product needs its factors as cells along the axis that it sums over:
//   wide     (pixel, cells of channels)
//   paired   (cells of pixels, channels); that of Plain is wide
// and of planes
//   stacked  (cells of channels, pixel); that of Plain is the planes
//   flat     (channel, cells of pixels); likewise
template <class N, class T = typename N::Real>
struct Wide {
  T *wide, *paired;

  void take(Parts<T>& parts, int64_t lanes, bool both) {
    wide = parts.take(kBlock * lanes / N::kPack);
    paired = N::kPack == 1 ? wide : both ? parts.take(kBlock * lanes / N::kPack) : nullptr;
  }
};

template <class N, class T = typename N::Real>
struct Planes {
  T *real, *stacked, *flat;

  void take(Parts<T>& parts, int64_t channels) {
    real = parts.take((channels + 1) * kBlock);
    stacked = N::kPack == 1 ? real : parts.take(ceil_div(channels, N::kPack) * kBlock);
    flat = N::kPack == 1 ? real : parts.take(channels * kBlock / N::kPack);
  }

  // The other forms from `real`, of which one more plane may be read.
  void derive(int64_t channels) const {
    if constexpr (N::kPack == 2) {
      for (int64_t c = 0; c < channels; c += 2)
        for (int64_t p = 0; p < kBlock; p += kLanes<T>)
          store<T>(stacked + c / 2 * kBlock + p,
                   N::pair(load(real + c * kBlock + p), load(real + (c + 1) * kBlock + p)));
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = 0; p < kBlock; p += 2 * kLanes<T>) {
          const Vec<T> both[2] = {load(real + c * kBlock + p), load(real + c * kBlock + p + kLanes<T>)};
          store<T>(flat + (c * kBlock + p) / 2, N::pack(both));
        }
    }
  }

  ByRows<T> pixels() const { return {stacked, 1, kBlock}; }
  ByRows<T> channels() const { return {flat, kBlock / N::kPack, 1}; }
};

template <class N, class T = typename N::Real>
struct Activations {
  Planes<N> located;  // the last plane is of ones
  Wide<N> waves, hidden[3];
  T* cosines;           // (pixel, feature lanes)
  T* signed_hidden[3];  // (pixel, hidden lanes): hidden as real numbers
  T *outputs, *planes;  // (pixel, output lanes), (2 channels, pixel)
  T *places, *weights;  // of colours in the table: (pixel) as integers, (3, pixel)
  Planes<N> grad_outputs;
  T* grad_planes;  // (2 channels, pixel): the gradient of y, clamped, and that of the frames
  Wide<N> grads[2];
  T *grad_phases, *grad_located;  // (pixel, feature lanes), (pixel, channel lanes)
  T* end;

  Activations(const PixelMapShape& shape, bool backward, T* memory) {
    const Sizes<N> s(shape);
    Parts<T> parts{memory};
    located.take(parts, s.located);
    waves.take(parts, s.feature_lanes, backward);
    for (Wide<N>& layer : hidden) layer.take(parts, s.hidden_lanes, backward);
    outputs = parts.take(kBlock * s.output_lanes);
    planes = parts.take(2 * s.channels * kBlock);
    places = parts.take(kBlock);
    weights = parts.take(3 * kBlock);
    if (backward) {
      cosines = parts.take(kBlock * s.feature_lanes);
      for (int i = 0; i < 3; ++i)
        signed_hidden[i] = N::kPack == 1 ? hidden[i].wide : parts.take(kBlock * s.hidden_lanes);
      grad_outputs.take(parts, 2 * s.channels);
      grad_planes = parts.take(2 * s.channels * kBlock);
      for (Wide<N>& grad : grads) grad.take(parts, s.hidden_lanes, true);
      grad_phases = parts.take(kBlock * s.feature_lanes);
      grad_located = parts.take(kBlock * s.channel_lanes);
    }
    end = parts.next;
  }
};

// A tile of sums as cells: pixels first_row ... and the vectors from `vector` on, of `lanes` lanes.
template <class N, int kVectors, int kRows, class T = typename N::Real>
RLV2V_INLINE void store_tile(const Wide<N>& to, int64_t first_row, int64_t vector, int64_t lanes,
                             const Vec<T> (&tile)[kRows][kVectors]) {
  if constexpr (kVectors % N::kWhole == 0) {
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v += N::kWhole)
        store<T>(to.wide + ((first_row + i) * lanes + (vector + v) * kLanes<T>) / N::kPack, N::pack(&tile[i][v]));
    if constexpr (N::kPack == 2) {
      if (!to.paired) return;
#pragma GCC unroll 12
      for (int i = 0; i < kRows; i += 2)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          store<T>(to.paired + (first_row + i) / 2 * lanes + (vector + v) * kLanes<T>,
                   N::pair(tile[i][v], tile[i + 1][v]));
    }
  }
}

template <class T, int kVectors, int kRows>
RLV2V_INLINE void store_reals(T* to, int64_t first_row, int64_t vector, int64_t lanes,
                              const Vec<T> (&tile)[kRows][kVectors]) {
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store<T>(to + (first_row + i) * lanes + (vector + v) * kLanes<T>, tile[i][v]);
}

// The pixels of one frame that a block holds; places beyond count are padding.
struct Place {
  int64_t frame, first, count;
};

// Calls body(place) for every block of the pixels [begin, end) of all frames.
template <class Body>
RLV2V_INLINE void for_blocks(const PixelMapShape& s, int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const int64_t frame = begin / s.pixels(), first = begin % s.pixels();
    const int64_t count = smaller(kBlock, smaller(s.pixels() - first, end - begin));
    body(Place{frame, first, count});
    begin += count;
  }
}

// The planes of a block from a tensor (frames, channels, pixels), zeros as padding.
template <class T>
void load_planes(const T* from, const PixelMapShape& s, const Place& place, T* to) {
  for (int64_t c = 0; c < s.channels; ++c) {
    const T* plane = from + (place.frame * s.channels + c) * s.pixels() + place.first;
    for (int64_t p = 0; p < kBlock; p += kLanes<T>) {
      const int64_t lanes = smaller(kLanes<T>, place.count - p);
      store<T>(to + c * kBlock + p, lanes > 0 ? load_part(plane + p, lanes) : Vec<T>{});
    }
  }
}

template <class T>
void store_planes(const T* from, const PixelMapShape& s, const Place& place, T* to) {
  for (int64_t c = 0; c < s.channels; ++c) {
    T* plane = to + (place.frame * s.channels + c) * s.pixels() + place.first;
    for (int64_t p = 0; p < place.count; p += kLanes<T>)
      store_part<T>(plane + p, load(from + c * kBlock + p), smaller(kLanes<T>, place.count - p));
  }
}

template <class N, class T = typename N::Real>
void locate(const PixelMap<T>& call, const Packed<N>& packed, const Place& place, const Planes<N>& located) {
  const PixelMapShape& s = call.shape;
  load_planes(call.frames, s, place, located.real);
  T *rows = located.real + s.channels * kBlock, *columns = rows + kBlock, *ones = columns + kBlock;
  int64_t row = place.first / s.width, column = place.first % s.width;
  for (int64_t p = 0; p < kBlock; ++p) {
    rows[p] = packed.rows[row];
    columns[p] = packed.columns[column];
    ones[p] = T(1);
    if (++column == s.width) {
      column = 0;
      row = row + 1 < s.height ? row + 1 : row;
    }
  }
  located.derive(s.located());
}

// The hidden layers of a block. With kBackward also what only the gradient reads.
template <class N, bool kBackward, class T = typename N::Real>
void run_layers(const PixelMap<T>& call, const Packed<N>& packed, const Activations<N>& a) {
  const Sizes<N> s(call.shape);
  const Term<T> phases[] = {{{a.located.real, 1, kBlock}, packed.project, s.located}};
  for_pixel_tiles<Plain<T>>(
      kBlock, phases, packed.project_bias, s.feature_lanes / kLanes<T>, [&](int64_t p, int64_t vector, auto& sum) {
        constexpr int kRows = sizeof(sum) / sizeof(sum[0]), kVectors = sizeof(sum[0]) / sizeof(sum[0][0]);
        if constexpr (kBackward) {
          Vec<T> cosines[kRows][kVectors];
          for (int i = 0; i < kRows; ++i)
            for (int v = 0; v < kVectors; ++v) cosines[i][v] = cosine(sum[i][v]);
          store_reals<T>(a.cosines, p, vector, s.feature_lanes, cosines);
        }
        for (int i = 0; i < kRows; ++i)
          for (int v = 0; v < kVectors; ++v) sum[i][v] = sine(sum[i][v]);
        store_tile<N>(a.waves, p, vector, s.feature_lanes, sum);
      });
  const auto activate = [&](int layer) {
    return [&, layer](int64_t p, int64_t vector, auto& sum) {
      constexpr int kRows = sizeof(sum) / sizeof(sum[0]), kVectors = sizeof(sum[0]) / sizeof(sum[0][0]);
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[i][v] = sum[i][v] > Vec<T>{} ? sum[i][v] : sum[i][v] * call.slope;
      store_tile<N>(a.hidden[layer], p, vector, s.hidden_lanes, sum);
      if constexpr (kBackward && N::kPack == 2) store_reals<T>(a.signed_hidden[layer], p, vector, s.hidden_lanes, sum);
    };
  };
  const int64_t hidden = s.hidden_lanes / kLanes<T>;
  const auto rows_of = [&](const Wide<N>& x, int64_t lanes) { return ByRows<T>{x.wide, lanes / N::kPack, 1}; };
  const Term<T> first[] = {{rows_of(a.waves, s.feature_lanes), packed.waves1, s.cells(s.features)},
                           {a.located.pixels(), packed.located1, s.cells(s.located)}};
  for_pixel_tiles<N>(kBlock, first, packed.bias1, hidden, activate(0));
  const Term<T> second[] = {{rows_of(a.hidden[0], s.hidden_lanes), packed.weight2, s.cells(s.hidden)}};
  for_pixel_tiles<N>(kBlock, second, packed.bias2, hidden, activate(1));
  const Term<T> third[] = {{rows_of(a.hidden[1], s.hidden_lanes), packed.weight3, s.cells(s.hidden)}};
  for_pixel_tiles<N>(kBlock, third, packed.bias3, hidden, activate(2));
}

// Where the colours of a block lie in the table: places are the least corners' numbers, weights go to the other ones.
template <class N, class T = typename N::Real>
void find_places(const PixelMap<T>& call, const Activations<N>& a) {
  using Bits = typename VectorOf<T>::bits;
  const int64_t levels = call.shape.levels;
  const T scale = static_cast<T>(levels - 1);
  const Vec<T> last = broadcast(static_cast<T>(levels - 2)), most = broadcast(scale);
  for (int64_t p = 0; p < kBlock; p += kLanes<T>) {
    Bits place{};
    for (int64_t c = 2; c >= 0; --c) {
      const Vec<T> colour = load(a.located.real + c * kBlock + p);
      Vec<T> at = (colour + T(1)) * (T(0.5) * scale);
      // NaN goes to a border, as it does in PyTorch: there is no place for it.
      at = at < Vec<T>{} ? Vec<T>{} : at;
      at = at < most ? at : most;
      const Bits corner = __builtin_convertvector(at < last ? at : last, Bits);
      store<T>(a.weights + c * kBlock + p, at - __builtin_convertvector(corner, Vec<T>));
      place = place * static_cast<decltype(place[0] + 0)>(levels) + corner;
    }
    store<T>(a.places + p, (Vec<T>)place);
  }
}

template <class T>
struct QuadOf {
  typedef T type __attribute__((vector_size(4 * sizeof(T))));
};
template <class T>
using Quad = typename QuadOf<T>::type;

template <class T>
RLV2V_INLINE Quad<T> load_quad(const T* from) {
  Quad<T> q;
  std::memcpy(&q, from, sizeof q);
  return q;
}
template <class T>
RLV2V_INLINE void store_quad(T* to, const Quad<T>& q) {
  std::memcpy(to, &q, sizeof q);
}

template <class N, class T = typename N::Real>
RLV2V_INLINE int64_t place_of(const Activations<N>& a, int64_t p) {
  typename VectorOf<T>::bits one{};
  std::memcpy(&one, a.places + p, sizeof(T));
  return 4 * static_cast<int64_t>(one[0]);
}

// Adds the table's emission to the outputs.
template <class N, class T = typename N::Real>
void add_table(const PixelMap<T>& call, const Packed<N>& packed, const Activations<N>& a) {
  const Sizes<N> s(call.shape);
  const int64_t up = 4 * s.levels, back = up * s.levels;
  find_places<N>(call, a);
  for (int64_t p = 0; p < kBlock; ++p) {
    const T* corner = packed.table + place_of<N>(a, p);
    const T x = a.weights[p], y = a.weights[kBlock + p], z = a.weights[2 * kBlock + p];
    const auto along_x = [&](int64_t at) {
      const Quad<T> low = load_quad(corner + at);
      return low + x * (load_quad(corner + at + 4) - low);
    };
    const auto along_y = [&](int64_t at) {
      const Quad<T> low = along_x(at);
      return low + y * (along_x(at + up) - low);
    };
    const Quad<T> low = along_y(0);
    T* to = a.outputs + p * s.output_lanes + s.channels;
    store_quad<T>(to, load_quad(to) + (low + z * (along_y(back) - low)));
  }
}

// The outputs of the head, with the table's emission, as planes.
template <class N, class T = typename N::Real>
void run_head(const PixelMap<T>& call, const Packed<N>& packed, const Activations<N>& a) {
  const Sizes<N> s(call.shape);
  const Term<T> terms[] = {{{a.hidden[2].wide, s.hidden_lanes / N::kPack, 1}, packed.head, s.cells(s.hidden)}};
  for_pixel_tiles<N>(
      kBlock, terms, packed.head_bias, s.output_lanes / kLanes<T>,
      [&](int64_t p, int64_t vector, auto& sum) { store_reals<T>(a.outputs, p, vector, s.output_lanes, sum); });
  if (s.levels) add_table<N>(call, packed, a);
  for (int64_t p = 0; p < kBlock; ++p)
    for (int64_t o = 0; o < 2 * s.channels; ++o) a.planes[o * kBlock + p] = a.outputs[p * s.output_lanes + o];
}

// y before it is clamped.
template <class N, class T = typename N::Real>
RLV2V_INLINE Vec<T> linear_output(const Activations<N>& a, int64_t channels, int64_t c, int64_t p) {
  const Vec<T> x = load(a.located.real + c * kBlock + p);
  return (x + T(1)) * load(a.planes + c * kBlock + p) + (load(a.planes + (channels + c) * kBlock + p) - T(1));
}

template <class N, class T = typename N::Real>
void forward(const PixelMap<T>& call, int64_t begin, int64_t end, T* scratch, T* to) {
  const Packed<N> packed(call.shape, const_cast<T*>(call.packed));
  const Activations<N> a(call.shape, false, scratch);
  const int64_t channels = call.shape.channels;
  for_blocks(call.shape, begin, end, [&](const Place& place) {
    locate<N>(call, packed, place, a.located);
    run_layers<N, false>(call, packed, a);
    run_head<N>(call, packed, a);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = 0; p < kBlock; p += kLanes<T>) {
        Vec<T> y = linear_output<N>(a, channels, c, p);
        if (call.clamp) {
          y = y < T(-1) ? broadcast(T(-1)) : y;
          y = y > T(1) ? broadcast(T(1)) : y;
        }
        store<T>(a.planes + c * kBlock + p, y);
      }
    store_planes(a.planes, call.shape, place, to);
  });
}

// Sums over pixels, by lanes; `rows` in the order of the packed matrices.
template <class N, class T = typename N::Real>
struct Sums {
  T* project;                    // (located and one, feature lanes)
  T *waves1, *located1, *bias1;  // (features, hidden lanes), (located, hidden lanes), (hidden lanes)
  T *weight2, *bias2, *weight3, *bias3;
  T *head, *head_bias;  // (2 channels, hidden lanes), (2 channels)
  T* table;             // (entries, 4)
  T* end;

  Sums(const PixelMapShape& shape, T* memory) {
    const Sizes<N> s(shape);
    Parts<T> parts{memory};
    project = parts.take((s.located + 1) * s.feature_lanes);
    waves1 = parts.take(s.features * s.hidden_lanes);
    located1 = parts.take(s.located * s.hidden_lanes);
    bias1 = parts.take(s.hidden_lanes);
    weight2 = parts.take(s.hidden * s.hidden_lanes);
    bias2 = parts.take(s.hidden_lanes);
    weight3 = parts.take(s.hidden * s.hidden_lanes);
    bias3 = parts.take(s.hidden_lanes);
    head = parts.take(2 * s.channels * s.hidden_lanes);
    head_bias = parts.take(2 * s.channels);
    table = parts.take(s.table);
    end = parts.next;
  }
};

// Gradients of the outputs from that of y, and the part of the frames' gradient that goes by the gain.
template <class N, class T = typename N::Real>
void grad_of_outputs(const PixelMapGrad<T>& call, const Place& place, const Activations<N>& a) {
  const PixelMapShape& s = call.forward.shape;
  const int64_t channels = s.channels;
  load_planes(call.grad_y, s, place, a.grad_planes);
  T* of_frames = a.grad_planes + channels * kBlock;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t p = 0; p < kBlock; p += kLanes<T>) {
      Vec<T> grad = load(a.grad_planes + c * kBlock + p);
      if (call.forward.clamp) {
        const Vec<T> y = linear_output<N>(a, channels, c, p);
        // Where y is NaN, so is its gradient's weight.
        grad = (y < T(-1)) | (y > T(1)) ? Vec<T>{} : grad;
      }
      const Vec<T> x = load(a.located.real + c * kBlock + p);
      store<T>(a.grad_outputs.real + c * kBlock + p, grad * (x + T(1)));
      store<T>(a.grad_outputs.real + (channels + c) * kBlock + p, grad);
      if (call.grad_frames) store<T>(of_frames + c * kBlock + p, grad * load(a.planes + c * kBlock + p));
    }
  for (int64_t p = 0; p < kBlock; p += kLanes<T>) store<T>(a.grad_outputs.real + 2 * channels * kBlock + p, Vec<T>{});
  a.grad_outputs.derive(2 * channels);
}

// Adds the gradient of the table to the sums, and that of the colours by their places in it to the frames'.
template <class N, class T = typename N::Real>
void grad_of_table(const PixelMapGrad<T>& call, const Packed<N>& packed, const Activations<N>& a, int64_t count,
                   T* sums) {
  const Sizes<N> s(call.forward.shape);
  const int64_t up = 4 * s.levels, back = up * s.levels;
  const T* emission = a.grad_outputs.real + s.channels * kBlock;
  T* of_frames = a.grad_planes + s.channels * kBlock;
  const T scale = T(0.5) * static_cast<T>(s.levels - 1);
  for (int64_t p = 0; p < count; ++p) {
    const int64_t place = place_of<N>(a, p);
    const T x = a.weights[p], y = a.weights[kBlock + p], z = a.weights[2 * kBlock + p];
    const Quad<T> grad = {emission[p], emission[kBlock + p], emission[2 * kBlock + p], T{}};
    if (call.to_table) {
      const auto add = [&](int64_t at, const Quad<T>& part) {
        T* to = sums + place + at;
        store_quad<T>(to, load_quad(to) + (part - x * part));
        store_quad<T>(to + 4, load_quad(to + 4) + x * part);
      };
      const Quad<T> far = z * grad, near = grad - far;
      add(0, near - y * near);
      add(up, y * near);
      add(back, far - y * far);
      add(back + up, y * far);
    }
    if (call.grad_frames) {
      const T* corner = packed.table + place;
      Quad<T> low[4], step[4];
      for (int i = 0; i < 4; ++i) {
        const int64_t at = (i & 1) * up + (i >> 1) * back;
        low[i] = load_quad(corner + at);
        step[i] = load_quad(corner + at + 4) - low[i];
        low[i] += x * step[i];
      }
      const Quad<T> near = step[0] + y * (step[1] - step[0]), far = step[2] + y * (step[3] - step[2]);
      const Quad<T> low_near = low[0] + y * (low[1] - low[0]), low_far = low[2] + y * (low[3] - low[2]);
      const Quad<T> by_x = near + z * (far - near);
      const Quad<T> by_y = (low[1] - low[0]) + z * ((low[3] - low[2]) - (low[1] - low[0]));
      const Quad<T> slopes[3] = {by_x, by_y, low_far - low_near};
      for (int c = 0; c < 3; ++c) {
        const T colour = a.located.real[c * kBlock + p];
        const Quad<T> product = slopes[c] * grad;
        // Colours on and beyond the border are clamped to it.
        if (colour > T(-1) && colour < T(1))
          of_frames[c * kBlock + p] += scale * ((product[0] + product[1]) + product[2]);
      }
    }
  }
}

// The gradient of a hidden layer before its activation, from terms that give it after; its sum goes to the bias.
template <class N, class T = typename N::Real>
void grad_of_hidden(const Term<T> (&terms)[1], const Activations<N>& a, int layer, const PixelMap<T>& call,
                    const Wide<N>& to, T* bias) {
  const Sizes<N> s(call.shape);
  for_pixel_tiles<N>(kBlock, terms, static_cast<const T*>(nullptr), s.hidden_lanes / kLanes<T>,
                     [&](int64_t p, int64_t vector, auto& sum) {
                       constexpr int kRows = sizeof(sum) / sizeof(sum[0]);
                       constexpr int kVectors = sizeof(sum[0]) / sizeof(sum[0][0]);
#pragma GCC unroll 4
                       for (int v = 0; v < kVectors; ++v) {
                         Vec<T> total{};
#pragma GCC unroll 12
                         for (int i = 0; i < kRows; ++i) {
                           const Vec<T> value =
                               load(a.signed_hidden[layer] + (p + i) * s.hidden_lanes + (vector + v) * kLanes<T>);
                           sum[i][v] = value > Vec<T>{} ? sum[i][v] : sum[i][v] * call.slope;
                           total += sum[i][v];
                         }
                         T* at = bias + (vector + v) * kLanes<T>;
                         store<T>(at, load(at) + total);
                       }
                       store_tile<N>(to, p, vector, s.hidden_lanes, sum);
                     });
}

template <class N, class T = typename N::Real>
void backward(const PixelMapGrad<T>& call, int64_t begin, int64_t end, T* scratch, T* memory) {
  const PixelMap<T>& fwd = call.forward;
  const Sizes<N> s(fwd.shape);
  const Packed<N> packed(fwd.shape, const_cast<T*>(fwd.packed));
  const Activations<N> a(fwd.shape, true, scratch);
  const Sums<N> sums(fwd.shape, memory);
  const int64_t hidden = s.hidden_lanes / kLanes<T>, features = s.feature_lanes / kLanes<T>;
  const int64_t cells = kBlock / N::kPack;
  const auto rows_of = [&](const Wide<N>& x, int64_t lanes) { return ByRows<T>{x.wide, lanes / N::kPack, 1}; };
  const auto columns_of = [&](const Wide<N>& x, int64_t lanes) { return ByRows<T>{x.paired, 1, lanes}; };
  const bool by_network = call.to_weights || call.grad_frames;
  for_blocks(fwd.shape, begin, end, [&](const Place& place) {
    locate<N>(fwd, packed, place, a.located);
    const bool needs_outputs = fwd.clamp || call.grad_frames;
    if (by_network || needs_outputs) run_layers<N, true>(fwd, packed, a);
    if (needs_outputs)
      run_head<N>(fwd, packed, a);
    else if (s.levels)
      find_places<N>(fwd, a);
    grad_of_outputs<N>(call, place, a);
    if (s.levels && (call.to_table || call.grad_frames)) grad_of_table<N>(call, packed, a, place.count, sums.table);
    if (by_network) {
      const Wide<N>&third = a.grads[0], &second = a.grads[1], &first = a.grads[0];
      const Term<T> of_third[] = {{a.grad_outputs.pixels(), packed.head_t, s.cells(2 * s.channels)}};
      grad_of_hidden<N>(of_third, a, 2, fwd, third, sums.bias3);
      if (call.to_weights) {
        add_channel_products<N>(a.grad_outputs.channels(), 2 * s.channels, a.hidden[2].paired, hidden, cells,
                                sums.head);
        for (int64_t o = 0; o < 2 * s.channels; ++o) {
          Vec<T> total{};
          for (int64_t p = 0; p < kBlock; p += kLanes<T>) total += load(a.grad_outputs.real + o * kBlock + p);
          for (int i = 0; i < kLanes<T>; ++i) sums.head_bias[o] += total[i];
        }
        add_channel_products<N>(columns_of(a.hidden[1], s.hidden_lanes), s.hidden, third.paired, hidden, cells,
                                sums.weight3);
      }
      const Term<T> of_second[] = {{rows_of(third, s.hidden_lanes), packed.weight3_t, s.cells(s.hidden)}};
      grad_of_hidden<N>(of_second, a, 1, fwd, second, sums.bias2);
      if (call.to_weights)
        add_channel_products<N>(columns_of(a.hidden[0], s.hidden_lanes), s.hidden, second.paired, hidden, cells,
                                sums.weight2);
      const Term<T> of_first[] = {{rows_of(second, s.hidden_lanes), packed.weight2_t, s.cells(s.hidden)}};
      grad_of_hidden<N>(of_first, a, 0, fwd, first, sums.bias1);
      if (call.to_weights) {
        add_channel_products<N>(columns_of(a.waves, s.feature_lanes), s.features, first.paired, hidden, cells,
                                sums.waves1);
        add_channel_products<N>(a.located.channels(), s.located, first.paired, hidden, cells, sums.located1);
      }
      const Term<T> of_waves[] = {{rows_of(first, s.hidden_lanes), packed.waves1_t, s.cells(s.hidden)}};
      for_pixel_tiles<N>(
          kBlock, of_waves, static_cast<const T*>(nullptr), features, [&](int64_t p, int64_t vector, auto& sum) {
            constexpr int kRows = sizeof(sum) / sizeof(sum[0]), kVectors = sizeof(sum[0]) / sizeof(sum[0][0]);
            for (int i = 0; i < kRows; ++i)
              for (int v = 0; v < kVectors; ++v)
                sum[i][v] *= load(a.cosines + (p + i) * s.feature_lanes + (vector + v) * kLanes<T>);
            store_reals<T>(a.grad_phases, p, vector, s.feature_lanes, sum);
          });
      if (call.to_weights)
        add_channel_products<Plain<T>>({a.located.real, kBlock, 1}, s.located + 1, a.grad_phases, features, kBlock,
                                       sums.project);
      if (call.grad_frames) {
        const Term<T> by_layer[] = {{rows_of(first, s.hidden_lanes), packed.located1_t, s.cells(s.hidden)}};
        const auto keep = [&](int64_t p, int64_t vector, auto& sum) {
          store_reals<T>(a.grad_located, p, vector, s.channel_lanes, sum);
        };
        T* of_frames = a.grad_planes + s.channels * kBlock;
        const auto add_to_frames = [&] {
          for (int64_t p = 0; p < kBlock; ++p)
            for (int64_t c = 0; c < s.channels; ++c)
              of_frames[c * kBlock + p] += a.grad_located[p * s.channel_lanes + c];
        };
        for_pixel_tiles<N>(kBlock, by_layer, static_cast<const T*>(nullptr), s.channel_lanes / kLanes<T>, keep);
        add_to_frames();
        const Term<T> by_phase[] = {{{a.grad_phases, s.feature_lanes, 1}, packed.project_t, s.features}};
        for_pixel_tiles<Plain<T>>(kBlock, by_phase, static_cast<const T*>(nullptr), s.channel_lanes / kLanes<T>, keep);
        add_to_frames();
      }
    }
    if (call.grad_frames) store_planes(a.grad_planes + s.channels * kBlock, fwd.shape, place, call.grad_frames);
  });
}

template <class T>
void unpack_sums(const PixelMapGrad<T>& call, const T* memory, const PixelMapParameters<T>& to) {
  const Sizes<Plain<T>> s(call.forward.shape);
  const Sums<Plain<T>> from(call.forward.shape, const_cast<T*>(memory));
  const int64_t inputs = s.located + s.features;
  // (rows, lanes) to columns [first, first + rows) of (lanes, all).
  const auto turn = [](const T* sums, int64_t rows, int64_t lanes, int64_t width, T* matrix, int64_t first,
                       int64_t all) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t l = 0; l < lanes; ++l) matrix[l * all + first + r] = sums[r * width + l];
  };
  if (call.to_weights) {
    turn(from.project, s.located, s.features, s.feature_lanes, to.project, 0, s.located);
    std::memcpy(to.project_bias, from.project + s.located * s.feature_lanes, s.features * sizeof(T));
    turn(from.located1, s.located, s.hidden, s.hidden_lanes, to.weight1, 0, inputs);
    turn(from.waves1, s.features, s.hidden, s.hidden_lanes, to.weight1, s.located, inputs);
    turn(from.weight2, s.hidden, s.hidden, s.hidden_lanes, to.weight2, 0, s.hidden);
    turn(from.weight3, s.hidden, s.hidden, s.hidden_lanes, to.weight3, 0, s.hidden);
    std::memcpy(to.bias1, from.bias1, s.hidden * sizeof(T));
    std::memcpy(to.bias2, from.bias2, s.hidden * sizeof(T));
    std::memcpy(to.bias3, from.bias3, s.hidden * sizeof(T));
    for (int64_t o = 0; o < 2 * s.channels; ++o)
      std::memcpy(to.head + o * s.hidden, from.head + o * s.hidden_lanes, s.hidden * sizeof(T));
    std::memcpy(to.head_bias, from.head_bias, 2 * s.channels * sizeof(T));
  }
  if (call.to_table) {
    const int64_t entries = call.forward.shape.table_entries();
    for (int64_t i = 0; i < entries; ++i)
      for (int64_t c = 0; c < s.channels; ++c) to.table[c * entries + i] = call.forward.speed * from.table[4 * i + c];
  }
}

// Calls body(N{}) with the numbers that a call computes with.
template <class T, class Body>
RLV2V_INLINE auto with_numbers(bool rounded, const Body& body) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float))
    if (rounded) return body(Pairs{});
#endif
  return body(Plain<T>{});
}

}  // namespace

#define RLV2V_DEFINE(T)                                                                                            \
  bool can_round_pixel_map(const PixelMapShape& s, T) {                                                            \
    return sizeof(T) == sizeof(float) && s.features % (2 * kLanes<T>) == 0 && s.hidden % (2 * kLanes<T>) == 0;     \
  }                                                                                                                \
  int64_t packed_pixel_map_size(const PixelMapShape& s, bool rounded, T) {                                         \
    return with_numbers<T>(rounded, [&](auto n) { return Packed<decltype(n)>(s, nullptr).end - (T*)nullptr; });    \
  }                                                                                                                \
  void pack_pixel_map(const PixelMap<T>& call, const PixelMapParameters<const T>& from, bool rounded, T* to) {     \
    with_numbers<T>(rounded, [&](auto n) { pack<decltype(n)>(call, from, to); });                                  \
  }                                                                                                                \
  int64_t pixel_map_fwd_scratch(const PixelMapShape& s, bool rounded, T) {                                         \
    return with_numbers<T>(rounded,                                                                                \
                           [&](auto n) { return Activations<decltype(n)>(s, false, nullptr).end - (T*)nullptr; }); \
  }                                                                                                                \
  int64_t pixel_map_bwd_scratch(const PixelMapShape& s, bool rounded, T) {                                         \
    return with_numbers<T>(rounded,                                                                                \
                           [&](auto n) { return Activations<decltype(n)>(s, true, nullptr).end - (T*)nullptr; });  \
  }                                                                                                                \
  void pixel_map_fwd(const PixelMap<T>& call, bool rounded, int64_t begin, int64_t end, T* scratch, T* y) {        \
    with_numbers<T>(rounded, [&](auto n) { forward<decltype(n)>(call, begin, end, scratch, y); });                 \
  }                                                                                                                \
  int64_t pixel_map_sums_size(const PixelMapShape& s, T) { return Sums<Plain<T>>(s, nullptr).end - (T*)nullptr; }  \
  void pixel_map_bwd(const PixelMapGrad<T>& call, bool rounded, int64_t begin, int64_t end, T* scratch, T* sums) { \
    with_numbers<T>(rounded, [&](auto n) { backward<decltype(n)>(call, begin, end, scratch, sums); });             \
  }                                                                                                                \
  void unpack_pixel_map_sums(const PixelMapGrad<T>& call, const T* sums, const PixelMapParameters<T>& to) {        \
    unpack_sums(call, sums, to);                                                                                   \
  }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
