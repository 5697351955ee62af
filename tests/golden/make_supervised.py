# SPDX-License-Identifier: Apache-2.0
"""Writes supervised.json: 20 optimiser steps each of TRL's SFTTrainer, DPOTrainer and RewardTrainer
with a PEFT LoRA adapter on, or of all weights of, a tiny model in float64. Token ids are given; batches, losses,
reference pass, clipping, AdamW and schedules are the libraries' own.
"""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

import golden_file
import tiny_models
from make_grpo_run import kernel_in_float64, word_tokenizer
from make_lora import exact_norms

NUM_STEPS = 20
NUM_ELEMENTS = 4
RANK, ALPHA = 4, 8
# `batch` rows go through the trainer at once, `accumulation` times for each optimiser step.
# "aot" with one row at a time is sigmoid DPO with label smoothing: its sort has nothing to sort.
# "sft" as part of DPO is a mean over the tokens of the rows that go through together: one.
CASES = [
    {
        "name": "sft",
        "task": "SFT",
        "kind": "llama",
        "batch": 4,
        "accumulation": 1,
        "options": {"learning_rate": 2e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "max_grad_norm": 13.0,
    },
    {
        "name": "sft, accumulation, cosine, weight decay",
        "task": "SFT",
        "kind": "qwen2",
        "batch": 2,
        "accumulation": 3,
        "options": {
            "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "weight_decay": 0.01,
        },
        "max_grad_norm": 6.0,
    },
    {
        "name": "dpo",
        "task": "DPO",
        "kind": "llama",
        "batch": 4,
        "accumulation": 1,
        "options": {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "dpo": {"beta": 0.1},
        "max_grad_norm": 6.0,
    },
    {
        "name": "dpo, reference precomputed, accumulation",
        "task": "DPO",
        "kind": "qwen2",
        "batch": 2,
        "accumulation": 2,
        "options": {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "dpo": {"beta": 0.3, "precompute_reference": True},
        "max_grad_norm": 8.0,
    },
    {
        "name": "dpo, label smoothing",
        "task": "DPO",
        "kind": "llama",
        "batch": 1,
        "accumulation": 4,
        "options": {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 2},
        "dpo": {"beta": 0.2, "label_smoothing": 0.1},
        "max_grad_norm": 8.0,
    },
    {
        "name": "dpo, added sft term",
        "task": "DPO",
        "kind": "qwen2",
        "batch": 1,
        "accumulation": 4,
        "options": {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "dpo": {"beta": 0.05, "sft_weight": 2.0},
        "max_grad_norm": 18.0,
    },
    {
        "name": "reward",
        "task": "REWARD",
        "kind": "llama_reward",
        "batch": 4,
        "accumulation": 1,
        "options": {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "reward_model": {},
        "max_grad_norm": 16.0,
    },
    {
        "name": "reward, margins, centred rewards, accumulation",
        "task": "REWARD",
        "kind": "llama_reward",
        "batch": 2,
        "accumulation": 3,
        "options": {
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "weight_decay": 0.01,
        },
        "reward_model": {"center_rewards_coefficient": 0.05},
        "margins": True,
        "max_grad_norm": 30.0,
    },
    {
        "name": "sft, all weights",
        "task": "SFT",
        "kind": "llama",
        "all_weights": True,
        "batch": 4,
        "accumulation": 1,
        "options": {"learning_rate": 2e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "max_grad_norm": 18.0,
    },
    {
        "name": "sft, all weights, tied, accumulation",
        "task": "SFT",
        "kind": "qwen2",
        "all_weights": True,
        "batch": 2,
        "accumulation": 3,
        "options": {"learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 2},
        "max_grad_norm": 9.0,
    },
    {
        "name": "reward, all weights",
        "task": "REWARD",
        "kind": "llama_reward",
        "all_weights": True,
        "batch": 4,
        "accumulation": 1,
        "options": {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 4},
        "reward_model": {},
        "max_grad_norm": 40.0,
    },
]


def given_rows(case, index):
    """Rows in the order of training; lengths differ, and some answers are one token long."""

    def ids(name, low, high, end):
        length = tiny_models.integers(name + " length", 1, low, high)[0]
        tokens = tiny_models.integers(name, length, 3, 320)
        if end:
            tokens[-1] = 2
        return tokens

    rows = []
    for i in range(NUM_STEPS * case["batch"] * case["accumulation"]):
        name = f"supervised {index}.{i}"
        row = {"prompt": ids(name + " prompt", 2, 12, False)}
        if case["task"] == "SFT":
            row["completion"] = ids(name + " completion", 1, 14, True)
        else:
            row["chosen"] = ids(name + " chosen", 1, 14, True)
            row["rejected"] = ids(name + " rejected", 1, 14, True)
            if row["chosen"] == row["rejected"]:
                row["rejected"] = [17] + row["rejected"]
        if case.get("margins"):
            row["margin"] = tiny_models.integers(name + " margin", 1, 0, 65)[0] / 64
        rows.append(row)
    return rows


def columns(case, row):
    """A row under the names the trainers give to tokenised data."""
    if case["task"] == "SFT":
        ids = row["prompt"] + row["completion"]
        mask = [0] * len(row["prompt"]) + [1] * len(row["completion"])
        return {"input_ids": ids, "completion_mask": mask}
    if case["task"] == "DPO":
        return {f"{field}_ids": row[field] for field in ("prompt", "chosen", "rejected")}
    result = {f"{field}_ids": row["prompt"] + row[field] for field in ("chosen", "rejected")}
    if "margin" in row:
        result["margin"] = row["margin"]
    return result


def trainer_classes(task):
    import trl

    trainer, config = {
        "SFT": (trl.SFTTrainer, trl.SFTConfig),
        "DPO": (trl.DPOTrainer, trl.DPOConfig),
        "REWARD": (trl.RewardTrainer, trl.RewardConfig),
    }[task]
    if task != "DPO":
        return trainer, config

    class Tokenised(trainer):
        """DPOTrainer, whose preparation knows texts only."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

    return Tokenised, config


def task_options(case):
    if case["task"] == "SFT":
        return {"completion_only_loss": True, "shuffle_dataset": False}
    if case["task"] == "REWARD":
        coefficient = case["reward_model"].get("center_rewards_coefficient")
        return {"center_rewards_coefficient": coefficient}
    dpo = case["dpo"]
    options = {"beta": dpo["beta"], "loss_type": ["sigmoid"]}
    if "label_smoothing" in dpo:
        options.update(loss_type=["aot"], label_smoothing=dpo["label_smoothing"])
    if "sft_weight" in dpo:
        options.update(loss_type=["sigmoid", "sft"], loss_weights=[1.0, dpo["sft_weight"]])
    if dpo.get("precompute_reference"):
        options["precompute_ref_log_probs"] = True
    return options


def run(case, rows):
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    base = tiny_models.build(case["kind"], torch.float64)
    exact_norms(base)
    is_reward = case["task"] == "REWARD"
    all_weights = case.get("all_weights", False)
    lora = None if all_weights else LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(tiny_models.TARGETS),
        task_type="SEQ_CLS" if is_reward else "CAUSAL_LM",
        modules_to_save=["score"] if is_reward else None,
    )
    trainer_class, config_class = trainer_classes(case["task"])
    losses, steps = [], []

    class Recorded(trainer_class):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            steps.append({"learning_rate": optimizer.param_groups[0]["lr"]})

        def on_log(self, args, state, control, logs=None, **_):
            if "grad_norm" not in logs:
                return
            assert len(losses) == case["accumulation"]
            # SFTTrainer divides by the tokens of the whole step, the others by the passes.
            parts = 1 if case["task"] == "SFT" else case["accumulation"]
            steps[-1]["loss"] = sum(losses) / parts
            steps[-1]["grad_norm"] = float(logs["grad_norm"])
            names = {"DPO": ("logps/", "rewards/", "entropy"), "REWARD": ("accuracy", "margin", "mean_reward")}
            for name, value in logs.items():
                if name.startswith(names.get(case["task"], ("no such name",))):
                    steps[-1][name] = float(value)
            losses.clear()

    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            max_steps=NUM_STEPS,
            per_device_train_batch_size=case["batch"],
            gradient_accumulation_steps=case["accumulation"],
            max_grad_norm=case["max_grad_norm"],
            **case["options"],
            **task_options(case),
        )
        with kernel_in_float64(folder):
            trainer = Recorded(
                model=base,
                peft_config=lora,
                processing_class=word_tokenizer(),
                args=config,
                train_dataset=Dataset.from_list([columns(case, row) for row in rows]),
                callbacks=[Recorder()],
            )
            trainer.remove_callback(PrinterCallback)
            if not all_weights:
                tiny_models.fill_adapter(trainer.model)
            assert all(p.dtype == torch.float64 for p in trainer.model.parameters())
            trainer.train()
    torch.set_default_dtype(torch.float32)
    assert len(steps) == NUM_STEPS
    clipped = sum(step["grad_norm"] > case["max_grad_norm"] for step in steps)
    print(case["name"], f"clipped {clipped} times", steps[0], steps[-1], sep="\n  ")
    assert 0 < clipped < NUM_STEPS, "max_grad_norm should bind in some steps"
    prefix = "base_model.model." if all_weights else ""  # As PEFT names the modules it saves.
    weights = {
        prefix + name.replace(".default", "").replace(".modules_to_save", ""): parameter.detach()
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }
    return steps, weights


def described(name, weight):
    """Every element moves the projection, a dot product with numbers of the formula."""
    flat = weight.flatten()
    probe = torch.from_numpy(tiny_models.uniform("probe of " + name, flat.numel())).double()
    picks = [i * flat.numel() // NUM_ELEMENTS for i in range(NUM_ELEMENTS)]
    return golden_file.digits(
        {
            "sum": float(flat.sum()),
            "projection": float(flat @ probe),
            "elements": [float(flat[i]) for i in picks],
        },
        14,
    )


def _text(field):
    """Ids with commas, as a row of the file holds them: "prompt completion", or "prompt chosen
    rejected" with the margin behind.
    """
    return ",".join(map(str, field)) if isinstance(field, list) else str(field)


def main():
    torch.set_num_threads(1)
    cases = []
    for index, case in enumerate(CASES):
        rows = given_rows(case, index)
        steps, weights = run(case, rows)
        steps = [{name: golden_file.digits(v, 17) for name, v in step.items()} for step in steps]
        cases.append(
            {
                **case,
                "rows": [" ".join(_text(field) for field in row.values()) for row in rows],
                "steps": steps,
                "weights": {name: described(name, w) for name, w in weights.items()},
            }
        )
    golden_file.write(
        "supervised.json",
        ["torch", "transformers", "peft", "trl", "accelerate"],
        {"r": RANK, "alpha": ALPHA, "num_steps": NUM_STEPS, "cases": cases},
    )


if __name__ == "__main__":
    main()
