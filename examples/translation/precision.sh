#!/usr/bin/env bash
# How far fp16 and bf16 drift from fp32 on real sentences: stock, and EL-attention both ways.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help || $# -lt 1 ]]; then
    echo "usage: examples/translation/precision.sh OUT [CHECKPOINT]"
    echo "Translates test_2016_flickr on OUT/bin with CHECKPOINT (default: OUT/checkpoints/checkpoint_last.pt, from run.sh)"
    echo "in fp32, fp16 and bf16 (stock has no bf16), and compares all outputs with stock's in fp32: about 5 minutes on 2"
    echo "cores. The outputs are kept in OUT/precision; those of this checkpoint are not made again."
    [[ ${1:-} == --help ]] && exit 0 || exit 2
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"

OUT="$1" CHECKPOINT="${2:-$1/checkpoints/checkpoint_last.pt}"
mkdir -p "$OUT/precision"
stamp="$(cksum <"$CHECKPOINT")"
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
        fairseq-generate "$OUT/bin" --user-dir el_fairseq "${options[@]}" --path "$CHECKPOINT" --beam 5 --nbest 5 \
            --batch-size 50 --required-batch-size-multiple 1 --remove-bpe sentencepiece >"$file.part" 2>&1
        mv "$file.part" "$file"
    fi
    outputs+=("$mode, $precision=$file")
done
python scripts/compare_outputs.py "${outputs[@]}"
