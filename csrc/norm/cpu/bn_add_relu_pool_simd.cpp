#include "norm/bn_add_relu_pool.h"

#include "norm/cpu/passes.h"
#include "norm/cpu/windows.h"

namespace rlv2v::RLV2V_ISA {
namespace {

template <class T>
using Bits = typename VectorOf<T>::bits;
template <class T>
struct BytesOf {
  typedef uint8_t type __attribute__((vector_size(kLanes<T>)));
};

template <class T>
RLV2V_INLINE void store_index(uint8_t* to, const Bits<T>& index, int64_t lanes) {
  const auto bytes = __builtin_convertvector(index, typename BytesOf<T>::type);
  std::memcpy(to, &bytes, lanes);
}

template <class T>
RLV2V_INLINE Bits<T> load_index(const uint8_t* from, int64_t lanes) {
  typename BytesOf<T>::type bytes{};
  std::memcpy(&bytes, from, lanes);
  return __builtin_convertvector(bytes, Bits<T>);
}

// The largest of each window and its place: of equals the first; NaN is largest, as in PyTorch.
template <class T>
void pool(const Wide<T>* full, const WindowBand& band, T* largest, uint8_t* index) {
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const WindowPixels<T> pixels = windows.read(full + at, lanes);
    Vec<T> best = pixels.at[0];
    Bits<T> place{};
    for (int i = 1; i < 4; ++i) {
      const Vec<T>& value = pixels.at[i];
      const Bits<T> better = (Bits<T>)(value > best) | (Bits<T>)(value != value);
      best = better ? value : best;
      place = better ? Bits<T>{} + i : place;
    }
    store_part(largest + low_at, best, lanes);
    store_index<T>(index + low_at, place, lanes);
  });
}

// Gradients to the pixels that were largest, zero to all others of the band's windows and of its last column.
template <class T>
void unpool(const Wide<T>* grad_low, const uint8_t* index, const WindowBand& band, T* grad_full) {
  const int64_t row_size = band.full_width * band.groups;
  if (band.full_width > 2 * band.columns)
    for (int64_t row = 1; row <= 2 * band.rows; ++row)
      std::memset(grad_full + row * row_size - band.groups, 0, band.groups * sizeof(T));
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const Vec<T> grad = load_part(grad_low + low_at, lanes);
    const Bits<T> place = load_index<T>(index + low_at, lanes);
    WindowPixels<T> pixels;
    for (int i = 0; i < 4; ++i) pixels.at[i] = (place == Bits<T>{} + i) ? grad : Vec<T>{};
    windows.write(grad_full + at, pixels, lanes);
  });
}

// A band of the full tensor and that of the low one.
struct PoolBand {
  Extent extent, low_extent;
  WindowBand windows;
  int64_t at, low_at;  // their offsets in the tensors
};

// f(band) for every band of a block.
template <class T, class F>
void for_pool_bands(const NormLayout& layout, const Slice<T>& slice, int64_t block, const F& f) {
  const NormLayout low = layout.halved();
  const int64_t groups = layout.groups();
  for_bands<T>(layout, [&](const Band& band) {
    f(PoolBand{{band.rows * layout.width, groups},
               {band.rows / 2 * low.width, groups},
               {band.rows / 2, low.width, layout.width, groups},
               slice.offset(block) + band.row * layout.width * groups,
               low.offset(slice.number, block) + band.row / 2 * low.width * groups});
  });
}

template <class T>
void fwd(const BnAddReluPoolFwd<T>& call) {
  const NormLayout layout = call.layout, low = layout.halved();
  const Extent low_extent{low.image(), low.groups()};
  for_slices<T>(layout, [&](SlicePasses<T>& slice) {
    if (!call.norm.frozen) measure(slice, call.x, call.norm);
    const AffineArrays<T> affines = slice.affines(kNorm, call.norm);
    const auto pool_block = [&](int64_t block) {
      const Scratch<Wide<T>> y = band_scratch<T>(layout);
      for_pool_bands(layout, slice, block, [&](const PoolBand& band) {
        add_relu(call.x + band.at, call.skip + band.at, affines, band.extent, y.get());
        pool(y.get(), band.windows, call.largest + band.low_at, call.index + band.low_at);
      });
    };
    const auto pool_and_measure = [&](int64_t block, BlockMoments& moments) {
      pool_block(block);
      add_moments(call.largest + low.offset(slice.number, block), low_extent, moments);
    };
    if (call.post_norm.frozen)
      slice.each_block(pool_block);
    else
      slice.measure(low.image(), pool_and_measure, call.post_norm);
    const AffineArrays<T> post_affines = slice.affines(kPostNorm, call.post_norm);
    slice.each_block([&](int64_t block) {
      const int64_t at = low.offset(slice.number, block);
      apply(call.largest + at, post_affines, low_extent, call.z + at);
    });
  });
}

template <class T>
void bwd(const BnAddReluPoolBwd<T>& call) {
  const NormLayout layout = call.layout, low = layout.halved();
  const Extent low_extent{low.image(), low.groups()};
  const Scratch<GradSums<double>> all(layout.statistics()), post_all(layout.statistics());
  for_slices<T>(layout, [&](SlicePasses<T>& slice) {
    const AffineArrays<T> affines = slice.affines(kNorm, call.norm);
    const AffineArrays<T> post_affines = slice.affines(kPostNorm, call.post_norm);
    const auto add_post_block = [&](int64_t block, const BlockGradSums& sums) {
      const int64_t at = low.offset(slice.number, block);
      add_grad_sums(call.grad_z + at, call.largest + at, post_affines.mean, low_extent, sums);
    };
    const GradAffineArrays<T> post_grad_affines =
        slice.grad_affines(kPostNorm, low.image(), add_post_block, call.post_norm, post_all.get());
    const auto add_block = [&](int64_t block, const BlockGradSums& sums) {
      const Scratch<Wide<T>> grad_low(band_rows<T>(layout) / 2 * low.width * low.groups());
      for_pool_bands(layout, slice, block, [&](const PoolBand& band) {
        T* grad_skip = call.grad_skip + band.at;
        // The ReLU passes the largest of a window where it passes any of it.
        post_norm_relu_grad(call.grad_z + band.low_at, call.largest + band.low_at, post_grad_affines, band.low_extent,
                            grad_low.get());
        unpool(grad_low.get(), call.index + band.low_at, band.windows, grad_skip);
        // A last row that belongs to no window.
        const int64_t in_windows = 2 * band.windows.rows * layout.width;
        std::memset(grad_skip + in_windows * layout.groups(), 0,
                    (band.extent.rows - in_windows) * layout.groups() * sizeof(T));
        add_grad_sums(grad_skip, call.x + band.at, affines.mean, band.extent, sums);
      });
    };
    const GradAffineArrays<T> grad_affines = slice.grad_affines(kNorm, layout.image(), add_block, call.norm, all.get());
    slice.each_block([&](int64_t block) {
      const int64_t at = slice.offset(block);
      apply_grad(call.grad_skip + at, call.x + at, grad_affines, slice.extent(), call.grad_x + at);
    });
  });
  finish_norm_grads(layout, call.norm, all.get(), call.grad_norm);
  finish_norm_grads(layout, call.post_norm, post_all.get(), call.grad_post_norm);
}

}  // namespace
}  // namespace rlv2v::RLV2V_ISA

RLV2V_DEFINE_NORM_RUN(BnAddReluPoolFwd, fwd)
RLV2V_DEFINE_NORM_RUN(BnAddReluPoolBwd, bwd)
