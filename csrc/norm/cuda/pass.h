// One pass of a normalization operator over a tensor, as a CUDA kernel: load vectors, compute, store, and sum what the
// computation returns. A pass is a small struct that says what to load and compute. This file is the rest: threads
// share the tensor (tiling.h), move vectors of 16 bytes and add up the sums, in the same order at every run.
#pragma once

#include <cuda_runtime.h>

#include "common/half.h"
#include "norm/affine.h"
#include "norm/cuda/tiling.h"

namespace rlv2v {

// The numbers of an item: L lanes at each of P places. P is 1 for a point, and 4 (0 1 / 2 3) for a row of 2x2 windows.
template <class A, int P, int L>
struct Values {
  A at[P][L];
};

// N numbers that are read and written at once.
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

// How a thread reads and writes its item. kOneSlot: all numbers of a vector have one slot and are neighbours in a row
// of pixels. Otherwise a vector is one pixel, and each lane has its own slot.
template <class Item, int kLanes, bool kOneSlot>
struct ItemAccess;

template <int kLanes, bool kOneSlot>
struct ItemAccess<Point, kLanes, kOneSlot> {
  static constexpr int P = 1, L = kLanes;
  Point item;

  template <class T>
  __device__ Values<Wide<T>, 1, L> full(const T* from) const {
    Values<Wide<T>, 1, L> values;
    load_pack<L>(from + item.full, values.at[0]);
    return values;
  }
  template <class T>
  __device__ void store(T* to, const Values<Wide<T>, 1, L>& values) const {
    store_pack<L>(to + item.full, values.at[0]);
  }
  // There are no windows: a skip is as large as x, and its gradient is stored by `store`.
  template <class T>
  __device__ Values<Wide<T>, 1, L> skip(const T* from) const {
    return full(from);
  }
  template <class T>
  __device__ void store_window_sums(T*, const Values<Wide<T>, 1, L>&) const {}
};

template <int kLanes, bool kOneSlot>
struct ItemAccess<Window, kLanes, kOneSlot> {
  // kPairs: the two pixels of a window's row are in one vector. Otherwise each is in a vector of its own.
  static constexpr bool kPairs = kOneSlot && kLanes > 1;
  static constexpr int P = 4, L = kPairs ? kLanes / 2 : kLanes;
  Window item;

  template <class T>
  __device__ Values<Wide<T>, 4, L> full(const T* from) const {
    Values<Wide<T>, 4, L> values;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const T* p = from + item.full + row * item.row_stride;
      if constexpr (kPairs) {
        Wide<T> both[2 * L];
        load_pack<2 * L>(p, both);
#pragma unroll
        for (int i = 0; i < 2 * L; ++i) values.at[2 * row + i % 2][i / 2] = both[i];
      } else {
        load_pack<L>(p, values.at[2 * row]);
        load_pack<L>(p + item.column_stride, values.at[2 * row + 1]);
      }
    }
    return values;
  }
  template <class T>
  __device__ void store(T* to, const Values<Wide<T>, 4, L>& values) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      T* p = to + item.full + row * item.row_stride;
      if constexpr (kPairs) {
        Wide<T> both[2 * L];
#pragma unroll
        for (int i = 0; i < 2 * L; ++i) both[i] = values.at[2 * row + i % 2][i / 2];
        store_pack<2 * L>(p, both);
      } else {
        store_pack<L>(p, values.at[2 * row]);
        store_pack<L>(p + item.column_stride, values.at[2 * row + 1]);
      }
    }
  }
  template <class T>
  __device__ Values<Wide<T>, 1, L> low(const T* from) const {
    Values<Wide<T>, 1, L> values;
    load_pack<L>(from + item.low, values.at[0]);
    return values;
  }
  template <class T>
  __device__ void store_low(T* to, const Values<Wide<T>, 1, L>& values) const {
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
  __device__ Values<Wide<T>, 4, L> skip(const T* from) const {
    const auto once = low(from);
    Values<Wide<T>, 4, L> values;
#pragma unroll
    for (int i = 0; i < 4 * L; ++i) values.at[i / L][i % L] = once.at[0][i % L];
    return values;
  }
  template <class T>
  __device__ void store_window_sums(T* to, const Values<Wide<T>, 4, L>& values) const {
    Values<Wide<T>, 1, L> sums;
#pragma unroll
    for (int i = 0; i < L; ++i)
      sums.at[0][i] = (values.at[0][i] + values.at[1][i]) + (values.at[2][i] + values.at[3][i]);
    store_low(to, sums);
  }
};

// What the computation of a pass may return, to be summed over each slot: Nothing; Values, whose moments are wanted; or
// Products, a gradient whose sum is wanted, and that of gradient times deviation.
struct Nothing {};
template <class A, int P, int L>
struct Products {
  Values<A, P, L> grad, deviation;
};

// The sums of a thread for each of its slots.
template <class Returned, bool kOneSlot>
struct SumsOf;

template <bool kOneSlot>
struct SumsOf<Nothing, kOneSlot> {
  static constexpr int kSlots = 0;
  template <int K>
  __device__ void add(const Nothing (&)[K], int) {}
};

template <class A, int P, int L, bool kOneSlot>
struct SumsOf<Values<A, P, L>, kOneSlot> {
  static constexpr int kSlots = kOneSlot ? 1 : L, kPerSlot = P * L / kSlots;
  A count = 0, mean[kSlots] = {}, m2[kSlots] = {};

