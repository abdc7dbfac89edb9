#!/bin/sh
# Each header stands alone in C11 and C++17: header.sh INCLUDE
set -eu
for header in "$1"/*.h; do
    for compiler in gcc clang; do
        $compiler -std=c11 -Wall -Wextra -pedantic -Werror -I"$1" -include "$header" \
            -fsyntax-only -x c /dev/null
        $compiler -std=c++17 -Wall -Wextra -pedantic -Werror -I"$1" -include "$header" \
            -fsyntax-only -x c++ /dev/null
    done
done
