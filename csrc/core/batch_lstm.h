// One direction of an LSTM with recurrent BatchNorm over all its time steps: the arguments of its kernels. float32; rows
// as in recurrent.h, which has the other letters. n is the number of sequences that reach a step.
#pragma once

#include "recurrent.h"
#include "types.h"

namespace normkit {

// What is kept of each column of C at each step: m0, dm, rstd, var, where m0 + dm is the mean to twice the precision
// and var the population variance. [T, 4, C]
static constexpr int64_t kColumnStats = 4;

// BatchNorm at one place; all null where the place has none.
struct ColumnNorm {
  const float* w;             // [C]
  const float* b;             // [C]; may be null
  const float* running_mean;  // [n_places, C]
  const float* running_var;
  float* stats;  // [T, 4, C]: what normalized
};

// Scalar math of a step:
//   q = W_hh h;   p = N_ih(u) + b;   a = p + N_hh(q), or N_sum(p + q), or p + q
//   (i, f, g, o) = a;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = W_hr (sigmoid(o) tanh(N_c(c')))
// N normalizes a column over the n sequences of the step where `by_batch` and n > 1, else by the running statistics of
// place min(step, n_places - 1).
struct BatchLstm {
  int64_t n_hidden;
  int64_t n_out;  // P
  int64_t n_steps;
  int64_t n_sequences;
  const int64_t* sizes;  // [T]
  int64_t n_places;
  bool by_batch;
  double eps;
  const float* w_hh;  // [4H, P]
  const float* w_hr;  // [P, H]; null without a projection
  ColumnNorm ih;      // [4H]; its bias is that of the layer
  ColumnNorm hh;
  ColumnNorm sum;
  ColumnNorm c;     // [H]
  const float* u;   // [R, 4H]: W_ih x, with all biases where ih has no norm
  const float* h0;  // [N, P]
  const float* c0;  // [N, H]
  ParallelFor parallel_for;
};

struct BatchLstmForward : BatchLstm {
  float* y;  // [R, P]: h'
  float* z;  // [R, 4H]: q, or p + q where hh has no norm; null where no backward follows
  float* cells;  // [R, H]: c'; null where no backward follows
  float* h_last;
  float* c_last;
  // Set where a variance leaves the range in which this arithmetic is exact; what was computed is then void.
  bool* out_of_range;
};

struct BatchLstmBackward : BatchLstm {
  const float* z;
  const float* cells;
  const float* dy;       // [R, P]
  const float* dh_last;  // [N, P]
  const float* dc_last;  // [N, H]
  float* du;             // [R, 4H]
  float* dz;             // [R, 4H]: of q; du itself where neither ih nor hh has a norm
  float* dh;             // [R, P] and
  float* m;              // [R, H] as in recurrent.h; null without a projection
  float* dh0;
  float* dc0;
  // [4H] or [H]; null where the place has no norm. Those of b are also written where b is null.
  float *dw_ih, *db_ih, *dw_hh, *db_hh, *dw_sum, *db_sum, *dw_c, *db_c;
};

struct BatchLstmKernels {
  void (*forward)(const BatchLstmForward&);
  void (*backward)(const BatchLstmBackward&);
};

void batch_lstm_forward(const BatchLstmForward& args);
void batch_lstm_backward(const BatchLstmBackward& args);

}  // namespace normkit
