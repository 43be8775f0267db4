#include "isa.h"

namespace normkit::NK_ISA {

#include "../dropout.h"
#include "../rows_stats.h"
#include "../rows_forward.h"
#include "../rows_backward.h"
#include "../exp.h"
#include "../channel_stats.h"
#include "../gates.h"
#include "../gemm.h"
#include "../recurrent_steps.h"
#include "../recurrent_inputs.h"
#include "../recurrent_sums.h"
#include "../recurrent_forward.h"
#include "../recurrent_backward.h"
#include "../recurrent_gru.h"
#include "../batch_lstm_columns.h"
#include "../batch_lstm_forward.h"
#include "../batch_lstm_block.h"
#include "../batch_lstm_backward.h"

extern const RecurrentKernels recurrent_kernels = {recurrent_forward, recurrent_backward, gru_forward, gru_backward};
extern const BatchLstmKernels batch_lstm_kernels = {batch_lstm_forward, batch_lstm_backward};

}  // namespace normkit::NK_ISA
