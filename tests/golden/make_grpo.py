# SPDX-License-Identifier: Apache-2.0
"""Writes grpo.json: advantages, losses of every type, gradients and metrics by the installed TRL's
own code in float64 (trl_grpo.py).

Refuses to write unless the independent plain-Python results of --reference, the folder with
grpo_reference.py, agree.
"""

import argparse
import importlib.util
import math
import os

import golden_file
import trl_grpo

TRUNCATE, MASK = "SEQUENCE_TRUNCATE", "SEQUENCE_MASK"
# name -> options, and the same in the reference's words (None: it has no such case)
CASES = {
    "grpo": ({"loss_type": "GRPO"}, {}),
    "bnpo": ({"loss_type": "BNPO"}, {}),
    "dr_grpo": ({"loss_type": "DR_GRPO"}, {}),
    "dapo": ({}, {}),
    "cispo epsilon_high=epsilon": ({"loss_type": "CISPO"}, {}),
    "cispo epsilon_high=5": ({"loss_type": "CISPO", "epsilon_high": 5.0}, {"ehi": 5.0}),
    "sapo": ({"loss_type": "SAPO"}, {}),
    "luspo sequence": (
        {"loss_type": "LUSPO", "importance_sampling_level": "SEQUENCE"},
        {"level": "sequence"},
    ),
    "vespo": ({"loss_type": "VESPO"}, {}),
    "vespo token_truncate": (
        {"loss_type": "VESPO", "vllm_importance_sampling_mode": "TOKEN_TRUNCATE"},
        {"tis": "token_truncate"},
    ),
    "vespo token_mask": (
        {"loss_type": "VESPO", "vllm_importance_sampling_mode": "TOKEN_MASK"},
        {"tis": "token_mask"},
    ),
    "grpo sequence": (
        {"loss_type": "GRPO", "importance_sampling_level": "SEQUENCE"},
        {"level": "sequence"},
    ),
    "dapo sequence": ({"importance_sampling_level": "SEQUENCE"}, {"level": "sequence"}),
    "dapo epsilon_high=0.28": ({"epsilon_high": 0.28}, {"ehi": 0.28}),
    "grpo epsilon_high=0.28": ({"loss_type": "GRPO", "epsilon_high": 0.28}, {"ehi": 0.28}),
    "dapo delta=1.3": ({"delta": 1.3}, {"delta": 1.3}),
    "grpo delta=1.3": ({"loss_type": "GRPO", "delta": 1.3}, {"delta": 1.3}),
    "dapo beta=0.04": ({"beta": 0.04}, {"beta": 0.04}),
    "grpo beta=0.04": ({"loss_type": "GRPO", "beta": 0.04}, {"beta": 0.04}),
    "dapo beta=0.04 bias-corrected": (
        {"beta": 0.04, "use_bias_correction_kl": True},
        {"beta": 0.04, "bc": True},
    ),
    "dapo token_truncate": (
        {"vllm_importance_sampling_mode": "TOKEN_TRUNCATE"},
        {"tis": "token_truncate"},
    ),
    "dapo token_mask": ({"vllm_importance_sampling_mode": "TOKEN_MASK"}, {"tis": "token_mask"}),
    "dapo sequence_truncate": (
        {"vllm_importance_sampling_mode": TRUNCATE},
        {"tis": "sequence_truncate"},
    ),
    "dapo sequence_mask": ({"vllm_importance_sampling_mode": MASK}, {"tis": "sequence_mask"}),
    "dapo sequence_mask beta=0.04": (
        {"vllm_importance_sampling_mode": MASK, "beta": 0.04},
        {"tis": "sequence_mask", "beta": 0.04},
    ),
    "grpo sequence_mask beta=0.04": (
        {"loss_type": "GRPO", "vllm_importance_sampling_mode": MASK, "beta": 0.04},
        {"tis": "sequence_mask", "beta": 0.04},
    ),
    "dapo top_entropy=0.5": ({"top_entropy_quantile": 0.5}, {"ptop": 0.5}),
    "dapo off_policy=0.1": ({"off_policy_mask_threshold": 0.1}, {"opsm": 0.1}),
    "dapo truncated masked": ({"mask_truncated_completions": True}, {"tmask": True}),
    "grpo truncated masked": (
        {"loss_type": "GRPO", "mask_truncated_completions": True},
        {"tmask": True},
    ),
    "dapo scale=batch": ({"scale_rewards": "BATCH"}, {}),
    "dapo scale=none": ({"scale_rewards": "NONE"}, {}),
    "grpo scale=none": ({"loss_type": "GRPO", "scale_rewards": "NONE"}, {}),
    "dapo gdpo": ({"multi_objective_aggregation": "NORMALIZE_THEN_SUM"}, {}),
    "dapo token_mask clip_min=0.95": (
        {
            "vllm_importance_sampling_mode": "TOKEN_MASK",
            "vllm_importance_sampling_clip_min": 0.95,
        },
        None,
    ),
    "bnpo entropy bonus": ({"loss_type": "BNPO", "entropy_coef": 0.01}, None),
    "dapo entropy bonus top_entropy=0.5": (
        {"entropy_coef": 0.01, "top_entropy_quantile": 0.5},
        None,
    ),
    "sapo sequence beta=0.04 bias-corrected": (
        {
            "loss_type": "SAPO",
            "importance_sampling_level": "SEQUENCE",
            "beta": 0.04,
            "use_bias_correction_kl": True,
        },
        None,
    ),
    "luspo token": ({"loss_type": "LUSPO"}, None),
    "luspo sequence truncated masked": (
        {
            "loss_type": "LUSPO",
            "importance_sampling_level": "SEQUENCE",
            "mask_truncated_completions": True,
        },
        None,
    ),
}


