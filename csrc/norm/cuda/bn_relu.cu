#include "norm/bn_relu.h"

#include "norm/cuda/passes.h"

namespace rlv2v {
namespace {

template <class T>
struct ReluSumsPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  GradInputs<T> in;
  AffineSlots<A> affines;

  using Constants = Affine<A>;
  __device__ Constants constants(int64_t slot) const { return affines[slot]; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Lanes>
  __device__ Products<A, 1, Access::L> compute(const Access&, const GradOperands<A, Access::L>& operands,
                                               const Lanes& affine) const {
    Products<A, 1, Access::L> products;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A value = operands.x.at[0][l];
      products.grad.at[0][l] = relu_grad_of(operands.grad.at[0][l], affine[l](value));
      products.deviation.at[0][l] = value - affine[l].mean;
    }
    return products;
  }
};

template <class T>
struct ReluGradPass {
  using A = Wide<T>;
  static constexpr int kUnroll = 2;
  GradInputs<T> in;
  T* grad_x;
  AffineSlots<A> affines;
  GradAffineSlots<A> grad_affines;

  struct Constants {
    Affine<A> affine;
    GradAffine<A> grad;
  };
  __device__ Constants constants(int64_t slot) const { return {affines[slot], grad_affines[slot]}; }

  template <class Access>
  __device__ auto load(const Access& access) const {
    return in.load(access);
  }
  template <class Access, class Lanes>
  __device__ Nothing compute(const Access& access, const GradOperands<A, Access::L>& operands,
                             const Lanes& lanes) const {
    Values<A, 1, Access::L> values;
#pragma unroll
    for (int l = 0; l < Access::L; ++l) {
      const A value = operands.x.at[0][l];
      values.at[0][l] = lanes[l].grad(relu_grad_of(operands.grad.at[0][l], lanes[l].affine(value)), value);
    }
    access.store(grad_x, values);
    return {};
  }
};

template <class T>
int fwd(const BnReluFwd<T>& call, const Launch& on) {
  PassQueue<T> queue(call.layout, on, {call.x, call.y});
  const auto affines = affines_of(queue, call.layout, call.x, kNorm, call.norm);
  queue.points(call.layout, ApplyPass<T, true>{call.x, call.y, affines});
  return queue.error();
}

template <class T>
int bwd(const BnReluBwd<T>& call, const Launch& on) {
  const NormLayout& layout = call.layout;
  PassQueue<T> queue(layout, on, {call.grad_y, call.x, call.grad_x});
  const GradInputs<T> in{call.grad_y, call.x};
  const auto affines = queue.affines(kNorm, call.norm.as_frozen());
  queue.points(layout, ReluSumsPass<T>{in, affines});
  const auto grad_affines = queue.grad_affines(kNorm, layout.count(), call.norm, call.grad_norm);
  queue.points(layout, ReluGradPass<T>{in, call.grad_x, affines, grad_affines});
  return queue.error();
}

}  // namespace

RLV2V_DEFINE_NORM_LAUNCH(BnReluFwd, fwd)
RLV2V_DEFINE_NORM_LAUNCH(BnReluBwd, bwd)

}  // namespace rlv2v
