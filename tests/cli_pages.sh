#!/bin/bash
# Containers of pages by the command: cli_pages.sh TQKV PYTHON DATA
. "$(dirname "$0")/cli_functions.sh"

cat > make.py <<'END2'
import numpy as np
rng = np.random.default_rng(2)
mean = rng.standard_normal((2, 1, 3, 64)) * 3
x = (rng.standard_normal((2, 100, 3, 64)) + mean).astype("f4")
np.save("f32.npy", x)
np.save("f16.npy", x.astype("f2"))
np.save("bf16.npy", (x.view("u4") >> 16).astype("u2"))
np.save("three.npy", x[0])
np.save("wide.npy", np.zeros((64, 300, 1024), "f2"))
END2
"$python" make.py
same='
import sys, numpy as np
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
if a.dtype == np.uint16: a = (a.astype("u4") << 16).view("f4")
if b.dtype == np.uint16: b = (b.astype("u4") << 16).view("f4")
a, b = a.astype("f4"), b.astype("f4")
assert a.shape == b.shape
assert np.linalg.norm(a - b) < float(sys.argv[3]) * np.linalg.norm(a)'

# ---- round trips ----
for f in f32 f16 bf16 three; do
    bf16=
    [ $f = bf16 ] && bf16=--bf16
    # shellcheck disable=SC2086
    try "$tqkv" encode --pages -f tq4 $bf16 $f.npy x.tqkv
    check "encode $f" [ $status = 0 -a ! -s err ]
    try "$tqkv" decode x.tqkv y.npy
    check "decode $f" "$python" -c "$same" $f.npy y.npy 0.03
    try "$tqkv" verify x.tqkv
    check "verify $f" grep -q "whole, [36]00 rows" out
done
"$tqkv" encode -f tq4 f32.npy rows.tqkv
try "$tqkv" decode rows.tqkv y.npy
"$tqkv" encode --pages -f tq4 f32.npy pages.tqkv
"$tqkv" decode pages.tqkv z.npy
check "pages are closer than rows" "$python" -c '
import numpy as np
x, y, z = (np.load(name) for name in ("f32.npy", "y.npy", "z.npy"))
assert np.linalg.norm(x - z) < .6 * np.linalg.norm(x - y)'
"$tqkv" encode --pages -f tq4 - - < f32.npy 2> err > piped.tqkv
check "through pipes" cmp piped.tqkv pages.tqkv
try "$tqkv" encode --pages -f mlx4 f32.npy x.tqkv
check "encode mlx4" [ $status = 0 ]
try "$tqkv" decode x.tqkv y.npy
check "decode mlx4" "$python" -c "$same" f32.npy y.npy 0.04

# ---- info ----
try "$tqkv" info pages.tqkv
check "info names the pages" grep -q "pages  *64 tokens and their mean: 0.5519 bytes" out
try "$tqkv" info rows.tqkv
check "info of rows does not" sh -c '! grep -q pages out'
try "$tqkv" info --json pages.tqkv rows.tqkv
check "info --json" "$python" -c '
import json
pages, rows = map(json.loads, open("out"))
assert pages["pages"] is True and rows["pages"] is False
assert pages["row_bytes"] == rows["row_bytes"] == 34
assert rows["bytes_per_value"] == 34 / 64
assert abs(pages["bytes_per_value"] - (34 + 66 * 2 / 100) / 64) < 1e-12'
check "and the file has as many bytes" "$python" -c '
import os
assert os.path.getsize("pages.tqkv") == 64 + 2 * 3 * (100 * 34 + 2 * 66) + 4 * 24 + 32'

# ---- profiles ----
try "$tqkv" fit f32.npy f32.npy f32.npy one
try "$tqkv" encode --pages -p one f32.npy x.tqkv
check "encode with a profile" [ $status = 0 -a ! -s err ]
try "$tqkv" decode x.tqkv y.npy
check "decode with a profile" "$python" -c "$same" f32.npy y.npy 0.05
try "$tqkv" info x.tqkv
check "info names the profile" grep -q "profile  *\"\"" out
"$python" -c '
import struct, numpy, xxhash
data = b"TQKVPROF" + struct.pack("<HHIIIII", 1, 0x1234, 2, 3, 64, 1, 0)
data += numpy.ones((2, 3, 2, 64), "f4").tobytes()
open("old", "wb").write(data + struct.pack("<Q", xxhash.xxh64(data).intdigest()))'
echo old > x.tqkv
fails "a profile of version 1" 1 "old: not a usable profile: .*version" "$tqkv" encode --pages -p old f32.npy x.tqkv
check "which leaves the file" [ "$(cat x.tqkv)" = old ]
fails "a profile of another shape" 1 "is for 2 layers" \
    "$tqkv" encode --pages -p one three.npy x.tqkv

# ---- wrong use ----
fails "pages on a device" 2 "devices encode rows only" \
    "$tqkv" encode --pages --device host f32.npy x.tqkv
rm -f none.npy
fails "pages from a device" 1 "pages.tqkv: has pages" \
    "$tqkv" decode --device host pages.tqkv none.npy
check "which writes nothing" [ ! -e none.npy ]
rm -f none.tqkv
fails "too many heads" 1 "64 tokens of 300 heads" "$tqkv" encode --pages -f tq8 wide.npy none.tqkv
check "which writes nothing either" [ ! -e none.tqkv ]

# ---- damage ----
head -c 3000 pages.tqkv > cut.tqkv
"$python" - <<'END2'
data = bytearray(open("pages.tqkv", "rb").read())
data[5000] ^= 1
open("flip.tqkv", "wb").write(data)
END2
for c in "decode cut.tqkv none.npy" "verify cut.tqkv"; do
    # shellcheck disable=SC2086
    fails "cut short: $c" 1 "ends before" "$tqkv" $c
done
for c in "decode flip.tqkv none.npy" "verify flip.tqkv"; do
    # shellcheck disable=SC2086
    fails "a bit flipped: $c" 1 "damaged" "$tqkv" $c
done
check "no output of it" [ ! -e none.npy -a ! -e none.npy.partial ]
finish
