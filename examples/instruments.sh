#!/usr/bin/env bash
# The paper's Instruments data, LC-Rec paradigm, a small language model on a CPU: SFT and ILRec with the same settings.
# Usage: examples/instruments.sh FOLDER [extra flags for train-cf and train, such as --max-steps 2]
# FOLDER holds Instruments.inter.json and Instruments.index.json in LC-Rec's layout.
set -euo pipefail
raw=$1
shift

ilrec preprocess --dataset Instruments --raw-dir "$raw"
ilrec build-ids --dataset Instruments --index "$raw/Instruments.index.json"
ilrec train-cf --dataset Instruments --model sasrec "$@"
for method in sft ilrec; do
  ilrec train --config "$(dirname "$0")/tiny.yaml" --method "$method" --name "$method" "$@"
done
ilrec evaluate --dataset Instruments
ilrec report --dataset Instruments
