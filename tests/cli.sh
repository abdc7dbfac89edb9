#!/bin/bash
# The command from outside: cli.sh TQKV PYTHON DATA
# Each check prints what failed; the end counts them.
. "$(dirname "$0")/cli_functions.sh"

# ---- help and wrong use ----
try "$tqkv" --help
check "help" [ $status = 0 ]
try "$tqkv" --version
check "version" grep -q '^tqkv [0-9]' out
for c in formats eval ablate plan fit llama profile encode decode info verify bench; do
    try "$tqkv" $c --help
    check "$c --help" [ $status = 0 -a ! -s err ]
    check "$c --help says usage" grep -q "^usage: tqkv $c" out
    fails "$c --nonsense" 2 "nonsense" "$tqkv" $c --nonsense
done
try "$tqkv"
check "no command" [ $status = 2 ]
fails "unknown command" 2 "no command 'xyz'" "$tqkv" xyz
fails "encode without arguments" 2 "takes IN.npy and OUT.tqkv" "$tqkv" encode
fails "bad format" 2 "no format has this name" "$tqkv" encode -f tq99 "$data/k.npy" x.tqkv
fails "bad number" 2 "whole number" "$tqkv" formats -d abc
fails "bad queries" 2 "outside" "$tqkv" eval -q 0 "$data"
fails "bad plot" 2 ".svg or .png" "$tqkv" eval --plot x.pdf "$data"
fails "bad type" 2 "f32, f16 or bf16" "$tqkv" decode -t f64 a b

# ---- the main jobs ----
try "$tqkv" formats -n 20000
check "formats lists 14 and a head" [ $status = 0 -a "$(wc -l < out)" = 15 ]
try "$tqkv" formats -n 20000 -d 80
check "formats without mlx for 80" [ $status = 0 -a "$(wc -l < out)" = 11 ]
fails "formats of a bad size" 2 "odd part" "$tqkv" formats -d 176 tq4
try "$tqkv" formats -n 20000 --json tq4 lm4
check "formats --json" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
assert [r["format"] for r in rows] == ["tq4", "lm4"]
assert set(rows[0]) == {"format", "bits", "head_dim", "row_bytes", "mse"}
assert rows[0]["row_bytes"] == 66 and rows[0]["bits"] == 4 and rows[0]["mse"] < .0066'
try "$tqkv" eval -q 16 --json -f tq3,tq4,mlx4 "$data"
check "eval --json" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
keys = {"format", "means", "balance", "head_dim", "bytes_per_token", "ratio", "k_rel_err",
        "v_rel_err", "attn_rel_err", "top1", "attend_ns"}
assert len(rows) == 12 and all(keys <= set(r) for r in rows)
by = {(r["format"], r["means"], r["balance"]): r for r in rows}
for f in "tq3", "tq4", "mlx4":
    plain, means = by[f, False, False], by[f, True, False]
    for error in "k_rel_err", "v_rel_err", "attn_rel_err":
        assert means[error] < .9 * plain[error], (f, error)
    assert by[f, True, True]["attn_rel_err"] < means["attn_rel_err"]
    assert by[f, False, True]["attn_rel_err"] < plain["attn_rel_err"]
