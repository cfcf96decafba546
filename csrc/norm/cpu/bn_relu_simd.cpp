#include "norm/bn_relu.h"

#include "norm/cpu/passes.h"

namespace rlv2v::RLV2V_ISA {
namespace {

template <class T>
void relu(const T* x, const AffineArrays<T>& affines, const Extent& of, T* y) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    walk.each([&](int64_t at) { store_part(y + at, relu_of(affine(load_part(x + at, walk.lanes))), walk.lanes); });
  });
}

// The sums of the gradient before the ReLU, and of that times (x - mean).
template <class T>
void add_relu_grad_sums(const T* grad_y, const T* x, const AffineArrays<T>& affines, const Extent& of,
                        const BlockGradSums& sums) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    Vec<T> sum_grad{}, sum_grad_x{};
    walk.each([&](int64_t at) {
      const Vec<T> value = load_part(x + at, walk.lanes);
      const Vec<T> g = relu_grad_of(load_part(grad_y + at, walk.lanes), affine(value));
      sum_grad += g;
      sum_grad_x += g * (value - affine.mean);
    });
    add_lanes<T>(walk, sum_grad, sums.grad);
    add_lanes<T>(walk, sum_grad_x, sums.grad_x);
  });
}

template <class T>
void relu_grad(const T* grad_y, const T* x, const AffineArrays<T>& affines, const GradAffineArrays<T>& grad_affines,
               const Extent& of, T* grad_x) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    const auto grad_affine = constants_of(grad_affines, walk);
    walk.each([&](int64_t at) {
      const Vec<T> value = load_part(x + at, walk.lanes);
      const Vec<T> g = relu_grad_of(load_part(grad_y + at, walk.lanes), affine(value));
      store_part(grad_x + at, grad_affine(g, value), walk.lanes);
    });
  });
}

template <class T>
void fwd(const BnReluFwd<T>& call) {
  for_slices<T>(call.layout, [&](SlicePasses<T>& slice) {
    if (!call.norm.frozen) measure(slice, call.x, call.norm);
    const AffineArrays<T> affines = slice.affines(kNorm, call.norm);
    slice.each_block([&](int64_t block) {
      const int64_t at = slice.offset(block);
      relu(call.x + at, affines, slice.extent(), call.y + at);
    });
  });
}

template <class T>
void bwd(const BnReluBwd<T>& call) {
  const Scratch<GradSums<double>> all(call.layout.statistics());
  for_slices<T>(call.layout, [&](SlicePasses<T>& slice) {
    const AffineArrays<T> affines = slice.affines(kNorm, call.norm);
    const auto add_block = [&](int64_t block, const BlockGradSums& sums) {
      const int64_t at = slice.offset(block);
      add_relu_grad_sums(call.grad_y + at, call.x + at, affines, slice.extent(), sums);
    };
    const GradAffineArrays<T> grad_affines =
        slice.grad_affines(kNorm, call.layout.image(), add_block, call.norm, all.get());
    slice.each_block([&](int64_t block) {
      const int64_t at = slice.offset(block);
      relu_grad(call.grad_y + at, call.x + at, affines, grad_affines, slice.extent(), call.grad_x + at);
    });
  });
  finish_norm_grads(call.layout, call.norm, all.get(), call.grad_norm);
}

}  // namespace
}  // namespace rlv2v::RLV2V_ISA

RLV2V_DEFINE_NORM_RUN(BnReluFwd, fwd)
RLV2V_DEFINE_NORM_RUN(BnReluBwd, bwd)
