#!/bin/bash
# tqkv llama and tqkv profile, with scripts in place of llama.cpp's programs:
# cli_llama.sh TQKV PYTHON DATA
. "$(dirname "$0")/cli_functions.sh"

"$tqkv" fit "$data" whole.profile

mkdir -p llama models
cat > llama/llama-server <<'END'
#!/bin/sh
printf '%s\n' "backend $GGML_BACKEND_PATH kv $TQKV_KV other $LLAMA_ARG_OVERRIDE_TENSOR profile $TQKV_PROFILE"
for argument; do echo "<$argument>"; done
END
cp llama/llama-server llama/llama-bench
cat > llama/llama-perplexity <<'END'
#!/bin/sh
[ "$BROKEN" ] && { echo "cannot load"; exit 3; }
[ "$WAITING" ] && { echo $$ > waiting; echo part > "$TQKV_CAPTURE.XyZ"; sleep 100; }
echo "$@" > arguments
dirname "$TQKV_CAPTURE" > folder
for done in $SLOWLY 1; do
    echo "keys $done 10" >&"$TQKV_CAPTURE_PROGRESS"
    [ "$SLOWLY" ] && sleep 0.1
done
[ "$FAILING" ] && { echo "failed $FAILING" >&"$TQKV_CAPTURE_PROGRESS"; exit; }
[ "$EMPTY" ] && { : > "$TQKV_CAPTURE"; exit; }
[ "$NOTHING" ] || cp whole.profile "$TQKV_CAPTURE"
END
chmod +x llama/*
echo model > models/model.gguf
try "$tqkv" llama --print --kv tq5/tq4 --profile whole.profile -- llama/llama-server -m models/model.gguf -p "it's"
check "llama --print: status" [ $status = 0 ]
check "llama --print: one line that the shell reads" grep -q "^env GGML_BACKEND_PATH=.*libggml-tqkv.so TQKV_KV=tq5/tq4 'LLAMA_ARG_OVERRIDE_TENSOR=^\$=CPU' TQKV_PROFILE=whole.profile llama/llama-server -m models/model.gguf -p 'it'.''s'$" out
try "$tqkv" llama llama/llama-server -m models/model.gguf -fa off
check "llama: passes backend and format, and no profile" grep -q "^backend .*libggml-tqkv.so kv tq4 other ^\$=CPU profile $" out
check "llama: gives no flags" [ "$(grep -c '^<' out)" = 4 ]
check "llama: says in one line what it did" [ "$(wc -l < err)" = 1 ]
check "llama: runs no model" [ ! -e arguments ]
LLAMA_ARG_OVERRIDE_TENSOR=x=CPU TQKV_PROFILE=other TQKV_KV=tq2 try "$tqkv" llama --kv lm3 -- llama/llama-bench
check "llama: what else is overridden stands, profiles and formats of outside do not" grep -q "kv lm3 other x=CPU profile $" out
try "$tqkv" llama llama/llama-server -ctv q4_0
check "llama: says what a cache type does" grep -q -- "with -ctv other than f16 the cache is llama.cpp's own" err
try "$tqkv" llama --kv=tq3 llama/llama-server -ctk f16
check "llama: --kv=FORMAT; f16 is no other type" [ "$(wc -l < err)" = 1 ]
try "$tqkv" llama --print llama/llama-server
check "llama --print: no profile of outside" grep -q "^env -u TQKV_PROFILE GGML" out
fails "llama: no program" 2 "takes a program" "$tqkv" llama --kv tq4
for name in tq4.5 tq9 tq4/ /tq4 tq4/x mlx4 q4_0 ""; do
    fails "llama: no such format: $name" 2 "'$name' is no format" "$tqkv" llama --kv "$name" -- llama/llama-server
done
fails "llama: no such option" 2 "no option '--what'" "$tqkv" llama --what -- llama/llama-server
fails "llama: no such profile" 1 "nowhere: No such file" "$tqkv" llama --profile nowhere -- llama/llama-server
TQKV_BACKEND=nowhere fails "llama: no backend" 1 "nowhere (TQKV_BACKEND): No such file" "$tqkv" llama llama/llama-server
fails "profile: no model" 1 "nowhere.gguf: No such file" "$tqkv" profile -m nowhere.gguf -o out.profile --llama llama
fails "profile: no program" 1 "llama-perplexity is not in models" "$tqkv" profile -m models/model.gguf -o out.profile --llama models
fails "profile: nothing to do" 2 "takes -m MODEL" "$tqkv" profile

fails "llama: a misspelt program" 1 "llama/llama-sever: No such file" "$tqkv" llama llama/llama-sever -m models/model.gguf
fails "llama: one that is not in PATH" 1 "llama-sever: not found in \$PATH" "$tqkv" llama llama-sever -m models/model.gguf
fails "llama: a folder" 1 "llama: Is a directory" "$tqkv" llama ./llama -m models/model.gguf
PATH=$dir/llama:$PATH try "$tqkv" llama llama-server -m models/model.gguf
check "llama: a program in PATH" [ $status = 0 ]

# ---- profile -o ----

echo old > kept.profile
BROKEN=1 try "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
check "profile: a failure leaves the old file" [ $status = 1 -a "$(cat kept.profile)" = old ]
EMPTY=1 try "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
check "profile: so does a bad profile" [ $status = 1 -a "$(cat kept.profile)" = old ]
fails "profile: so does a missing text" 1 "nowhere.txt: No such file" "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama -f nowhere.txt
check "and it stays" [ "$(cat kept.profile)" = old ]
try "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
check "profile: a success replaces it" cmp whole.profile kept.profile
check "profile: runs the model on the text that ships, in the f16 cache" grep -q -- "-f .*profile.txt -c 2048 .*-ot" arguments
FAILING="No space left on device" fails "profile: a full disk" 1 "model.gguf: no profile: No space left" "$tqkv" profile -m models/model.gguf -o no.profile --llama llama
NOTHING=1 fails "profile: no word of why" 1 "without tqkv's backend" "$tqkv" profile -m models/model.gguf -o no.profile --llama llama
TMPDIR=$dir/nowhere fails "profile: no temporary folder" 1 "$dir/nowhere: no temporary folder" "$tqkv" profile -m models/model.gguf -o no.profile --llama llama
fails "profile: a missing folder" 1 "cannot be written" "$tqkv" profile -m models/model.gguf -o no/such.profile --llama llama

# ---- names ----

long=$(printf 'x%.0s' $(seq 200))
mkdir -p "a:b\\c/$long/$long"
odd=a:b\\c/$long/$long/p:q.profile
try "$tqkv" profile -m models/model.gguf -o "$odd" --llama llama
check "profile: a name with colons, longer than 256 bytes" cmp whole.profile "$odd"
try "$tqkv" llama --profile "$odd" llama/llama-server
check "llama: colons of a name are told from those of the list" grep -qF "profile a\:b\c/$long/$long/p\:q.profile" out

# ---- signals, TMPDIR ----

mkdir temporary
export TMPDIR=$dir/temporary
try "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
check "TMPDIR is where the run keeps its files" grep -q "^$TMPDIR/" folder
check "which are removed" [ -z "$(ls temporary)" ]
stopped_by() # SIGNAL COMMAND...
{
    local signal=$1
    shift
    rm -f waiting
    WAITING=1 setsid "$@" > out 2> err < /dev/null &
    local command=$!
    for _ in $(seq 200); do [ -s waiting -a "$(ls temporary/*/*.XyZ 2> /dev/null)" ] && break; sleep 0.05; done
    check "$signal: it runs" [ -s waiting ]
    kill -s "$signal" $command
    wait $command 2> /dev/null
    check "$signal: ends the command" [ $? -gt 128 ]
    check "$signal: no temporary folder is left" [ -z "$(ls temporary)" ]
    check "$signal: no partial profile is left" [ -z "$(ls ./*.partial 2> /dev/null)" ]
    for _ in $(seq 100); do kill -0 "$(cat waiting)" 2> /dev/null || break; sleep 0.05; done
    check "$signal: the model's run is ended" [ ! -d "/proc/$(cat waiting)" ]
}
for signal in TERM HUP; do
    stopped_by $signal "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
    check "$signal: the old profile stays" cmp whole.profile kept.profile
done
# A shell ignores SIGINT for what it starts in the background.
stopped_by INT "$python" -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
unset TMPDIR

finish
