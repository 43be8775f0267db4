// One direction of a recurrent layer over all its time steps: the arguments of its kernels. float32 throughout.
// R rows in all, step after step: step t owns sizes[t] of them, those of the sequences that reach it, and sizes never
// grows. G·H values a row where all gates of H units stand side by side, torch's order.
#pragma once

#include "row_norm.h"
#include "types.h"

namespace normkit {

enum class RecurrentCell : int32_t { kLstm = 0, kTanh = 1, kRelu = 2, kGru = 3 };

// What of the pre-activation is normalized: nothing, the recurrent product, or the whole sum.
enum class RecurrentPlace : int32_t { kNone = 0, kProduct = 1, kSum = 2 };

// Scalar math of a step of an LSTM or RNN, with N the norm at `place`, if any, N_p that of W_ih x and N_c that of the cell:
//   in = N_p(p) + b                   b = b_ih + b_hh
//   q = W_hh h                        z = q at kProduct, else in + q
//   a = in + N(z) at kProduct, N(z) at kSum, else z
//   LSTM: (i, f, g, o) = a;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = W_hr (sigmoid(o) tanh(N_c(c')))
//   RNN:  h' = tanh(a), or relu(a)
// Of a GRU, whose r and z share norms and whose n has its own, N and M, N_p and M_p:
//   in_rz = N_p(p_rz) + b_rz          b_rz = b_ih + b_hh of these
//   in_n = M_p(p_n) + b_ih
//   q = W_hh h                        z_rz = q_rz at kProduct, else in_rz + q_rz
//   a_rz = in_rz + N(z_rz) at kProduct, N(z_rz) at kSum, else z_rz
//   q_n := q_n + b_hh, at kProduct M(q_n) + b_hh;   a_n = in_n + sigmoid(a_r) q_n, at kSum M of it
//   h' = (1 - sigmoid(a_z)) tanh(a_n) + sigmoid(a_z) h
struct Recurrent {
  RecurrentCell cell;
  RecurrentPlace place;
  RowNorm norm;
  bool has_norm_p;
  bool has_norm_c;
  int64_t n_hidden;
  int64_t n_out;  // P, the values of h: H, or what the projection leaves
  int64_t n_steps;
  int64_t n_sequences;
  const int64_t* sizes;  // [n_steps]
  double eps;
  const float* w_hh;  // [G·H, P]
  const float* w_hr;  // [P, H], of an LSTM alone; null without a projection
  const float* b_ih;  // [G·H]; may be null, each
  const float* b_hh;
  ConstArray norm_p_w;  // [G·H]
  ConstArray norm_p_b;
  ConstArray norm_w;  // [G·H]
  ConstArray norm_b;
  ConstArray norm_c_w;  // [H]
  ConstArray norm_c_b;
  const float* p;   // [R, G·H]; W_ih x
  const float* h0;  // [N, P]
  const float* c0;  // [N, H]
  ParallelFor parallel_for;

  __attribute__((always_inline)) constexpr int64_t gates() const {
    return (cell == RecurrentCell::kLstm ? 4 : cell == RecurrentCell::kGru ? 3 : 1) * n_hidden;
  }
};

struct RecurrentForward : Recurrent {
  float* y;  // [R, P]: h'
  // Kept for the backward; all null where there is none.
  float* p_stats;  // [R, stats_per_row]; null without N_p
  float* z;        // [R, G·H]
  float* z_stats;  // [R, stats_per_row]; null without a norm at `place`
  float* c;        // [R, H]: c'
  float* c_stats;  // null without N_c
  float* h_last;   // [N, P]: after the last step of each sequence
  float* c_last;   // [N, H]
};

struct RecurrentBackward : Recurrent {
  const float* p_stats;
  const float* z;
  const float* z_stats;
  const float* c;
  const float* c_stats;
  const float* y;
  const float* dy;       // [R, P]
  const float* dh_last;  // [N, P]
  const float* dc_last;  // [N, H]
  float* dp;   // [R, G·H]
  float* dz;   // [R, G·H]; may be dp where in is p + b and z is not q alone
  float* dh;   // [R, P]: the gradient of h', dy and what the next step hands back; null without a projection
  float* m;    // [R, H]: what is projected; null without a projection
  float* dh0;  // [N, P]
  float* dc0;  // [N, H]
  // Of the parameters; null where not needed. db is that of both biases.
  float* db;
  float* dnorm_p_w;
  float* dnorm_p_b;
  float* dnorm_w;
  float* dnorm_b;
  float* dnorm_c_w;
  float* dnorm_c_b;
};

struct GruForward : Recurrent {
  float* y;  // [R, H]: h'
  // Kept for the backward; all null where there is none.
  float* p_stats_rz;  // [R, stats_per_row], each; null without N_p
  float* p_stats_n;
  float* z_rz;     // [R, 2H]
  float* z_n;      // [R, H]: what M takes in; at kNone q_n
  float* q_n;      // [R, H] at kSum, else null
  float* stats_rz;  // null without norms at `place`
  float* stats_n;
  float* h_last;  // [N, H]
};

struct GruBackward : Recurrent {
  const float* p_stats_rz;
  const float* p_stats_n;
  const float* z_rz;
  const float* z_n;
  const float* q_n;
  const float* stats_rz;
  const float* stats_n;
  const float* y;
  const float* dy;       // [R, H]
  const float* dh_last;  // [N, H]
  float* dp;             // [R, 3H]
  float* dq;             // [R, 3H]: of W_hh h
  float* dh0;            // [N, H]
  // Of the parameters; null where not needed.
  float* db;  // [4H]: of both biases for r and z, of b_ih for n, of b_hh for n
  float* dnorm_p_w;
  float* dnorm_p_b;
  float* dnorm_w;
  float* dnorm_b;
};

struct RecurrentKernels {
  void (*forward)(const RecurrentForward&);
  void (*backward)(const RecurrentBackward&);
  void (*gru_forward)(const GruForward&);
  void (*gru_backward)(const GruBackward&);
};

void recurrent_forward(const RecurrentForward& args);
void recurrent_backward(const RecurrentBackward& args);
void gru_forward(const GruForward& args);
void gru_backward(const GruBackward& args);

}  // namespace normkit
