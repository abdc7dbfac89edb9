#!/bin/sh
# tqkv.h stands alone in C11 and C++17: header.sh INCLUDE
set -eu
for compiler in gcc clang; do
    echo '#include "tqkv.h"' | $compiler -std=c11 -Wall -Wextra -pedantic -Werror -I"$1" \
        -fsyntax-only -x c -
    echo '#include "tqkv.h"' | $compiler -std=c++17 -Wall -Wextra -pedantic -Werror -I"$1" \
        -fsyntax-only -x c++ -
done
