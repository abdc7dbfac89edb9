/* All kernels as one module. */
#include "mlx.c"
#include "encode_trellis.c"
#include "encode_lloyd.c"
#include "encode_mlx.c"
#include "decode.c"
#include "attend.c"
#include "attend_ends.c"
#include "append.c"