assert by["tq4", False, False]["bytes_per_token"] == 4 * 3 * 2 * 34
assert by["tq4", True, True]["bytes_per_token"] == 4 * 3 * 2 * (34 + 66 / 64)'
try "$tqkv" eval -q 4 -f tq4 --plot plot.svg "$data/q.npy" "$data/k.npy" "$data/v.npy"
check "eval of three files, with a picture" grep -q "</svg>" plot.svg
try "$tqkv" eval -q 4 -f lm4 --plot "it's.png" "$data"
check "a picture as PNG, quoted name" [ "$(head -c 4 "it's.png" | tail -c 3)" = PNG ]
try "$tqkv" bench -n 8 --json tq4
check "bench --json" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
keys = {"what", "format", "head_dim", "gqa", "context", "threads", "isa", "ns"}
assert len(rows) == 5 and all(set(r) == keys and r["ns"] > 0 for r in rows)'
try "$tqkv" bench -n 8 --isa scalar tq4
check "bench --isa scalar" grep -q scalar out
fails "bench with no such ggml" 1 "libggml" "$tqkv" bench --ggml /nonexistent tq4

# ---- round trips ----
cat > make.py <<'END'
import numpy as np
rng = np.random.default_rng(2)
x = rng.standard_normal((2, 37, 3, 96)).astype("f4")
np.save("f32.npy", x)
np.save("f16.npy", x.astype("f2"))
np.save("bf16.npy", (x.view("u4") >> 16).astype("u2"))
np.save("three.npy", x[0])
np.save("v2.npy", x)
np.save("fortran.npy", np.asfortranarray(x))
np.save("big.npy", x.astype(">f4"))
np.save("f64.npy", x.astype("f8"))
np.save("int.npy", (x * 9).astype("i4"))
np.save("two.npy", x[0, 0])
np.save("five.npy", x[None])
np.save("empty.npy", x[:, :0])
np.save("d100.npy", x[..., :48].repeat(3, -1)[..., :100])
x[1, 2, 0, 5] = np.nan
x[1, 3, 0, 5] = np.inf
np.save("nan.npy", x)
END
"$python" make.py
same='
import sys, numpy as np
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
if a.dtype == np.uint16: a = (a.astype("u4") << 16).view("f4")
if b.dtype == np.uint16: b = (b.astype("u4") << 16).view("f4")
a, b = a.astype("f4"), b.astype("f4")
assert a.shape == b.shape
assert np.linalg.norm(a - b) < float(sys.argv[3]) * np.linalg.norm(a)'
for f in f32 f16 three; do
    try "$tqkv" encode -f tq6 $f.npy x.tqkv
    check "encode $f" [ $status = 0 -a ! -s err ]
    try "$tqkv" decode x.tqkv y.npy
    check "decode $f" "$python" -c "$same" $f.npy y.npy 0.03
    try "$tqkv" verify x.tqkv
    check "verify $f" grep -q whole out
    try "$tqkv" info --json x.tqkv
    check "info $f" "$python" -c 'import json; r = json.load(open("out")); assert r["format"] == "tq6" and r["head_dim"] == 96 and r["heads"] == 3'
done
try "$tqkv" encode --bf16 -f tq8 bf16.npy x.tqkv
try "$tqkv" decode x.tqkv y.npy
check "bf16 round trip" "$python" -c "$same" bf16.npy y.npy 0.02
"$tqkv" encode -f tq4 - - < f32.npy 2> err | "$tqkv" decode -t f16 - - > y.npy 2>> err
check "through pipes" "$python" -c "$same" f32.npy y.npy 0.1
try "$tqkv" fit --fingerprint "some model" f32.npy f32.npy f32.npy p
check "fit" [ $status = 0 -a -s p ]
try "$tqkv" encode -p p f32.npy x.tqkv
try "$tqkv" info x.tqkv
check "info names the profile" grep -q '"some model"' out
try "$tqkv" decode x.tqkv y.npy
check "decode with a profile" "$python" -c "$same" f32.npy y.npy 0.1
fails "a profile of another shape" 1 "is for 2 layers" "$tqkv" encode -p p three.npy x.tqkv
try "$tqkv" encode nan.npy nan.tqkv
check "NaN and infinity encode" [ $status = 0 ]
try "$tqkv" verify nan.tqkv
check "and decode to finite values" [ $status = 0 ]

"$python" -c '
import numpy as np
np.save("large16.npy", (np.sign(np.random.default_rng(1).standard_normal((5, 8, 128))) * 65000).astype("f2"))'
try "$tqkv" encode large16.npy x.tqkv
try "$tqkv" decode x.tqkv y.npy
check "values at the end of float16 stay finite" "$python" -c '
import numpy as np
y = np.load("y.npy")
assert y.dtype == np.float16 and np.isfinite(y).all() and abs(y).max() == 65504'

# ---- bad input: a message, no output ----
bad() # NAME PATTERN FILE
{
    rm -f none.tqkv
    fails "$1" 1 "$2" "$tqkv" encode "$3" none.tqkv
    check "$1: names the file" grep -q "$3" err
    check "$1: no output" [ ! -e none.tqkv -a ! -e none.tqkv.partial ]
}
bad "missing" "No such file" missing.npy
bad "directory" "is a directory" .
bad "fortran order" "Fortran" fortran.npy
bad "big endian" "big-endian" big.npy
bad "f64" "float16, float32" f64.npy
bad "int32" "float16, float32" int.npy
bad "bf16 not told" "--bf16" bf16.npy
bad "two dimensions" "fewer than 3" two.npy
bad "five dimensions" "more than 4" five.npy
bad "zero tokens" "a dimension is 0" empty.npy
bad "head_dim 100" "multiple of 16" d100.npy
head -c 5000 f32.npy > cut.npy
bad "truncated" "cut short" cut.npy
head -c 60 f32.npy > cut2.npy
bad "truncated header" "cut short" cut2.npy
(cat f32.npy; echo more) > long.npy
bad "oversized" "follows the array" long.npy
head -c 3000 /dev/urandom > random.npy
bad "random bytes" "does not begin" random.npy
: > null.npy
bad "empty file" "does not begin" null.npy
"$python" - <<'END'
def header(shape):
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % shape
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
open("huge.npy", "wb").write(header("(4294967295, 4294967295, 4294967295, 64)"))
open("huge2.npy", "wb").write(header("(99999999999999999999999, 3, 64)"))
open("minus.npy", "wb").write(header("(-1, 3, 64)"))
open("wide.npy", "wb").write(header("(1, 1, 70000)"))
open("open.npy", "wb").write(header("(1, 1, 64"))
END
bad "overflowing product" "too large" huge.npy
bad "overflowing number" "whole numbers" huge2.npy
bad "negative" "whole numbers" minus.npy
bad "absurd head_dim" "1024" wide.npy
bad "unclosed shape" "whole numbers" open.npy

"$tqkv" encode f32.npy good.tqkv
broken() # NAME PATTERN FILE
{
    for c in "decode $3 none.npy" "verify $3"; do
        rm -f none.npy
        # shellcheck disable=SC2086
        fails "$1: $c" 1 "$2" "$tqkv" $c
        check "$1: no output" [ ! -e none.npy -a ! -e none.npy.partial ]
    done
}
head -c 3000 good.tqkv > cut.tqkv
broken "truncated container" "ends before" cut.tqkv
head -c 30 good.tqkv > cut2.tqkv
broken "truncated container header" "ends before\|damaged" cut2.tqkv
(cat good.tqkv; echo more) > long.tqkv
broken "oversized container" "contradicts" long.tqkv
"$python" - <<'END'
data = bytearray(open("good.tqkv", "rb").read())
def write(name, at, value):
    copy = bytearray(data)
    copy[at:at + len(value)] = value
    open(name, "wb").write(copy)
write("flip.tqkv", 2000, bytes([data[2000] ^ 1]))
write("version.tqkv", 8, b"\x01\x00")
write("endian.tqkv", 10, b"\x12\x34")
END
broken "bit flip" "damaged" flip.tqkv
broken "wrong version" "version" version.tqkv
broken "wrong endianness" "reversed byte order" endian.tqkv
broken "not a container" "does not begin" f32.npy
broken "a directory" "is a directory" .
broken "missing" "No such file" missing.tqkv
fails "a broken profile" 1 "not a usable profile" "$tqkv" encode -p good.tqkv f32.npy x.tqkv
fails "info of a broken file" 1 "does not begin" "$tqkv" info f32.npy
fails "eval of NaN" 1 "row 117, value 5 is not finite" "$tqkv" eval nan.npy nan.npy nan.npy
fails "eval of no formats" 2 "outside" "$tqkv" eval -f , "$data"
fails "eval of a format that cannot be" 1 "power of two" "$tqkv" eval -f mlx4,tq4 f32.npy f32.npy f32.npy
fails "bench beside ggml with an odd size" 2 "multiple of 32" "$tqkv" bench -d 48 --ggml x tq4
fails "eval of differing shapes" 1 "tokens differ\|layers differ" "$tqkv" eval f32.npy "$data/k.npy" f32.npy

# ---- outputs that cannot be written ----
fails "a directory as output" 1 "is a directory" "$tqkv" encode f32.npy .
fails "a missing folder" 1 "cannot be written" "$tqkv" encode f32.npy no/such/x.tqkv
if [ -e /dev/full ]; then
    fails "a full device" 1 "/dev/full" "$tqkv" encode f32.npy /dev/full
    fails "a full device, decoding" 1 "/dev/full" "$tqkv" decode good.tqkv /dev/full
    "$tqkv" encode f32.npy - > /dev/full 2> err
    check "a full pipe" [ $? = 1 ]
    "$tqkv" formats -n 1000 tq4 > /dev/full 2> err
    check "a full standard output" [ $? = 1 ]
    "$tqkv" --help > /dev/full 2> err
    check "help to a full standard output" [ $? = 1 ]
fi
echo old > x.tqkv
fails "a failure leaves the old file" 1 "cut short" "$tqkv" encode cut.npy x.tqkv
check "old file is whole" [ "$(cat x.tqkv)" = old ]

# ---- ablate ----
try "$tqkv" ablate --json "$data"
check "ablate finds no bug" [ $status = 0 ]
check "ablate: every format is at its floor" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
assert {"mlx4", "mlx5", "mlx6", "mlx8", "tq4"} <= {r["format"] for r in rows}
for r in rows:
    assert r["verdict"] == "representation floor", r
    assert r["kernel_error"] <= r["kernel_bound"] < r["representation_error"], r'
"$python" -c '
import numpy as np
rng = np.random.default_rng(1)
np.save("q512.npy", rng.standard_normal((80, 4, 512)).astype("f4"))
np.save("k512.npy", rng.standard_normal((80, 2, 512)).astype("f4"))
np.save("v512.npy", rng.standard_normal((80, 2, 512)).astype("f4"))'
try "$tqkv" ablate -f mlx4,mlx8,tq4 q512.npy k512.npy v512.npy
check "ablate at head_dim 512" [ $status = 0 ]
# the reference's own mistake: 1/sqrt(512) once too often
try "$tqkv" ablate --wrong-scale 0.04419417 -f mlx4,mlx8,tq4 q512.npy k512.npy v512.npy
check "a wrong scale is an error" [ $status = 1 ]
check "and a kernel bug in each format" [ "$(grep -c 'kernel bug' out)" = 3 ]
fails "ablate of an unknown format" 2 "no format has this name" "$tqkv" ablate -f tq9 "$data"
fails "a scale that is none" 2 "outside" "$tqkv" ablate --wrong-scale 0 "$data"

# ---- plan ----
try "$tqkv" plan --layers 32 --kv-heads 8 --head-dim 128 -c 131072 -M 16G --json
check "plan: bytes of a model" "$python" -c '
import json
rows = {r["format"]: r for r in map(json.loads, open("out"))}
assert rows["f16"]["bytes_per_token"] == 32 * 8 * 128 * 4
assert rows["q8_0"]["bytes_per_token"] == 32 * 8 * 2 * 128 // 32 * 34
assert rows["q4_0"]["bytes_per_token"] == 32 * 8 * 2 * 128 // 32 * 18
page, staged = 32 * 8 * 2 * (64 * 66 + 130), 32 * 8 * 2 * 3 * 64 * 256 # means, three pages in f16
assert rows["tq4"]["bytes_per_token"] == page / 64
assert rows["f16"]["longest_context"] == 131072
assert rows["tq4"]["context_bytes"] == 131072 / 64 * page + staged
assert rows["tq4"]["longest_context"] == (2**34 - staged) // page * 64 + 63'
try "$tqkv" eval -q 4 -f tq4,tq5/tq4 --json "$data"
check "eval of a pair" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
assert rows[4]["format"] == "tq5/tq4" and rows[4]["bytes_per_token"] == 4 * 3 * (42 + 34)
assert rows[4]["k_rel_err"] < rows[0]["k_rel_err"] and rows[4]["v_rel_err"] == rows[0]["v_rel_err"]'
try "$tqkv" plan --layers 1 --kv-heads 1 --head-dim 128 --json tq5/tq4
check "plan of a pair" "$python" -c '
import json
rows = {r["format"]: r for r in map(json.loads, open("out"))}
assert rows["tq5/tq4"]["bytes_per_token"] == 82 + 66 + 2 * 130 / 64'
fails "half a pair" 2 "no format has this name" "$tqkv" plan --layers 1 --kv-heads 1 --head-dim 128 tq5/
try "$tqkv" plan --layers 1 --kv-heads 1 --head-dim 128 -c 1000 --no-means --recent 100 tq4 --json
check "plan: pages without means, and tokens that stay" "$python" -c '
import json
rows = {r["format"]: r for r in map(json.loads, open("out"))}
assert rows["tq4"]["context_bytes"] == 2 * (14 * 64 * 66 + 5 * 64 * 256), rows'
try "$tqkv" plan --layers 6 --kv-heads 1 --head-dim 256 --window 512 --window-layers 5 -c 8192 tq4 --json
check "plan: windows" "$python" -c '
import json
rows = {r["format"]: r for r in map(json.loads, open("out"))}
page, staged = 2 * (64 * 130 + 258), 2 * 3 * 64 * 512 # a window begins anywhere in a page
assert rows["tq4"]["context_bytes"] == page * (5 * 9 + 128) + 6 * staged, rows'
"$python" -c '
import struct
def s(t): return struct.pack("<Q", len(t)) + t.encode()
def u32(k, v): return s(k) + struct.pack("<II", 4, v)
entries = [s("general.architecture") + struct.pack("<I", 8) + s("gemma3"),
           s("general.name") + struct.pack("<I", 8) + s("A test"),
           s("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + s("a") + s("b") + s("c"),
           s("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
           u32("gemma3.block_count", 12), u32("gemma3.embedding_length", 640),
           u32("gemma3.attention.head_count", 4), u32("gemma3.attention.head_count_kv", 1),
           u32("gemma3.attention.key_length", 256), u32("gemma3.attention.value_length", 256),
           u32("gemma3.attention.sliding_window", 512)]
data = struct.pack("<IIQQ", 0x46554747, 3, 0, len(entries)) + b"".join(entries)
open("model.gguf", "wb").write(data)
open("cut.gguf", "wb").write(data[:-3])
per_layer = struct.pack("<IIQ12I", 9, 4, 12, *([0] * 6 + [2] * 6))
entries[7] = s("gemma3.attention.head_count_kv") + per_layer
open("mixed.gguf", "wb").write(struct.pack("<IIQQ", 0x46554747, 3, 0, len(entries)) + b"".join(entries))
entries[2] = s("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2**62)
open("huge.gguf", "wb").write(struct.pack("<IIQQ", 0x46554747, 3, 0, len(entries)) + b"".join(entries))'
try "$tqkv" plan --model model.gguf -c 8192 --json tq4
check "plan: a model with sliding windows" "$python" -c '
import json
rows = {r["format"]: r for r in map(json.loads, open("out"))}
page, staged = 2 * (64 * 130 + 258), 2 * 3 * 64 * 512
assert rows["tq4"]["context_bytes"] == page * (10 * 9 + 2 * 128) + 12 * staged, rows'
try "$tqkv" plan --model mixed.gguf -c 8192 --json tq4
check "plan: heads that differ from layer to layer" "$python" -c '
import json
rows = {r["format"]: r for r in map(json.loads, open("out"))}
page, staged = 4 * (64 * 130 + 258), 4 * 3 * 64 * 512
assert rows["tq4"]["context_bytes"] == page * (5 * 9 + 128) + 6 * staged, rows'
try "$tqkv" plan --model model.gguf
check "plan: a table" grep -q "^tq4 " out
fails "a model cut short" 1 "ends before" "$tqkv" plan --model cut.gguf
fails "a model with a false length" 1 "ends before" "$tqkv" plan --model huge.gguf
fails "no model" 1 "No such file" "$tqkv" plan --model none.gguf
fails "a model that is none" 1 "not a GGUF" "$tqkv" plan --model "$data/k.npy"
fails "plan of nothing" 2 "needs --model" "$tqkv" plan --layers 3
fails "plan with odd memory" 2 "outside" "$tqkv" plan -M 8Q --model model.gguf

# ---- attention's bench ----
try "$tqkv" bench --attention -d 64 -g 3 -c 1024 -t 1 --json tq4 lm4
check "bench --attention" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
assert [r["format"] for r in rows] == ["tq4", "lm4"] and all(r["ns"] > 0 for r in rows)'
try "$tqkv" bench --attention --cpu scalar -d 64 -g 3 -c 1024 -t 1 tq4
check "bench --attention --cpu" grep -q "scalar" out

# ---- devices ----

try "$tqkv" devices --json
check "devices end with the host" "$python" -c '
import json
assert json.loads(open("out").read().splitlines()[-1])["device"] == "host"'
(LD_LIBRARY_PATH=/nowhere OCL_ICD_VENDORS=/nowhere "$tqkv" devices > out 2> err)
check "devices without a driver" grep -q "^host" out
try "$tqkv" devices --source metal
check "a source" grep -q "kernel void" out
fails "a source of no language" 2 "cuda, opencl or metal" "$tqkv" devices --source pascal
fails "no such device" 1 "is no device" "$tqkv" encode --device vulkan:0 three.npy never.tqkv
fails "no such device number" 1 "opencl" "$tqkv" encode --device opencl:99.0 three.npy never.tqkv
check "nothing is left of it" [ ! -e never.tqkv ]
for format in tq3 tq4 lm4 mlx5; do
    try "$tqkv" encode -f $format "$data/k.npy" on_cpu.tqkv
    try "$tqkv" encode --device host -f $format "$data/k.npy" on_device.tqkv
    check "encode --device, $format" cmp on_cpu.tqkv on_device.tqkv
    try "$tqkv" decode on_cpu.tqkv on_cpu.npy
    try "$tqkv" decode --device host on_cpu.tqkv on_device.npy
    check "decode --device, $format" cmp on_cpu.npy on_device.npy
done
try "$tqkv" fit "$data" device.profile
try "$tqkv" encode -p device.profile "$data/k.npy" on_cpu.tqkv
try "$tqkv" encode --device host -p device.profile "$data/k.npy" on_device.tqkv
check "encode --device with a profile" cmp on_cpu.tqkv on_device.tqkv
try "$tqkv" decode on_cpu.tqkv on_cpu.npy
try "$tqkv" decode --device host on_cpu.tqkv on_device.npy
check "decode --device with a profile" cmp on_cpu.npy on_device.npy
head -c 5000 on_cpu.tqkv > cut.tqkv
fails "decode --device of a cut container" 1 "ends before" "$tqkv" decode --device host cut.tqkv cut.npy
try "$tqkv" ablate --device host -q 1 -f mlx4,mlx8,tq4 --json "$data"
check "ablate --device: floors" "$python" -c '
import json
rows = [json.loads(line) for line in open("out")]
assert len(rows) == 3 and all(r["verdict"] == "representation floor" for r in rows)
assert .1 < rows[0]["representation_error"] < .3 and rows[1]["representation_error"] < .03'
"$tqkv" ablate --device host -q 1 -f mlx4,tq4 --wrong-scale 0.0442 --json "$data" > out 2> err
check "ablate --device: a bug" [ $? = 1 -a "$(grep -c 'kernel bug' out)" = 2 ]
try "$tqkv" eval --device host -q 4 -f tq4 --json "$data"
check "eval --device" "$python" -c '
import json
row, balanced = map(json.loads, open("out"))
assert .05 < row["attn_rel_err"] < .2 and .05 < balanced["attn_rel_err"] < .2
assert abs(row["k_rel_err"] - .0761) < .001'

# two commands writing one output: one is told, the other's file is whole
mkfifo pipe
"$tqkv" encode - shared.tqkv < pipe 2> err.first &
first=$!
exec 9> pipe
head -c 4000 f32.npy >&9
for _ in $(seq 100); do [ -e shared.tqkv.partial ] && break; sleep 0.05; done
fails "a second writer" 1 "another command is writing it" "$tqkv" encode three.npy shared.tqkv
tail -c +4001 f32.npy >&9
exec 9>&-
wait $first
check "the first writer finishes" [ $? = 0 ]
try "$tqkv" verify shared.tqkv
check "its file is whole" [ $status = 0 ]

# arrays larger than the memory allowed stream through
if (ulimit -v 150000; "$tqkv" --version > /dev/null 2>&1); then # not under AddressSanitizer
    "$python" -c '
import numpy as np
header = np.lib.format.header_data_from_array_1_0(np.empty((1, 1, 128), "f2"))
header["shape"] = (100000, 8, 128)
with open("wide.npy", "wb") as file:
    np.lib.format.write_array_header_1_0(file, header)
    file.truncate(file.tell() + 100000 * 8 * 256)'
    (ulimit -v 150000; "$tqkv" encode -f tq8 wide.npy wide.tqkv 2> err)
    check "200 MB in 150 MB of address space" [ $? = 0 ]
    (ulimit -v 150000; "$tqkv" verify wide.tqkv > out 2> err)
    check "and verified there" [ $? = 0 ]
    rm -f wide.npy wide.tqkv
fi

# killed at any moment: nothing, or a whole file, under the final name
"$python" -c '
import numpy as np
np.save("large.npy", np.random.default_rng(0).standard_normal((400, 8, 128)).astype("f4"))'
for i in $(seq 12); do
    "$tqkv" encode -f tq2 large.npy killed.tqkv 2> /dev/null &
    sleep "0.0$((i % 10))"
    kill -9 $! 2> /dev/null
    wait $! 2> /dev/null
    if [ -e killed.tqkv ]; then
        try "$tqkv" verify killed.tqkv
        check "whole after kill" [ $status = 0 ]
    fi
done
try "$tqkv" encode -f tq2 large.npy killed.tqkv
check "a leftover partial file is no obstacle" [ $status = 0 -a ! -e killed.tqkv.partial ]
"$tqkv" encode - terminated.tqkv < /dev/zero > /dev/null 2> err
check "endless garbage ends" [ $? = 1 ]

finish
