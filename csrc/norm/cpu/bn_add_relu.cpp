#include "norm/bn_add_relu.h"

#include "norm/cpu/device.h"
#include "norm/cpu/passes.h"
#include "norm/cpu/windows_simd.h"

namespace rlv2v {
namespace {

// Reads the skip of a band, which may have to be upsampled first.
template <class T, class Call>
class Skip {
 public:
  Skip(const Call& call, const BnSlice<T>& slice, int64_t block)
      : call_(call),
        low_(call.layout.resized(call.layout.height / 2, call.layout.width / 2)),
        offset_((call.low_skip ? low_ : call.layout).offset(slice.index, block)),
        full_(call.low_skip ? band_rows<T>(call.layout) * call.layout.width * call.layout.groups() : 0) {}

  BnWindows windows(const BnBand& band) const {
    return {band.rows / 2, low_.width, call_.layout.width, call_.layout.groups()};
  }
  int64_t low_offset(const BnBand& band) const { return offset_ + band.row / 2 * low_.width * low_.groups(); }

  const T* operator()(const BnBand& band) const {
    if (!call_.low_skip) return call_.skip + offset_ + band.row * call_.layout.width * call_.layout.groups();
    RLV2V_BEST(bn_upsample(call_.skip + low_offset(band), windows(band), full_.get()));
    return full_.get();
  }

 private:
  const Call& call_;
  const BnLayout low_;
  const int64_t offset_;
  const Scratch<T> full_;
};

// Memory for one band.
template <class T>
Scratch<T> band_scratch(const BnLayout& layout) {
  return Scratch<T>(band_rows<T>(layout) * layout.width * layout.groups());
}

BnBlock rows_of(const BnLayout& layout, const BnBand& band) { return {band.rows * layout.width, layout.groups()}; }

// f(band, place of the band in the tensor, skip of the band).
template <class T, class Call, class F>
void for_skip_bands(const Call& call, const BnSlice<T>& slice, int64_t block, const F& f) {
  const Skip<T, Call> skip(call, slice, block);
  for_bands<T>(call.layout, [&](const BnBand& band) {
    f(band, slice.offset(block) + band.row * call.layout.width * call.layout.groups(), skip);
  });
}

struct OnCpu : BnOnCpu {
  template <class T>
  static void run(const BnAddReluFwd<T>& call, const Tensor&) {
    const BnLayout& layout = call.layout;
    for_slices<T>(layout, [&](BnSlice<T>& slice, const auto& run) {
      if (!call.norm.frozen) slice.measure_tensor(run, call.x, call.norm);
      const BnAffines<T> affines = slice.affines(0, call.norm);
      // y is cheaper to compute twice than to write and read back.
      const auto measure_y = [&](int64_t block, RunningMoments& moments) {
        const Scratch<T> y = band_scratch<T>(layout);
        for_skip_bands(call, slice, block, [&](const BnBand& band, int64_t at, const auto& skip) {
          const BnBlock rows = rows_of(layout, band);
          RLV2V_BEST(bn_add_relu_fwd(call.x + at, skip(band), affines, rows, y.get()));
          RLV2V_BEST(bn_moments(y.get(), rows, moments));
        });
      };
      if (call.renormalize && !call.again.frozen) slice.measure(run, layout.image(), measure_y, call.again);
      const BnAffines<T> affines_again = call.renormalize ? slice.affines(1, call.again) : BnAffines<T>{};
      run([&](int64_t block) {
        for_skip_bands(call, slice, block, [&](const BnBand& band, int64_t at, const auto& skip) {
          const BnBlock rows = rows_of(layout, band);
          T* z = call.z + at;
          RLV2V_BEST(bn_add_relu_fwd(call.x + at, skip(band), affines, rows, z));
          if (call.renormalize) RLV2V_BEST(bn_apply(z, affines_again, rows, z));
        });
      });
    });
  }

  template <class T>
  static void run(const BnAddReluBwd<T>& call, const Tensor&) {
    const BnLayout& layout = call.layout;
    Scratch<BnSums<double>> sums(layout.statistics()), sums_again(layout.statistics());
    for_slices<T>(layout, [&](BnSlice<T>& slice, const auto& run) {
      const BnAffines<T> affines = slice.affines(0, call.norm);
      const BnAffines<T> affines_again = slice.affines(1, call.again);
      const auto add_again = [&](int64_t block, const RunningSums& to) {
        const Scratch<T> y = band_scratch<T>(layout);
        for_skip_bands(call, slice, block, [&](const BnBand& band, int64_t at, const auto& skip) {
          const BnBlock rows = rows_of(layout, band);
          RLV2V_BEST(bn_add_relu_fwd(call.x + at, skip(band), affines, rows, y.get()));
          RLV2V_BEST(bn_sums(call.grad_z + at, y.get(), affines_again.mean, rows, to));
        });
      };
      const BnGradAffines<T> through_again =
          call.renormalize ? slice.grad_affines(1, run, layout.image(), add_again, call.again, sums_again.get())
                           : slice.identity(1);
      // The gradient of the sum x + skip is that of a full skip; for a low one it waits where grad_x will be.
      T* grad_sum = call.low_skip ? call.grad_x : call.grad_skip;
      const auto add = [&](int64_t block, const RunningSums& to) {
        const Scratch<T> y = band_scratch<T>(layout);
        for_skip_bands(call, slice, block, [&](const BnBand& band, int64_t at, const auto& skip) {
          const BnBlock rows = rows_of(layout, band);
          RLV2V_BEST(bn_add_relu_fwd(call.x + at, skip(band), affines, rows, y.get()));
          RLV2V_BEST(bn_again_relu_bwd(call.grad_z + at, y.get(), through_again, rows, grad_sum + at));
          RLV2V_BEST(bn_sums(grad_sum + at, call.x + at, affines.mean, rows, to));
          if (call.low_skip)
            RLV2V_BEST(bn_sum_windows(grad_sum + at, skip.windows(band), call.grad_skip + skip.low_offset(band)));
        });
      };
      const BnGradAffines<T> grad_affines = slice.grad_affines(0, run, layout.image(), add, call.norm, sums.get());
      run([&](int64_t block) {
        const int64_t at = slice.offset(block);
        RLV2V_BEST(bn_grad_apply(grad_sum + at, call.x + at, grad_affines, slice.whole_block(), call.grad_x + at));
      });
    });
    reduce_norm_grads(layout, call.norm, sums.get(), call.grad_norm);
    if (call.renormalize) reduce_norm_grads(layout, call.again, sums_again.get(), call.grad_again);
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CPU, m) {
  m.impl("bn_add_relu_fwd", TORCH_BOX(&rlv2v::BnAddReluOp<rlv2v::OnCpu>::fwd));
  m.impl("bn_add_relu_bwd", TORCH_BOX(&rlv2v::BnAddReluOp<rlv2v::OnCpu>::bwd));
}
