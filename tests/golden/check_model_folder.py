# SPDX-License-Identifier: Apache-2.0
"""Loads a model folder with transformers and compares its numbers with ours; exit code 0 when they
agree, 1 with one sentence when not.

--expect is a JSON file {"ids": [T], "next_logprobs": [T-1]} or, for a sequence classifier of one
label, {"ids": [T], "score": a number}.
"""

import argparse
import json
import sys

import torch


def fail(message):
    print(message)
    sys.exit(1)


def load(folder, classifier):
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            fail(f"{folder}: {what} {sorted(info[what])[:3]}")
    return model.eval()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--expect", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with open(args.expect, encoding="utf-8") as f:
        expect = json.load(f)
    ids = expect["ids"]
    classifier = "score" in expect
    logits = load(args.model, classifier)(torch.tensor([ids]), use_cache=False).logits[0].float()
    if classifier:
        found, ours = logits, torch.tensor([expect["score"]])
    else:
        found = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        ours = torch.tensor(expect["next_logprobs"])
    if found.shape != ours.shape:
        fail(f"{args.model} gives {list(found.shape)} numbers, expected {list(ours.shape)}")
    difference = float((found - ours).abs().max())
    if not difference <= args.tolerance:
        fail(f"{args.model} differs from transformers by {difference:.3g}, must be at most {args.tolerance:g}")
    print(f"largest difference {difference:.3g}")


if __name__ == "__main__":
    main()
