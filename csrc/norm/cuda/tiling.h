// How the threads of a CUDA grid share a tensor (norm/layout.h).
//
// The statistics are numbered in the order in which their values come in memory; this number is a statistic's slot. A
// thread takes a vector of numbers at a time. Where channels are outermost, all numbers of a vector have one slot;
// where channels are innermost, they have as many neighbouring slots. A thread stays with its slots, so that their
// constants and sums are in its registers.
//
// A column is all vectors with the same slots. The vectors of a column, or the vectors of its rows of 2x2 windows, are
// its items. A block of threads is `across` neighbouring columns by `along` threads, which share a chunk of the items
// of each column.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/portability.h"
#include "norm/layout.h"

namespace rlv2v {

// Threads of a block.
constexpr int kThreads = 256;
// Blocks for each multiprocessor: enough to fill it, few enough that merging their sums costs little.
constexpr int64_t kWaves = 4;

// The sums over a slot's items in one chunk: count, mean and m2 of Moments, or zero and the two sums of GradSums.
struct Partial {
  double count, first, second;
};

// Division of numbers below 2^31 by a divisor that is used many times: Granlund and Montgomery (1994).
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t divisor) : divisor_(static_cast<uint32_t>(divisor)) {
    while (shift_ < 32 && (uint64_t{1} << shift_) < divisor_) ++shift_;
    magic_ = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift_) - divisor_) / divisor_ + 1);
  }
  RLV2V_HD uint32_t operator()(uint32_t n) const {
    return (static_cast<uint32_t>(static_cast<uint64_t>(n) * magic_ >> 32) + n) >> shift_;
  }

 private:
  uint32_t divisor_ = 1, magic_ = 1, shift_ = 0;
};

// Where columns lie in a tensor. Distances are in elements.
struct Columns {
  int64_t columns;       // all of them
  int64_t per_slice;     // columns of a slice
  int64_t slice_stride;  // from the first column of a slice to that of the next
  int64_t stride;        // from one column of a slice to the next: the slots of a column
  int64_t run_stride;    // from one run of a column to its next: a column may be many runs of memory

  RLV2V_HD int64_t begin(int64_t column) const {
    return column / per_slice * slice_stride + column % per_slice * stride;
  }
};

// `lanes`: numbers in a vector.
inline Columns columns_of(const NormLayout& layout, int lanes) {
  const int64_t frames = layout.per_frame ? 1 : layout.frames;
  if (!layout.channels_last) {
    const int64_t run = frames * layout.image();
    return {layout.statistics(), 1, run, 0, layout.channels * run};
  }
  const int64_t per_slice = layout.channels / lanes;
  return {layout.slices() * per_slice, per_slice, layout.count() * layout.channels, lanes, 0};
}

// How a grid goes over a tensor.
struct Tiling {
  Columns full;
  uint32_t items;        // of a column
  uint32_t chunk_items;  // of a block
  uint32_t chunks;
  int across, along;

  int64_t blocks() const { return (full.columns + across - 1) / across * chunks; }

  // Chooses the blocks and chunks for columns of `items` items. A thread has `unroll` items in flight.
  void share(int64_t items, int unroll, bool one_slot, int64_t processors) {
    this->items = static_cast<uint32_t>(items);
    along = 1;
    if (one_slot) {
      while (along < kThreads && along < items) along *= 2;
      across = kThreads / along;
    } else {
      // As many neighbours as possible, but at most a quarter of the threads has no column.
      across = 32;
      while (across > 1 && 3 * ((full.columns + across - 1) / across * across) > 4 * full.columns) across /= 2;
      along = kThreads / across;
    }
    const int64_t column_sets = (full.columns + across - 1) / across, step = static_cast<int64_t>(along) * unroll;
    const int64_t most = (items + step - 1) / step;
    const int64_t wanted = std::clamp<int64_t>((kWaves * processors + column_sets - 1) / column_sets, 1, most);
    chunk_items = static_cast<uint32_t>((most + wanted - 1) / wanted * step);
    chunks = static_cast<uint32_t>((items + chunk_items - 1) / chunk_items);
  }
};

// One vector of a tensor, and where it begins.
struct Point {
  int64_t full;
};

// Every vector of a tensor is an item.
struct PointTiling : Tiling {
  using Item = Point;

  Divisor run_items;
  uint32_t items_in_run;
  int64_t item_stride;

  PointTiling(const NormLayout& layout, int lanes, int unroll, int64_t processors) {
    full = columns_of(layout, lanes);
    const bool one_slot = !layout.channels_last;
    const int64_t count = one_slot ? layout.count() / lanes : layout.count();
    items_in_run = static_cast<uint32_t>(one_slot && !layout.per_frame ? count / layout.batch : count);
    run_items = Divisor(items_in_run);
    item_stride = one_slot ? lanes : layout.channels;
    share(count, unroll, one_slot, processors);
  }

  struct Start {
    int64_t full;
  };
  RLV2V_HD Start start(int64_t column) const { return {full.begin(column)}; }

  RLV2V_HD Point item(const Start& start, uint32_t number) const {
    const uint32_t run = run_items(number);
    return {start.full + run * full.run_stride + (number - run * items_in_run) * item_stride};
  }
};

// A row of 2x2 windows: where it begins in the full tensor, and where its pixels begin in the low one, which has half
// the height and width.
struct Window {
  int64_t full, low;
  int64_t row_stride, column_stride;  // in the full tensor, from a pixel to the one below it and to the one beside it
};

// A row of 2x2 windows is an item: as many as one vector of the full tensor covers. Odd heights and widths are rounded
// down.
struct WindowTiling : Tiling {
  using Item = Window;

  Columns low;
  Divisor run_items, row_items, frame_rows;
  uint32_t items_in_run, items_in_row, rows_in_frame;
  int64_t height, width, low_width;
  int64_t pixel_stride;
  int64_t windows;  // in an item

  WindowTiling(const NormLayout& layout, int lanes, int unroll, int64_t processors) {
    const NormLayout low_layout = layout.halved();
    const bool one_slot = !layout.channels_last;
    full = columns_of(layout, lanes);
    low = columns_of(low_layout, lanes);
    height = layout.height;
    width = layout.width;
    low_width = low_layout.width;
    pixel_stride = one_slot ? 1 : layout.channels;
    windows = one_slot && lanes > 1 ? lanes / 2 : 1;
    const int64_t count = low_layout.count() / windows;
    items_in_run = static_cast<uint32_t>(one_slot && !layout.per_frame ? count / layout.batch : count);
    items_in_row = static_cast<uint32_t>(low_layout.width / windows);
    rows_in_frame = static_cast<uint32_t>(low_layout.height);
    run_items = Divisor(items_in_run);
    row_items = Divisor(items_in_row);
    frame_rows = Divisor(rows_in_frame);
    share(count, unroll, one_slot, processors);
  }

  struct Start {
    int64_t full, low;
  };
  RLV2V_HD Start start(int64_t column) const { return {full.begin(column), low.begin(column)}; }

  RLV2V_HD Window item(const Start& start, uint32_t number) const {
    const uint32_t run = run_items(number), in_run = number - run * items_in_run;
    const uint32_t row = row_items(in_run), frame = frame_rows(row);
    const int64_t column = (in_run - row * items_in_row) * windows;
    const int64_t full_row = frame * height + 2 * (row - frame * rows_in_frame);
    return {start.full + run * full.run_stride + (full_row * width + 2 * column) * pixel_stride,
            start.low + run * low.run_stride + (row * low_width + column) * pixel_stride, width * pixel_stride,
            pixel_stride};
  }
};

}  // namespace rlv2v
