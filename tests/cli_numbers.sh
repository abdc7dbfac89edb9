#!/bin/bash
# Numbers that no option takes end with a message that names them, at once:
# cli_numbers.sh TQKV PYTHON DATA
. "$(dirname "$0")/cli_functions.sh"

bad="-1 0x10 abc 1e9 99999999999999999999999 18446744073709551616 1.5 +1 1,2"

# refuses COMMAND OPTION NUMBER...: each number is wrong use, and named
refuses()
{
    local command=$1 option=$2 number
    shift 2
    for number; do
        # shellcheck disable=SC2086
        fails "$command $option '$number'" 2 "$number" timeout 10 "$tqkv" $command "$option" "$number" "$data" "$data"
    done
}
for option in -d -n; do
    refuses formats $option $bad " 1" ""
done
refuses formats -n 0 1073741825
refuses formats -d 0 8 1025 65536
refuses eval -q 0 4294967296 $bad " -1" ""
refuses ablate -q 0 65537 $bad " -1"
refuses ablate --wrong-scale 0 -1 abc nan inf 1e999 1,2 ""
refuses fit -t 0 $bad " -1" ""
refuses plan --recent $bad " -1" 4294967296 ""
for option in --layers --kv-heads --head-dim --value-dim --window --window-layers -c; do
    refuses plan $option 0 $bad " -1" 4294967296 ""
done
refuses plan -M 0 -1G abc 1Q 1GG nan inf 1e30 0.1 1e-12G ""
for option in -t -w; do
    refuses profile $option 0 $bad " -1" ""
done
refuses profile -t 513
refuses profile -w 65
refuses "llama" --kv tq0 tq4.25 tq1 tq9 tq-1 tqabc tqnan tqinf q4_9 ""
for option in -d -n -g -c -t -q; do
    refuses bench $option 0 $bad " -1" ""
done
refuses bench -d 1025
refuses bench -n 16777217
refuses bench -g 65
refuses bench -c 131073
refuses bench -t 3
refuses bench -q 513

# ---- what bench cannot do with good numbers ----

fails "bench of an odd size" 2 "tq4 with head_dim 17" "$tqkv" bench -d 17 tq4
fails "bench of an unknown format" 2 "tq99" "$tqkv" bench tq99
fails "bench --attention of an unknown format" 2 "tq99" "$tqkv" bench --attention tq99
fails "bench --attention of an empty format" 2 "no format has" "$tqkv" bench --attention ""
fails "bench --attention of a shape that it lacks" 2 "head-dim 100" "$tqkv" bench --attention -d 100 tq4
fails "and another" 2 "gqa 8 --context 1024" "$tqkv" bench --attention -d 64 -g 8 -c 1024 tq4
fails "bench --attention of a format that the size lacks" 1 "mlx4 with head_dim 96" "$tqkv" bench --attention -d 96 -c 1024 -t 1 mlx4
fails "bench --device of a format" 2 "'tq4'" "$tqkv" bench --device host tq4
fails "bench --device of no such device" 1 "nothing:0" "$tqkv" bench --device nothing:0

# ---- cases of bench --attention --device ----

bad_case() # CASE PATTERN
{
    fails "case '$1'" 2 "'$1'.*$2" timeout 10 "$tqkv" bench --attention --device host "tq4,1,4,4,128,1024" "$1"
}
bad_case "tq4,2147483648,4,4,128,2147483648" SEQUENCES
bad_case "tq4,65536,65536,65536,1024,16777216" "larger than 1 GiB"
bad_case "tq4,0,4,4,128,1024" SEQUENCES
bad_case "tq4,1,-4,4,128,1024" HEADS
bad_case "tq4,1,4,0,128,1024" KV_HEADS
bad_case "tq4,1,4,3,128,1024" "multiple of KV_HEADS"
bad_case "tq4,1,4,4,17,1024" "multiple of 16"
bad_case "tq4,1,4,4,4294967424,1024" HEAD_DIM
bad_case "tq4,1,4,4,128,4294967296" TOKENS
bad_case "tq4,1,4,4,128,18446744073709551617" TOKENS
bad_case "tq4,1,4,4,128,1024,0" QUERIES
bad_case "tq4,1,4,4,128,1024,2048" "fewer than QUERIES"
bad_case "tq4,8,65536,1,128,1024,1024" "queries are larger"
bad_case "tq4,1,4,4,128,1024,1,0" PAGE
bad_case "tq4,1,4,4,128,1024,1,33" "multiple of PAGE"
bad_case "tq2,1,1,1,16,1048576,1,1" "262144 pages"
bad_case "tq4,1,4,4,128,1024,1,64,7" "EXTRAS are letters"
bad_case "tq4,1,4,4,128,1024,1,32,m" "pages of 64 tokens"
bad_case "tq4,1,4,4,128,1024x" TOKENS
bad_case "tq4,1,4,4,128," "TOKENS"
bad_case "tq4,1,4,4,128" "5 to 7 numbers"
bad_case "tq99,1,4,4,128,1024" "no format has"
bad_case "a_name_that_is_far_too_long,1,4,4,128,1024" "no format has"
bad_case "" "5 to 7 numbers"

finish
