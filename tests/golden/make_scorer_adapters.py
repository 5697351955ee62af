# SPDX-License-Identifier: Apache-2.0
"""Writes scorer_adapters.json: a verdict with PEFT's LoRA over a causal model, tempered, and a
reward with PEFT's LoRA and score head over a sequence classifier, both on the tiny llama.
"""

import torch
from peft import LoraConfig, get_peft_model

import golden_file
import tiny_models
from make_scorers import LENGTHS, NEGATIVE, POSITIVE

TEMPERATURE = 1.7
HEAD = "base_model.model.score.weight"


def adapted(kind, task):
    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=list(tiny_models.TARGETS),
        lora_dropout=0.0,
        bias="none",
        task_type=task,
    )
    model = get_peft_model(tiny_models.build(kind), settings, autocast_adapter_dtype=False).eval()
    tiny_models.fill_adapter(model)
    return model


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    sequences = [
        tiny_models.integers(f"scored sequence {i}", n, 3, 320) for i, n in enumerate(LENGTHS)
    ]
    verdict = adapted("llama", "CAUSAL_LM")
    rows = [verdict(torch.tensor([s]), use_cache=False).logits[0, -1].double() for s in sequences]
    log_odds = torch.stack([row[POSITIVE] - row[NEGATIVE] for row in rows])
    reward = adapted("llama_reward", "SEQ_CLS")
    heads = [n for n, _ in reward.named_parameters() if "score.modules_to_save" in n]
    assert len(heads) == 1, heads
    reward.get_parameter(heads[0]).copy_(tiny_models.tensor(HEAD, (1, 64), adapter=True))
    scores = torch.stack([reward(torch.tensor([s])).logits[0, 0] for s in sequences])
    golden_file.write(
        "scorer_adapters.json",
        ["torch", "transformers", "peft"],
        {
            "kind": "llama",
            "r": 4,
            "alpha": 8,
            "targets": list(tiny_models.TARGETS),
            "positive_id": POSITIVE,
            "negative_id": NEGATIVE,
            "temperature": TEMPERATURE,
            "sequences": sequences,
            "log_odds": golden_file.digits(log_odds),
            "tempered_probabilities": golden_file.digits(torch.sigmoid(log_odds / TEMPERATURE)),
            "score_head": HEAD,
            "rewards": golden_file.digits(scores),
        },
    )


if __name__ == "__main__":
    main()
