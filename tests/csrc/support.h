// What the drivers of the kernels share: numbers of every dtype on the heap, and parallel_for without torch.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "../../csrc/core/kernels.h"

using namespace normkit;

// A parallel_for that cuts the range differently from torch's: ranges of one item, on three threads.
inline void three_threads(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([=] {
      for (int64_t i = begin + t; i < end; i += 3) fn(i, i + 1, context);
    });
  }
  for (std::thread& t : threads) t.join();
}
inline void serial(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) { fn(begin, end, context); }

using Bytes = std::vector<unsigned char>;

inline uint32_t next_random(uint32_t& state) { return state = state * 1664525u + 1013904223u; }

// n numbers between -2 and 2 of the dtype, and now and then something harder.
inline Bytes numbers(int64_t n, DType dtype, uint32_t seed, bool hard) {
  Bytes bytes(size_t(n * size_of(dtype)));
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t r = next_random(seed);
    if (dtype == DType::kFloat32 || dtype == DType::kBFloat16) {
      uint32_t bits = 0x3f000000u + (r >> 8) % 0x01000000u + (r & 0x80000000u);
      if (hard && r % 61 == 0) bits = r % 122 == 0 ? 0x7f800000u : 0x00000001u;
      if (hard && r % 67 == 0) bits = 0x7f000000u;
      const uint16_t upper = uint16_t(bits >> 16);
      if (dtype == DType::kFloat32) std::memcpy(&bytes[size_t(4 * i)], &bits, 4);
      else std::memcpy(&bytes[size_t(2 * i)], &upper, 2);
    } else if (dtype == DType::kFloat16) {
      const uint16_t bits = hard && r % 61 == 0 ? 0x0001u : uint16_t(0x3800u + (r >> 8) % 0x0800u);
      std::memcpy(&bytes[size_t(2 * i)], &bits, 2);
    } else {
      const double value = double(int32_t(r)) / 1073741824.0;
      std::memcpy(&bytes[size_t(8 * i)], &value, 8);
    }
  }
  return bytes;
}

// One NaN for all: which of its bits are set is the processor's and the compiler's choice.
inline void unify_nan(Bytes& bytes, DType dtype) {
  const size_t size = size_t(size_of(dtype));
  for (size_t i = 0; i < bytes.size(); i += size) {
    uint64_t bits = 0;
    std::memcpy(&bits, &bytes[i], size);
    const uint64_t sign = uint64_t(1) << (8 * size - 1);
    const uint64_t infinity = dtype == DType::kFloat64    ? 0x7ff0000000000000u
                              : dtype == DType::kFloat32  ? 0x7f800000u
                              : dtype == DType::kBFloat16 ? 0x7f80u
                                                          : 0x7c00u;
    if ((bits & ~sign) > infinity) std::memset(&bytes[i], 0xff, size);
  }
}
