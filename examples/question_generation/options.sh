# shellcheck shell=bash
# Sourced by run.sh: what the two configurations train, and on what.

# Sets, for CONFIG (small or full): PREPARE, the options of prepare.py; MODEL, those of fairseq-train.
# shellcheck disable=SC2034 # run.sh uses them
set_options() {
    case "$1" in
        small)
            PREPARE=(--train-on dev --vocabulary 4000)
            MODEL=(--arch transformer --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128
                --encoder-ffn-embed-dim 512 --encoder-attention-heads 4 --decoder-attention-heads 4
                --encoder-normalize-before --decoder-normalize-before --share-all-embeddings --dropout 0.2
                --lr 0.004 --warmup-updates 300 --max-tokens 4096 --max-epoch 8)
            ;;
        full)
            PREPARE=(--train-on train --vocabulary 30522)
            MODEL=(--arch transformer_vaswani_wmt_en_de_big --dropout 0.3 --lr 0.0005 --warmup-updates 4000
                --max-tokens 4096 --update-freq 4 --max-epoch 50 --patience 5
                --max-source-positions 512 --max-target-positions 512 --fp16)
            ;;
        *)
            echo "--config $1: there are small and full" >&2
            return 2
            ;;
    esac
    MODEL+=(--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --adam-betas '(0.9, 0.98)'
        --lr-scheduler inverse_sqrt --clip-norm 1.0 --required-batch-size-multiple 1 --seed 1 --no-epoch-checkpoints
        --log-format simple --log-interval 50)
}
