#include "norm/bn_add_relu_pool.h"

#include "norm/cuda/passes.h"

namespace rlv2v {
namespace {

// largest = the maximum of each 2x2 window of y, index = its place. The skip is as large as x, and read as x is:
// ItemAccess::skip reads a low one.
template <class T>
struct PoolPass {
  using A = Wide<T>;
  SkipInputs<T> in;
  T* largest;
  uint8_t* index;

  struct Constants {
    Affine<A> affine;
  };
  __device__ Constants constants(int64_t slot) const { return {in.affines[slot]}; }

  template <class Access>
  __device__ SkipOperands<A, 4, Access::L> load(const Access& access) const {
    return {access.full(in.x), access.full(in.skip)};
  }
  // Returns the maxima, rounded as they are stored: their moments are wanted.
  template <class Access, class Operands, class Lanes>
  __device__ Values<A, 1, Access::L> compute(const Access& access, const Operands& operands, const Lanes& lanes) const {
    const auto y = operands.y(lanes);
    Values<A, 1, Access::L> best;
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

// The sums for the gradient through the post-norm.
template <class T>
struct GradSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  const T *grad, *x;
  AffineSlots<A> affines;

  using Constants = A;
  __device__ Constants constants(int64_t slot) const { return affines[slot].mean; }

  template <class Access>
  __device__ Products<A, 1, Access::L> load(const Access& access) const {
    return {access.full(grad), access.full(x)};
  }
  template <class Access, class Lanes>
  __device__ Products<A, 1, Access::L> compute(const Access&, Products<A, 1, Access::L> products,
                                               const Lanes& mean) const {
#pragma unroll
    for (int l = 0; l < Access::L; ++l) products.deviation.at[0][l] -= mean[l];
    return products;
  }
};

template <class T, int L>
struct UnpoolOperands {
  Values<Wide<T>, 1, L> grad_z, largest;
  Pack<uint8_t, L> index;
  Values<Wide<T>, 4, L> x;
};

// The gradient before the ReLU, which is that of the skip: in each window it is at the place of the largest. Returns
// the sums for the gradient through the first normalization.
template <class T>
struct UnpoolPass {
  using A = Wide<T>;
  const T *grad_z, *largest;
  const uint8_t* index;
  const T* x;
  T* grad_skip;
  AffineSlots<A> affines;
  GradAffineSlots<A> post_grad_affines;

  struct Constants {
    A mean;
    GradAffine<A> post_grad_affine;
  };
  __device__ Constants constants(int64_t slot) const { return {affines[slot].mean, post_grad_affines[slot]}; }

  template <class Access>
  __device__ UnpoolOperands<T, Access::L> load(const Access& access) const {
    return {access.low(grad_z), access.low(largest), access.index(index), access.full(x)};
  }
  template <class Access, class Operands, class Lanes>
  __device__ Products<A, 4, Access::L> compute(const Access& access, const Operands& operands,
                                               const Lanes& lanes) const {
    Products<A, 4, Access::L> products;
    products.deviation = operands.x;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A best = operands.largest.at[0][l];
      const A grad = relu_grad_of(lanes[l].post_grad_affine(operands.grad_z.at[0][l], best), best);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        products.grad.at[p][l] = operands.index.at[l] == p ? grad : A(0);
        products.deviation.at[p][l] -= lanes[l].mean;
      }
    }
    access.store(grad_skip, products.grad);
    return products;
  }
};

template <class T>
int fwd(const BnAddReluPoolFwd<T>& call, const Launch& on) {
  const NormLayout &layout = call.layout, low = layout.halved();
  PassQueue<T> queue(layout, on, {call.x, call.skip, call.z, call.largest, call.index});
  const SkipInputs<T> in{call.x, call.skip, affines_of(queue, layout, call.x, kNorm, call.norm)};
  queue.windows(layout, PoolPass<T>{in, call.largest, call.index});
  const auto post_affines = queue.affines(kPostNorm, call.post_norm);
  queue.points(low, ApplyPass<T, false>{call.largest, call.z, post_affines});
  return queue.error();
}

template <class T>
int bwd(const BnAddReluPoolBwd<T>& call, const Launch& on) {
  const NormLayout &layout = call.layout, low = layout.halved();
  PassQueue<T> queue(layout, on, {call.grad_z, call.x, call.largest, call.index, call.grad_x, call.grad_skip});
  const auto affines = queue.affines(kNorm, call.norm.as_frozen());
  const auto post_affines = queue.affines(kPostNorm, call.post_norm.as_frozen());
  queue.points(low, GradSumsPass<T>{call.grad_z, call.largest, post_affines});
  const auto post_grad_affines = queue.grad_affines(kPostNorm, low.count(), call.post_norm, call.grad_post_norm);
  // Outside all windows there is no gradient.
  if (layout.height % 2 != 0 || layout.width % 2 != 0) queue.clear(call.grad_skip, layout.numel() * sizeof(T));
  queue.windows(
      layout, UnpoolPass<T>{call.grad_z, call.largest, call.index, call.x, call.grad_skip, affines, post_grad_affines});
  const auto grad_affines = queue.grad_affines(kNorm, layout.count(), call.norm, call.grad_norm);
  queue.points(layout, GradApplyPass<T>{{call.grad_skip, call.x}, call.grad_x, grad_affines});
  return queue.error();
}

}  // namespace

RLV2V_DEFINE_NORM_LAUNCH(BnAddReluPoolFwd, fwd)
RLV2V_DEFINE_NORM_LAUNCH(BnAddReluPoolBwd, bwd)

}  // namespace rlv2v
