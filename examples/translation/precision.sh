#!/usr/bin/env bash
# How far fp16 and bf16 drift from fp32 on real sentences: stock, and EL-attention both ways.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/translation/precision.sh [--out OUT] [--model MODEL.pt]

Translates test_2016_flickr on OUT/bin (default OUT: results/multi30k) with the model (default:
OUT/checkpoints/checkpoint_last.pt, from run.sh) in fp32, fp16 and bf16 (stock has no bf16), and compares all outputs
with stock's in fp32: about 5 minutes on 2 cores. The outputs are kept in OUT/precision; those of this model are not
made again.
HELP
}
OUT=results/multi30k MODEL=''
read_options "out model" "$@"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

MODEL="${MODEL:-$OUT/checkpoints/checkpoint_last.pt}"
mkdir -p "$OUT/precision"
stamp="$(cksum <"$MODEL")"
if [[ $(cat "$OUT/precision/checkpoint" 2>/dev/null) != "$stamp" ]]; then # of another model
    rm -f "$OUT"/precision/*.out
    echo "$stamp" >"$OUT/precision/checkpoint"
fi
outputs=()
for run in stock:fp32 on:fp32 auto:fp32 stock:fp16 on:fp16 auto:fp16 on:bf16 auto:bf16; do
    mode="${run%:*}" precision="${run#*:}"
    file="$OUT/precision/$mode-$precision.out"
    options=(--task el_translation --el-attention "$mode")
    [[ $mode == stock ]] && options=(--task translation)
    [[ $precision == fp32 ]] || options+=("--$precision")
    if [[ ! -f $file ]]; then
        echo "$mode, $precision" >&2
        fairseq-generate "$OUT/bin" --user-dir el_fairseq "${options[@]}" --path "$MODEL" --beam 5 --nbest 5 \
            --batch-size 50 --required-batch-size-multiple 1 --remove-bpe sentencepiece >"$file.part" 2>&1
        mv "$file.part" "$file"
    fi
    outputs+=("$mode, $precision=$file")
done
python scripts/compare_outputs.py "${outputs[@]}"
