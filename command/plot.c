#include "plot.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

static void print_range(FILE *to, const plot_point *points, int n_points)
{
    double least = 1e30, largest = 0;
    for (int i = 0; i < n_points; i++)
        for (int way = 0; way < points[i].n_ways; way++) {
            least = fmin(least, points[i].error[way]);
            largest = fmax(largest, points[i].error[way]);
        }
    if (least > 0)
        fprintf(to, "set logscale y\nset yrange [%g:%g]\n", least * 0.7, largest * 1.5);
}

/* All formats in one way. */
static void print_points(FILE *to, int way, const plot_point *points, int n_points)
{
    fprintf(to, "$way%d << END\n", way);
    for (int i = 0; i < n_points; i++)
        fprintf(to, "%s %g %g\n", points[i].name, points[i].bytes[way], points[i].error[way]);
    fputs("END\n", to);
}

/* Names stand beside the points of the first way. */
static void print_script(FILE *to, const char *path, const char *file,
                         const plot_point *points, int n_points)
{
    static const char *const titles[PLOT_WAYS] = {"rows", "rows, balance", "pages",
                                                  "pages, balance"};
    static const char *const colours[PLOT_WAYS] = {"#b04030", "#d09040", "#40a070", "#3060a0"};
    int svg = !strcmp(extension(path), ".svg"), n_ways = n_points ? points[0].n_ways : 0;
    fprintf(to, "set terminal %s size 900,560 font 'sans,%d'\nset output ",
            svg ? "svg background '#ffffff'" : "pngcairo", svg ? 14 : 11);
    print_quoted(to, file);
    fputs("\nset xlabel 'bytes a token'\nset ylabel 'relative error of the attention output'\n"
          "set grid\nset key top right\nset offsets graph 0.08, graph 0.1, 0, 0\n", to);
    print_range(to, points, n_points);
    for (int way = 0; way < n_ways; way++)
        print_points(to, way, points, n_points);
    for (int way = 0; way < n_ways; way++)
        fprintf(to, "%s$way%d using 2:3 with points pt 7 lc '%s' title '%s'",
                way ? ", \\\n     " : "plot ", way, colours[way], titles[way]);
    if (n_ways)
        fputs(", $way0 using 2:3:1 with labels left offset 0.7,0 font ',9' notitle", to);
    fputs("\n", to);
}

/* A handler instead of SIG_IGN, which gnuplot would inherit. */
static void do_nothing(int number)
{
    (void)number;
}

/* Gives gnuplot the script; 0 if it did not take and run all of it. */
static int run_gnuplot(const char *path, const char *file, const plot_point *points,
                       int n_points)
{
    struct sigaction before, wanted = {.sa_handler = do_nothing};
    sigaction(SIGPIPE, &wanted, &before);
    FILE *gnuplot = popen("gnuplot 2>/dev/null", "w");
    int ok = gnuplot != NULL;
    if (ok) {
        print_script(gnuplot, path, file, points, n_points);
        ok = !fflush(gnuplot) && !ferror(gnuplot);
        ok = pclose(gnuplot) == 0 && ok;
    }
    sigaction(SIGPIPE, &before, NULL);
    return ok;
}

int plot_write(const char *path, const plot_point *points, int n_points)
{
    output out;
    struct stat drawn;
    if (!output_open(&out, path))
        return 0;
    /* a gnuplot that ends before it has read its input may end with success */
    if (!run_gnuplot(path, out.partial ? out.partial : path, points, n_points) ||
        (out.partial && (stat(out.partial, &drawn) || drawn.st_size == 0))) {
        failed("%s: gnuplot is missing or failed (Debian's package is gnuplot-nox)", path);
        output_discard(&out);
        return 0;
    }
    return output_commit(&out);
}
