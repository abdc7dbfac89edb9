#include "plot.h"

#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "output.h"

static const char *extension(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot : "";
}

int plot_check(const char *path)
{
    if (strcmp(extension(path), ".svg") && strcmp(extension(path), ".png")) {
        misused("--plot %s: a name that ends in .svg or .png is expected", path);
        return 0;
    }
    return 1;
}

static void print_quoted(FILE *to, const char *text)
{
    fputc('\'', to);
    for (; *text; text++)
        fputs(*text == '\'' ? "''" : (char[]){*text, 0}, to);
    fputc('\'', to);
}

static void print_script(FILE *to, const char *path, const char *file,
                         const plot_point *points, int n_points)
{
    int svg = !strcmp(extension(path), ".svg");
    fprintf(to, "set terminal %s size 900,560 font 'sans,%d'\nset output ",
            svg ? "svg background '#ffffff'" : "pngcairo", svg ? 14 : 11);
    print_quoted(to, file);
    fputs("\nset xlabel 'bytes a token'\nset ylabel 'relative error of the attention output'\n"
          "set logscale y\nset grid\nset key top right\nset offsets graph 0.05, graph 0.1, graph 0.1, graph 0.05\n"
          "$data << END\n", to);
    for (int i = 0; i < n_points; i++)
        fprintf(to, "%s %g %g %g\n", points[i].name, points[i].bytes, points[i].error,
                points[i].error_with_profile);
    fputs("END\n"
          "plot $data using 2:3 with points pt 7 lc '#b04030' title 'without a profile', \\\n"
          "     $data using 2:4 with points pt 7 lc '#3060a0' title 'with a key profile', \\\n"
          "     $data using 2:4:1 with labels left offset 0.6,0.4 font ',9' notitle\n", to);
}

int plot_write(const char *path, const plot_point *points, int n_points)
{
    output out;
    if (!output_open(&out, path))
        return 0;
    FILE *gnuplot = popen("gnuplot 2>/dev/null", "w");
    if (gnuplot)
        print_script(gnuplot, path, out.partial ? out.partial : path, points, n_points);
    if (!gnuplot || pclose(gnuplot)) {
        failed("%s: gnuplot is missing or failed (Debian's package is gnuplot-nox)", path);
        output_discard(&out);
        return 0;
    }
    return output_commit(&out);
}
