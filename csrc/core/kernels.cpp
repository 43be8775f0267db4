#include "kernels.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace normkit {
namespace {

#define NK_TABLE(ISA)                                                                      \
  {#ISA,                   ISA::row_kernels,          ISA::channel_kernels, ISA::recurrent_kernels, \
   ISA::layer_norm2d_kernels, ISA::batch_lstm_kernels}
constexpr Kernels kPortable = NK_TABLE(portable);
#if defined(NORMKIT_X86_KERNELS)
constexpr Kernels kAvx2 = NK_TABLE(avx2);
constexpr Kernels kAvx512 = NK_TABLE(avx512);
#endif
#undef NK_TABLE

#if defined(NORMKIT_X86_KERNELS)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_avx2();
}
#endif

const Kernels& choose() {
  const Kernels* chosen = find_kernels(std::getenv("NORMKIT_ISA"));
  return chosen != nullptr ? *chosen : *find_kernels(nullptr);
}

}  // namespace

const Kernels* find_kernels(const char* wanted) {
  const bool any = wanted == nullptr || *wanted == '\0';
#if defined(NORMKIT_X86_KERNELS)
  if ((any || std::strcmp(wanted, "avx512") == 0) && has_avx512()) return &kAvx512;
  if ((any || std::strcmp(wanted, "avx2") == 0) && has_avx2()) return &kAvx2;
#endif
  if (any || std::strcmp(wanted, "portable") == 0) return &kPortable;
  return nullptr;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

void advise_huge_pages(void* data, int64_t bytes) {
  constexpr int64_t kLeast = int64_t(4) << 20;  // the size from which NumPy advises, too
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kLeast) return;
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + uintptr_t(bytes)) / kPage * kPage;
  // Refused where the kernel has no huge pages: then nothing changes.
  (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes, (void)kLeast;
#endif
}

void* allocate(int64_t bytes) { return ::operator new(static_cast<size_t>(bytes), std::align_val_t(64)); }
void release(void* memory) { ::operator delete(memory, std::align_val_t(64)); }

}  // namespace normkit
