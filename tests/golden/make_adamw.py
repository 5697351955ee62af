# SPDX-License-Identifier: Apache-2.0
"""Writes adamw.json: 20 steps of torch.optim.AdamW with gradient clipping over fixed gradients, in
float32 and float64.
"""

import torch

import golden_file
import tiny_models

SIZES = {"adapter.lora_A": 12, "adapter.lora_B": 8}
# lr, weight_decay; the gradients' size changes so that some steps are clipped and some are not
CASES = [(2e-5, 0.0), (1e-2, 0.01)]


def gradient_of(name, step):
    size = (2.0, 0.25, 0.01)[step % 3]
    return torch.from_numpy(tiny_models.uniform(f"gradient {step} of {name}", SIZES[name])) * size


def trajectory(lr, decay, dtype):
    parameters = {
        n: torch.from_numpy(tiny_models.uniform(n, s)).to(dtype).requires_grad_()
        for n, s in SIZES.items()
    }
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay
    )
    values, norms = [], []
    for step in range(20):
        for name, parameter in parameters.items():
            parameter.grad = gradient_of(name, step).to(dtype)
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)))
        optimizer.step()
        values.append({n: p.detach().clone() for n, p in parameters.items()})
    return values, norms


def main():
    torch.set_num_threads(1)
    cases = []
    for lr, decay in CASES:
        single, _ = trajectory(lr, decay, torch.float32)
        double, norms = trajectory(lr, decay, torch.float64)
        print("clipped steps", sum(n > 1 for n in norms), "of", len(norms))
        steps = [
            {
                "gradients": {n: golden_file.digits(gradient_of(n, i)) for n in SIZES},
                "grad_norm": norms[i],
                "float32": {n: golden_file.digits(v) for n, v in single[i].items()},
                "float64": {n: golden_file.digits(v, 17) for n, v in double[i].items()},
            }
            for i in range(20)
        ]
        cases.append(
            {
                "lr": lr,
                "beta1": 0.9,
                "beta2": 0.999,
                "eps": 1e-8,
                "weight_decay": decay,
                "max_grad_norm": 1.0,
                "initial": {
                    n: golden_file.digits(tiny_models.uniform(n, s)) for n, s in SIZES.items()
                },
                "steps": steps,
            }
        )
    golden_file.write("adamw.json", ["torch"], {"cases": cases})


if __name__ == "__main__":
    main()
