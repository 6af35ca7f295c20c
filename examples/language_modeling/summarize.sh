#!/usr/bin/env bash
# Summaries by a GPT-2 that reads " TL;DR:" after an article: stock against EL-attention.

set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib/options.sh
source "$HERE/../../scripts/lib/options.sh"
usage() {
    cat <<'HELP'
usage: examples/language_modeling/summarize.sh --config full --model GPT2-FOLDER --data-dir DIR [--tokens N]
                                               [--out OUT] [-- FAIRSEQ-GENERATE OPTIONS...]
       examples/language_modeling/summarize.sh --config tiny --data-dir DIR [--text-dir DIR] [--updates N] [--tokens N]
                                               [--out OUT] [-- FAIRSEQ-GENERATE OPTIONS...]

Cuts articles to fit, puts " TL;DR:" after them, and lets GPT-2 go on for up to 100 tokens, beam 4: with the stock task
and with EL-attention (auto, on). Prints identical hypotheses, seconds and decoder state, and writes the summaries.

--config full   GPT2-FOLDER is what convert_hf_gpt2.py wrote
--config tiny   a GPT-2 of 4 layers of width 128, trained on the spot on the validation part of WikiText-2. Its text is
                meaningless; it shows identity, seconds and decoder state
--data-dir      has the articles, one a line, in one file test*.source
--text-dir      has WikiText-2's valid.txt and test.txt; without it they are downloaded
--updates       how long that model is trained (default: 120)
--tokens        the longest prompt (default: 512); with the summary it has to fit into the model's positions
--out           gets everything (default: results/tldr-CONFIG); what it has is not made again with the same options
HELP
}
CONFIG='' MODEL='' DATA_DIR='' TEXT_DIR='' UPDATES=120 TOKENS=512 OUT=''
read_options "config model data-dir text-dir updates tokens out --" "$@"
[[ $CONFIG == full || $CONFIG == tiny ]] || fail "--config full or --config tiny is needed (--help tells more)"
[[ -n $DATA_DIR ]] || fail "--data-dir is needed (--help tells more)"
[[ $CONFIG == tiny || -n $MODEL ]] || fail "--config full needs --model (--help tells more)"
# shellcheck source=scripts/environment.sh
source "$HERE/../../scripts/environment.sh"
# shellcheck source=scripts/lib/log.sh
source "$HERE/../../scripts/lib/log.sh"

# A small GPT-2 in MODEL, with the files that convert_hf_gpt2.py writes.
train_tiny() {
    [[ -f $OUT/text/train ]] || python -m examples.language_modeling.prepare "$OUT/text" --train valid \
        ${TEXT_DIR:+--data-dir "$TEXT_DIR"}
    python -m examples.language_modeling.tiny_bpe "$OUT/text/train" "$MODEL"
    python -m fairseq.examples.roberta.multiprocessing_bpe_encoder --encoder-json "$MODEL/vocab.json" \
        --vocab-bpe "$MODEL/merges.txt" --inputs "$OUT/text/train" --outputs "$OUT/text/train.bpe" --keep-empty \
        --workers 2 >"$OUT/train.log" 2>&1
    fairseq-preprocess --only-source --srcdict "$MODEL/dict.txt" --trainpref "$OUT/text/train.bpe" \
        --destdir "$OUT/text/bin" >>"$OUT/train.log" 2>&1
    fairseq-train "$OUT/text/bin" --user-dir el_fairseq --task language_modeling --arch transformer_lm_gpt \
        --decoder-layers 4 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4 \
        --decoder-learned-pos --no-scale-embedding --share-decoder-input-output-embed --activation-fn gelu_accurate \
        --tokens-per-sample 1024 --max-target-positions 1024 --optimizer adam --adam-betas '(0.9, 0.98)' \
        --clip-norm 1.0 --lr 0.003 --lr-scheduler inverse_sqrt --warmup-updates 50 --max-tokens 2048 \
        --max-update "$UPDATES" --seed 1 --disable-validation --no-epoch-checkpoints --save-dir "$OUT/checkpoints" \
        --tensorboard-logdir "$OUT/tensorboard" --log-format simple --log-interval 20 2>&1 | tee -a "$OUT/train.log" |
        sed -unE 's/.* train_inner \|.* ppl=([0-9.e+]+),.* num_updates=([0-9]+),.*/update \2, perplexity \1/p'
    cp "$OUT/checkpoints/checkpoint_last.pt" "$MODEL/model.part"
    mv "$MODEL/model.part" "$MODEL/model.pt"
}

