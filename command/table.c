#include "table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

void table_row(table *t)
{
    if (t->failed)
        return;
    if (t->n_rows == t->capacity) {
        int capacity = t->capacity ? 2 * t->capacity : 8;
        void *grown = realloc(t->cells, (size_t)capacity * sizeof *t->cells);
        t->failed = !grown;
        if (t->failed)
            return;
        t->cells = grown;
        t->capacity = capacity;
    }
    memset(t->cells[t->n_rows++], 0, sizeof *t->cells);
}

void table_start(table *t, const char *const *names, int n_columns)
{
    memset(t, 0, sizeof *t);
    t->n_columns = n_columns;
    table_row(t);
    for (int c = 0; c < n_columns; c++)
        table_cell(t, c, "%s", names[c]);
}

void table_cell(table *t, int column, const char *format, ...)
{
    va_list arguments;
    if (t->failed)
        return;
    va_start(arguments, format);
    vsnprintf(t->cells[t->n_rows - 1][column], TABLE_CELL, format, arguments);
    va_end(arguments);
}

int table_finish(table *t)
{
    int width[TABLE_COLUMNS] = {0}, colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    int ok = !t->failed;
    if (!ok) { /* a part of the rows would look like all of them */
        failed("out of memory for the table");
        t->n_rows = 0;
    }
    for (int r = 0; r < t->n_rows; r++)
        for (int c = 0; c < t->n_columns; c++) {
            int length = (int)strlen(t->cells[r][c]);
            width[c] = length > width[c] ? length : width[c];
        }
    for (int r = 0; r < t->n_rows; r++) {
        fputs(colour && r == 0 ? "\033[1m" : "", stdout);
        for (int c = 0; c < t->n_columns; c++) {
            const char *name_colour = colour && r && c == 0 ? "\033[36m" : "";
            printf("%s%s%*s%s", c ? "  " : "", name_colour, c ? width[c] : -width[c],
                   t->cells[r][c], *name_colour ? "\033[0m" : "");
        }
        puts(colour && r == 0 ? "\033[0m" : "");
    }
    free(t->cells);
    memset(t, 0, sizeof *t);
    return ok;
}
