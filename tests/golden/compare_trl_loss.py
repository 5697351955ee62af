# SPDX-License-Identifier: Apache-2.0
"""Runs the installed TRL's own GRPOTrainer._compute_loss on every case of grpo.json and prints the
differences; exit code 1 past 1e-9.

Only the loss is TRL's; the trainer around it is a stand-in with one process, no accumulation and
fixed log-probs.
"""

import json
import math
import os
import sys
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl import GRPOTrainer

import golden_file


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def ratio_of(golden, case, mask):
    drift = (double(golden["old"]) - double(golden["sampler"])) * mask
    mode = case["sampler_correction"] or "token_truncate"
    if mode.startswith("sequence"):
        drift = drift.sum(-1, keepdim=True)
    ratio = drift.exp()
    return (
        ratio.clamp(max=case["clip_max"])
        if mode.endswith("truncate")
        else ratio.masked_fill(ratio > case["clip_max"], 0.0)
    )


def trl_loss(golden, case, new):
    mask = torch.tensor(golden["mask"])
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
    )
    trainer = SimpleNamespace(
        loss_type=case["loss_type"],
        epsilon_low=case["epsilon"],
        epsilon_high=case["epsilon_high"],
        beta=case["beta"],
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=case["sampler_correction"] is not None,
        vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1,
        max_completion_length=golden["max_completion_length"],
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=accelerator,
        args=SimpleNamespace(
            delta=case["delta"],
            use_bias_correction_kl=case["bias_correction_kl"],
            steps_per_generation=1,
        ),
        model=SimpleNamespace(training=True),
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
    )
    prompt = torch.zeros(len(mask), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": double(case["advantages"]),
        "old_per_token_logps": double(golden["old"]),
        "ref_per_token_logps": double(golden["ref"]),
        "num_items_in_batch": mask.sum(),
        "importance_sampling_ratio": ratio_of(golden, case, mask),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def main():
    with open(os.path.join(golden_file.GOLDEN_DIR, "grpo.json"), encoding="utf-8") as f:
        golden = json.load(f)
    worst = 0.0
    for case in golden["cases"]:
        new = double(golden["new"]).requires_grad_()
        loss = trl_loss(golden, case, new)
        loss.backward()
        difference = max(
            abs(float(loss.detach()) - case["loss"]),
            float((new.grad - double(case["gradient"])).abs().max()),
        )
        worst = difference if math.isnan(difference) else max(worst, difference)
        print(f"{case['name']:32s} TRL {float(loss.detach()):+.8f}  difference {difference:.1e}")
    print(
        f"TRL {golden_file.versions('trl')['trl']}: largest difference {worst:.1e} "
        f"over {len(golden['cases'])} cases"
    )
    sys.exit(0 if worst < 1e-9 else 1)


if __name__ == "__main__":
    main()
