#include "common/scratch.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace rlv2v {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// From this size on, rounding up to huge pages wastes at most an eighth.
constexpr std::size_t kHugeBlock = 8 * kHugePage;
// Idle memory kept, unless RLV2V_FAST_SCRATCH_MB says otherwise; the block idle longest goes first.
constexpr std::size_t kDefaultLimit = std::size_t{512} << 20;

// It lies in the cache line before the memory that is handed out.
struct Header {
  std::size_t bytes;
};

void* after(Header* header) { return reinterpret_cast<char*>(header) + kLine; }
Header* before(void* block) { return reinterpret_cast<Header*>(static_cast<char*>(block) - kLine); }

std::size_t round_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

Header* allocate(std::size_t bytes) {
  const bool large = bytes >= kHugeBlock;
  const std::size_t total = round_up(bytes + kLine, large ? kHugePage : kLine);
  void* memory = std::aligned_alloc(large ? kHugePage : kLine, total);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // A hint: one fault for 512 pages where the system allows it.
  if (large) madvise(memory, total, MADV_HUGEPAGE);
#endif
  return new (memory) Header{total - kLine};
}

class Pool {
 public:
  void* take(std::size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      auto best = idle_.end();
      for (auto it = idle_.begin(); it != idle_.end(); ++it)
        if (fits(**it, bytes) && (best == idle_.end() || (*it)->bytes < (*best)->bytes)) best = it;
      if (best != idle_.end()) {
        Header* header = *best;
        idle_.erase(best);
        idle_bytes_ -= header->bytes;
        return after(header);
      }
    }
    return after(allocate(bytes));
  }

  void give(void* block) {
    Header* header = before(block);
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(header);
    idle_bytes_ += header->bytes;
    while (idle_bytes_ > limit_) {
      idle_bytes_ -= idle_.front()->bytes;
      std::free(idle_.front());
      idle_.erase(idle_.begin());
    }
  }

 private:
  // A block much larger than what is asked for is kept for a call that needs it.
  static bool fits(const Header& header, std::size_t bytes) {
    return header.bytes >= bytes && header.bytes <= bytes + bytes / 4 + (bytes < kHugePage ? bytes : kHugePage);
  }

  static std::size_t limit() {
    const char* text = std::getenv("RLV2V_FAST_SCRATCH_MB");
    return text ? std::strtoull(text, nullptr, 10) << 20 : kDefaultLimit;
  }

  std::mutex mutex_;
  std::vector<Header*> idle_;  // longest idle first
  std::size_t idle_bytes_ = 0;
  const std::size_t limit_ = limit();
};

// Never destroyed: tensors that live in blocks may outlive every static object.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

void* take_scratch(std::size_t bytes) { return pool().take(bytes); }
void give_scratch(void* block) { pool().give(block); }

}  // namespace rlv2v
