/* src/common/f16.h is C. */
#include <stdint.h>

uint16_t standin_f16_from_float(float x);
float standin_f16_to_float(uint16_t x);
