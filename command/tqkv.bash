# bash completion for tqkv
_tqkv()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local formats="tq2 tq3 tq4 tq5 tq6 tq7 tq8 lm2 lm3 lm4 mlx4 mlx5 mlx6 mlx8"
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "formats eval ablate plan fit llama profile encode decode info verify devices bench
            --help --version" -- "$current"))
        return
    fi
    case $previous in
    -f | --format | --formats)
        COMPREPLY=($(compgen -W "$formats" -- "$current"))
        return
        ;;
    -t | --type)
        if [ "${COMP_WORDS[1]}" = decode ]; then
            COMPREPLY=($(compgen -W "f32 f16 bf16" -- "$current"))
            return
        fi
        ;;
    --device)
        COMPREPLY=($(compgen -W "$(tqkv devices --json 2> /dev/null |
            sed 's/.*"device":"\([^"]*\)".*/\1/; s/:/\\:/')" -- "$current"))
        return
        ;;
    --isa | --cpu)
        COMPREPLY=($(compgen -W "scalar avx2 avx512 avx512vbmi neon neon-dotprod" -- "$current"))
        return
        ;;
    esac
    if [[ $current == -* ]]; then
        local options="--help"
        case ${COMP_WORDS[1]} in
        formats) options+=" --head-dim --samples --json" ;;
        eval) options+=" --formats --queries --plot --device --bf16 --json" ;;
        ablate) options+=" --formats --queries --wrong-scale --device --bf16 --json" ;;
        plan) options+=" --model --layers --kv-heads --head-dim --value-dim --window
            --window-layers --context --memory --no-means --recent --json" ;;
        fit) options+=" --tokens --no-means --fingerprint --bf16" ;;
        llama) options+=" --kv --profile --print" ;;
        profile) options+=" --model --text --out --threads --windows --llama" ;;
        encode) options+=" --format --profile --pages --device --bf16" ;;
        decode) options+=" --type --device" ;;
        info) options+=" --json" ;;
        devices) options+=" --json --source" ;;
        bench) options+=" --head-dim --rows --cpu --ggml --attention --gqa --context --threads
            --queries --device --cuda-module --json" ;;
        esac
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [ "${COMP_WORDS[1]}" = formats ] || [ "${COMP_WORDS[1]}" = bench ]; then
        COMPREPLY=($(compgen -W "$formats" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}
complete -o filenames -F _tqkv tqkv
