// Working memory that outlives a call. The C library returns large blocks to the system when they are freed, and every
// next call then pays a page fault for each page it touches; here a block goes to a pool and the next taker has it
// warm. A block belongs to whoever took it until it is given back, so no two calls or threads share one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/portability.h"

namespace rlv2v {

// A block of at least `bytes`, aligned to a cache line, contents undefined; throws std::bad_alloc.
void* take_scratch(std::size_t bytes);
void give_scratch(void* block);

template <class T>
class Scratch {
 public:
  RLV2V_HD explicit Scratch(int64_t count)
      : data_(count > 0 ? static_cast<T*>(take_scratch(count * sizeof(T))) : nullptr) {}
  RLV2V_HD ~Scratch() {
    if (data_) give_scratch(data_);
  }
  RLV2V_HD Scratch(Scratch&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null when empty.
  RLV2V_HD T* get() const { return data_; }

 private:
  T* data_;
};

}  // namespace rlv2v
