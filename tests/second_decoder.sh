#!/bin/sh
# tests/decoder.py and tqkv decode agree: second_decoder.sh TQKV PYTHON SOURCE
set -eu
tqkv=$1 python=$2 source=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/make.py" <<'END'
import sys, numpy as np
rng = np.random.default_rng(1)
for d in (16, 48, 64, 80, 112, 128, 144):
    np.save(f"{sys.argv[1]}/x{d}.npy", rng.standard_normal((2, 4, 3, d)).astype("f4") + 2)
np.save(f"{sys.argv[1]}/x512.npy", rng.standard_normal((2, 1, 2, 512)).astype("f4"))
for d in (64, 96, 128): # pages: 64 tokens and 5
    x = rng.standard_normal((2, 69, 2, d)) + 2 * rng.standard_normal((2, 1, 2, d))
    x[:, 0] *= .01
    np.save(f"{sys.argv[1]}/p{d}.npy", x.astype("f4"))
import struct, xxhash
balances = np.exp(rng.standard_normal((2, 3, 64))).astype("f4")
data = b"TQKVPROF" + struct.pack("<HHIIII", 2, 0x1234, 2, 3, 64, 0) + balances.tobytes()
open(f"{sys.argv[1]}/profile", "wb").write(data + struct.pack("<Q", xxhash.xxh64(data).intdigest()))
np.save(f"{sys.argv[1]}/x3.npy", rng.standard_normal((4, 3, 64)).astype("f4"))
END
cat > "$dir/compare.py" <<'END'
import sys, numpy as np
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
exact = sys.argv[3] == "exact"
assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape)
assert np.array_equal(a, b) if exact else np.allclose(a, b, rtol=1e-5, atol=1e-5), sys.argv
END
"$python" "$dir/make.py" "$dir"
count=0
compare()
{
    "$tqkv" decode "$1" "$dir/a.npy"
    "$python" "$source/tests/decoder.py" "$1" "$dir/b.npy"
    "$python" "$dir/compare.py" "$dir/a.npy" "$dir/b.npy" "$2"
    count=$((count + 1))
}
for d in 16 48 64 80 112 128 144 3; do
    for f in tq2 tq3 tq4 tq5 tq6 tq7 tq8 tq4s tq3n; do
        "$tqkv" encode -f $f "$dir/x$d.npy" "$dir/x.tqkv"
        compare "$dir/x.tqkv" exact
    done
    for f in lm2 lm3 lm4 lm4s; do
        "$tqkv" encode -f $f "$dir/x$d.npy" "$dir/x.tqkv"
        compare "$dir/x.tqkv" close
    done
done
for d in 16 64 128 512; do
    for f in mlx4 mlx5 mlx6 mlx8; do
        "$tqkv" encode -f $f "$dir/x$d.npy" "$dir/x.tqkv"
        compare "$dir/x.tqkv" close
    done
done
"$tqkv" encode -p "$dir/profile" "$dir/x64.npy" "$dir/x.tqkv"
compare "$dir/x.tqkv" exact
for d in 64 96 128; do
    "$tqkv" fit "$dir/p$d.npy" "$dir/p$d.npy" "$dir/p$d.npy" "$dir/p"
    for f in tq2 tq3 tq4 tq8 tq4s tq4n lm4 mlx4; do
        how=exact
        case $f in lm4 | mlx4) how=close ;; esac
        [ $f$d = mlx496 ] && continue # mlx wants a power of two
        "$tqkv" encode --pages -f $f "$dir/p$d.npy" "$dir/x.tqkv"
        compare "$dir/x.tqkv" $how
        "$tqkv" encode --pages -p "$dir/p" -f $f "$dir/p$d.npy" "$dir/x.tqkv"
        compare "$dir/x.tqkv" $how
    done
done
echo "$count passed, 0 failed"
