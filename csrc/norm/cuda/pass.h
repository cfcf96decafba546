// One pass of a normalization operator over a tensor, as a CUDA kernel: load vectors, compute, store, and sum what the
// computation returns. A pass is a small struct that says what to load and compute; this file says how threads share
// the tensor (bn_tiling.h), move whole 16-byte vectors and add up sums, in the same order at every run.
#pragma once

#include <cuda_runtime.h>

#include "common/half.h"
#include "norm/affine.h"
#include "norm/cuda/launch.h"
#include "norm/cuda/tiling.h"

namespace rlv2v {

// Numbers at P places of L lanes: P is 1 for a point and 4 (0 1 / 2 3) for a row of 2x2 windows.
template <class A, int P, int L>
struct BnValues {
  A at[P][L];
};

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <int N, class T, class A>
__device__ __forceinline__ void load_pack(const T* from, A* to) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = widen(pack.at[i]);
}

template <int N, class T, class A>
__device__ __forceinline__ void store_pack(T* to, const A* from) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.at[i] = narrow<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// How a thread reads and writes its item. kOneSlot: all numbers of a vector are of one slot and are neighbours in a row
// of pixels; else each lane has a slot of its own and a vector is one pixel.
template <class Item, int kLanes, bool kOneSlot>
struct BnAccess;

template <int kLanes, bool kOneSlot>
struct BnAccess<BnPoint, kLanes, kOneSlot> {
  static constexpr int P = 1, L = kLanes;
  BnPoint item;

  template <class T>
  __device__ BnValues<Wide<T>, 1, L> full(const T* from) const {
    BnValues<Wide<T>, 1, L> values;
    load_pack<L>(from + item.at, values.at[0]);
    return values;
  }
  template <class T>
  __device__ void store(T* to, const BnValues<Wide<T>, 1, L>& values) const {
    store_pack<L>(to + item.at, values.at[0]);
  }
  // There are no windows: a skip is as large as x, and its gradient is stored by `store`.
  template <class T>
  __device__ BnValues<Wide<T>, 1, L> skip(const T* from) const {
    return full(from);
  }
  template <class T>
  __device__ void store_window_sums(T*, const BnValues<Wide<T>, 1, L>&) const {}
};

template <int kLanes, bool kOneSlot>
struct BnAccess<BnWindow, kLanes, kOneSlot> {
  // Two pixels of each row of a window are in one vector, or in two.
  static constexpr bool kPairs = kOneSlot && kLanes > 1;
  static constexpr int P = 4, L = kPairs ? kLanes / 2 : kLanes;
  BnWindow item;

  template <class T>
  __device__ BnValues<Wide<T>, 4, L> full(const T* from) const {
    BnValues<Wide<T>, 4, L> values;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const T* p = from + item.at + row * item.down;
      if constexpr (kPairs) {
        Wide<T> both[2 * L];
        load_pack<2 * L>(p, both);
#pragma unroll
        for (int i = 0; i < 2 * L; ++i) values.at[2 * row + i % 2][i / 2] = both[i];
      } else {
        load_pack<L>(p, values.at[2 * row]);
        load_pack<L>(p + item.right, values.at[2 * row + 1]);
      }
    }
    return values;
  }
  template <class T>
  __device__ void store(T* to, const BnValues<Wide<T>, 4, L>& values) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      T* p = to + item.at + row * item.down;
      if constexpr (kPairs) {
        Wide<T> both[2 * L];
#pragma unroll
        for (int i = 0; i < 2 * L; ++i) both[i] = values.at[2 * row + i % 2][i / 2];
        store_pack<2 * L>(p, both);
      } else {
        store_pack<L>(p, values.at[2 * row]);
        store_pack<L>(p + item.right, values.at[2 * row + 1]);
      }
    }
  }
  template <class T>
  __device__ BnValues<Wide<T>, 1, L> low(const T* from) const {
    BnValues<Wide<T>, 1, L> values;
    load_pack<L>(from + item.low, values.at[0]);
    return values;
  }
  template <class T>
  __device__ void store_low(T* to, const BnValues<Wide<T>, 1, L>& values) const {
    store_pack<L>(to + item.low, values.at[0]);
  }
  __device__ Pack<uint8_t, L> index(const uint8_t* from) const {
    return *reinterpret_cast<const Pack<uint8_t, L>*>(from + item.low);
  }
  __device__ void store_index(uint8_t* to, const Pack<uint8_t, L>& index) const {
    *reinterpret_cast<Pack<uint8_t, L>*>(to + item.low) = index;
  }
  // A skip of half the height and width, repeated 2x2, and its gradient.
  template <class T>
  __device__ BnValues<Wide<T>, 4, L> skip(const T* from) const {
    const auto once = low(from);
    BnValues<Wide<T>, 4, L> values;
#pragma unroll
    for (int i = 0; i < 4 * L; ++i) values.at[i / L][i % L] = once.at[0][i % L];
    return values;
  }
  template <class T>
  __device__ void store_window_sums(T* to, const BnValues<Wide<T>, 4, L>& values) const {
    BnValues<Wide<T>, 1, L> sums;
#pragma unroll
    for (int i = 0; i < L; ++i)
      sums.at[0][i] = (values.at[0][i] + values.at[1][i]) + (values.at[2][i] + values.at[3][i]);
    store_low(to, sums);
  }
};

