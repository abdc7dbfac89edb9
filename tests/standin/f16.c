#include "common/f16.h"

#include "standin_f16.h"

uint16_t standin_f16_from_float(float x)
{
    return f16_from_f32(x);
}

float standin_f16_to_float(uint16_t x)
{
    return f16_to_f32(x);
}
