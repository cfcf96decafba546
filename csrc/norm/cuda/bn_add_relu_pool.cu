#include "norm/cuda/add_relu_passes.h"

namespace rlv2v {
namespace {

// Windows of a skip as large as x: BnAccess::skip reads a low one.
template <class T>
struct BnPoolPass {
  using A = Wide<T>;
  BnSumInputs<T> in;
  T* largest;
  uint8_t* index;

  struct Constants {
    BnAffine<A> affine;
  };
  __device__ Constants constants(int64_t slot) const { return {in.affines[slot]}; }

  template <class Access>
  __device__ BnSumOperands<A, 4, Access::L> load(const Access& access) const {
    return {access.full(in.x), access.full(in.skip)};
  }
  // Returns the largest, as they are stored: their moments are wanted.
  template <class Access, class Operands, class Lanes>
  __device__ BnValues<A, 1, Access::L> compute(const Access& access, const Operands& of, const Lanes& lanes) const {
    const auto y = of.y(lanes);
    BnValues<A, 1, Access::L> best;
    Pack<uint8_t, Access::L> places;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      A value = y.at[0][l];
      uint8_t place = 0;
#pragma unroll
      for (int p = 1; p < 4; ++p)
        // The first of equals, and NaN before all, as in PyTorch.
        if (y.at[p][l] > value || y.at[p][l] != y.at[p][l]) {
          value = y.at[p][l];
          place = p;
        }
      best.at[0][l] = widen(narrow<T>(value));
      places.at[l] = place;
    }
    access.store_low(largest, best);
    access.store_index(index, places);
    return best;
  }
};

// The sums that the gradient through the second normalization is made of.
template <class T>
struct BnSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  const T *grad, *x;
  BnAffineSlots<A> affines;

  using Constants = A;
  __device__ Constants constants(int64_t slot) const { return affines[slot].mean; }

  template <class Access>
  __device__ BnProducts<A, 1, Access::L> load(const Access& access) const {
    return {access.full(grad), access.full(x)};
  }
  template <class Access, class Lanes>
  __device__ BnProducts<A, 1, Access::L> compute(const Access&, BnProducts<A, 1, Access::L> products,
                                                 const Lanes& mean) const {
#pragma unroll
    for (int l = 0; l < Access::L; ++l) products.deviation.at[0][l] -= mean[l];
    return products;
  }
};

template <class T, int L>
struct BnUnpoolOperands {
  BnValues<Wide<T>, 1, L> grad_z, largest;
  Pack<uint8_t, L> index;
  BnValues<Wide<T>, 4, L> x;
};

// The gradient before the ReLU, which is that of the skip: in each window, at the place of the largest. Returns the
// sums for the gradient through the first normalization.
template <class T>
struct BnUnpoolPass {
  using A = Wide<T>;
  const T *grad_z, *largest;
  const uint8_t* index;
  const T* x;
  T* grad_skip;
  BnAffineSlots<A> affines;
  BnGradAffineSlots<A> through_again;

  struct Constants {
    A mean;
    BnGradAffine<A> through_again;
  };
  __device__ Constants constants(int64_t slot) const { return {affines[slot].mean, through_again[slot]}; }

  template <class Access>
  __device__ BnUnpoolOperands<T, Access::L> load(const Access& access) const {
    return {access.low(grad_z), access.low(largest), access.index(index), access.full(x)};
  }
  template <class Access, class Operands, class Lanes>
  __device__ BnProducts<A, 4, Access::L> compute(const Access& access, const Operands& of, const Lanes& lanes) const {
    BnProducts<A, 4, Access::L> products;
    products.deviation = of.x;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A best = of.largest.at[0][l];
      const A grad = relu_grad_of(lanes[l].through_again(of.grad_z.at[0][l], best), best);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        products.grad.at[p][l] = of.index.at[l] == p ? grad : A(0);
        products.deviation.at[p][l] -= lanes[l].mean;
      }
    }
    access.store(grad_skip, products.grad);
    return products;
  }
};

BnLayout pooled_layout(const BnLayout& layout) { return layout.resized(layout.height / 2, layout.width / 2); }

template <class T>
int run_on_cuda(const BnAddReluPoolFwd<T>& call, const BnLaunch& on) {
  const BnLayout &layout = call.layout, low = pooled_layout(layout);
  BnRunOnCuda<T> run(layout, on, {call.x, call.skip, call.z, call.largest, call.index});
  const BnSumInputs<T> in{call.x, call.skip, affines_of(run, layout, call.x, 0, call.norm)};
  run.windows(layout, BnPoolPass<T>{in, call.largest, call.index});
  const auto again = run.affines(1, call.again);
  run.points(low, BnApplyPass<T, false>{call.largest, call.z, again});
  return run.error();
}

template <class T>
int run_on_cuda(const BnAddReluPoolBwd<T>& call, const BnLaunch& on) {
  const BnLayout &layout = call.layout, low = pooled_layout(layout);
  BnRunOnCuda<T> run(layout, on, {call.grad_z, call.x, call.largest, call.index, call.grad_x, call.grad_skip});
  const auto affines = run.affines(0, call.norm.given());
  const auto again = run.affines(1, call.again.given());
  run.points(low, BnSumsPass<T>{call.grad_z, call.largest, again});
  const auto through_again = run.grad_affines(1, low.count(), call.again, call.grad_again);
  // Outside all windows there is no gradient.
  if (layout.height % 2 != 0 || layout.width % 2 != 0) run.clear(call.grad_skip, layout.numel() * sizeof(T));
  run.windows(layout,
              BnUnpoolPass<T>{call.grad_z, call.largest, call.index, call.x, call.grad_skip, affines, through_again});
  const auto grad_affines = run.grad_affines(0, layout.count(), call.norm, call.grad_norm);
  run.points(layout, BnGradApplyPass<T>{{call.grad_skip, call.x}, call.grad_x, grad_affines});
  return run.error();
}

}  // namespace

RLV2V_BN_DEFINE_LAUNCH(BnAddReluPoolFwd)
RLV2V_BN_DEFINE_LAUNCH(BnAddReluPoolBwd)

}  // namespace rlv2v
