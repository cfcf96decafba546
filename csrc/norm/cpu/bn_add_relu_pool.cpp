#include "norm/bn_add_relu_pool.h"

#include "norm/cpu/device.h"
#include "norm/cpu/passes.h"
#include "norm/cpu/windows_simd.h"

namespace rlv2v {
namespace {

// A band that has windows, and where it lies in the full tensor and in the pooled one.
struct PoolBand {
  BnBlock rows;  // of the full band
  BnBlock low_rows;
  BnWindows windows;
  int64_t at, low_at;
};

// f(band) for every band of a block.
template <class T, class F>
void for_pool_bands(const BnLayout& layout, const BnLayout& low, const BnSlice<T>& slice, int64_t block, const F& f) {
  const int64_t start = layout.offset(slice.index, block), low_start = low.offset(slice.index, block);
  const int64_t row = layout.width * layout.groups(), low_row = low.width * low.groups();
  for_bands<T>(layout, [&](const BnBand& band) {
    f(PoolBand{{band.rows * layout.width, layout.groups()},
               {band.rows / 2 * low.width, layout.groups()},
               {band.rows / 2, low.width, layout.width, layout.groups()},
               start + band.row * row,
               low_start + band.row / 2 * low_row});
  });
}

BnLayout pooled_layout(const BnLayout& layout) { return layout.resized(layout.height / 2, layout.width / 2); }

struct OnCpu : BnOnCpu {
  template <class T>
  static void run(const BnAddReluPoolFwd<T>& call, const Tensor&) {
    const BnLayout layout = call.layout, low = pooled_layout(layout);
    for_slices<T>(layout, [&](BnSlice<T>& slice, const auto& run) {
      if (!call.norm.frozen) slice.measure_tensor(run, call.x, call.norm);
      const BnAffines<T> affines = slice.affines(0, call.norm);
      const auto pool_block = [&](int64_t block) {
        const Scratch<T> y(band_rows<T>(layout) * layout.width * layout.groups());
        for_pool_bands(layout, low, slice, block, [&](const PoolBand& band) {
          RLV2V_BEST(bn_add_relu_fwd(call.x + band.at, call.skip + band.at, affines, band.rows, y.get()));
          RLV2V_BEST(bn_pool(y.get(), band.windows, call.largest + band.low_at, call.index + band.low_at));
        });
      };
      const BnBlock low_block{low.image(), low.groups()};
      const auto pool_and_measure = [&](int64_t block, RunningMoments& moments) {
        pool_block(block);
        RLV2V_BEST(bn_moments(call.largest + low.offset(slice.index, block), low_block, moments));
      };
      if (call.again.frozen)
        run(pool_block);
      else
        slice.measure(run, low.image(), pool_and_measure, call.again);
      const BnAffines<T> affines_again = slice.affines(1, call.again);
      run([&](int64_t block) {
        const int64_t at = low.offset(slice.index, block);
        RLV2V_BEST(bn_apply(call.largest + at, affines_again, low_block, call.z + at));
      });
    });
  }

  template <class T>
  static void run(const BnAddReluPoolBwd<T>& call, const Tensor&) {
    const BnLayout layout = call.layout, low = pooled_layout(layout);
    Scratch<BnSums<double>> sums(layout.statistics()), sums_again(layout.statistics());
    for_slices<T>(layout, [&](BnSlice<T>& slice, const auto& run) {
      const BnAffines<T> affines = slice.affines(0, call.norm);
      const BnAffines<T> affines_again = slice.affines(1, call.again);
      const BnBlock low_block{low.image(), low.groups()};
      const auto add_again = [&](int64_t block, const RunningSums& to) {
        const int64_t at = low.offset(slice.index, block);
        RLV2V_BEST(bn_sums(call.grad_z + at, call.largest + at, affines_again.mean, low_block, to));
      };
      const BnGradAffines<T> through_again =
          slice.grad_affines(1, run, low.image(), add_again, call.again, sums_again.get());
      const auto add = [&](int64_t block, const RunningSums& to) {
        const Scratch<T> grad_low(band_rows<T>(layout) / 2 * low.width * low.groups());
        for_pool_bands(layout, low, slice, block, [&](const PoolBand& band) {
          T* grad_skip = call.grad_skip + band.at;
          // The ReLU passes the largest of a window where it passes any of it.
          RLV2V_BEST(bn_again_relu_bwd(call.grad_z + band.low_at, call.largest + band.low_at, through_again,
                                       band.low_rows, grad_low.get()));
          RLV2V_BEST(bn_unpool(grad_low.get(), call.index + band.low_at, band.windows, grad_skip));
          const int64_t in_windows = 2 * band.windows.rows * layout.width * layout.groups();
          std::fill(grad_skip + in_windows, grad_skip + band.rows.rows * layout.groups(), T(0));
          RLV2V_BEST(bn_sums(grad_skip, call.x + band.at, affines.mean, band.rows, to));
        });
      };
      const BnGradAffines<T> grad_affines = slice.grad_affines(0, run, layout.image(), add, call.norm, sums.get());
      run([&](int64_t block) {
        const int64_t at = slice.offset(block);
        RLV2V_BEST(
            bn_grad_apply(call.grad_skip + at, call.x + at, grad_affines, slice.whole_block(), call.grad_x + at));
      });
    });
    reduce_norm_grads(layout, call.norm, sums.get(), call.grad_norm);
    reduce_norm_grads(layout, call.again, sums_again.get(), call.grad_again);
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CPU, m) {
  m.impl("bn_add_relu_pool_fwd", TORCH_BOX(&rlv2v::BnAddReluPoolOp<rlv2v::OnCpu>::fwd));
  m.impl("bn_add_relu_pool_bwd", TORCH_BOX(&rlv2v::BnAddReluPoolOp<rlv2v::OnCpu>::bwd));
}
