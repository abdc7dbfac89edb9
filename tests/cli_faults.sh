#!/bin/bash
# The command where the system fails: cli_faults.sh TQKV PYTHON DATA FAULTS, the last
# the library made of faults.c.
faults=$(realpath "$4")
. "$(dirname "$0")/cli_functions.sh"

with() # FAULT=VALUE... COMMAND...
{
    env LD_PRELOAD="$faults" "$@"
}

# ---- progress, where standard error is no terminal ----

mkdir llama temporary
"$tqkv" fit "$data" whole.profile
cat > llama/llama-perplexity <<'END2'
#!/bin/sh
unset LD_PRELOAD
for done in 1 2 3 4 5 6 7 8 9 10; do
    echo "keys $done 10" >&"$TQKV_CAPTURE_PROGRESS"
    sleep 0.1
done
cp whole.profile "$TQKV_CAPTURE"
END2
chmod +x llama/*
: > model.gguf
try with FAULT_CLOCK=100 "$tqkv" profile -m model.gguf -o made.profile --llama llama
check "progress: says how long it will take" grep -q "^tqkv: profile: running the model  *[0-9]*%, .* left$" err
check "progress: in a few lines" [ "$(wc -l < err)" -lt 6 ]
check "progress: nothing for a terminal" [ "$(grep -c '\[K' err)" = 0 ]
try with FAULT_CLOCK=1 "$tqkv" profile -m model.gguf -o made.profile --llama llama
check "progress: nothing where it is short" [ ! -s err ]

# ---- a profile ----

export TMPDIR=$dir/temporary
echo old > kept.profile
fails "no process" 1 "cannot be started: Resource temp" with FAULT_FORK=1 "$tqkv" profile -m model.gguf -o kept.profile --llama llama
fails "a full disk" 1 "kept.profile: writing failed: No space left" with FAULT_FSYNC=1 "$tqkv" profile -m model.gguf -o kept.profile --llama llama
check "the old profile stays" [ "$(cat kept.profile)" = old ]
check "nothing is left" [ -z "$(find temporary . -name '*.partial' -o -path 'temporary/*')" ]
unset TMPDIR

# ---- tables ----

# The 9th row is the first that does not fit.
try with FAULT_REALLOC=5376 "$tqkv" formats -n 1000
check "a table without memory fails" [ $status = 1 ]
check "and says so" grep -q "out of memory" err
check "and is not printed" [ ! -s out ]

# ---- pictures ----

mkdir fake
printf '#!/bin/sh\nexec true\n' > fake/gnuplot
chmod +x fake/gnuplot
PATH=$dir/fake:$PATH fails "a gnuplot that ends at once" 1 "plot.svg: gnuplot" with FAULT_POPEN=1 "$tqkv" eval -q 4 -f tq4 --plot plot.svg --json "$data"
check "leaves no picture" [ -z "$(ls plot.svg* 2> /dev/null)" ]
printf '#!/bin/sh\ncat > /dev/null\n' > fake/gnuplot
PATH=$dir/fake:$PATH fails "a gnuplot that draws nothing" 1 "plot.svg: gnuplot" "$tqkv" eval -q 4 -f tq4 --plot plot.svg --json "$data"
check "leaves no empty picture" [ -z "$(ls plot.svg* 2> /dev/null)" ]

finish
