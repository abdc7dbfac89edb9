/* Tables of text in aligned columns, with a bold head on a terminal. */
#ifndef TQKV_COMMAND_TABLE_H
#define TQKV_COMMAND_TABLE_H

enum { TABLE_COLUMNS = 14, TABLE_CELL = 24 };

typedef struct table {
    int n_columns, n_rows, capacity;
    int failed; /* out of memory */
    char (*cells)[TABLE_COLUMNS][TABLE_CELL];
} table;

/* The columns' names, one string each. */
void table_start(table *t, const char *const *names, int n_columns);
/* A cell of the last row; the row begins with table_row. */
void table_row(table *t);
void table_cell(table *t, int column, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Prints to stdout and frees. The first column is flush left. 0 with a message, and
 * nothing printed, if there was no memory for some row. */
int table_finish(table *t);

#endif
