// SPDX-License-Identifier: Apache-2.0
#include "tests/testing/counting_allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

namespace wideberth::testing {
namespace {

std::atomic<int64_t> current{0}, peak{0}, largest{0};

void Raise(std::atomic<int64_t>* most, int64_t value) {
  int64_t seen = most->load();
  while (seen < value && !most->compare_exchange_weak(seen, value)) {
  }
}

struct Block {
  c10::DataPtr data;
  int64_t bytes;
};

void Release(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  current -= block->bytes;
}

class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {}
  c10::Allocator* inner() const { return inner_; }

  c10::DataPtr allocate(size_t bytes) override {
    auto block =
        std::make_unique<Block>(Block{inner_->allocate(bytes), static_cast<int64_t>(bytes)});
    Raise(&peak, current += block->bytes);
    Raise(&largest, block->bytes);
    void* const data = block->data.get();
    return {data, block.release(), &Release, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

 private:
  c10::Allocator* inner_;
};

CountingAllocator& Counting() {
  static auto* const allocator = new CountingAllocator(c10::GetCPUAllocator());
  return *allocator;
}

}  // namespace

CountedTensors::CountedTensors() {
  c10::SetCPUAllocator(&Counting());
  current = peak = largest = 0;
}
CountedTensors::~CountedTensors() { c10::SetCPUAllocator(Counting().inner()); }
int64_t CountedTensors::current_bytes() const { return current; }
int64_t CountedTensors::peak_bytes() const { return peak; }
int64_t CountedTensors::largest_bytes() const { return largest; }

}  // namespace wideberth::testing
