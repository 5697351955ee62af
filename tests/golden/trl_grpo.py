# SPDX-License-Identifier: Apache-2.0
"""Runs the installed TRL's own GRPO arithmetic on given numbers: the loss by calling
GRPOTrainer._compute_loss, advantages and sampler corrections by executing those parts of
GRPOTrainer's source.

Only the trainer around them is a stand-in: one process, no accumulation, fixed log-probs. A batch
is a dict of lists as `wideberth loss` reads it, options are TRL's under the names of LearnerConfig.
"""

import inspect
import math
import textwrap
from collections import defaultdict
from types import MethodType, SimpleNamespace

import torch
import trl.trainer.grpo_trainer as module
from trl import GRPOTrainer

# TRL divides two integers for its n / (n - 1), which gives the default dtype.
torch.set_default_dtype(torch.float64)

DEFAULTS = {
    "loss_type": "DAPO",
    "scale_rewards": "GROUP",
    "multi_objective_aggregation": "SUM_THEN_NORMALIZE",
    "beta": 0.0,
    "use_bias_correction_kl": False,
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "importance_sampling_level": "TOKEN",
    "vllm_importance_sampling_mode": None,
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
    "mask_truncated_completions": False,
}


def override(options):
    """Options as the text of a LearnerConfig."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            value = str(value).lower()
        words.append(f"{name}: {value!r}" if isinstance(value, float) else f"{name}: {value}")
    return " ".join(words)


def double(rows, fill=0.0):
    """Rows of any length as a padded float64 tensor; None is NaN."""
    width = max(map(len, rows))
    return torch.tensor(
        [[math.nan if x is None else x for x in r] + [fill] * (width - len(r)) for r in rows],
        dtype=torch.float64,
    )


def between(first, last):
    """The lines of TRL's scoring method from the one that starts with `first` up to `last`."""
    lines = inspect.getsource(GRPOTrainer._generate_and_score_completions).splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip().startswith(first)]
    ends = [i for i, line in enumerate(lines) if line.strip().startswith(last)]
    end = min(i for i in ends if i > starts[0])
    return compile(textwrap.dedent("\n".join(lines[starts[0] : end])), "TRL", "exec")


ADVANTAGES = between("unscorable_mask = ", "# Slice to keep only the local part")
CORRECTION = between(
    "# Compute the importance sampling ratio when using vLLM",
    "# Compute the per-token log probabilities for the reference model",
)
SAMPLING_METRICS = between("delta = torch.abs(old_per_token_logps", "output = {")


def trainer_of(batch, options):
    s = {**DEFAULTS, **options}
    lower = lambda name: s[name].lower() if s[name] else None
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
        pad_across_processes=lambda x, dim, pad_index: x,
        sync_gradients=True,
    )
    args = {k: s[k] for k in s if k.startswith(("sapo_", "vespo_")) or k in ("delta",)}
    trainer = SimpleNamespace(
        loss_type=lower("loss_type"),
        epsilon_low=s["epsilon"],
        epsilon_high=s["epsilon"] if s["epsilon_high"] is None else s["epsilon_high"],
        beta=s["beta"],
        importance_sampling_level=lower("importance_sampling_level"),
        top_entropy_quantile=s["top_entropy_quantile"],
        off_policy_mask_threshold=s["off_policy_mask_threshold"],
        aux_loss_enabled=False,
        use_vllm=s["vllm_importance_sampling_mode"] is not None,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=lower("vllm_importance_sampling_mode"),
        vllm_importance_sampling_clip_max=s["vllm_importance_sampling_clip_max"],
        vllm_importance_sampling_clip_min=s["vllm_importance_sampling_clip_min"],
        current_gradient_accumulation_steps=1,
        max_completion_length=batch.get("max_completion_length"),
        entropy_coef=s["entropy_coef"],
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=s["entropy_coef"] != 0,
        scale_rewards=lower("scale_rewards"),
        multi_objective_aggregation=lower("multi_objective_aggregation"),
        reward_funcs=batch.get("rewards") and batch["rewards"][0],
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=accelerator,
        args=SimpleNamespace(
            **args, use_bias_correction_kl=s["use_bias_correction_kl"], steps_per_generation=1
        ),
        model=SimpleNamespace(training=True),
    )
    trainer.get_high_entropy_mask = MethodType(GRPOTrainer.get_high_entropy_mask, trainer)
    return trainer


def execute(code, trainer, **names):
    scope = {**vars(module), "self": trainer, "mode": "train", "device": "cpu", **names}
    exec(code, scope)
    return scope


def advantages_of(batch, options):
    """-> [B] advantages, [B] weighted sums (NaN: unscorable)."""
    rewards = double(batch["rewards"])
    trainer = trainer_of(batch, options)
    trainer.reward_weights = torch.tensor(
        batch.get("weights") or [1.0] * rewards.shape[1], dtype=torch.float64
    )
    trainer.reward_funcs = [None] * rewards.shape[1]
    scope = execute(
        ADVANTAGES, trainer, rewards_per_func=rewards, num_generations=batch["group_size"]
    )
    total = (rewards * trainer.reward_weights).nansum(1)
    total[rewards.isnan().all(1)] = math.nan
    return scope["advantages"], total


def run(batch, options):
    """-> {"advantages", "loss", "grad" (valid tokens, row by row), "metrics"}; all float64."""
    s = {**DEFAULTS, **options}
    mask = double(batch["mask"]).long()
    if s["mask_truncated_completions"]:
        mask[torch.tensor(batch["truncated"])] = 0
    if "advantages" in batch:
        advantages = torch.tensor(batch["advantages"], dtype=torch.float64)
    else:
        advantages, _ = advantages_of(batch, options)
    new = double(batch["new"]).requires_grad_()
    entropy = double(batch["entropy"]) if "entropy" in batch else torch.zeros_like(new)
    trainer = trainer_of(batch, options)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (new, entropy, None)
    prompt = torch.zeros(len(mask), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }
    for name, field in (("old", "old"), ("sampling", "sampler"), ("ref", "reference")):
        if field in batch:
            inputs[f"{name}_per_token_logps"] = double(batch[field])
    if trainer.use_vllm:
        names = {
            "old_per_token_logps": inputs.get("old_per_token_logps", new.detach()),
            "sampling_per_token_logps": inputs["sampling_per_token_logps"],
            "completion_mask": mask,
            "tool_mask": None,
        }
        scope = execute(CORRECTION, trainer, **names)
        inputs["importance_sampling_ratio"] = scope["vllm_importance_sampling_ratio"]
        execute(SAMPLING_METRICS, trainer, **{**scope, "mask": mask.bool()})
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    metrics = {
        name: (None if math.isnan(float(values[0])) else float(values[0]))
        for name, values in trainer._metrics["train"].items()
    }
    valid = double(batch["mask"]).bool()
    return {
        "advantages": advantages.tolist(),
        "loss": float(loss.detach()),
        "grad": (new.grad + 0.0)[valid].tolist(),
        "metrics": metrics,
    }
