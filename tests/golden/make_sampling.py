# SPDX-License-Identifier: Apache-2.0
"""Writes sampling.json: the probabilities transformers' `generate` samples from after its logits
processors.
"""

import torch

import golden_file
import tiny_models

VOCABULARY = 48
SCALES = (4.0, 8.0, 2.0)  # row i holds logits in [-scale, scale)
HISTORY = (5, 9, 9, 31, 2)
# row, temperature, top_k, top_p, min_p, repetition_penalty
CASES = [
    (0, 1.0, 0, 1.0, 0.0, 1.0),
    (0, 0.7, 0, 1.0, 0.0, 1.0),
    (1, 1.5, 0, 1.0, 0.0, 1.0),
    (0, 1.0, 5, 1.0, 0.0, 1.0),
    (1, 1.0, 1, 1.0, 0.0, 1.0),
    (2, 1.0, 100, 1.0, 0.0, 1.0),
    (0, 1.0, 0, 0.9, 0.0, 1.0),
    (2, 1.0, 0, 0.5, 0.0, 1.0),
    (1, 1.0, 0, 0.01, 0.0, 1.0),
    (0, 1.0, 0, 1.0, 0.1, 1.0),
    (2, 0.8, 0, 1.0, 0.3, 1.0),
    (0, 1.0, 0, 1.0, 0.0, 1.3),
    (1, 1.0, 0, 1.0, 0.0, 0.8),
    (0, 0.7, 20, 0.9, 0.0, 1.0),
    (0, 0.7, 20, 0.9, 0.02, 1.1),
    (2, 1.2, 12, 0.8, 0.05, 1.2),
    (1, 0.3, 10, 0.95, 0.01, 1.5),
]


def processors(temperature, top_k, top_p, min_p, penalty):
    """The list `generate` itself would build, so that the order is transformers' own."""
    from transformers import GenerationConfig

    model = tiny_models.build("llama")
    settings = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=top_k or None,
        top_p=top_p,
        min_p=min_p or None,
        repetition_penalty=penalty,
        eos_token_id=2,
        pad_token_id=0,
    )
    return model._get_logits_processor(settings, input_ids_seq_length=len(HISTORY), device="cpu")


def main():
    torch.set_num_threads(1)
    rows = [tiny_models.uniform(f"logits row {i}", VOCABULARY) * s for i, s in enumerate(SCALES)]
    orders, cases = set(), []
    for row, temperature, top_k, top_p, min_p, penalty in CASES:
        chain = processors(temperature, top_k, top_p, min_p, penalty)
        orders.add(tuple(type(p).__name__ for p in chain))
        warped = chain(torch.tensor([HISTORY]), torch.from_numpy(rows[row]).clone()[None])[0]
        cases.append(
            {
                "row": row,
                "history_ids": list(HISTORY),
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repetition_penalty": penalty,
                "probabilities": golden_file.digits(torch.softmax(warped, -1)),
            }
        )
    for order in sorted(orders, key=len):
        print(order)
    golden_file.write(
        "sampling.json",
        ["torch", "transformers"],
        {"rows": [golden_file.digits(r) for r in rows], "cases": cases},
    )


if __name__ == "__main__":
    main()