  // `items`: those that a thread has in flight, of which the first `filled` count. Their mean and deviations while they
  // are in registers, then Chan's merge: exact however large the mean is.
  template <int K>
  __device__ void add(const Values<A, P, L> (&items)[K], int filled) {
    const A added = static_cast<A>(filled * kPerSlot), total = count + added;
    const A inverse_added = A(1) / added, share = added / total, weight = count * share;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      A sum = 0, squares = 0;
      each(items, filled, s, [&](A value) { sum += value; });
      const A center = sum * inverse_added;
      each(items, filled, s, [&](A value) { squares += (value - center) * (value - center); });
      const A delta = center - mean[s];
      mean[s] += delta * share;
      m2[s] += squares + delta * delta * weight;
    }
    count = total;
  }
  __device__ Moments<A> sums(int slot) const { return {count, mean[slot], m2[slot]}; }

 private:
  template <int K, class F>
  __device__ static void each(const Values<A, P, L> (&items)[K], int filled, int slot, const F& f) {
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < filled)
#pragma unroll
        for (int p = 0; p < P; ++p)
#pragma unroll
          for (int l = 0; l < L; ++l)
            if (kOneSlot || l == slot) f(items[k].at[p][l]);
  }
};

template <class A, int P, int L, bool kOneSlot>
struct SumsOf<Products<A, P, L>, kOneSlot> {
  static constexpr int kSlots = kOneSlot ? 1 : L;
  A grad[kSlots] = {}, grad_x[kSlots] = {};

  template <int K>
  __device__ void add(const Products<A, P, L> (&items)[K], int filled) {
    // The sums of these items by themselves first: two short sums round less than a long one.
    A sum_grad[kSlots] = {}, sum_grad_x[kSlots] = {};
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < filled)
#pragma unroll
        for (int p = 0; p < P; ++p)
#pragma unroll
          for (int l = 0; l < L; ++l) {
            sum_grad[kOneSlot ? 0 : l] += items[k].grad.at[p][l];
            sum_grad_x[kOneSlot ? 0 : l] += items[k].grad.at[p][l] * items[k].deviation.at[p][l];
          }
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      grad[s] += sum_grad[s];
      grad_x[s] += sum_grad_x[s];
    }
  }
  __device__ GradSums<A> sums(int slot) const { return {grad[slot], grad_x[slot]}; }
};

// The constants of each lane of a thread's vectors.
template <class Constants, int L, bool kOneSlot>
struct LaneConstants {
  Constants of_slot[kOneSlot ? 1 : L];
  __device__ const Constants& operator[](int lane) const { return of_slot[kOneSlot ? 0 : lane]; }
};

inline __device__ Partial partial_of(const Moments<float>& m) { return {m.count, m.mean, m.m2}; }
inline __device__ Partial partial_of(const Moments<double>& m) { return {m.count, m.mean, m.m2}; }
template <class A>
__device__ Partial partial_of(const GradSums<A>& sums) {
  return {0, sums.grad, sums.grad_x};
}

// Merges the values of all threads that have the same x, kSlots a thread, into those of the thread with y = 0, as a
// tree.
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

// Items a thread has in flight: a pass says how many points. Of rows of windows, its registers hold one.
template <class Pass, class Item>
constexpr int kUnrollOf = Pass::kUnroll;
template <class Pass>
constexpr int kUnrollOf<Pass, Window> = 1;

// A pass has
//   kUnroll: the points a thread has in flight;
//   constants(slot): the constants of a slot;
//   load(access): its operands, which are what it reads of an item;
//   compute(access, operands, lanes): stores the results, and returns what is to be summed. lanes[l] are the constants
//     of lane l.
template <class Pass, class Tiling, int kLanes, bool kOneSlot>
__global__ void __launch_bounds__(kThreads, 1) norm_pass(const Pass pass, const Tiling tiling, Partial* partials) {
  using Item = typename Tiling::Item;
  using Access = ItemAccess<Item, kLanes, kOneSlot>;
  using Operands = decltype(pass.load(Access{}));
  using Lanes = LaneConstants<typename Pass::Constants, Access::L, kOneSlot>;
  using Returned = decltype(pass.compute(Access{}, Operands{}, Lanes{}));
  using ThreadSums = SumsOf<Returned, kOneSlot>;
  constexpr int kSlots = kOneSlot ? 1 : Access::L, kUnroll = kUnrollOf<Pass, Item>;

  const int x = threadIdx.x % tiling.across, y = threadIdx.x / tiling.across;
  const uint32_t chunk = blockIdx.x % tiling.chunks;
  const int64_t column = static_cast<int64_t>(blockIdx.x / tiling.chunks) * tiling.across + x;
  const int64_t slot = column * kSlots;
  const uint32_t begin = chunk * tiling.chunk_items;
  const uint32_t end = min(begin + tiling.chunk_items, tiling.items);

  ThreadSums thread_sums;
  if (column < tiling.full.columns) {
    Lanes lanes;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) lanes.of_slot[s] = pass.constants(slot + s);
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
      thread_sums.add(returned, filled);
    }
  }

  if constexpr (ThreadSums::kSlots != 0) {
    using Value = decltype(thread_sums.sums(0));
    __shared__ Value shared[kThreads * kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) shared[threadIdx.x * kSlots + s] = thread_sums.sums(s);
    merge_along<kSlots>(shared, tiling.across, tiling.along, x, y);
    if (y == 0 && column < tiling.full.columns)
#pragma unroll
      for (int s = 0; s < kSlots; ++s)
        partials[chunk * (tiling.full.columns * kSlots) + slot + s] = partial_of(shared[x * kSlots + s]);
  }
}

}  // namespace rlv2v
