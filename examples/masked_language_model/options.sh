# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: what a configuration is.

# For CONFIG: its tasks with their numbers of classes in TASKS, the architecture in ARCH, and options of fairseq-train: in
# MODEL those of the model and of both trainings, in PRETRAINING those of one.
set_options() {
    case $1 in
        small)
            TASKS="mr:2 subj:2 sst-2:2 trec:6" ARCH=mhe_roberta
            MODEL=(--encoder-layers 4 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 4
                --max-positions 128 --dropout 0.1 --attention-dropout 0 --optimizer adam --adam-betas '(0.9, 0.98)'
                --weight-decay 0.01 --clip-norm 1.0)
            # a sentence a sample, as in fine-tuning: with 128 tokens in a row models learn much later to look around
            PRETRAINING=(--sample-break-mode eos --tokens-per-sample 128 --skip-invalid-size-inputs-valid-test
                --max-tokens 512 --dropout 0 --lr 0.001 --warmup-updates 600 --max-update 12000 --total-num-update 12000
                --validate-interval-updates 2000 --save-interval-updates 2000)
            ;;
        full)
            TASKS="sst-2:2 rte:2 qnli:2 mnli:3 qqp:2" ARCH=mhe_roberta_base
            MODEL=(--max-positions 512 --dropout 0.1 --attention-dropout 0.1 --optimizer adam --adam-betas '(0.9, 0.98)'
                --adam-eps 1e-06 --weight-decay 0.01 --clip-norm 0.0 --fp16)
            PRETRAINING=(--sample-break-mode complete --tokens-per-sample 512 --batch-size 16 --update-freq 16
                --lr 0.0005 --warmup-updates 10000 --max-update 125000 --total-num-update 125000
                --validate-interval-updates 2500 --save-interval-updates 2500)
            ;;
        *)
            echo "--config $1: there are small and full" >&2
            return 2
            ;;
    esac
}

# For CONFIG and TASK: options of fairseq-train in FINE_TUNING. Those of full are of fairseq's examples/roberta/README.glue.md:
# 10 epochs, of whose updates 6 % (qqp: a quarter) are warm-up.
set_fine_tuning() {
    if [[ $1 == small ]]; then
        FINE_TUNING=(--lr-scheduler inverse_sqrt --warmup-updates 100 --batch-size 32 --lr 0.0005 --max-epoch 3)
        return
    fi
    local batch=32 lr=1e-05 updates warmup
    case $2 in
        sst-2) updates=20935 warmup=1256 ;;
        rte) updates=2036 warmup=122 batch=16 lr=2e-05 ;;
        qnli) updates=33112 warmup=1986 ;;
        mnli) updates=123873 warmup=7432 ;;
        qqp) updates=113272 warmup=28318 ;;
    esac
    FINE_TUNING=(--lr-scheduler polynomial_decay --warmup-updates "$warmup" --total-num-update "$updates"
        --batch-size "$batch" --lr "$lr" --max-epoch 10 --weight-decay 0.1)
}
