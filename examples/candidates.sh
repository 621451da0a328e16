#!/usr/bin/env bash
# Candidate ranking (the paper's Figure 6) on S-DPO's LastFM files, a small language model on a CPU: SFT and ILRec.
# Usage: examples/candidates.sh FOLDER [extra flags for train, such as --max-steps 2]
# FOLDER holds lastfm-val.json and lastfm-test.json (historyList, itemList, trueSelection). There is no training file: the
# first nine tenths of the validation file's rows train, the last tenth validates, the test file tests.
#
# Instruction-tuned size, one machine with 8 GPUs of 40 GB (weights, gradients and optimiser state fit as copies):
#   accelerate launch --config_file examples/accelerate/gpu-8.yaml -m ilrec_cli train --dataset lastfm --tasks candidates \
#     --method ilrec --cf sasrec --backbone meta-llama/Llama-3.1-8B --tuning lora --lora-targets all-linear --lora-alpha 32 \
#     --dtype bfloat16 --gradient-checkpointing --batch-size 128 --micro-batch 4 --learning-rate 1e-5 --epochs 5 --name ilrec-8b
#   accelerate launch --config_file examples/accelerate/gpu-8.yaml -m ilrec_cli evaluate --dataset lastfm --run ilrec-8b \
#     --candidates generate --dtype bfloat16 --batch-size 32
# One GPU of 24 GB (the base in 4 bits):
#   ilrec train --dataset lastfm --tasks candidates --method ilrec --cf sasrec --backbone meta-llama/Llama-3.1-8B \
#     --tuning lora --quantize 4bit --lora-targets all-linear --lora-alpha 32 --dtype bfloat16 --gradient-checkpointing \
#     --batch-size 128 --micro-batch 2 --learning-rate 1e-5 --epochs 5 --name ilrec-8b
#   ilrec evaluate --dataset lastfm --run ilrec-8b --candidates generate --dtype bfloat16 --batch-size 8
# Rank 8, alpha 32, seven projections, batch 128, rate 1e-5 and five epochs are S-DPO's settings of SFT. No GPU was at hand
# when these lines were written: `ilrec plan` says what a run will take.
set -euo pipefail
raw=$1
shift

ilrec preprocess --dataset lastfm --raw-dir "$raw" -o valid_share=0.1
ilrec build-ids --dataset lastfm --scheme title
ilrec train-cf --dataset lastfm --model sasrec --name sasrec
for method in sft ilrec; do
  ilrec train --dataset lastfm --tasks candidates --method "$method" --name "$method" "$@"
done
ilrec evaluate --dataset lastfm --candidates sum        # log-probabilities of the 20 titles; collaborative models beside
ilrec evaluate --dataset lastfm --candidates generate   # what the models write: Hit@1 and valid ratio
ilrec report --dataset lastfm
