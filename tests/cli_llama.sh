#!/bin/bash
# tqkv llama and tqkv profile, with scripts in place of llama.cpp's programs:
# cli_llama.sh TQKV PYTHON DATA
. "$(dirname "$0")/cli_functions.sh"

"$tqkv" fit "$data" whole.profile

mkdir -p llama models
cat > llama/llama-server <<'END'
#!/bin/sh
printf '%s\n' "backend $GGML_BACKEND_PATH profile $TQKV_PROFILE"
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
export XDG_CACHE_HOME=$dir/cache
try "$tqkv" llama --print --k tq5 --v q4_0 -- llama/llama-server -m models/model.gguf -p "it's"
check "llama --print: status" [ $status = 0 ]
check "llama --print: one line that the shell reads" grep -q "^env GGML_BACKEND_PATH=.*libggml-tqkv.so TQKV_PROFILE=$dir/cache/tqkv/.* llama/llama-server -m models/model.gguf -p 'it'.''s' -ctk q5_0 -ctv q4_0 -ot '^\$=CPU'$" out
check "llama --print: runs nothing" [ ! -e cache/tqkv/profiles/*.profile ]
try "$tqkv" llama llama/llama-server -m models/model.gguf -fa off -ctk f16
check "llama: makes a profile and says so" grep -q "first use of model.gguf" err
check "llama: passes backend and profile" grep -q "^backend .*libggml-tqkv.so profile $dir/cache/tqkv/profiles/" out
check "llama: what the user gave stands" [ "$(grep -c '^<-fa>$\|^<-ctk>$' out)" = 2 ]
check "llama: runs the model on the text that ships" grep -q -- "-f .*profile.txt -c 2048" arguments
try "$tqkv" llama llama/llama-server --model models/model.gguf
check "llama: the profile is kept" [ "$(grep -c 'first use' err)" = 0 ]
check "llama: says in one line what it did" [ "$(wc -l < err)" = 1 ]
try "$tqkv" llama --no-profile -- llama/llama-bench -m models/model.gguf
check "llama: llama-bench is given no -ot" [ "$(grep -c '^<-ot>$' out)" = 0 ]
check "llama: flash attention is left to llama.cpp" [ "$(grep -c '^<-fa>$' out)" = 0 ]
check "llama: --no-profile" grep -q "profile $" out
rm -r cache
BROKEN=1 try "$tqkv" llama llama/llama-server -m models/model.gguf
check "llama: goes on without a profile that cannot be made" [ $status = 0 ]
check "llama: and shows why" grep -q "cannot load" err
fails "llama: no program" 2 "takes a program" "$tqkv" llama --k tq4
fails "llama: no such type" 2 "holds 'tq9'" "$tqkv" llama --k tq9 -- llama/llama-server
fails "llama: no such option" 2 "no option '--what'" "$tqkv" llama --what -- llama/llama-server
fails "llama: no such profile" 1 "nowhere: No such file" "$tqkv" llama --profile nowhere -- llama/llama-server
TQKV_BACKEND=nowhere fails "llama: no backend" 1 "TQKV_BACKEND" "$tqkv" llama llama/llama-server
fails "profile: no model" 1 "nowhere.gguf: No such file" "$tqkv" profile -m nowhere.gguf -o out.profile --llama llama
fails "profile: no program" 1 "llama-perplexity is not in models" "$tqkv" profile -m models/model.gguf -o out.profile --llama models
fails "profile: nothing to do" 2 "takes -m MODEL" "$tqkv" profile

# ---- the program is looked for before a model is run ----

rm -f arguments
fails "llama: a misspelt program" 1 "llama/llama-sever: No such file" "$tqkv" llama llama/llama-sever -m models/model.gguf
fails "llama: one that is not in PATH" 1 "llama-sever: not found in \$PATH" "$tqkv" llama llama-sever -m models/model.gguf
fails "llama: a folder" 1 "llama: Is a directory" "$tqkv" llama ./llama -m models/model.gguf
check "llama: no model was run for them" [ ! -e arguments ]
PATH=$dir/llama:$PATH try "$tqkv" llama llama-server -m models/model.gguf
check "llama: a program in PATH, and llama-perplexity beside it" [ $status = 0 -a -e arguments ]
check "llama: gets its profile" grep -q "profile $dir/cache" out

# ---- what messages name is there for tqkv llama ----

goes_on() # NAME PATTERN COMMAND...: runs the program, without a profile, and says why
{
    local name=$1 pattern=$2
    shift 2
    try "$@"
    check "$name: goes on" [ $status = 0 ]
    check "$name: without a profile" grep -q "profile $" out
    check "$name: says '$pattern'" grep -q -- "$pattern" err
    check "$name: on one line" [ "$(grep -cv 'first use of\|no profile: llama-server$' err)" = 1 ]
    check "$name: no options of others" [ "$(grep -c -- '--llama\|-f$' err)" = 0 ]
}
rm -rf cache
mkdir alone
cp llama/llama-server alone
goes_on "llama: no llama-perplexity" "neither beside llama-server nor in" "$tqkv" llama alone/llama-server -m models/model.gguf
goes_on "llama: no such model" "nowhere.gguf: No such file" "$tqkv" llama llama/llama-server -m nowhere.gguf

# ---- no place for profiles ----

goes_on "no HOME" "neither HOME nor XDG_CACHE_HOME" env -u HOME -u XDG_CACHE_HOME "$tqkv" llama llama/llama-server -m models/model.gguf
XDG_CACHE_HOME=/dev/null/x goes_on "a folder that cannot be made" "/dev/null/x.*Not a directory" "$tqkv" llama llama/llama-server -m models/model.gguf
mkdir -p blocked/tqkv
: > blocked/tqkv/profiles
XDG_CACHE_HOME=$dir/blocked goes_on "a file in its place" "cannot be written: .*Not a directory" "$tqkv" llama llama/llama-server -m models/model.gguf
FAILING="No space left on device" goes_on "a full disk below the model's run" "model.gguf: no profile: No space left" "$tqkv" llama llama/llama-server -m models/model.gguf
NOTHING=1 goes_on "no word of why" "without tqkv's backend" "$tqkv" llama llama/llama-server -m models/model.gguf
EMPTY=1 goes_on "an empty profile" "does not begin as" "$tqkv" llama llama/llama-server -m models/model.gguf
TMPDIR=$dir/nowhere goes_on "no temporary folder" "$dir/nowhere: no temporary folder" "$tqkv" llama llama/llama-server -m models/model.gguf
check "and no profile is left of them" [ -z "$(find cache -type f)" ]

# what an earlier version left after a crash
"$tqkv" llama llama/llama-server -m models/model.gguf > out 2> err
: > "$(echo cache/tqkv/profiles/*.profile)"
try "$tqkv" llama llama/llama-server -m models/model.gguf
check "an empty profile is made again" cmp whole.profile cache/tqkv/profiles/*.profile

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
    check "$signal: no partial profile is left" [ -z "$(ls ./*.partial cache/tqkv/profiles/*.partial 2> /dev/null)" ]
    for _ in $(seq 100); do kill -0 "$(cat waiting)" 2> /dev/null || break; sleep 0.05; done
    check "$signal: the model's run is ended" [ ! -d "/proc/$(cat waiting)" ]
}
rm -r cache
for signal in TERM HUP; do
    stopped_by $signal "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
    check "$signal: the old profile stays" cmp whole.profile kept.profile
    stopped_by $signal "$tqkv" llama llama/llama-server -m models/model.gguf
    check "$signal: the program is not started" [ ! -s out ]
done
# A shell ignores SIGINT for what it starts in the background.
stopped_by INT "$python" -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$tqkv" profile -m models/model.gguf -o kept.profile --llama llama
unset TMPDIR XDG_CACHE_HOME

finish
