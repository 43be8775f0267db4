#include "recurrent.h"

#include "kernels.h"

namespace normkit {

void recurrent_forward(const RecurrentForward& args) { kernels().recurrent.forward(args); }
void recurrent_backward(const RecurrentBackward& args) { kernels().recurrent.backward(args); }

}  // namespace normkit
