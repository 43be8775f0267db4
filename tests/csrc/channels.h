// The channel kernels, as driver.cpp runs them.
#pragma once

#include "support.h"

namespace channels {

struct Case {
  ChannelShape shape;
  DType parameters;
  bool affine, given, running, hard, masked;
  Activation activation;
  bool residual;
};

// Two positions of three count, but none of the first sample and the last where there are others.
inline std::vector<uint8_t> some_kept(const ChannelShape& shape) {
  std::vector<uint8_t> mask;
  for (int64_t i = 0; i < shape.n_samples * shape.n_positions; ++i) {
    const int64_t sample = i / shape.n_positions;
    const bool outer = sample == 0 || sample == shape.n_samples - 1;
    mask.push_back(i % 3 != 1 && !(outer && shape.n_samples > 2));
  }
  return mask;
}

inline MutableArray array(Bytes& bytes, DType dtype, bool wanted) {
  return wanted ? MutableArray{bytes.data(), dtype} : MutableArray{};
}

// Statistics that normalize: a variance is not negative.
inline Bytes variances(int64_t n, DType dtype) {
  Bytes bytes = numbers(n, dtype, 8, false);
  const size_t size = size_t(size_of(dtype));
  for (size_t last = size - 1; last < bytes.size(); last += size) bytes[last] &= 0x7f;
  return bytes;
}

inline std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  const int64_t n = c.shape.size(), n_channels = c.shape.n_channels;
  const DType wide = c.shape.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const Bytes x = numbers(n, c.shape.dtype, 1, c.hard), dy = numbers(n, c.shape.dtype, 2, false);
  const Bytes residual = numbers(c.residual ? n : 0, c.shape.dtype, 3, false);
  const Bytes w = numbers(n_channels, c.parameters, 5, false), b = numbers(n_channels, c.parameters, 6, false);
  const Bytes mean = numbers(n_channels, wide, 7, false), var = variances(n_channels, wide);
  Bytes running_mean = mean, running_var = var;
  Bytes y(x.size()), dx(x.size()), dw(w.size()), db(b.size());
  Bytes stats(size_t(c.shape.slabs() * kStatsPerSlab * size_of(wide)));

  ChannelForward f{};
  f.shape = c.shape, f.eps = 1e-5, f.x = x.data(), f.y = y.data(), f.stats = stats.data(), f.parallel_for = parallel_for;
  if (c.affine) f.w = {w.data(), c.parameters}, f.b = {b.data(), c.parameters};
  if (c.given) f.mean = {mean.data(), wide}, f.var = {var.data(), wide};
  f.activation = c.activation;
  if (c.residual) f.residual = residual.data();
  f.running = {array(running_mean, wide, c.running), array(running_var, wide, c.running), 0.1};
  const std::vector<uint8_t> mask = some_kept(c.shape);
  if (c.masked) f.mask = mask.data();
  kernels.channels.forward(f);

  ChannelBackward g{};
  g.shape = c.shape, g.eps = f.eps, g.constant_stats = c.given, g.dy = dy.data(), g.x = x.data(), g.stats = stats.data();
  g.mask = f.mask;
  g.w = f.w, g.b = f.b, g.dx = dx.data(), g.parallel_for = parallel_for;
  // After a residual the caller takes dy through relu.
  g.activation = c.residual ? Activation::kNone : c.activation;
  g.dw = array(dw, c.parameters, c.affine), g.db = array(db, c.parameters, c.affine);
  kernels.channels.backward(g);
  std::vector<Bytes> results{y, stats, dx, dw, db, running_mean, running_var};
  const DType dtypes[] = {c.shape.dtype, wide, c.shape.dtype, c.parameters, c.parameters, wide, wide};
  for (size_t i = 0; i < results.size(); ++i) unify_nan(results[i], dtypes[i]);
  return results;
}

// Whether every instruction set computes a case to the same bits.
inline bool same_bits(const std::vector<const Kernels*>& all, const Case& c, ParallelFor parallel_for) {
  const std::vector<Bytes> expected = run(*all[0], c, serial);
  for (const Kernels* kernels : all) {
    if (run(*kernels, c, parallel_for) == expected) continue;
    const ChannelShape& s = c.shape;
    std::printf("%s differs: layout %d dtype %d shape %lld x %lld x %lld groups %lld activation %d residual %d hard %d masked %d\n",
                kernels->isa, int(s.layout), int(s.dtype), (long long)s.n_samples, (long long)s.n_channels,
                (long long)s.n_positions, (long long)s.n_groups, int(c.activation), int(c.residual), int(c.hard), int(c.masked));
    return false;
  }
  return true;
}

struct Epilogue {
  Activation activation;
  bool residual;
};

// How many cases every instruction set computed to the same bits; -1 if one differs.
inline int check(const std::vector<const Kernels*>& all) {
  const Epilogue epilogues[] = {{Activation::kNone, false},
                                {Activation::kRelu, false},
                                {Activation::kSilu, false},
                                {Activation::kGelu, false},
                                {Activation::kNone, true},
                                {Activation::kRelu, true}};
  struct Sizes {
    int64_t n_samples, n_channels, n_positions;
    bool all_epilogues;
  };
  int cases = 0;
  for (ChannelLayout layout : {ChannelLayout::kPlanes, ChannelLayout::kPixels}) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
      for (const Sizes s : {Sizes{2, 3, 1, false}, Sizes{3, 6, 5, true}, Sizes{34, 17, 1, false}, Sizes{5, 4, 49, true},
                            Sizes{2, 34, 33, false}, Sizes{1, 2, 17000, false}}) {
        for (int64_t n_groups : {int64_t(0), int64_t(1), s.n_channels % 2 ? int64_t(0) : s.n_channels / 2, s.n_channels}) {
          for (int variant = 0; variant < 7; ++variant) {
            if (s.n_positions > 1000 && (variant == 2 || variant == 3)) continue;
            const bool masked = variant >= 4;  // 5: with what is hard; 6: in evaluation
            const bool given = (variant == 2 || variant == 6) && n_groups == 0;
            const bool running = (variant == 1 || variant == 4) && (n_groups == 0 || n_groups == s.n_channels);
            for (const Epilogue& e : epilogues) {
              if (!s.all_epilogues && &e != epilogues) break;
              const Case c{{layout, dtype, s.n_samples, s.n_channels, s.n_positions, n_groups},
                           variant == 1 && dtype != DType::kFloat64 ? DType::kFloat32 : dtype,
                           variant != 3, given, running, variant == 1 || variant == 5, masked, e.activation, e.residual};
              if (!same_bits(all, c, variant == 0 ? three_threads : serial)) return -1;
              ++cases;
            }
          }
        }
      }
    }
  }
  return cases;
}

}  // namespace channels
