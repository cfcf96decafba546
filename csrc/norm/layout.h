// How the values behind each statistic of a tensor (B, C, T, H, W) lie in memory. A statistic is over (B, T, H, W), or,
// per frame, over (H, W).
//
// A slice is what one thread can work on alone. It is the values of one statistic where channels are outermost. Where
// they are innermost (channels_last_3d), it is the whole tensor, or, per frame, one frame of all channels. It consists
// of blocks. A block is one frame and one run of memory: H * W rows of `groups` numbers each, where a group has its own
// statistic.
#pragma once

#include <cstdint>

#include "common/portability.h"

namespace rlv2v {

struct NormLayout {
  int64_t batch, channels, frames, height, width;
  bool channels_last, per_frame;

  RLV2V_HD int64_t image() const { return height * width; }
  // Neighbouring numbers that belong to different statistics: the channels, where they are innermost.
  RLV2V_HD int64_t groups() const { return channels_last ? channels : 1; }
  RLV2V_HD int64_t blocks() const { return per_frame ? 1 : batch * frames; }
  RLV2V_HD int64_t slices() const {
    const int64_t outer = channels_last ? 1 : channels;
    return per_frame ? batch * frames * outer : outer;
  }
  RLV2V_HD int64_t block_size() const { return image() * groups(); }
  RLV2V_HD int64_t statistics() const { return per_frame ? batch * channels * frames : channels; }
  // Values behind one statistic.
  RLV2V_HD int64_t count() const { return blocks() * image(); }
  RLV2V_HD int64_t numel() const { return batch * channels * frames * image(); }

  // Distance in elements from the start of the tensor to a block of a slice.
  RLV2V_HD int64_t offset(int64_t slice, int64_t block) const {
    // At most one of the two numbers differs from zero.
    if (channels_last || per_frame) return (slice + block) * block_size();
    return ((block / frames * channels + slice) * frames + block % frames) * block_size();
  }

  // The number of a group's statistic in (C,) or (B, C, T), and of its weight in (C,).
  RLV2V_HD int64_t statistic(int64_t slice, int64_t group) const {
    if (!channels_last) return slice;
    return per_frame ? (slice / frames * channels + group) * frames + slice % frames : group;
  }
  RLV2V_HD int64_t channel(int64_t slice, int64_t group) const {
    if (channels_last) return group;
    return per_frame ? slice / frames % channels : slice;
  }

  // A tensor with the same batch, channels and frames, of another height and width.
  RLV2V_HD NormLayout resized(int64_t new_height, int64_t new_width) const {
    return {batch, channels, frames, new_height, new_width, channels_last, per_frame};
  }
  // Half the height and width, rounded down: a pixel for each 2x2 window.
  RLV2V_HD NormLayout halved() const { return resized(height / 2, width / 2); }
};

}  // namespace rlv2v
