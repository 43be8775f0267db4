// Runs every kernel of the instruction sets that are named over heap blocks of exactly the size that a call may touch, so
// that AddressSanitizer sees any access beyond, and compares the bits between them.
// Prints "ok" and what it ran, or says what differed and returns 1.
#include "batch_lstm.h"
#include "channels.h"
#include "pixels.h"
#include "products.h"
#include "recurrent.h"
#include "rows.h"

int main(int count, char** isas) {
  std::vector<const Kernels*> all;
  for (int i = 1; i < count; ++i) {
    const Kernels* const found = find_kernels(isas[i]);
    if (found == nullptr) {
      std::printf("this processor has no %s\n", isas[i]);
      return 1;
    }
    all.push_back(found);
  }
  const int of_rows = rows::check(all);
  const int of_channels = channels::check(all);
  const int of_pixels = pixels::check(all);
  const int of_recurrent = recurrent::check(all);
  const int of_batch_lstm = batch_lstm::check(all);
  const int of_products = products::check(all);
  if (of_products < 0 || of_batch_lstm < 0 || of_rows < 0 || of_channels < 0 || of_pixels < 0 || of_recurrent < 0) return 1;
  std::printf("ok: %d cases of rows, %d of channels, %d of pixels, %d recurrent, %d of BatchNormLSTM, %d products, on", of_rows,
              of_channels, of_pixels, of_recurrent, of_batch_lstm, of_products);
  for (const Kernels* kernels : all) std::printf(" %s", kernels->isa);
  std::printf("\n");
}
