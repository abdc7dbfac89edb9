/* All kernels as one module. */
#include "mlx.c"
#include "encode.c"
#include "decode.c"
#include "attend.c"
