#!/usr/bin/env bash
# fairseq-generate as several processes, one a GPU or N on a CPU, and what they print merged in source order.

set -euo pipefail
usage() {
    cat <<'HELP'
usage: scripts/generate_sharded.sh [--num-shards N] DATA --path MODEL.pt --results-path DIR [fairseq-generate options]

Runs N fairseq-generate at once, each with its share of the batches, and merges their results in source order into
DIR/generate-SUBSET.txt, where one fairseq-generate would have written them. N: the number of GPUs (nvidia-smi, or
CUDA_VISIBLE_DEVICES), one process each; without a GPU, or with --cpu, give N: the processes divide the cores.

* All or nothing: if a process fails, the others are stopped, the end of its log is shown, no merged file is left and
  the exit status is 1. So too if a sentence is missing or in two shards. Ctrl-C stops all processes.
* Run again with the same arguments, only shards that had not finished are run. Other arguments, or other files behind
  them (a new checkpoint of the same name), and all are. Shards and logs stay in DIR/generate-SUBSET.shards.
* --required-batch-size-multiple is 1 unless given: fairseq's 8 drops sentences of an incomplete last batch.
* Batches are those of a single process, so hypotheses and scores are, too; random searches (--sampling) draw others.
* fairseq-generate is the one on PATH, or else in this repository's .venv. By itself it ignores --num-shards and
  --shard-id and generates everything; it heeds --distributed-world-size and --distributed-rank, which this script sets.

BLEU: each process scores its own part, which says nothing of the whole. For the best hypotheses of all sentences:

    awk -F'\t' '/^T-/ { print $2 }' DIR/generate-test.txt >ref
    awk -F'\t' '/^D-/ && !seen[$1]++ { print $3 }' DIR/generate-test.txt >sys
    fairseq-score --sys sys --ref ref    # what fairseq-generate prints by default
    sacrebleu ref -i sys                 # of words, with --remove-bpe
HELP
}

die() {
    printf 'generate_sharded.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

parse() { # sets ARGUMENTS, for every shard, and what this script has to know of them
    local option value words
    ARGUMENTS=() SHARDS='' RESULTS='' SUBSET=test ON_CPU='' MAY_MISS=''
    while (($#)); do
        option="${1%%=*}" value="${2-}" words=2
        [[ $1 == *=* ]] && value="${1#*=}" words=1
        case "$option" in
            --num-shards | --results-path | --gen-subset)
                (($# >= words)) || die "$option needs a value" 2 ;;&
            --num-shards) SHARDS="$value" ;;
            --results-path) RESULTS="${value%/}" ;;
            --shard-id | --distributed-*) die "$option is set by this script for each process; say --num-shards N" 2 ;;
            --quiet) die "--quiet leaves nothing to merge" 2 ;;
            *)
                words=1
                ARGUMENTS+=("$1") ;;&
            --gen-subset) SUBSET="$value" ;;
            --cpu) ON_CPU=yes ;;
            --required-batch-size-multiple | --skip-invalid-size-inputs-valid-test) MAY_MISS="$option" ;;
        esac
        shift "$words"
    done
    [[ -n $RESULTS ]] || die "--results-path DIR is required (--help tells more)" 2
}

find_gpus() { # their names in CUDA_VISIBLE_DEVICES, one a line
    if [[ -n $ON_CPU ]]; then
        return
    elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | sed '/^$/d; /^-/d'
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
    fi
}

describe() { # all that the output depends on: the arguments, the number of shards, the files that are named
    local argument parts part
    printf '%q ' "$SHARDS shards" "${ARGUMENTS[@]}"
    echo
    for argument in "${ARGUMENTS[@]}"; do
        IFS=:= read -ra parts <<<"$argument"
        for part in ${parts[@]+"${parts[@]}"}; do
            [[ $part != -* && -e $part ]] || continue
            find -L "$part" -maxdepth 1 -type f -printf '%p %s %T@\n' | LC_ALL=C sort
        done
    done
}

