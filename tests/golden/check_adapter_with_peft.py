# SPDX-License-Identifier: Apache-2.0
"""Loads an adapter folder with PEFT and compares log-probs with ours; exit code 0 when they agree,
1 with one sentence when not.

--expect is a JSON file {"ids": [T], "next_logprobs": [T-1], "base_next_logprobs": [T-1] (optional,
adapter off)}.
"""

import argparse
import json
import os
import sys
import warnings

import torch


def fail(message):
    print(message)
    sys.exit(1)


@torch.no_grad()
def next_logprobs(model, ids):
    logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    return torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def load(model_dir, adapter_dir):
    import transformers
    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    base = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # PEFT only warns about tensors that are missing from the file
        try:
            model = PeftModel.from_pretrained(
                base, adapter_dir, autocast_adapter_dtype=False
            ).eval()
        except Exception as error:
            fail(f"PEFT cannot load {adapter_dir}: {error}")
    wanted = {n.replace(".default.", ".") for n, _ in model.named_parameters() if "lora_" in n}
    with safe_open(os.path.join(adapter_dir, "adapter_model.safetensors"), "pt") as f:
        found = set(f.keys())
    if wanted != found:
        fail(
            f"adapter_model.safetensors lacks {sorted(wanted - found)[:3]} "
            f"and has unexpected {sorted(found - wanted)[:3]}"
        )
    return model, PeftConfig.from_pretrained(adapter_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--expect", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with open(args.expect, encoding="utf-8") as f:
        expect = json.load(f)
    model, settings = load(args.model, args.adapter)
    found = {"next_logprobs": next_logprobs(model, expect["ids"])}
    if "base_next_logprobs" in expect:
        with model.disable_adapter():
            found["base_next_logprobs"] = next_logprobs(model, expect["ids"])
    for name, values in found.items():
        ours = torch.tensor(expect[name])
        if ours.shape != values.shape:
            fail(f"{name} has {len(ours)} entries, expected {len(values)}")
        difference = float((values - ours).abs().max())
        if not difference <= args.tolerance:
            fail(
                f"{name} differs from PEFT by {difference:.3g}, must be at most {args.tolerance:g}"
            )
        print(f"{name}: largest difference {difference:.3g}")
    print(
        f"PEFT loaded r={settings.r} alpha={settings.lora_alpha} "
        f"targets={sorted(settings.target_modules)}"
    )


if __name__ == "__main__":
    main()
