#define NK_ISA avx512
#define NK_ISA_NAME "avx512"
#define NK_TABLE kAvx512Kernels
#include "kernels_impl.h"
