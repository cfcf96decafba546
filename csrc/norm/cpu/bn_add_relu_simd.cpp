#include "norm/bn_add_relu.h"

#include "norm/cpu/passes.h"
#include "norm/cpu/windows.h"

namespace rlv2v::RLV2V_ISA {
namespace {

// Repeats each pixel of `low` 2x2.
template <class T>
void upsample(const T* low, const WindowBand& band, Wide<T>* full) {
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const Vec<T> value = load_part(low + low_at, lanes);
    windows.write(full + at, WindowPixels<T>{{value, value, value, value}}, lanes);
  });
}

template <class T>
void sum_windows(const T* full, const WindowBand& band, T* low) {
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const WindowPixels<T> pixels = windows.read(full + at, lanes);
    store_part(low + low_at, (pixels.at[0] + pixels.at[1]) + (pixels.at[2] + pixels.at[3]), lanes);
  });
}

// Reads the skip of a band, which is upsampled first where it is low, and widened where it has 16 bits.
template <class T, class Call>
class Skip {
 public:
  Skip(const Call& call, const Slice<T>& slice, int64_t block)
      : call_(call),
        low_(call.layout.halved()),
        offset_((call.low_skip ? low_ : call.layout).offset(slice.number, block)),
        full_(call.low_skip || sizeof(T) == 2 ? band_rows<T>(call.layout) * call.layout.width * call.layout.groups()
                                              : 0) {}

  WindowBand windows(const Band& band) const {
    return {band.rows / 2, low_.width, call_.layout.width, call_.layout.groups()};
  }
  int64_t low_offset(const Band& band) const { return offset_ + band.row / 2 * low_.width * low_.groups(); }

  const Wide<T>* operator()(const Band& band) const {
    const int64_t row = call_.layout.width * call_.layout.groups();
    const T* skip = call_.skip + offset_ + band.row * row;
    if constexpr (sizeof(T) != 2) {
      if (!call_.low_skip) return skip;
    } else if (!call_.low_skip) {
      const int64_t count = band.rows * row;
      for (int64_t i = 0; i < count; i += kLanes<T>) {
        const int64_t lanes = smaller(kLanes<T>, count - i);
        store_part<Wide<T>>(full_.get() + i, load_part(skip + i, lanes), lanes);
      }
      return full_.get();
    }
    upsample(call_.skip + low_offset(band), windows(band), full_.get());
    return full_.get();
  }

 private:
  const Call& call_;
  const NormLayout low_;
  const int64_t offset_;
  const Scratch<Wide<T>> full_;
};

// f(band, its extent, its offset in the tensor, skip) for every band of a block; skip(band) is the band's skip.
template <class T, class Call, class F>
void for_bands_with_skip(const Call& call, const Slice<T>& slice, int64_t block, const F& f) {
  const NormLayout& layout = call.layout;
  const Skip<T, Call> skip(call, slice, block);
  for_bands<T>(layout, [&](const Band& band) {
    f(band, Extent{band.rows * layout.width, layout.groups()},
      slice.offset(block) + band.row * layout.width * layout.groups(), skip);
  });
}

