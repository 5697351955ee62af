# SPDX-License-Identifier: Apache-2.0
"""Random batches with random options through `wideberth loss` and through the installed TRL's own
loss, advantage and correction code (trl_grpo.py), in float64.

Prints the largest differences of loss, gradient, advantages and metrics by option; exit code 1 past
1e-9 (metrics: 5e-8, since TRL counts clipped tokens in float32).
"""

import argparse
import json
import math
import random
import subprocess
import sys
from collections import defaultdict

import golden_file
import trl_grpo

TYPES = ["DAPO", "GRPO", "BNPO", "DR_GRPO", "CISPO", "SAPO", "LUSPO", "VESPO"]
MODES = ["TOKEN_TRUNCATE", "TOKEN_MASK", "SEQUENCE_TRUNCATE", "SEQUENCE_MASK"]
LIMITS = {"loss": 1e-9, "grad": 1e-9, "advantages": 1e-9, "metrics": 5e-8}


def random_options(r, index):
    options = {"loss_type": TYPES[index % len(TYPES)]}
    maybe = lambda chance: r.random() < chance

    def choose(chance, **values):
        if maybe(chance):
            options.update(values)

    # Half of luspo at the level it is meant for, half as TRL computes it with a warning.
    level = 0.5 if options["loss_type"] != "VESPO" else 0.2
    choose(level, importance_sampling_level="SEQUENCE")
    choose(0.5, epsilon=round(r.uniform(0.05, 0.3), 3))
    choose(0.5, epsilon_high=5.0 if options["loss_type"] == "CISPO" else round(r.uniform(0, 1), 3))
    choose(0.3, delta=round(r.uniform(1.3, 3), 3))
    choose(0.5, beta=round(r.uniform(0.001, 0.2), 4))
    choose(0.4, use_bias_correction_kl=True)
    choose(0.4, top_entropy_quantile=r.choice([0.2, 0.5, 0.8, round(r.random(), 3)]))
    choose(0.3, entropy_coef=round(r.uniform(-0.1, 0.1), 4))
    choose(0.4, off_policy_mask_threshold=round(r.uniform(-0.1, 0.3), 3))
    choose(0.3, mask_truncated_completions=True)
    if maybe(0.6):
        modes = MODES[:2] if options["loss_type"] == "VESPO" else MODES
        options["vllm_importance_sampling_mode"] = r.choice(modes)
        choose(0.4, vllm_importance_sampling_clip_max=round(r.uniform(1.05, 4), 3))
        choose(0.4, vllm_importance_sampling_clip_min=round(r.uniform(0.1, 0.99), 3))
    choose(0.3, sapo_temperature_pos=round(r.uniform(0.5, 2), 3))
    choose(0.3, sapo_temperature_neg=round(r.uniform(0.5, 2), 3))
    choose(0.3, vespo_k_pos=round(r.uniform(1, 3), 3), vespo_lambda_neg=round(r.uniform(1, 3), 3))
    if maybe(0.3):
        options["multi_objective_aggregation"] = "NORMALIZE_THEN_SUM"
    else:
        options["scale_rewards"] = r.choice(["GROUP", "BATCH", "NONE"])
    return options


def random_batch(r):
    group_size = r.randint(2, 5)
    num_sequences, width = group_size * r.randint(1, 4), r.randint(2, 12)
    num_scorers = r.randint(1, 3)
    table = lambda draw: [[draw() for _ in range(width)] for _ in range(num_sequences)]
    batch = {"mask": [], "group_size": group_size, "max_completion_length": width + 3}
    for _ in range(num_sequences):
        length = r.randint(1, width)
        row = [1] * length + [0] * (width - length)
        if r.random() < 0.2:  # Tokens of a tool in between.
            row[r.randrange(width)] = 0
        batch["mask"].append(row)
    batch["new"] = table(lambda: -r.expovariate(0.7))
    near = lambda rows, far: [[x + r.gauss(0, far) for x in row] for row in rows]
    if r.random() < 0.8:
        batch["old"] = near(batch["new"], 0.2)
    batch["sampler"] = near(batch.get("old", batch["new"]), r.choice([0.02, 0.3]))
    batch["reference"] = near(batch["new"], 0.5)
    batch["entropy"] = table(lambda: r.expovariate(1))
    score = lambda: None if r.random() < 0.2 else r.choice([r.gauss(0, 1), 1.0, 0.0])
    batch["rewards"] = [[score() for _ in range(num_scorers)] for _ in range(num_sequences)]
    if r.random() < 0.1:
        batch["rewards"][0] = [None] * num_scorers
    batch["weights"] = [round(r.uniform(-1, 2), 2) for _ in range(num_scorers)]
    batch["truncated"] = [r.random() < 0.2 for _ in range(num_sequences)]
    return batch


def ours(binary, batch, options):
    # What masks leave out may be padded, missing or null.
    line = dict(batch)
    line["new"] = [
        [x if m else None for x, m in zip(*rows)] for rows in zip(batch["new"], batch["mask"])
    ]
    done = subprocess.run(
        [binary, "loss", "--override=" + trl_grpo.override(options)],
        input=json.dumps(line) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"wideberth loss {trl_grpo.override(options)}: {done.stderr}")
    return json.loads(done.stdout)


def far(a, b):
    """Largest difference; infinite where shapes, names or missing values differ."""
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    if isinstance(a, list):
        return max(map(far, a, b), default=0.0) if len(a) == len(b) else math.inf
    return abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf


def compare(mine, theirs):
    found = {name: far(mine[name], theirs[name]) for name in ("loss", "grad", "advantages")}
    # Where rounding alone gives TRL an advantage (ours is exactly 0), its clip counts follow the sign
    # of the rounding.
    if any(0 < abs(a) < 1e-9 for a in theirs["advantages"]):
        return {**found, "metrics": 0.0}
    metrics = {k: v for k, v in mine["metrics"].items() if "reward" not in k}
    same = metrics.keys() == theirs["metrics"].keys()
    found["metrics"] = (
        max(far(metrics[k], theirs["metrics"][k]) for k in metrics) if same else math.inf
    )
    return found


def labels(options):
    for name, value in options.items():
        yield f"{name}: {value}" if isinstance(value, str) else name


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="the built wideberth")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    r = random.Random(args.seed)
    worst = defaultdict(lambda: defaultdict(float))
    count = defaultdict(int)
    bad = 0
    for index in range(args.batches):
        options, batch = random_options(r, index), random_batch(r)
        found = compare(ours(args.binary, batch, options), trl_grpo.run(batch, options))
        if any(not found[name] <= LIMITS[name] for name in LIMITS):
            bad += 1
            print(f"batch {index} ({trl_grpo.override(options)}): {found}")
        for label in ["all", *labels(options)]:
            count[label] += 1
            for name, value in found.items():
                worst[label][name] = max(worst[label][name], value)
    print(f"{'':52s} batches  " + "  ".join(f"{name:>10s}" for name in LIMITS))
    for label in sorted(worst):
        row = "  ".join(f"{worst[label][name]:10.1e}" for name in LIMITS)
        print(f"{label:52s} {count[label]:7d}  {row}")
    version = golden_file.versions("trl")["trl"]
    print(f"TRL {version}: {bad} of {args.batches} batches differ by more than {LIMITS}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
