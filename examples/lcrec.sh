#!/usr/bin/env bash
# LC-Rec with all its tasks, a small language model on a CPU: SFT and ILRec with the same settings.
# Usage: examples/lcrec.sh FOLDER [extra flags for train-cf and train, such as --max-steps 2]
# FOLDER holds Instruments.inter.json, .index.json, .item.json (titles, descriptions) and, if there is one, .user.json.
#
# Eight GPUs of 40 GB, Llama-3.1-8B trained in full (LC-Rec's settings; 128 examples an update):
#   accelerate launch --config_file examples/accelerate/gpu-8.yaml -m ilrec_cli train --dataset Instruments --method ilrec \
#     --preset paper-8b --shard --micro-batch 1 --cf sasrec --name ilrec-8b
#   accelerate launch --config_file examples/accelerate/gpu-8.yaml -m ilrec_cli evaluate --dataset Instruments \
#     --run ilrec-8b --all-templates --dtype bfloat16 --batch-size 32
# One GPU of 24 GB, Llama-3.2-1B with adapters:
#   ilrec train --dataset Instruments --method ilrec --preset paper-1b,lc-rec-lora --micro-batch 4 --cf sasrec --name ilrec-1b
#   ilrec evaluate --dataset Instruments --run ilrec-1b --dtype bfloat16 --batch-size 32
# Without --tasks these take all tasks that the data allow. No GPU was at hand when the lines were written: `ilrec plan` with
# the same flags says what a run will take.
set -euo pipefail
raw=$1
shift
tasks=next_item,text_to_item,item_to_text,fusion:0.15
if [ -f "$raw/Instruments.user.json" ]; then tasks=$tasks,item_search,preference; fi

ilrec preprocess --dataset Instruments --raw-dir "$raw"
ilrec build-ids --dataset Instruments --index "$raw/Instruments.index.json"
ilrec train-cf --dataset Instruments --model sasrec --name sasrec "$@"
for method in sft ilrec; do
  ilrec train --dataset Instruments --method "$method" --name "lcrec-$method" --tasks "$tasks" --cf sasrec --epochs 10 "$@"
done
ilrec evaluate --dataset Instruments  # the first prompt; LC-Rec reports the mean over all 17: --run lcrec-ilrec --all-templates
ilrec report --dataset Instruments
