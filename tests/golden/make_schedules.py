# SPDX-License-Identifier: Apache-2.0
"""schedules.json: learning rates of transformers' get_scheduler, step by step."""

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

import golden_file

LEARNING_RATE = 2e-5
NAMES = {
    "CONSTANT": "constant_with_warmup",
    "LINEAR": "linear",
    "COSINE": "cosine",
}


def rates(schedule, warmup, num_steps, min_lr_rate=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    if min_lr_rate is None:
        scheduler = get_scheduler(
            NAMES[schedule], optimizer, num_warmup_steps=warmup, num_training_steps=num_steps
        )
    else:
        scheduler = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup, num_steps, min_lr_rate=min_lr_rate
        )
    values = []
    for _ in range(num_steps):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return values


def main():
    cases = []
    for schedule in NAMES:
        for warmup, num_steps in ((0, 7), (3, 20), (5, 5)):
            cases.append(
                {
                    "schedule": schedule,
                    "warmup_steps": warmup,
                    "num_steps": num_steps,
                    "rates": rates(schedule, warmup, num_steps),
                }
            )
        # A share of the steps, rounded up as TrainingArguments does.
        arguments = TrainingArguments(output_dir="/tmp/none", warmup_steps=0.15, use_cpu=True)
        warmup = arguments.get_warmup_steps(11)
        cases.append(
            {
                "schedule": schedule,
                "warmup_ratio": 0.15,
                "num_steps": 11,
                "rates": rates(schedule, warmup, 11),
            }
        )
    cases.append(
        {
            "schedule": "COSINE",
            "warmup_steps": 3,
            "min_lr_rate": 0.1,
            "num_steps": 20,
            "rates": rates("COSINE", 3, 20, min_lr_rate=0.1),
        }
    )
    golden_file.write(
        "schedules.json",
        ["torch", "transformers"],
        {"learning_rate": LEARNING_RATE, "cases": cases},
    )


if __name__ == "__main__":
    main()
