#define NK_ISA avx2
#define NK_ISA_NAME "avx2"
#define NK_TABLE kAvx2Kernels
#include "kernels_impl.h"
