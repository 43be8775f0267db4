// What the batches of a call add to the running statistics of recurrent BatchNorm. Steps and columns as in batch_lstm.h.
#pragma once

#include "types.h"

namespace normkit {

// Scalar math, for a step that n > 1 sequences reach:
//   mean = m0 + dm;  var' = var n / (n - 1);  running := running + momentum (of the batch - running)
// The steps from n_places - 1 on share the last place, into which goes what all their values have together:
//   mean = sum(n mean) / sum(n);  var' = sum((n - 1) var' + n (mean of the step - mean)^2) / (sum(n) - 1)
struct StepStatistics {
  int64_t n_cols;
  int64_t n_steps;
  const int64_t* sizes;  // [T]
  int64_t n_places;
  double momentum;
  const float* stats;  // [T, 4, C], as the forward keeps them
  float* running_mean;  // [n_places, C]
  float* running_var;
  ParallelFor parallel_for;
};

void update_step_statistics(const StepStatistics& args);

}  // namespace normkit