template <class T>
void fwd(const BnAddReluFwd<T>& call) {
  const NormLayout& layout = call.layout;
  for_slices<T>(layout, [&](SlicePasses<T>& slice) {
    if (!call.norm.frozen) measure(slice, call.x, call.norm);
    const AffineArrays<T> affines = slice.affines(kNorm, call.norm);
    // y is cheaper to compute twice than to write and read back.
    const auto measure_y = [&](int64_t block, BlockMoments& moments) {
      const Scratch<Wide<T>> y = band_scratch<T>(layout);
      for_bands_with_skip(call, slice, block,
                          [&](const Band& band, const Extent& extent, int64_t at, const auto& skip) {
                            add_relu(call.x + at, skip(band), affines, extent, y.get());
                            add_moments(y.get(), extent, moments);
                          });
    };
    if (call.has_post_norm && !call.post_norm.frozen) slice.measure(layout.image(), measure_y, call.post_norm);
    const AffineArrays<T> post_affines =
        call.has_post_norm ? slice.affines(kPostNorm, call.post_norm) : AffineArrays<T>{};
    slice.each_block([&](int64_t block) {
      // The sum waits where its result will be, but for one of 16 bits, which would be rounded twice.
      const Scratch<Wide<T>> y = sizeof(T) == 2 ? band_scratch<T>(layout) : Scratch<Wide<T>>(0);
      for_bands_with_skip(call, slice, block,
                          [&](const Band& band, const Extent& extent, int64_t at, const auto& skip) {
                            T* z = call.z + at;
                            if (!call.has_post_norm) return add_relu(call.x + at, skip(band), affines, extent, z);
                            Wide<T>* sum = y.get();
                            if constexpr (sizeof(T) != 2) sum = z;
                            add_relu(call.x + at, skip(band), affines, extent, sum);
                            apply(sum, post_affines, extent, z);
                          });
    });
  });
}

template <class T>
void bwd(const BnAddReluBwd<T>& call) {
  const NormLayout& layout = call.layout;
  const Scratch<GradSums<double>> all(layout.statistics()), post_all(layout.statistics());
  for_slices<T>(layout, [&](SlicePasses<T>& slice) {
    const AffineArrays<T> affines = slice.affines(kNorm, call.norm);
    const AffineArrays<T> post_affines = slice.affines(kPostNorm, call.post_norm);
    const auto add_post_block = [&](int64_t block, const BlockGradSums& sums) {
      const Scratch<Wide<T>> y = band_scratch<T>(layout);
      for_bands_with_skip(call, slice, block,
                          [&](const Band& band, const Extent& extent, int64_t at, const auto& skip) {
                            add_relu(call.x + at, skip(band), affines, extent, y.get());
                            add_grad_sums(call.grad_z + at, y.get(), post_affines.mean, extent, sums);
                          });
    };
    const GradAffineArrays<T> post_grad_affines =
        call.has_post_norm
            ? slice.grad_affines(kPostNorm, layout.image(), add_post_block, call.post_norm, post_all.get())
            : slice.identity(kPostNorm);
    // The gradient of the sum norm(x) + skip is that of a full skip; for a low one it waits where grad_x will be.
    T* grad_sum = call.low_skip ? call.grad_x : call.grad_skip;
    const auto add_block = [&](int64_t block, const BlockGradSums& sums) {
      const Scratch<Wide<T>> y = band_scratch<T>(layout);
      for_bands_with_skip(call, slice, block,
                          [&](const Band& band, const Extent& extent, int64_t at, const auto& skip) {
                            add_relu(call.x + at, skip(band), affines, extent, y.get());
                            post_norm_relu_grad(call.grad_z + at, y.get(), post_grad_affines, extent, grad_sum + at);
                            add_grad_sums(grad_sum + at, call.x + at, affines.mean, extent, sums);
                            if (call.low_skip)
                              sum_windows(grad_sum + at, skip.windows(band), call.grad_skip + skip.low_offset(band));
                          });
    };
    const GradAffineArrays<T> grad_affines = slice.grad_affines(kNorm, layout.image(), add_block, call.norm, all.get());
    slice.each_block([&](int64_t block) {
      const int64_t at = slice.offset(block);
      apply_grad(grad_sum + at, call.x + at, grad_affines, slice.extent(), call.grad_x + at);
    });
  });
  finish_norm_grads(layout, call.norm, all.get(), call.grad_norm);
  if (call.has_post_norm) finish_norm_grads(layout, call.post_norm, post_all.get(), call.grad_post_norm);
}

}  // namespace
}  // namespace rlv2v::RLV2V_ISA

RLV2V_DEFINE_NORM_RUN(BnAddReluFwd, fwd)
RLV2V_DEFINE_NORM_RUN(BnAddReluBwd, bwd)