// What a pass may return from its computation, to be summed over each slot: nothing, or numbers whose moments are
// wanted, or a gradient with what it is to be multiplied by.
struct BnNothing {};
template <class A, int P, int L>
struct BnProducts {
  BnValues<A, P, L> grad, deviation;
};

// The sums of a thread; `lanes` of one slot are added up, others stay apart.
template <class Returned, bool kOneSlot>
struct BnAccumulator;

template <bool kOneSlot>
struct BnAccumulator<BnNothing, kOneSlot> {
  static constexpr int kSlots = 0;
  template <int K>
  __device__ void add(const BnNothing (&)[K], int) {}
};

template <class A, int P, int L, bool kOneSlot>
struct BnAccumulator<BnValues<A, P, L>, kOneSlot> {
  static constexpr int kSlots = kOneSlot ? 1 : L, kPerSlot = P * L / kSlots;
  A count = 0, mean[kSlots] = {}, m2[kSlots] = {};

  // Mean and deviations of the tile, still in registers, then Chan's merge: exact however large the mean is.
  template <int K>
  __device__ void add(const BnValues<A, P, L> (&tile)[K], int filled) {
    const A added = static_cast<A>(filled * kPerSlot), total = count + added;
    const A of_added = A(1) / added, share = added / total, weight = count * share;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      A sum = 0, squares = 0;
      each(tile, filled, s, [&](A value) { sum += value; });
      const A center = sum * of_added;
      each(tile, filled, s, [&](A value) { squares += (value - center) * (value - center); });
      const A delta = center - mean[s];
      mean[s] += delta * share;
      m2[s] += squares + delta * delta * weight;
    }
    count = total;
  }
  __device__ Moments<A> of(int slot) const { return {count, mean[slot], m2[slot]}; }

 private:
  template <int K, class F>
  __device__ static void each(const BnValues<A, P, L> (&tile)[K], int filled, int slot, const F& f) {
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < filled)
#pragma unroll
        for (int p = 0; p < P; ++p)
#pragma unroll
          for (int l = 0; l < L; ++l)
            if (kOneSlot || l == slot) f(tile[k].at[p][l]);
  }
};

template <class A, int P, int L, bool kOneSlot>
struct BnAccumulator<BnProducts<A, P, L>, kOneSlot> {
  static constexpr int kSlots = kOneSlot ? 1 : L;
  A grad[kSlots] = {}, grad_x[kSlots] = {};

  template <int K>
  __device__ void add(const BnProducts<A, P, L> (&tile)[K], int filled) {
    // A tile's sum first: fewer terms in a row, less rounding.
    A of_grad[kSlots] = {}, of_grad_x[kSlots] = {};
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < filled)
#pragma unroll
        for (int p = 0; p < P; ++p)
#pragma unroll
          for (int l = 0; l < L; ++l) {
            of_grad[kOneSlot ? 0 : l] += tile[k].grad.at[p][l];
            of_grad_x[kOneSlot ? 0 : l] += tile[k].grad.at[p][l] * tile[k].deviation.at[p][l];
          }
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      grad[s] += of_grad[s];
      grad_x[s] += of_grad_x[s];
    }
  }
  __device__ BnSums<A> of(int slot) const { return {grad[slot], grad_x[slot]}; }
};

