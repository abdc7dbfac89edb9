#ifndef TQKV_COMMAND_PLOT_H
#define TQKV_COMMAND_PLOT_H

typedef struct plot_point {
    char name[24];
    double bytes, error, error_with_profile;
} plot_point;

/* Draws error against bytes with gnuplot to a .svg or .png file; 0 with a
 * message. */
int plot_write(const char *path, const plot_point *points, int n_points);
/* What is wrong with a path, before any work; 0 with a message. */
int plot_check(const char *path);

#endif
