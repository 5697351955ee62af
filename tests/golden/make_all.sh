#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes every golden file again. Arguments: the reference data folder, the SmolLM2 folder (left out: smollm2.json stays as it is).
set -eu
shared=${1:?usage: make_all.sh SHARED_FOLDER [SMOLLM2_FOLDER]}
cd "$(dirname "$0")/../.."
python=${WIDEBERTH_PYTHON:-python3}
for kind in llama llama3_rope qwen2; do "$python" tests/golden/make_tiny_logits.py --kind "$kind"; done
"$python" tests/golden/make_lora.py --kind llama --case all
"$python" tests/golden/make_lora.py --kind qwen2 --case all
"$python" tests/golden/make_lora.py --kind llama --case qv
"$python" tests/golden/make_lora.py --kind llama --case rslora
"$python" tests/golden/make_lora.py --kind llama --case modules
"$python" tests/golden/make_scorers.py
"$python" tests/golden/make_scorer_adapters.py
"$python" tests/golden/make_classification.py
"$python" tests/golden/make_guard_figures.py
"$python" tests/golden/make_statistics.py
"$python" tests/golden/make_sampling.py
"$python" tests/golden/make_adamw.py
"$python" tests/golden/make_schedules.py
"$python" tests/golden/make_supervised.py
"$python" tests/golden/make_grpo.py --reference "$shared/reference"
"$python" tests/golden/make_real_model.py --model "$shared/data/model-stories260k/hf" --out stories260k.json
if [ -x build/release/bin/wideberth ]; then
  toyworld=$(mktemp -d)
  build/release/bin/wideberth toyworld --seed 1 --out "$toyworld"
  "$python" tests/golden/make_toyworld_tokenizer.py --model "$toyworld/init"
  rm -r "$toyworld"
fi
if [ "$#" -gt 1 ]; then
  "$python" tests/golden/make_real_model.py --model "$2" --out smollm2.json
  "$python" tests/golden/make_smollm2_verdicts.py --model "$2"
  "$python" tests/golden/make_tokenizer_goldens.py --shared "$shared" --smollm2 "$2"
  "$python" tests/golden/make_chat_goldens.py --shared "$shared" --smollm2 "$2"
fi
