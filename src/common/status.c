#include "tqkv.h"

const char *tqkv_version(void)
{
    return TQKV_VERSION;
}

const char *tqkv_status_string(tqkv_status status)
{
    switch (status) {
    case TQKV_OK:
        return "success";
    case TQKV_ERROR_ARGUMENT:
        return "an argument is null or outside its range";
    case TQKV_ERROR_HEAD_DIM_RANGE:
        return "head_dim must be from 16 to 1024";
    case TQKV_ERROR_HEAD_DIM_STEP:
        return "head_dim must be a multiple of 16";
    case TQKV_ERROR_HEAD_DIM_ODD:
        return "the odd part of head_dim must be 1, 3, 5, 7 or 9, "
               "for which a Hadamard matrix is built in";
    case TQKV_ERROR_HEAD_DIM_POWER:
        return "an mlx format needs a head_dim that is a power of two";
    case TQKV_ERROR_FORMAT_NAME:
        return "no format has this name; names are tq2 to tq8, lm2 to lm4, mlx4, "
               "mlx5, mlx6 and mlx8";
    case TQKV_ERROR_FORMAT:
        return "the fields of the format contradict each other";
    case TQKV_ERROR_BITS:
        return "the bits of an mlx codebook must be 4, 5, 6 or 8";
    case TQKV_ERROR_OVERFLOW:
        return "a size is too large for this machine's address space";
    case TQKV_ERROR_BUFFER:
        return "an output buffer is too small";
    case TQKV_ERROR_MEMORY:
        return "out of memory";
    case TQKV_ERROR_IO:
        return "reading or writing failed";
    case TQKV_ERROR_TRUNCATED:
        return "the data ends before it should";
    case TQKV_ERROR_MAGIC:
        return "the data does not begin as a tqkv file does";
    case TQKV_ERROR_ENDIAN:
        return "the data was written with reversed byte order";
    case TQKV_ERROR_VERSION:
        return "the data has a version that this library does not know";
    case TQKV_ERROR_CHECKSUM:
        return "a checksum does not match: the data is damaged";
    case TQKV_ERROR_CORRUPT:
        return "the data contradicts itself";
    case TQKV_ERROR_PROFILE:
        return "the profile's shape differs from the data's";
    case TQKV_ERROR_STATE:
        return "the call is out of order";
    case TQKV_ERROR_GONE:
        return "tokens that would be needed have been overwritten";
    case TQKV_ERROR_MODEL:
        return "the data belongs to another model";
    case TQKV_ERROR_NO_DEVICE:
        return "there is no such device, or its driver is missing";
    case TQKV_ERROR_DEVICE:
        return "the device or its driver failed";
    case TQKV_ERROR_COMPILE:
        return "a kernel does not compile";
    }
    return "unknown status";
}
