// How the threads of a CUDA grid share a tensor (bn_layout.h). Every statistic has a slot; a thread takes a vector of
// numbers at a time, all of one slot where channels are outermost, of as many neighbouring slots where they are
// innermost, and stays with its slots: their constants and sums are in its registers.
//
// A block is `across` neighbouring columns (vectors of slots) by `along` threads that share the items of each, and
// takes one chunk of them. An item is one vector, or the vectors of a row of 2x2 windows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/portability.h"
#include "norm/layout.h"

namespace rlv2v {

constexpr int kBnThreads = 256;
// Blocks for each multiprocessor: enough to fill it, few enough that merging their sums costs little.
constexpr int64_t kBnWaves = 4;

// Division by an invariant, of numbers below 2^31: Granlund and Montgomery (1994).
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

// The numbers of a column: where those of one slot, or of neighbouring slots, lie in a tensor.
struct BnColumns {
  int64_t columns;     // in all
  int64_t per_group;   // columns that start `width` numbers after one another; then comes the next group
  int64_t group_step;  // from group to group
  int64_t width;       // slots of a column, and of a group the numbers from one to the next
  int64_t run_step;    // from run to run of a column

  RLV2V_HD int64_t begin(int64_t column) const { return column / per_group * group_step + column % per_group * width; }
};

// `lanes`: numbers in a vector.
inline BnColumns columns_of(const BnLayout& layout, int lanes) {
  const int64_t frames = layout.per_frame ? 1 : layout.frames;
  if (!layout.channels_last) {
    const int64_t run = frames * layout.image();
    return {layout.statistics(), 1, run, 0, layout.channels * run};
  }
  const int64_t groups = layout.per_frame ? layout.batch * layout.frames : 1;
  const int64_t per_group = layout.channels / lanes;
  return {groups * per_group, per_group, layout.count() * layout.channels, lanes, 0};
}

struct BnTiling {
  BnColumns full;
  uint32_t items;        // of a column
  uint32_t chunk_items;  // of a block
  uint32_t chunks;
  int across, along;

  int64_t blocks() const { return (full.columns + across - 1) / across * chunks; }

  // Shares out `items` an item of which a thread takes `unroll` at a time.
  void share(int64_t items, int unroll, bool one_slot, int64_t processors) {
    this->items = static_cast<uint32_t>(items);
    along = 1;
    if (one_slot) {
      while (along < kBnThreads && along < items) along *= 2;
      across = kBnThreads / along;
    } else {
      // As many neighbours as are not wasted: at most a quarter of the threads has no column.
      across = 32;
      while (across > 1 && 3 * ((full.columns + across - 1) / across * across) > 4 * full.columns) across /= 2;
      along = kBnThreads / across;
    }
    const int64_t tiles = (full.columns + across - 1) / across, step = static_cast<int64_t>(along) * unroll;
    const int64_t most = (items + step - 1) / step;
    const int64_t wanted = std::clamp<int64_t>((kBnWaves * processors + tiles - 1) / tiles, 1, most);
    chunk_items = static_cast<uint32_t>((most + wanted - 1) / wanted * step);
    chunks = static_cast<uint32_t>((items + chunk_items - 1) / chunk_items);
  }
};

// One vector of a tensor.
struct BnPoint {
  int64_t at;
};

struct BnPoints : BnTiling {
  using Item = BnPoint;

  Divisor run_items;
  uint32_t items_in_run;
  int64_t item_step;

  BnPoints(const BnLayout& layout, int lanes, int unroll, int64_t processors) {
    full = columns_of(layout, lanes);
    const bool one_slot = !layout.channels_last;
    const int64_t count = one_slot ? layout.count() / lanes : layout.count();
    items_in_run = static_cast<uint32_t>(one_slot && !layout.per_frame ? count / layout.batch : count);
    run_items = Divisor(items_in_run);
    item_step = one_slot ? lanes : layout.channels;
    share(count, unroll, one_slot, processors);
  }

  struct Start {
    int64_t full;
  };
  RLV2V_HD Start start(int64_t column) const { return {full.begin(column)}; }

  RLV2V_HD BnPoint item(const Start& start, uint32_t number) const {
    const uint32_t run = run_items(number);
    return {start.full + run * full.run_step + (number - run * items_in_run) * item_step};
  }
};

// A row of 2x2 windows in a tensor, and the row of as many numbers in one of half its height and width.
struct BnWindow {
  int64_t at, low;
  int64_t down, right;  // in the large tensor, to the next row and to the next pixel
};

// Odd heights and widths are floored.
struct BnWindows2x2 : BnTiling {
  using Item = BnWindow;

  BnColumns half;
  Divisor run_items, row_items, frame_rows;
  uint32_t items_in_run, items_in_row, rows_in_frame;
  int64_t height, width, low_width;
  int64_t unit;     // from pixel to pixel
  int64_t windows;  // in an item

  BnWindows2x2(const BnLayout& layout, int lanes, int unroll, int64_t processors) {
    const BnLayout low = layout.resized(layout.height / 2, layout.width / 2);
    const bool one_slot = !layout.channels_last;
    full = columns_of(layout, lanes);
    half = columns_of(low, lanes);
    height = layout.height;
    width = layout.width;
    low_width = low.width;
    unit = one_slot ? 1 : layout.channels;
    windows = one_slot && lanes > 1 ? lanes / 2 : 1;
    const int64_t count = low.count() / windows;
    items_in_run = static_cast<uint32_t>(one_slot && !layout.per_frame ? count / layout.batch : count);
    items_in_row = static_cast<uint32_t>(low.width / windows);
    rows_in_frame = static_cast<uint32_t>(low.height);
    run_items = Divisor(items_in_run);
    row_items = Divisor(items_in_row);
    frame_rows = Divisor(rows_in_frame);
    share(count, unroll, one_slot, processors);
  }

  struct Start {
    int64_t full, half;
  };
  RLV2V_HD Start start(int64_t column) const { return {full.begin(column), half.begin(column)}; }

  RLV2V_HD BnWindow item(const Start& start, uint32_t number) const {
    const uint32_t run = run_items(number), in_run = number - run * items_in_run;
    const uint32_t row = row_items(in_run), frame = frame_rows(row);
    const int64_t column = (in_run - row * items_in_row) * windows;
    const int64_t full_row = frame * height + 2 * (row - frame * rows_in_frame);
    return {start.full + run * full.run_step + (full_row * width + 2 * column) * unit,
            start.half + run * half.run_step + (row * low_width + column) * unit, width * unit, unit};
  }
};

}  // namespace rlv2v
