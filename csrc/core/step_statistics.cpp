#include "step_statistics.h"

#include "batch_lstm.h"

namespace normkit {
namespace {

// Columns that are taken together: their sums stay on the stack.
constexpr int64_t kColumns = 64;

void move_towards(float& running, double value, double momentum) {
  running = float(double(running) + momentum * (value - double(running)));
}

struct ColumnsOfSteps {
  const StepStatistics& a;
  int64_t first, last;

  const float* of_step(int64_t t) const { return a.stats + t * kColumnStats * a.n_cols; }
  double mean(int64_t t, int64_t j) const { return double(of_step(t)[j]) + double(of_step(t)[a.n_cols + j]); }
  double sum_of_squares(int64_t t, int64_t j) const { return double(of_step(t)[3 * a.n_cols + j]) * double(a.sizes[t]); }

  void own_place(int64_t t) const {
    float* const mean_at = a.running_mean + t * a.n_cols;
    float* const var_at = a.running_var + t * a.n_cols;
    const double per_degree = 1.0 / double(a.sizes[t] - 1);
    for (int64_t j = first; j < last; ++j) {
      move_towards(mean_at[j], mean(t, j), a.momentum);
      move_towards(var_at[j], sum_of_squares(t, j) * per_degree, a.momentum);
    }
  }

  // The steps from `begin` to `end` as one batch.
  void shared_place(int64_t begin, int64_t end) const {
    double n = 0.0, means[kColumns] = {}, squares[kColumns] = {};
    for (int64_t t = begin; t < end; ++t) {
      n += double(a.sizes[t]);
      for (int64_t j = first; j < last; ++j) means[j - first] += double(a.sizes[t]) * mean(t, j);
    }
    for (int64_t j = first; j < last; ++j) means[j - first] /= n;
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t j = first; j < last; ++j) {
        const double off = mean(t, j) - means[j - first];
        squares[j - first] += sum_of_squares(t, j) + double(a.sizes[t]) * off * off;
      }
    }
    const int64_t place = (a.n_places - 1) * a.n_cols;
    for (int64_t j = first; j < last; ++j) {
      move_towards(a.running_mean[place + j], means[j - first], a.momentum);
      move_towards(a.running_var[place + j], squares[j - first] / (n - 1.0), a.momentum);
    }
  }
};

// How many steps more than one sequence reaches: sizes never grow.
int64_t steps_of_batches(const StepStatistics& a) {
  int64_t t = 0;
  while (t < a.n_steps && a.sizes[t] > 1) ++t;
  return t;
}

}  // namespace

void update_step_statistics(const StepStatistics& args) {
  struct Call {
    const StepStatistics& a;
    int64_t own, end;
  };
  const int64_t end = steps_of_batches(args);
  const Call call = {args, end < args.n_places - 1 ? end : args.n_places - 1, end};
  const auto some_columns = [](int64_t begin, int64_t last, void* context) {
    const Call& c = *static_cast<const Call*>(context);
    for (int64_t block = begin; block < last; ++block) {
      const int64_t first = block * kColumns;
      const ColumnsOfSteps columns = {c.a, first, first + kColumns < c.a.n_cols ? first + kColumns : c.a.n_cols};
      for (int64_t t = 0; t < c.own; ++t) columns.own_place(t);
      if (c.own < c.end) columns.shared_place(c.own, c.end);
    }
  };
  args.parallel_for(0, ceil_div(args.n_cols, kColumns), grain_for(5 * end * kColumns), some_columns, const_cast<Call*>(&call));
}

}  // namespace normkit
