# SPDX-License-Identifier: Apache-2.0
"""Writes grpo_run.json: 20 optimiser steps of TRL's GRPOTrainer with a PEFT LoRA adapter on a tiny
model. Completions and rewards are given (rollout_func and a reward function that hand them over);
scoring, advantages, log-probs, loss, clipping, AdamW and schedule are TRL's and transformers' own.
"""

import contextlib
import importlib.util
import os
import tempfile
import unittest.mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

import golden_file
import tiny_models
from make_lora import exact_norms

GROUP_SIZE = 4
NUM_STEPS = 20
NUM_ELEMENTS = 16
# Options carry TRL's names; `groups` is the number of distinct prompts of a generation batch.
CASES = [
    {
        "name": "dapo",
        "kind": "llama",
        "groups": 2,
        "options": {
            "loss_type": "dapo",
            "beta": 0.04,
            "temperature": 1.0,
            "learning_rate": 2e-4,
            "max_grad_norm": 1.0,
        },
    },
    {
        "name": "grpo, two iterations, accumulation, warm-up and linear decay",
        "kind": "qwen2",
        "groups": 4,
        "options": {
            "loss_type": "grpo",
            "beta": 0.04,
            "temperature": 0.9,
            "epsilon": 0.02,
            "epsilon_high": 0.03,
            "use_bias_correction_kl": True,
            "num_iterations": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 5e-4,
            "lr_scheduler_type": "linear",
            "warmup_steps": 3,
            "weight_decay": 0.01,
            "max_grad_norm": 0.05,
        },
    },
    {
        "name": "dapo, accumulation, cosine, batch deviation, masked truncation",
        "kind": "llama",
        "groups": 4,
        "options": {
            "loss_type": "dapo",
            "beta": 0.1,
            "temperature": 0.7,
            "scale_rewards": "batch",
            "mask_truncated_completions": True,
            "gradient_accumulation_steps": 4,
            "learning_rate": 3e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "max_grad_norm": 0.5,
        },
    },
]
# Where a case says nothing; the test sets the same. GRPOConfig's own default of
# use_bias_correction_kl is True since 1.16.
COMMON = {
    "use_bias_correction_kl": False,
    "loss_type": "dapo",
    "epsilon": 0.2,
    "scale_rewards": "group",
    "num_iterations": 1,
    "gradient_accumulation_steps": 1,
    "mask_truncated_completions": False,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
}


