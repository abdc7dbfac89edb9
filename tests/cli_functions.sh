# What the tests of the command share; sourced with TQKV PYTHON DATA as arguments.
# Each check prints what failed; finish counts them.
tqkv=$(realpath "$1") python=$2 data=$(realpath "$3")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2
passed=0 failed=0

check() # NAME CONDITION...
{
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        sed 's/^/    /' err
    fi
}

# Runs a command; $status, out and err say what it did.
try()
{
    "$@" > out 2> err < /dev/null
    status=$?
}

# fails NAME STATUS PATTERN COMMAND...: exits with STATUS, says PATTERN, on stderr alone
fails()
{
    local name=$1 expected=$2 pattern=$3
    shift 3
    try "$@"
    check "$name: exits with $expected, not $status" [ "$status" = "$expected" ]
    check "$name: says '$pattern'" grep -q -- "$pattern" err
    check "$name: one line that begins with tqkv:" [ "$(grep -c '^tqkv: ' err)" = "$(wc -l < err)" ]
}

# Ends the test.
finish()
{
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}
