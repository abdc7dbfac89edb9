#ifndef TQKV_COMMAND_PLOT_H
#define TQKV_COMMAND_PLOT_H

/* A format in up to four ways: rows, rows with a balance, pages, pages with a balance. */
enum { PLOT_WAYS = 4 };
typedef struct plot_point {
    char name[48];
    int n_ways;
    double bytes[PLOT_WAYS], error[PLOT_WAYS];
} plot_point;

/* Draws error against bytes with gnuplot to a .svg or .png file; 0 with a
 * message. */
int plot_write(const char *path, const plot_point *points, int n_points);
/* What is wrong with a path, before any work; 0 with a message. */
int plot_check(const char *path);

#endif
