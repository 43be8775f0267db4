#define NK_ISA portable
#define NK_ISA_NAME "portable"
#define NK_TABLE kPortableKernels
#include "kernels_impl.h"
