#include "batch_lstm.h"
#include "recurrent.h"

#include "kernels.h"

namespace normkit {

void recurrent_forward(const RecurrentForward& args) { kernels().recurrent.forward(args); }
void recurrent_backward(const RecurrentBackward& args) { kernels().recurrent.backward(args); }
void gru_forward(const GruForward& args) { kernels().recurrent.gru_forward(args); }
void gru_backward(const GruBackward& args) { kernels().recurrent.gru_backward(args); }
void batch_lstm_forward(const BatchLstmForward& args) { kernels().batch_lstm.forward(args); }
void batch_lstm_backward(const BatchLstmBackward& args) { kernels().batch_lstm.backward(args); }

}  // namespace normkit
