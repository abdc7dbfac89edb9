/* One JSON object a line. */
#ifndef TQKV_COMMAND_JSON_H
#define TQKV_COMMAND_JSON_H

#include <cjson/cJSON.h>

/* Prints the object and frees it. */
void json_print_line(cJSON *object);

#endif
