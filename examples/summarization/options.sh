# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: what a configuration is.

# For CONFIG and the folder OUT of its files, the corpus in CORPUS, the dictionary in DICTIONARY, the options that make text
# of pieces in TEXT, and those of generation in DECODING: for cnndm and xsum those of the BART and EL-attention papers.
set_options() {
    TEXT=(--bpe gpt2 --gpt2-encoder-json "$2/text/gpt2/encoder.json" --gpt2-vocab-bpe "$2/text/gpt2/vocab.bpe")
    CORPUS="$1" DICTIONARY="$2/text/gpt2/dict.txt"
    case $1 in
        cnndm) DECODING=(--beam 4 --lenpen 2.0 --min-len 55 --max-len-b 140 --no-repeat-ngram-size 3) ;;
        xsum) DECODING=(--beam 6 --lenpen 1.0 --min-len 10 --max-len-b 60) ;;
        tiny)
            CORPUS=dialogsum DICTIONARY="$2/text/dict.txt"
            TEXT=(--bpe sentencepiece --sentencepiece-model "$2/text/sentencepiece.bpe.model")
            DECODING=(--beam 4 --lenpen 1.0 --min-len 10 --max-len-b 60)
            ;;
        *)
            echo "--config $1: there are tiny, cnndm and xsum" >&2
            return 2
            ;;
    esac
}
