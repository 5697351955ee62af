# SPDX-License-Identifier: Apache-2.0
"""Writes reward.json (LlamaForSequenceClassification) and verdict.json (two-way softmax of a causal
model) on tiny models.
"""

import torch

import golden_file
import tiny_models

LENGTHS = (5, 31, 12, 24)
POSITIVE, NEGATIVE = 39, 193


@torch.no_grad()
def reward(sequences):
    model = tiny_models.build("llama_reward")
    pad = model.config.pad_token_id
    longest = max(LENGTHS)
    batch = torch.tensor([s + [pad] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    together = model(batch, attention_mask=mask).logits[:, 0]
    alone = torch.stack([model(torch.tensor([s])).logits[0, 0] for s in sequences])
    print("reward", together.tolist(), "padding changes", float((together - alone).abs().max()))
    golden_file.write(
        "reward.json",
        ["torch", "transformers"],
        {
            "kind": "llama_reward",
            "pad_token_id": pad,
            "sequences": sequences,
            "scores": golden_file.digits(together),
            "scores_alone": golden_file.digits(alone),
        },
    )


@torch.no_grad()
def verdict(sequences):
    model = tiny_models.build("llama")
    rows = torch.stack([model(torch.tensor([s]), use_cache=False).logits[0, -1] for s in sequences])
    positive, negative = rows[:, POSITIVE], rows[:, NEGATIVE]
    probabilities = torch.sigmoid(positive.double() - negative.double())
    print("verdict", probabilities.tolist())
    golden_file.write(
        "verdict.json",
        ["torch", "transformers"],
        {
            "kind": "llama",
            "positive_id": POSITIVE,
            "negative_id": NEGATIVE,
            "sequences": sequences,
            "positive_logits": golden_file.digits(positive),
            "negative_logits": golden_file.digits(negative),
            "probabilities": golden_file.digits(probabilities),
        },
    )


def main():
    torch.set_num_threads(1)
    sequences = [
        tiny_models.integers(f"scored sequence {i}", n, 3, 320) for i, n in enumerate(LENGTHS)
    ]
    reward(sequences)
    verdict(sequences)


if __name__ == "__main__":
    main()
