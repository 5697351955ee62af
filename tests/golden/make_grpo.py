# SPDX-License-Identifier: Apache-2.0
"""Writes grpo.json: advantages, `grpo` and `dapo` losses and their gradients in float64 by torch
autograd.

The formulas are TRL's (see --reference, the folder with grpo_reference.py, whose independent
plain-Python results must agree).
"""

import argparse
import importlib.util
import math
import os

import torch

import golden_file

# name -> settings that differ from the defaults; the loss type is the first word of the name
CASES = {
    "grpo": {},
    "dapo": {},
    "grpo epsilon_high=0.28": {"epsilon_high": 0.28},
    "dapo epsilon_high=0.28": {"epsilon_high": 0.28},
    "grpo delta=1.3": {"delta": 1.3},
    "dapo delta=1.3": {"delta": 1.3},
    "grpo beta=0.04": {"beta": 0.04},
    "dapo beta=0.04": {"beta": 0.04},
    "dapo beta=0.04 bias-corrected": {"beta": 0.04, "bias_correction_kl": True},
    "dapo token_truncate": {"sampler_correction": "token_truncate"},
    "dapo token_mask": {"sampler_correction": "token_mask"},
    "dapo sequence_truncate": {"sampler_correction": "sequence_truncate"},
    "dapo sequence_mask": {"sampler_correction": "sequence_mask"},
    "dapo sequence_mask beta=0.04": {"sampler_correction": "sequence_mask", "beta": 0.04},
    "grpo sequence_mask beta=0.04": {"sampler_correction": "sequence_mask", "beta": 0.04},
    "grpo scale_rewards=batch": {"scale_rewards": "batch"},
    "dapo scale_rewards=batch": {"scale_rewards": "batch"},
    "grpo scale_rewards=none": {"scale_rewards": "none"},
    "dapo scale_rewards=none": {"scale_rewards": "none"},
}
DEFAULTS = {
    "scale_rewards": "group",
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "delta": None,
    "beta": 0.0,
    "bias_correction_kl": False,
    "sampler_correction": None,
    "clip_max": 3.0,
}


def load_reference(folder):
    spec = importlib.util.spec_from_file_location(
        "grpo_reference", os.path.join(folder, "grpo_reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nan_std(values):
    values = values[~values.isnan()]
    return values.std() if len(values) > 1 else torch.tensor(math.nan, dtype=torch.float64)


def advantages_of(rewards, weights, group_size, scale):
    """[B, K] rewards with NaN for not scored -> [B]."""
    total = (rewards * weights).nansum(1)
    total[rewards.isnan().all(1)] = math.nan
    centred = torch.cat([g - g.nanmean() for g in total.split(group_size)])
    if scale == "group":
        spread = torch.stack([nan_std(g) for g in total.split(group_size)]).repeat_interleave(
            group_size
        )
    elif scale == "batch":
        spread = nan_std(total)
    else:
        return total, centred.nan_to_num(0.0)
    return total, (centred / (spread + 1e-4)).nan_to_num(0.0)


def correction(old, sampler, mask, mode, clip_max):
    drift = (old - sampler) * mask
    if mode.startswith("sequence"):
        drift = drift.sum(1, keepdim=True)
    ratio = drift.exp()
    return (
        ratio.clamp(max=clip_max)
        if mode.endswith("truncate")
        else ratio.where(ratio <= clip_max, torch.zeros_like(ratio))
    )


def loss_of(kind, new, old, sampler, ref, mask, advantages, s):
    ratio = (new - old).exp()
    first = ratio.clamp(max=s["delta"]) if s["delta"] is not None else ratio
    clipped = ratio.clamp(1 - s["epsilon"], 1 + s["epsilon_high"])
    loss = -torch.minimum(first * advantages[:, None], clipped * advantages[:, None])
    if s["sampler_correction"]:
        loss = loss * correction(old, sampler, mask, s["sampler_correction"], s["clip_max"])
    if s["beta"]:
        kl = (ref - new).exp() - (ref - new) - 1
        loss = loss + s["beta"] * (kl * ratio if s["bias_correction_kl"] else kl)
    loss = loss * mask
    if kind == "grpo":
        return (loss.sum(1) / mask.sum(1).clamp(min=1)).mean()
    return loss.sum() / mask.sum().clamp(min=1)


def check(name, reference, kind, settings, advantages, loss, gradient, mask):
    words = {
        "kind": kind,
        "A": advantages.tolist(),
        "elo": settings["epsilon"],
        "ehi": settings["epsilon_high"],
        "delta": settings["delta"],
        "beta": settings["beta"],
        "bc": settings["bias_correction_kl"],
        "tis": settings["sampler_correction"],
    }
    assert abs(reference.loss(**words) - loss) < 1e-12, name
    numeric = reference.grad(**words)
    exact = gradient[mask.bool()].tolist()
    assert max(abs(a - b) for a, b in zip(numeric, exact)) < 1e-9, (name, numeric, exact)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True, help="folder that holds grpo_reference.py")
    args = parser.parse_args()
    r = load_reference(args.reference)
    double = lambda v: torch.tensor(v, dtype=torch.float64)
    mask, new, old, sampler, ref = map(double, (r.M, r.NEW, r.OLD, r.SMP, r.REF))
    rewards = double([[math.nan if x is None else x for x in row] for row in r.R])
    advantages = {}
    for scale in ("group", "batch", "none"):
        total, advantages[scale] = advantages_of(rewards, double(r.W), r.G, scale)
        assert (advantages[scale] - double(r.adv(scale))).abs().max() < 1e-14
    cases = []
    for name, changes in CASES.items():
        kind, s = name.split()[0], {**DEFAULTS, **changes}
        weight = advantages[s["scale_rewards"]]
        leaf = new.clone().requires_grad_()
        loss = loss_of(kind, leaf, old, sampler, ref, mask, weight, s)
        loss.backward()
        check(name, r, kind, s, weight, float(loss.detach()), leaf.grad, mask)
        cases.append(
            {
                "name": name,
                "loss_type": kind,
                **s,
                "advantages": golden_file.digits(weight, 17),
                "loss": float(loss.detach()),
                "gradient": golden_file.digits(leaf.grad + 0.0, 15),
            }
        )
    kl = [
        {"difference": d, "k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1}
        for d in (-0.5, -0.1, 0.0, 0.1, 0.5)
    ]
    golden_file.write(
        "grpo.json",
        ["torch"],
        {
            "group_size": r.G,
            "max_completion_length": r.MAXC,
            "mask": r.M,
            "new": r.NEW,
            "old": r.OLD,
            "sampler": r.SMP,
            "ref": r.REF,
            "rewards": r.R,
            "weights": r.W,
            "total": golden_file.digits(total, 17),
            "advantages": {k: golden_file.digits(v, 17) for k, v in advantages.items()},
            "cases": cases,
            "kl": kl,
        },
    )


if __name__ == "__main__":
    main()
