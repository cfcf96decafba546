#include "norm/bn_add_relu.h"

#include "norm/cuda/passes.h"

namespace rlv2v {
namespace {

// The moments of y.
template <class T>
struct AddReluMomentsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  SkipInputs<T> in;

  struct Constants {
    Affine<A> affine;
  };
  __device__ Constants constants(int64_t slot) const { return {in.affines[slot]}; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Operands, class Lanes>
  __device__ auto compute(const Access&, const Operands& operands, const Lanes& lanes) const {
    return operands.y(lanes);
  }
};

// z = post_norm(y), or z = y.
template <class T>
struct AddReluPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  SkipInputs<T> in;
  T* z;
  bool has_post_norm;
  AffineSlots<A> post_affines;

  struct Constants {
    Affine<A> affine, post_affine;
  };
  __device__ Constants constants(int64_t slot) const {
    return {in.affines[slot], has_post_norm ? post_affines[slot] : Affine<A>{}};
  }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Operands, class Lanes>
  __device__ Nothing compute(const Access& access, const Operands& operands, const Lanes& lanes) const {
    auto values = operands.y(lanes);
    if (has_post_norm)
#pragma unroll
      for (int p = 0; p < Access::P; ++p)
#pragma unroll
        for (int l = 0; l < Access::L; ++l) values.at[p][l] = lanes[l].post_affine(values.at[p][l]);
    access.store(z, values);
    return {};
  }
};

// The gradient of z, and what y is computed from.
template <class A, int P, int L>
struct SkipGradOperands {
  Values<A, P, L> grad_z;
  SkipOperands<A, P, L> sum;
};

// The sums for the gradient through the post-norm.
template <class T>
struct AddReluSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  SkipInputs<T> in;
  const T* grad_z;
  AffineSlots<A> post_affines;

  struct Constants {
    Affine<A> affine;
    A post_mean;
  };
  __device__ Constants constants(int64_t slot) const { return {in.affines[slot], post_affines[slot].mean}; }

  template <class Access>
  __device__ SkipGradOperands<A, Access::P, Access::L> load(const Access& access) const {
    return {access.full(grad_z), in.load(access)};
  }
  template <class Access, class Operands, class Lanes>
  __device__ Products<A, Access::P, Access::L> compute(const Access&, const Operands& operands,
                                                       const Lanes& lanes) const {
    Products<A, Access::P, Access::L> products{operands.grad_z, operands.sum.y(lanes)};
#pragma unroll
    for (int p = 0; p < Access::P; ++p)
#pragma unroll
      for (int l = 0; l < Access::L; ++l) products.deviation.at[p][l] -= lanes[l].post_mean;
    return products;
  }
};

// The gradient before the ReLU. It is that of a skip as large as x; that of a low skip is its sum over each window.
// Returns the sums for the gradient through the first normalization.
template <class T>
struct AddReluGradPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 1;
  SkipInputs<T> in;
  const T* grad_z;
  T *grad_sum, *grad_low;
  bool has_post_norm;
  GradAffineSlots<A> post_grad_affines;

  struct Constants {
    Affine<A> affine;
    GradAffine<A> post_grad_affine;
  };
  __device__ Constants constants(int64_t slot) const {
    return {in.affines[slot], has_post_norm ? post_grad_affines[slot] : GradAffine<A>{}};
  }

  template <class Access>
  __device__ SkipGradOperands<A, Access::P, Access::L> load(const Access& access) const {
    return {access.full(grad_z), in.load(access)};
  }
  template <class Access, class Operands, class Lanes>
  __device__ Products<A, Access::P, Access::L> compute(const Access& access, const Operands& operands,
                                                       const Lanes& lanes) const {
    Products<A, Access::P, Access::L> products{operands.grad_z, operands.sum.x};
    const auto y = operands.sum.y(lanes);
#pragma unroll
    for (int p = 0; p < Access::P; ++p)
#pragma unroll
      for (int l = 0; l < Access::L; ++l) {
        A& grad = products.grad.at[p][l];
        if (has_post_norm) grad = lanes[l].post_grad_affine(grad, y.at[p][l]);
        grad = relu_grad_of(grad, y.at[p][l]);
        products.deviation.at[p][l] -= lanes[l].affine.mean;
      }
    access.store(grad_sum, products.grad);
    access.store_window_sums(grad_low, products.grad);
    return products;
  }
};

// Queues a pass over points, or over 2x2 windows where the skip is low.
template <class T, class Pass>
void over(PassQueue<T>& queue, const NormLayout& layout, bool low_skip, const Pass& pass) {
  if (low_skip)
    queue.windows(layout, pass);
  else
    queue.points(layout, pass);
}

template <class T>
int fwd(const BnAddReluFwd<T>& call, const Launch& on) {
  const NormLayout& layout = call.layout;
  PassQueue<T> queue(layout, on, {call.x, call.skip, call.z});
  const SkipInputs<T> in{call.x, call.skip, affines_of(queue, layout, call.x, kNorm, call.norm)};
  AffineSlots<Wide<T>> post_affines{};
  if (call.has_post_norm) {
    // y is cheaper to compute twice than to write and read back.
    if (!call.post_norm.frozen) over(queue, layout, call.low_skip, AddReluMomentsPass<T>{in});
    post_affines = queue.affines(kPostNorm, call.post_norm);
  }
  over(queue, layout, call.low_skip, AddReluPass<T>{in, call.z, call.has_post_norm, post_affines});
  return queue.error();
}

template <class T>
int bwd(const BnAddReluBwd<T>& call, const Launch& on) {
  const NormLayout& layout = call.layout;
  PassQueue<T> queue(layout, on, {call.grad_z, call.x, call.skip, call.grad_x, call.grad_skip});
  const SkipInputs<T> in{call.x, call.skip, queue.affines(kNorm, call.norm.as_frozen())};
  GradAffineSlots<Wide<T>> post_grad_affines{};
  if (call.has_post_norm) {
    const auto post_affines = queue.affines(kPostNorm, call.post_norm.as_frozen());
    over(queue, layout, call.low_skip, AddReluSumsPass<T>{in, call.grad_z, post_affines});
    post_grad_affines = queue.grad_affines(kPostNorm, layout.count(), call.post_norm, call.grad_post_norm);
  }
  // The gradient of the sum x + skip is that of a full skip; for a low one it waits where grad_x will be.
  T* grad_sum = call.low_skip ? call.grad_x : call.grad_skip;
  over(queue, layout, call.low_skip,
       AddReluGradPass<T>{in, call.grad_z, grad_sum, call.grad_skip, call.has_post_norm, post_grad_affines});
  const auto affines = queue.grad_affines(kNorm, layout.count(), call.norm, call.grad_norm);
  queue.points(layout, GradApplyPass<T>{{grad_sum, call.x}, call.grad_x, affines});
  return queue.error();
}

}  // namespace

RLV2V_DEFINE_NORM_LAUNCH(BnAddReluFwd, fwd)
RLV2V_DEFINE_NORM_LAUNCH(BnAddReluBwd, bwd)

}  // namespace rlv2v