def load_reference(folder):
    spec = importlib.util.spec_from_file_location(
        "grpo_reference", os.path.join(folder, "grpo_reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(name, reference, words, case, loss_type):
    words = {"kind": loss_type.lower(), "A": case["advantages"], **words}
    assert abs(reference.loss(**words) - case["loss"]) < 1e-12, name
    numeric = reference.grad(**words)
    far = max(abs(a - b) for a, b in zip(numeric, case["grad"]))
    assert far < 1e-9, (name, numeric, case["grad"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True, help="folder that holds grpo_reference.py")
    r = load_reference(parser.parse_args().reference)
    batch = {
        "group_size": r.G,
        "max_completion_length": r.MAXC,
        "mask": r.M,
        "new": r.NEW,
        "old": r.OLD,
        "sampler": r.SMP,
        "reference": r.REF,
        "entropy": r.ENT,
        "rewards": r.R,
        "weights": r.W,
        "truncated": [False, False, True, False],
    }
    scales = {
        "group": ({"scale_rewards": "GROUP"}, r.adv("group")),
        "batch": ({"scale_rewards": "BATCH"}, r.adv("batch")),
        "none": ({"scale_rewards": "NONE"}, r.adv("none")),
        "gdpo": ({"multi_objective_aggregation": "NORMALIZE_THEN_SUM"}, r.adv_gdpo()),
    }
    advantages = {}
    for name, (options, expected) in scales.items():
        found, total = trl_grpo.advantages_of(batch, options)
        assert max(abs(a - b) for a, b in zip(found.tolist(), expected)) < 1e-12, name
        advantages[name] = golden_file.digits(found, 17)
    cases = []
    for name, (options, words) in CASES.items():
        case = trl_grpo.run(batch, options)
        if words is not None:
            check(name, r, words, case, options.get("loss_type", "DAPO"))
        cases.append(
            {
                "name": name,
                "override": trl_grpo.override(options),
                "advantages": golden_file.digits(case["advantages"], 17),
                "loss": case["loss"],
                "gradient": golden_file.digits(case["grad"], 15),
                "metrics": golden_file.digits(case["metrics"], 17),
            }
        )
    kl = [
        {"difference": d, "k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1}
        for d in (-0.5, -0.1, 0.0, 0.1, 0.5)
    ]
    golden_file.write(
        "grpo.json",
        ["torch", "trl"],
        {
            **batch,
            "total": golden_file.digits(total, 17),
            "advantages": advantages,
            "cases": cases,
            "kl": kl,
        },
    )


if __name__ == "__main__":
    main()
