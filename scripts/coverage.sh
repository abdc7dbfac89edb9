#!/bin/sh
# Runs the tests with line counts and prints coverage by file; an HTML report
# goes to build/coverage/report.
set -eu
cd "$(dirname "$0")/.."
cmake --preset coverage >/dev/null
cmake --build build/coverage --parallel >/dev/null
ctest --test-dir build/coverage --output-on-failure -E "second_decoder|symbols|install"
mkdir -p build/coverage/report
gcovr --root . --filter src/ --filter command/ --print-summary \
    --html-details build/coverage/report/index.html build/coverage
