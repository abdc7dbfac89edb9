/* Profiles as the backend reads and writes them, without llama.cpp. */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capture.h"
#include "profiles.h"

gg_api gg; /* of ggml only the log is used */

static char log_text[1024], folder[] = "/tmp/tqkv-test-XXXXXX";
static int synced, sync_fails;

static void keep_log(int level, const char *text, ...)
{
    va_list arguments;
    (void)level;
    va_start(arguments, text);
    vsnprintf(log_text, sizeof log_text, text, arguments);
    va_end(arguments);
}

int __wrap_fsync(int fd);
int __real_fsync(int fd);

int __wrap_fsync(int fd)
{
    synced++;
    return sync_fails ? (errno = ENOSPC, -1) : __real_fsync(fd);
}

static const char *in_folder(const char *name)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int count_files(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    gg.log = keep_log;
    log_text[0] = 0;
    synced = sync_fails = 0;
    return !mkdtemp(folder);
}

static int remove_folder(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* Runs a capture of so many keys of one layer, that ends in a file at path. */
static void capture_rows(const char *path, size_t n)
{
    enum { HEADS = 2, DIM = 64, ROWS = 70 };
    cells k = {.is_key = 1, .n_heads = HEADS, .head_dim = DIM};
    float *x = test_rows(3, ROWS * HEADS * DIM);
    gg_tensor q = {.ne = {DIM, (int64_t)n, HEADS, 1},
                   .nb = {4, HEADS * DIM * 4, DIM * 4, ROWS * HEADS * DIM * 4}, .data = x};
    capture *c = capture_create(path, 100);
    capture_name(c, "norms:1");
    capture_prepare(c, &k);
    for (size_t row = 0; row < n; row++)
        capture_keys(c, &k, row, x + row * HEADS * DIM);
    capture_queries(c, &k, &q);
    capture_finish(c);
    free(x);
}

static void capture_to(const char *path)
{
    capture_rows(path, 70);
}

/* The problem with TQKV_PROFILE as it is set to list. */
static const char *problem_of(const char *list)
{
    model_profile m;
    setenv("TQKV_PROFILE", list, 1);
    const char *problem = profile_for("norms:1", &m);
    assert_true(!m.profile == (problem != NULL));
    tqkv_profile_free(m.profile);
    return problem;
}

static void a_capture_writes_a_whole_file(void **state)
{
    (void)state;
    const char *path = in_folder("p");
    capture_to(path);
    assert_string_equal(log_text, "");
    assert_int_equal(synced, 2); /* the file, and the folder */
    assert_int_equal(count_files(), 1);
    assert_null(problem_of(path));
}

/* As of a context that was only warmed up. */
static void a_few_keys_are_no_capture(void **state)
{
    (void)state;
    capture_rows(in_folder("p"), 2);
    assert_string_equal(log_text, "");
    assert_int_equal(count_files(), 0);
}

/* As by another capture of the same file that has not ended. */
static void another_part_is_no_obstacle(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_folder("p.part"), 0700), 0);
    capture_to(in_folder("p"));
    assert_string_equal(log_text, "");
    assert_null(problem_of(in_folder("p")));
}

static void a_capture_that_fails_leaves_what_was_there(void **state)
{
    (void)state;
    char line[256];
    int ends[2];
    FILE *f = fopen(in_folder("p"), "w");
    fputs("old", f);
    fclose(f);
    assert_int_equal(pipe(ends), 0);
    snprintf(line, sizeof line, "%d", ends[1]);
    setenv("TQKV_CAPTURE_PROGRESS", line, 1);
    sync_fails = 1;
    capture_to(in_folder("p"));
    unsetenv("TQKV_CAPTURE_PROGRESS");
    close(ends[1]);
    assert_non_null(strstr(log_text, "No space left"));
    assert_int_equal(count_files(), 1);
    f = fopen(in_folder("p"), "r");
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    assert_string_equal(line, "old");
    /* and whoever started it is told */
    f = fdopen(ends[0], "r");
    int told = 0;
    while (fgets(line, sizeof line, f))
        told += !strcmp(line, "failed No space left on device\n");
    fclose(f);
    assert_int_equal(told, 1);
}

static void names_may_be_long_and_have_colons(void **state)
{
    (void)state;
    char path[PATH_MAX], list[3 * PATH_MAX], part[201];
    memset(part, 'x', 200);
    part[200] = 0;
    strcpy(path, folder);
    for (int i = 0; i < 4; i++) {
        strcat(strcat(path, "/"), part);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    strcat(path, "/a:b");
    capture_to(path);
    assert_non_null(problem_of(path)); /* two names */
    snprintf(list, sizeof list, "%.*s\\:b", (int)strlen(path) - 2, path);
    assert_null(problem_of(list));
    capture_to(in_folder("c\\d"));
    snprintf(list, sizeof list, "%s/c\\\\d", folder);
    assert_null(problem_of(list));
    snprintf(list, sizeof list, "%s/c\\d", folder); /* alone it stays */
    assert_null(problem_of(list));
    snprintf(list, sizeof list, ":%s:", in_folder("c\\d"));
    assert_null(problem_of(list));
}

static void assert_problem(const char *path, const char *why)
{
    const char *problem = problem_of(path);
    assert_non_null(problem);
    assert_non_null(strstr(problem, path));
    assert_non_null(strstr(problem, why));
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    (void)state;
    const char *path = in_folder("p");
    assert_problem(path, "No such file");
    assert_problem(folder, "regular file");
    capture_to(path);
    assert_int_equal(truncate(path, 500), 0);
    assert_problem(path, "damaged");
    assert_int_equal(truncate(path, 10), 0);
    assert_problem(path, "ends before");
    assert_int_equal(truncate(path, 0), 0);
    assert_problem(path, "is empty");
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(a_capture_writes_a_whole_file), TEST(a_few_keys_are_no_capture),
        TEST(another_part_is_no_obstacle),
        TEST(a_capture_that_fails_leaves_what_was_there),
        TEST(names_may_be_long_and_have_colons), TEST(a_file_that_cannot_be_read_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
