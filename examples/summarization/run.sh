#!/usr/bin/env bash
# Summarise a test set as stock and with EL-attention, compare the summaries, and score them with ROUGE.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
    echo "usage: examples/summarization/run.sh [--config tiny|cnndm|xsum] [--out OUT] [--data-dir DIR] [--model MODEL.pt]"
    echo "                                     [--updates N] [FAIRSEQ-GENERATE OPTIONS...]"
    echo "Prepares the test set (downloaded, or from DIR), generates it as stock and by el_translation with the options of the"
    echo "papers, checks with check_lossless.py that nothing differs, and prints a table with ROUGE. cnndm and xsum need"
    echo "--model (bart.large.cnn, bart.large.xsum) and a GPU; tiny (default) trains a small BART on DialogSum's development"
    echo "part first (N updates, see train.sh; about 10 minutes on 2 CPU cores in all). Further options win. Everything is"
    echo "written to OUT (default: results/summarization-CONFIG); what is there already is not made again."
    exit 0
fi
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=examples/summarization/options.sh
source "$HERE/options.sh"

CONFIG=tiny OUT='' DATA='' MODEL='' UPDATES='' MORE=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --config | --out | --data-dir | --model | --updates)
            [[ $# -gt 1 ]] || { echo "$1 needs a value" >&2 && exit 2; }
            case $1 in
                --config) CONFIG="$2" ;;
                --out) OUT="$2" ;;
                --data-dir) DATA="$2" ;;
                --model) MODEL="$2" ;;
                --updates) UPDATES="$2" ;;
            esac
            shift 2
            ;;
        *) MORE+=("$1") && shift ;;
    esac
done
OUT="${OUT:-results/summarization-$CONFIG}"
set_options "$CONFIG" "$OUT"
mkdir -p "$OUT"
if [[ $CONFIG == tiny ]]; then
    "$HERE/prepare.sh" tiny "$OUT" "$DATA"
    [[ -n $MODEL ]] || "$HERE/train.sh" "$OUT" ${UPDATES:+"$UPDATES"}
    MODEL="${MODEL:-$OUT/model.pt}"
else
    [[ -f $MODEL ]] || { echo "--config $CONFIG needs --model: model.pt of bart.large.${CONFIG%dm} (README.md)" >&2 && exit 2; }
    "$HERE/prepare.sh" "$CONFIG" "$OUT" "$DATA" test
fi

GENERATION=(--path "$MODEL" --source-lang source --target-lang target --truncate-source --batch-size 32
    --required-batch-size-multiple 1 "${DECODING[@]}" "${MORE[@]}")
generate() { # NAME TASK-OPTIONS...
    if [[ ! -f $OUT/generate.$1 ]]; then
        echo "fairseq-generate --user-dir el_fairseq --task ${*:2} ${DECODING[*]} ${MORE[*]}"
        fairseq-generate "$OUT/bin" --user-dir el_fairseq --task "${@:2}" "${GENERATION[@]}" "${TEXT[@]}" --scoring rouge \
            >"$OUT/generate.part" 2>&1
        mv "$OUT/generate.part" "$OUT/generate.$1"
    fi
}
generate stock translation
generate auto el_translation
generate on el_translation --el-attention on
if [[ ! -f $OUT/check_lossless.txt ]]; then
    python scripts/check_lossless.py "$OUT/bin" "${GENERATION[@]}" >"$OUT/check_lossless.part" 2>"$OUT/check_lossless.log" ||
        { cat "$OUT/check_lossless.part" && exit 1; }
    mv "$OUT/check_lossless.part" "$OUT/check_lossless.txt"
fi
cat "$OUT/check_lossless.txt"
REFERENCES=()
for reference in "$OUT/text/test.target"*; do
    REFERENCES+=(--ref "$reference")
done
echo
python "$HERE/table.py" "${REFERENCES[@]}" "stock=$OUT/generate.stock" "el_translation (auto)=$OUT/generate.auto" \
    "el_translation --el-attention on=$OUT/generate.on" | tee "$OUT/table.md"
echo
echo "Done. All outputs and logs are in $OUT."