generate() { # NAME TASK-OPTIONS...
    [[ -f $OUT/generate.$1 ]] && return
    echo "fairseq-generate --user-dir el_fairseq --task ${*:2}"
    fairseq-generate "${INPUT[@]}" --task "${@:2}" "${SEARCH[@]}" --nbest 4 >"$OUT/generate.part" 2>&1
    mv "$OUT/generate.part" "$OUT/generate.$1"
}

OUT="${OUT:-results/tldr-$CONFIG}"
[[ $CONFIG == full ]] || MODEL="$OUT/gpt2"
mkdir -p "$OUT"
[[ $CONFIG == full || -f $MODEL/model.pt ]] || train_tiny

settings="$TOKENS ${MORE[*]} $(cksum <"$MODEL/model.pt") $(cat "$DATA_DIR"/test*.source | cksum)"
if [[ $(cat "$OUT/settings" 2>/dev/null) != "$settings" ]]; then # of another model, articles or options
    rm -rf "${OUT:?}/bin" "$OUT"/generate.*
    echo "$settings" >"$OUT/settings"
fi
if [[ ! -f $OUT/bin/test.bin ]]; then
    python -m examples.language_modeling.prompts "$MODEL" "$OUT/prompts" --data-dir "$DATA_DIR" --tokens "$TOKENS"
    rm -rf "$OUT/bin.part"
    fairseq-preprocess --only-source --srcdict "$MODEL/dict.txt" --testpref "$OUT/prompts" --destdir "$OUT/bin.part" \
        >"$OUT/preprocess.log" 2>&1
    mv "$OUT/bin.part" "$OUT/bin"
fi
INPUT=("$OUT/bin" --user-dir el_fairseq --path "$MODEL/model.pt" --sample-break-mode eos)
SEARCH=(--beam 4 --max-len-a 1 --max-len-b 100 --batch-size 32 --required-batch-size-multiple 1 "${MORE[@]}")
generate stock language_modeling
generate auto el_language_modeling
generate on el_language_modeling --el-attention on

echo
if ! python -m examples.language_modeling.summaries "$MODEL" "stock=$OUT/generate.stock" "el_language_modeling (auto)=$OUT/generate.auto" \
    "el_language_modeling --el-attention on=$OUT/generate.on" --summaries "$OUT/summaries.txt" | tee "$OUT/table"; then
    echo "Some hypotheses differ. Are they ties that rounding broke?"
    for mode in auto on; do
        python scripts/check_lossless.py "${INPUT[@]}" "${SEARCH[@]}" --task language_modeling --el-attention "$mode" \
            2>"$OUT/check_lossless.log"
    done
fi
{
    say_how fairseq-generate "${INPUT[@]}" --task el_language_modeling "${SEARCH[@]}" --nbest 4
    for run in stock auto on; do
        sed -nE "s/.*(Translated [0-9].*|decoder state: .*)/$run: \1/p" "$OUT/generate.$run"
    done
    cat "$OUT/table"
} >"$OUT/summary.log"
echo
if [[ $CONFIG == tiny ]]; then
    echo "The summaries are meaningless, for the model is tiny: only identity, seconds and decoder state are shown."
fi
echo "Done: $(wc -l <"$OUT/summaries.txt") summaries in $OUT/summaries.txt, all outputs and logs in $OUT."