start() { # SHARD
    local folder="$WORK/$1" environment=(OMP_NUM_THREADS="$THREADS")
    rm -rf "$folder"
    mkdir "$folder"
    ((${#GPUS[@]} == 0)) || environment+=(CUDA_VISIBLE_DEVICES="${GPUS[$1 % ${#GPUS[@]}]}")
    env "${environment[@]}" "$GENERATE" --required-batch-size-multiple 1 "${ARGUMENTS[@]}" --results-path "$folder" \
        --distributed-world-size "$SHARDS" --distributed-rank "$1" >"$folder/log" 2>&1 </dev/null &
    RUNNING[$1]=$!
}

stop() {
    local pid
    trap '' INT TERM HUP # once is enough
    for pid in $(jobs -p); do
        kill -TERM -- "-$pid" 2>/dev/null || true # its group: fairseq's data loaders, too
    done
    wait
}

ids_of() { # SHARD: the sentences it has printed hypotheses of
    local results="$WORK/$1/generate-$SUBSET.txt"
    [[ ! -f $results ]] || LC_ALL=C awk -F'[-\t]' '/^H-[0-9]/ && $1 $2 != last { print $2; last = $1 $2 }' "$results"
}

finish() { # SHARD STATUS: mark it as done, or end with its error
    local folder="$WORK/$1" status="$2" printed translated problem
    printed="$(ids_of "$1" | wc -l)"
    translated="$(cat "$folder"/* | sed -nE 's/.*Translated ([0-9,]+) sentences .*/\1/p' | tail -n 1)"
    problem="exit status $status"
    if ((status == 0)) && [[ ${translated//,/} != "$printed" ]]; then
        problem="it says it translated ${translated:-?} sentences, but wrote $printed"
    # A shard without batches gets through all of them, and then fairseq divides by the time that took.
    elif ((status == 0)) || { ((printed == 0)) && grep -q 'hypothesis and token scores are output' "$folder"/* &&
        grep -q '^ZeroDivisionError' "$folder/log"; }; then
        touch "$folder/done"
        return
    fi
    echo "shard $1 of $SHARDS failed ($problem); the end of $folder/log:" >&2
    tail -n 15 "$folder/log" | sed 's/^/    /' >&2
    die "nothing was merged; run it again to go on from the shards that have finished"
}

progress() {
    local shard sentences=0 finished=0
    for ((shard = 0; shard < SHARDS; shard++)); do
        sentences=$((sentences + $(ids_of "$shard" | wc -l)))
        [[ ! -f $WORK/$shard/done ]] || finished=$((finished + 1))
    done
    echo "$SECONDS s: $sentences sentences, $finished of $SHARDS shards finished"
}

run() { # all shards that have not finished
    local shard alive status next=30
    declare -gA RUNNING=()
    set -m # each in a process group of its own, so that it can be stopped with all it started
    for ((shard = 0; shard < SHARDS; shard++)); do
        if [[ -f $WORK/$shard/done ]]; then
            echo "shard $shard of $SHARDS has finished earlier"
        else
            start "$shard"
        fi
    done
    set +m
    while ((${#RUNNING[@]})); do
        sleep 0.2
        alive=" $(jobs -pr | tr '\n' ' ')"
        for shard in "${!RUNNING[@]}"; do
            [[ $alive != *" ${RUNNING[$shard]} "* ]] || continue
            status=0
            wait "${RUNNING[$shard]}" || status=$?
            unset "RUNNING[$shard]"
            finish "$shard" "$status"
            progress
        done
        if ((SECONDS >= next)); then
            progress
            next=$((SECONDS + 30))
        fi
    done
}

check_ids() { # sets SENTENCES; ends if one is in two shards, or missing without a reason
    local shard size missing first twice
    size="$(cat "$WORK"/*/* | sed -nE "s|.*loaded ([0-9,]+) examples from: .*/$SUBSET\..*|\1|p" | tr -d , |
        sort -n | tail -n 1)"
    read -r SENTENCES missing first twice < <(
        for ((shard = 0; shard < SHARDS; shard++)); do ids_of "$shard"; done | LC_ALL=C sort -n |
            awk -v size="${size:-0}" '
                BEGIN { last = -1; twice = first = "none" }
                $1 == last && twice == "none" { twice = $1 }
                $1 > last + 1 && first == "none" { first = last + 1 }
                $1 != last { sentences++; last = $1 }
                END {
                    if (size > last + 1 && first == "none") first = last + 1
                    print sentences + 0, (size > last + 1 ? size : last + 1) - sentences, first, twice
                }'
    )
    [[ $twice == none ]] || die "sentence $twice is in two shards: does this fairseq shard by --distributed-rank?"
    ((SENTENCES)) || die "no sentence was generated"
    ((missing == 0)) || [[ -n $MAY_MISS ]] || die "$missing sentences are missing, the first is $first; see $WORK"
    ((missing == 0)) || echo "WARNING: $missing sentences are missing (the first is $first): $MAY_MISS was given" >&2
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit; }
parse "$@"
mapfile -t GPUS < <(find_gpus)
SHARDS="${SHARDS:-${#GPUS[@]}}"
[[ $SHARDS != 0 ]] || die "no GPU found: say with --num-shards N how many processes to run on the CPU" 2
[[ $SHARDS =~ ^[1-9][0-9]*$ ]] || die "--num-shards $SHARDS: not a positive number" 2
GENERATE="$(command -v fairseq-generate || echo "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/fairseq-generate")"
[[ -x $GENERATE ]] || die "no fairseq-generate on PATH (scripts/test.sh makes .venv with it)"
THREADS="${OMP_NUM_THREADS:-$(($(nproc) / SHARDS))}"
((THREADS > 0)) || THREADS=1

MERGED="$RESULTS/generate-$SUBSET.txt"
WORK="$RESULTS/generate-$SUBSET.shards"
mkdir -p "$WORK"
exec {LOCK}>"$WORK/lock"
flock -n "$LOCK" || die "another run is writing to $WORK"
rm -f "$MERGED"
describe >"$WORK/run.new"
cmp -s "$WORK/run.new" "$WORK/run" || rm -rf "$WORK"/[0-9]*
mv "$WORK/run.new" "$WORK/run"

trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
((${#GPUS[@]})) && devices="GPU ${GPUS[*]}" || devices="the CPU"
echo "$SHARDS processes on $devices, $THREADS CPU threads each (logs: $WORK/*/log)"
run
check_ids
cat "$WORK"/[0-9]*/generate-"$SUBSET".txt | LC_ALL=C grep -a '^[A-Z]-[0-9]' |
    LC_ALL=C sort -s -t- -k2,2n >"$WORK/merged"
mv "$WORK/merged" "$MERGED"
echo "$SENTENCES sentences of $SHARDS shards in $SECONDS s: $MERGED"
