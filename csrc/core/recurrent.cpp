#include "batch_lstm.h"
#include "recurrent.h"

#include <initializer_list>

#include "kernels.h"

namespace normkit {
namespace {

template <class Args>
int64_t rows_of(const Args& args) {
  int64_t rows = 0;
  for (int64_t t = 0; t < args.n_steps; ++t) rows += args.sizes[t];
  return rows;
}

// What is about to be written, of so many values each; null where a call has not got it.
void advise(int64_t values, std::initializer_list<float*> arrays) {
  for (float* array : arrays) {
    if (array != nullptr) advise_huge_pages(array, values * int64_t(sizeof(float)));
  }
}

}  // namespace

void recurrent_forward(const RecurrentForward& args) {
  const int64_t rows = rows_of(args);
  advise(rows * args.n_out, {args.y});
  advise(rows * args.n_hidden, {args.c});
  advise(rows * args.gates(), {args.z});
  kernels().recurrent.forward(args);
}

void recurrent_backward(const RecurrentBackward& args) {
  const int64_t rows = rows_of(args);
  advise(rows * args.n_hidden, {args.m});
  advise(rows * args.n_out, {args.dh});
  advise(rows * args.gates(), {args.dp});
  if (args.dz != args.dp) advise(rows * args.gates(), {args.dz});
  kernels().recurrent.backward(args);
}

void gru_forward(const GruForward& args) {
  const int64_t units = rows_of(args) * args.n_hidden;
  advise(units, {args.y, args.z_n, args.q_n});
  advise(2 * units, {args.z_rz});
  kernels().recurrent.gru_forward(args);
}

void gru_backward(const GruBackward& args) {
  const int64_t units = rows_of(args) * args.n_hidden;
  advise(3 * units, {args.dp, args.dq});
  kernels().recurrent.gru_backward(args);
}

void batch_lstm_forward(const BatchLstmForward& args) {
  const int64_t rows = rows_of(args);
  advise(rows * args.n_out, {args.y});
  advise(rows * args.n_hidden, {args.cells});
  advise(4 * rows * args.n_hidden, {args.z});
  kernels().batch_lstm.forward(args);
}

void batch_lstm_backward(const BatchLstmBackward& args) {
  const int64_t rows = rows_of(args);
  advise(rows * args.n_out, {args.dh});
  advise(rows * args.n_hidden, {args.m});
  advise(4 * rows * args.n_hidden, {args.du});
  if (args.dz != args.du) advise(4 * rows * args.n_hidden, {args.dz});
  kernels().batch_lstm.backward(args);
}

}  // namespace normkit