// The constants of a thread's lanes.
template <class Constants, int L, bool kOneSlot>
struct BnLanes {
  Constants of[kOneSlot ? 1 : L];
  __device__ const Constants& operator[](int lane) const { return of[kOneSlot ? 0 : lane]; }
};

inline __device__ BnPartial partial_of(const Moments<float>& m) { return {m.count, m.mean, m.m2}; }
inline __device__ BnPartial partial_of(const Moments<double>& m) { return {m.count, m.mean, m.m2}; }
template <class A>
__device__ BnPartial partial_of(const BnSums<A>& sums) {
  return {0, sums.grad, sums.grad_x};
}

// Merges `values[slots]` of all threads with one x into those of y = 0, as a tree.
template <int kSlots, class Value>
__device__ void merge_along(Value* shared, int across, int along, int x, int y) {
  for (int n = along; n > 1;) {
    const int half = (n + 1) / 2;
    __syncthreads();
    if (y + half < n)
#pragma unroll
      for (int s = 0; s < kSlots; ++s)
        shared[(y * across + x) * kSlots + s].merge(shared[((y + half) * across + x) * kSlots + s]);
    n = half;
  }
}

// Items a thread has in flight; one row of windows is as much as its registers hold.
template <class Pass, class Item>
constexpr int kBnUnroll = Pass::kUnroll;
template <class Pass>
constexpr int kBnUnroll<Pass, BnWindow> = 1;

// A pass has
//   kUnroll: vectors a thread has in flight, where it goes over points;
//   Constants constants(slot): of a slot;
//   load(access): what it reads of an item;
//   compute(access, operands, lanes): stores, and returns what is to be summed.
template <class Pass, class Tiling, int kLanes, bool kOneSlot>
__global__ void __launch_bounds__(kBnThreads, 1) bn_pass(const Pass pass, const Tiling tiling, BnPartial* partials) {
  using Item = typename Tiling::Item;
  using Access = BnAccess<Item, kLanes, kOneSlot>;
  using Operands = decltype(pass.load(Access{}));
  using Lanes = BnLanes<typename Pass::Constants, Access::L, kOneSlot>;
  using Returned = decltype(pass.compute(Access{}, Operands{}, Lanes{}));
  using Accumulator = BnAccumulator<Returned, kOneSlot>;
  constexpr int kSlots = kOneSlot ? 1 : Access::L, kUnroll = kBnUnroll<Pass, Item>;

  const int x = threadIdx.x % tiling.across, y = threadIdx.x / tiling.across;
  const uint32_t chunk = blockIdx.x % tiling.chunks;
  const int64_t column = static_cast<int64_t>(blockIdx.x / tiling.chunks) * tiling.across + x;
  const int64_t slot = column * kSlots;
  const uint32_t begin = chunk * tiling.chunk_items;
  const uint32_t end = min(begin + tiling.chunk_items, tiling.items);

  Accumulator sums;
  if (column < tiling.full.columns) {
    Lanes lanes;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) lanes.of[s] = pass.constants(slot + s);
    const auto start = tiling.start(column);
    for (uint32_t first = begin + y; first < end; first += kUnroll * tiling.along) {
      Access access[kUnroll];
      Operands operands[kUnroll];
      Returned returned[kUnroll];
      int filled = 0;
#pragma unroll
      for (int k = 0; k < kUnroll; ++k) {
        const uint32_t number = first + k * tiling.along;
        if (number < end) {
          access[k].item = tiling.item(start, number);
          operands[k] = pass.load(access[k]);
          filled = k + 1;
        }
      }
#pragma unroll
      for (int k = 0; k < kUnroll; ++k)
        if (k < filled) returned[k] = pass.compute(access[k], operands[k], lanes);
      sums.add(returned, filled);
    }
  }

  if constexpr (Accumulator::kSlots != 0) {
    using Value = decltype(sums.of(0));
    __shared__ Value shared[kBnThreads * kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) shared[threadIdx.x * kSlots + s] = sums.of(s);
    merge_along<kSlots>(shared, tiling.across, tiling.along, x, y);
    if (y == 0 && column < tiling.full.columns)
#pragma unroll
      for (int s = 0; s < kSlots; ++s)
        partials[chunk * (tiling.full.columns * kSlots) + slot + s] = partial_of(shared[x * kSlots + s]);
  }
}

}  // namespace rlv2v
