# shellcheck shell=bash
# Sourced by train.sh: how every variant is trained.

# The options of fairseq-train for VARIANT (mhe-mul, mhe-add, mqa, sha, mha, or stock's own architecture), in OPTIONS.
set_options() {
    OPTIONS=(--user-dir el_fairseq --task translation)
    if [[ $1 == stock ]]; then
        OPTIONS+=(--arch transformer)
    else
        OPTIONS+=(--arch mhe_transformer --attention-variant "$1")
    fi
    OPTIONS+=(--encoder-layers 3 --decoder-layers 3 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512
        --encoder-attention-heads 2 --decoder-attention-heads 2 --encoder-normalize-before --decoder-normalize-before
        --share-all-embeddings --dropout 0.2 --criterion label_smoothed_cross_entropy --label-smoothing 0.1
        --optimizer adam --adam-betas '(0.9, 0.98)' --lr 0.004 --lr-scheduler inverse_sqrt --warmup-updates 300
        --max-tokens 1024 --disable-validation --log-format simple)
}
