#include "kernels.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#if defined(NORMKIT_X86_KERNELS)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace normkit {
namespace {

#define NK_TABLE(ISA)                                                                      \
  {#ISA,                   ISA::row_kernels,          ISA::channel_kernels, ISA::recurrent_kernels, \
   ISA::layer_norm2d_kernels, ISA::batch_lstm_kernels, ISA::product_kernels}
constexpr Kernels kPortable = NK_TABLE(portable);
#if defined(NORMKIT_X86_KERNELS)
constexpr Kernels kAvx2 = NK_TABLE(avx2);
constexpr Kernels kAvx512 = NK_TABLE(avx512);

// bfloat16 by kernels that round to it with an instruction, all else as under AVX-512.
template <class Args>
bool is_bfloat16(const Args& args) {
  if constexpr (requires { args.shape; }) {
    return args.shape.dtype == DType::kBFloat16;
  } else {
    return args.dtype == DType::kBFloat16;
  }
}
template <const auto& kOfBFloat16, const auto& kOthers>
constexpr std::remove_cvref_t<decltype(kOthers)> kSplit = {
    [](const auto& args) { (is_bfloat16(args) ? kOfBFloat16 : kOthers).forward(args); },
    [](const auto& args) { (is_bfloat16(args) ? kOfBFloat16 : kOthers).backward(args); },
};
constexpr Kernels kAvx512Bf16 = {"avx512_bf16",
                                 kSplit<avx512_bf16::row_kernels, avx512::row_kernels>,
                                 kSplit<avx512_bf16::channel_kernels, avx512::channel_kernels>,
                                 avx512::recurrent_kernels,
                                 kSplit<avx512_bf16::layer_norm2d_kernels, avx512::layer_norm2d_kernels>,
                                 avx512::batch_lstm_kernels,
                                 avx512::product_kernels};
#endif
#undef NK_TABLE

#if defined(NORMKIT_X86_KERNELS)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_avx2();
}
bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // asked of the processor itself: not every compiler knows the name
  return has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1) != 0;
}
#endif

const Kernels& choose() {
  const Kernels* chosen = find_kernels(std::getenv("NORMKIT_ISA"));
  return chosen != nullptr ? *chosen : *find_kernels(nullptr);
}

// What the last cache of this processor holds; 0 where the system does not say. (glibc's sysconf gives that of all of a
// processor's caches together on some.)
int64_t last_cache_bytes() {
#if defined(__linux__)
  std::FILE* const file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
  if (file == nullptr) return 0;
  long long size = 0;
  char unit = 0;
  const int n_read = std::fscanf(file, "%lld%c", &size, &unit);
  std::fclose(file);
  if (n_read == 2 && size > 0) return size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
#endif
  return 0;
}

int64_t choose_stream_bytes() {
  const char* const wanted = std::getenv("NORMKIT_STREAM_BYTES");
  if (wanted != nullptr && *wanted != '\0') {
    const int64_t least = std::atoll(wanted);
    return least > 0 ? least : INT64_MAX;
  }
  const int64_t cache = last_cache_bytes();
  return cache > 0 ? cache / 2 + 1 : INT64_MAX;
}

}  // namespace

const Kernels* find_kernels(const char* wanted) {
  const bool any = wanted == nullptr || *wanted == '\0';
#if defined(NORMKIT_X86_KERNELS)
  if ((any || std::strcmp(wanted, "avx512_bf16") == 0) && has_avx512_bf16()) return &kAvx512Bf16;
  if ((any || std::strcmp(wanted, "avx512") == 0) && has_avx512()) return &kAvx512;
  if ((any || std::strcmp(wanted, "avx2") == 0) && has_avx2()) return &kAvx2;
#endif
  if (any || std::strcmp(wanted, "portable") == 0) return &kPortable;
  return nullptr;
}

bool is_amd_with_avx512() {
#if defined(NORMKIT_X86_KERNELS)
  return __builtin_cpu_is("amd") && has_avx512();
#else
  return false;
#endif
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

int64_t stream_bytes() {
  static const int64_t chosen = choose_stream_bytes();
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

void keep_freed_memory() {
  constexpr size_t kLargestFollowed = size_t(32) << 20, kMargin = 65536;
  void* volatile block = std::malloc(kLargestFollowed - kMargin);  // volatile: or both calls are left out
  std::free(block);
}

void* allocate(int64_t bytes) { return ::operator new(static_cast<size_t>(bytes), std::align_val_t(64)); }
void release(void* memory) { ::operator delete(memory, std::align_val_t(64)); }

}  // namespace normkit
