// Wide<T> is the type of sums, statistics and parameters for a tensor of T: T itself, or float for 16-bit numbers
// (half.h).
#pragma once

namespace rlv2v {

struct BFloat16;
struct Half;

template <class T>
struct WideOf {
  using type = T;
};
template <>
struct WideOf<BFloat16> {
  using type = float;
};
template <>
struct WideOf<Half> {
  using type = float;
};

template <class T>
using Wide = typename WideOf<T>::type;

}  // namespace rlv2v
