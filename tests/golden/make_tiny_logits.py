# SPDX-License-Identifier: Apache-2.0
"""Writes tiny_logits_<kind>.json: logits, log-probs and greedy continuations of the tiny causal
models by transformers.
"""

import argparse

import torch

import golden_file
import tiny_models

POSITIONS = {40: [0, 1, 7, 20, 38, 39], 23: [0, 11, 22]}
POSITIONS_BF16 = {40: [0, 39], 23: [22]}


@torch.no_grad()
def greedy(model, ids, count):
    ids, new, margin = list(ids), [], float("inf")
    for _ in range(count):  # without a cache, so that the cache is not part of the reference
        top = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        new.append(int(top.indices[0]))
        ids.append(new[-1])
    return new, margin


@torch.no_grad()
def forward(model, ids):
    logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    logprobs = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logits, logprobs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["llama", "llama3_rope", "qwen2"], required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = tiny_models.build(args.kind)
    half = tiny_models.build(args.kind, torch.bfloat16)
    sequences = []
    for length in (40, 23):
        ids = tiny_models.integers(f"sequence of {length}", length, 3, 320)
        logits, logprobs = forward(model, ids)
        logits16, logprobs16 = forward(half, ids)
        new, margin = greedy(model, ids, 64)
        some, few = POSITIONS[length], POSITIONS_BF16[length]
        sequences.append(
            {
                "ids": ids,
                "positions": some,
                "logits": golden_file.digits(logits[some]),
                "next_logprobs": golden_file.digits(logprobs),
                "greedy_ids": new,
                "greedy_min_margin": margin,
                "bfloat16": {
                    "positions": few,
                    "logits": golden_file.digits(logits16[few], 5),
                    "next_logprobs": golden_file.digits(logprobs16),
                    "max_abs_logit_difference": float((logits16 - logits).abs().max()),
                    "rms_logit_difference": float((logits16 - logits).square().mean().sqrt()),
                },
            }
        )
        print(
            args.kind,
            length,
            "range",
            float(logits.max() - logits.min()),
            "margin",
            margin,
            "bf16 rms difference",
            sequences[-1]["bfloat16"]["rms_logit_difference"],
        )
    golden_file.write(
        f"tiny_logits_{args.kind}.json",
        ["torch", "transformers"],
        {"kind": args.kind, "sequences": sequences},
    )


if __name__ == "__main__":
    main()