def given_data(case, index):
    """One list of groups per generation. Prompts of a generation have one length: TRL pads them on
    the left without position ids, and rotary angles are float32 even in a float64 model.
    """
    generations = []
    for step in range(NUM_STEPS // case["options"].get("num_iterations", 1)):
        name = f"grpo run {index}.{step}"
        prompt_length = 4 + tiny_models.integers(name + " prompt length", 1, 0, 9)[0]
        groups = []
        for g in range(case["groups"]):
            lengths = tiny_models.integers(f"{name}.{g} lengths", GROUP_SIZE, 1, 12)
            completions = [
                tiny_models.integers(f"{name}.{g}.{i} completion", n, 3, 320)
                for i, n in enumerate(lengths)
            ]
            ends = tiny_models.integers(f"{name}.{g} ends", GROUP_SIZE, 0, 4)
            for completion, end in zip(completions, ends):
                if end:  # one in four is cut off
                    completion[-1] = 2
            # Multiples of 1/64: TRL keeps rewards in float32.
            rewards = [r / 64 for r in tiny_models.integers(f"{name}.{g} rewards", 4, -64, 65)]
            if g == 1 and step % 5 == 3:
                rewards = [0.5] * GROUP_SIZE
            groups.append(
                {
                    "prompt": tiny_models.integers(f"{name}.{g} prompt", prompt_length, 3, 320),
                    "completions": completions,
                    "rewards": rewards,
                }
            )
        generations.append(groups)
    return generations


def kernel_in_float64(folder):
    """TRL's log-prob kernel accumulates in float32 whatever the model's type. Its own source again,
    with float64 in those places.
    """
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    with open(chunked_logprob.__file__, encoding="utf-8") as f:
        source = f.read()
    changed = source.replace("torch.float32", "torch.float64").replace(".float()", ".double()")
    assert changed != source
    path = os.path.join(folder, "chunked_logprob_float64.py")
    with open(path, "w", encoding="utf-8") as f:
        f.write(changed)
    spec = importlib.util.spec_from_file_location("trl.kernels.chunked_logprob_float64", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return unittest.mock.patch.object(
        utils, "_ChunkedLogProbFunction", module.ChunkedLogProbFunction
    )


def word_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(320)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="w0", bos_token="w1", eos_token="w2", unk_token="w3"
    )


def reset_adapter(model):
    with torch.no_grad():
        for name, parameter in tiny_models.fill_adapter(model).items():
            if "lora_B" in name:
                parameter.zero_()


def run(case, generations, dtype):
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    base = tiny_models.build(case["kind"], dtype)
    if dtype == torch.float64:
        exact_norms(base)
    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules=list(tiny_models.TARGETS), task_type="CAUSAL_LM"
    )
    options = {**COMMON, **case["options"]}
    size = case["groups"] * GROUP_SIZE
    losses, steps, clipped = [], [], []

    class Recorded(GRPOTrainer):
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
            steps[-1]["grad_norm"] = float(logs["grad_norm"])
            steps[-1]["loss"] = sum(losses)
            if options["gradient_accumulation_steps"] == 1:
                steps[-1]["kl"] = logs["kl"]
                steps[-1]["entropy"] = logs["entropy"]
            clipped.append(logs["clip_ratio/region_mean"])
            losses.clear()

    calls = []

    def rollout(prompts, trainer):
        groups = generations[len(calls)]
        calls.append(prompts)
        return {
            "prompt_ids": [g["prompt"] for g in groups for _ in range(GROUP_SIZE)],
            "completion_ids": [c for g in groups for c in g["completions"]],
            "logprobs": None,
            "given_reward": [r for g in groups for r in g["rewards"]],
        }

    def reward(prompts, completions, given_reward, **_):
        return given_reward

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            shuffle_dataset=False,
            max_steps=NUM_STEPS,
            num_generations=GROUP_SIZE,
            max_completion_length=12,
            per_device_train_batch_size=size // options["gradient_accumulation_steps"],
            **options,
        )
        trainer = Recorded(
            model=base,
            peft_config=lora,
            processing_class=word_tokenizer(),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": f"w{i}"} for i in range(size)]),
            reward_funcs=[reward],
            rollout_func=rollout,
            callbacks=[Recorder()],
        )
        trainer.remove_callback(PrinterCallback)
        reset_adapter(trainer.model)
        assert all(p.dtype == dtype for p in trainer.model.parameters())
        exact = dtype == torch.float64
        with kernel_in_float64(folder) if exact else contextlib.nullcontext():
            trainer.train()
    assert len(calls) == len(generations) and len(steps) == NUM_STEPS
    weights = {
        name.replace(".default.", "."): p.detach().double()
        for name, p in trainer.model.named_parameters()
        if "lora_" in name
    }
    torch.set_default_dtype(torch.float32)
    print(case["name"], dtype, "mean clipped", sum(clipped) / NUM_STEPS)
    return steps, weights


def described(name, weight, significant):
    """Every element moves the projection, a dot product with numbers of the formula."""
    flat = weight.flatten()
    probe = torch.from_numpy(tiny_models.uniform("probe of " + name, flat.numel())).double()
    picks = [i * flat.numel() // NUM_ELEMENTS for i in range(NUM_ELEMENTS)]
    return golden_file.digits(
        {
            "sum": float(flat.sum()),
            "absolute_sum": float(flat.abs().sum()),
            "projection": float(flat @ probe),
            "elements": [float(flat[i]) for i in picks],
        },
        significant,
    )


def main():
    torch.set_num_threads(1)
    cases = []
    for index, case in enumerate(CASES):
        generations = given_data(case, index)
        results = {}
        for dtype, significant in ((torch.float64, 14), (torch.float32, 9)):
            steps, weights = run(case, generations, dtype)
            results[str(dtype).removeprefix("torch.")] = {
                "steps": golden_file.digits(steps, significant),
                "weights": {n: described(n, w, significant) for n, w in weights.items()},
            }
            print(steps[0], steps[-1], sep="\n")
        cases.append(
            {
                "name": case["name"],
                "kind": case["kind"],
                "options": {**COMMON, **case["options"]},
                "generations": generations,
                "results": results,
            }
        )
    golden_file.write(
        "grpo_run.json",
        ["torch", "transformers", "peft", "trl", "accelerate"],
        {
            "r": 16,
            "alpha": 32,
            "group_size": GROUP_SIZE,
            "num_steps": NUM_STEPS,
            "cases": cases,
        },
    )


if __name__ == "__main__":
    main()
