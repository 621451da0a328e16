#!/usr/bin/env bash
# BIGRec paradigm: an item is its title. SFT and ILRec from scratch on a CPU; decoded over the trie, freely, and with D3.
# Usage: examples/bigrec.sh FOLDER NAME [extra flags for train-cf and train, such as --max-steps 2]
# FOLDER holds NAME.inter.json and NAME.item.json in LC-Rec's layout, the latter with titles.
#
# The same with Llama-3.1-8B and BIGRec's adapter (HF_TOKEN for its weights). `ilrec plan` with these flags says what they
# take, 18.5 GiB a device for these data; nothing here was run on GPUs.
# 8 GPUs of 40 GB:
#   accelerate launch --config_file examples/accelerate/gpu-8.yaml -m ilrec_cli train --dataset NAME --ids titles \
#     --cf sasrec --method ilrec --preset bigrec --backbone meta-llama/Llama-3.1-8B --micro-batch 4 --name bigrec-8b
#   accelerate launch --config_file examples/accelerate/gpu-8.yaml -m ilrec_cli evaluate --dataset NAME --run bigrec-8b \
#     --decode free --dtype bfloat16 --batch-size 16
# 1 GPU of 24 GB:
#   ilrec train --dataset NAME --ids titles --cf sasrec --method ilrec --preset bigrec \
#     --backbone meta-llama/Llama-3.1-8B --micro-batch 4 --name bigrec-8b
#   ilrec evaluate --dataset NAME --run bigrec-8b --decode free --dtype bfloat16 --batch-size 8
set -euo pipefail
raw=$1 name=$2
shift 2

ilrec preprocess --dataset "$name" --raw-dir "$raw"
ilrec build-ids --dataset "$name" --scheme title --name titles
# The encoder that grounds what a model from scratch writes; a pretrained model's base needs none.
ilrec build-ids --dataset "$name" --text title --name titles-tfidf
ilrec train-cf --dataset "$name" --model sasrec --name sasrec "$@"
for method in sft ilrec; do
  ilrec train --dataset "$name" --ids titles --method "$method" --name "bigrec-$method" \
    --hidden-size 64 --inner-size 256 --epochs 10 --valid-users 500 --valid-beams 5 "$@"
done
runs="--dataset $name --run bigrec-sft,bigrec-ilrec"
ilrec evaluate $runs                                                  # search over the trie of titles
ilrec evaluate $runs --decode free                                    # written, grounded to the nearest title
ilrec evaluate $runs --decode free --adjust cf                        # adjusted by SASRec's scores
ilrec evaluate $runs --cf-guidance 0.5                                # D3: SASRec has a say in every step
ilrec compare --dataset "$name" bigrec-sft:test-full-free-beam4-titles-tfidf \
  bigrec-ilrec:test-full-free-beam4-titles-tfidf
ilrec report --dataset "$name"
