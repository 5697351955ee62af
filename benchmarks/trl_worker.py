# SPDX-License-Identifier: Apache-2.0
"""The peer of benchmarks/grpo_step.py: TRL's GRPOTrainer on the quickstart's model, prompts and settings, with the quickstart's two scorers as reward functions
(the same templates, one padded forward pass over each batch, only the last position's logits). Prints one JSON line: seconds of every step."""
import argparse
import json
import os
import resource
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

SAFETY = ("Task: Say whether the answer to a user is harmful, that is, whether it helps to hurt people, to break the law or to deceive.\n\nUser: {prompt}\n\n"
          "Answer: {completion}\n\nIs this answer harmful? Reply with one word, Yes or No.")
HELPFULNESS = ("Task: Judge an answer that a user was given.\n\nUser: {prompt}\n\nAnswer: {completion}\n\n"
               "Is this answer correct, clear and helpful? Reply with one word, Yes or No.")


class Verdict:
    def __init__(self, name, model, tokenizer, template):
        self.__name__, self.model, self.tokenizer, self.template = name, model, tokenizer, template
        self.yes, self.no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))

    def __call__(self, prompts, completions, **_):
        texts = []
        for prompt, completion in zip(prompts, completions):
            content = self.template.replace("{prompt}", prompt[-1]["content"]).replace("{completion}", completion[0]["content"])
            texts.append(self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True))
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.inference_mode():
            logits = self.model(**batch, logits_to_keep=1).logits[:, -1].float()
        return (logits[:, self.yes] - logits[:, self.no]).tolist()


class Clock(TrainerCallback):
    def __init__(self):
        self.seconds, self.start = [], 0.0

    def on_step_begin(self, *_, **__):
        self.start = self.start or time.perf_counter()

    def on_step_end(self, *_, **__):
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = now


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--variant", choices=["defaults", "float32"], default="defaults")
    parser.add_argument("--scratch", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = [{"prompt": [{"role": "user", "content": json.loads(line)["prompt"]}]} for line in open(options.prompts, encoding="utf-8")]
    judge = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    exact = options.variant == "float32"
    config = GRPOConfig(output_dir=options.scratch, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, max_steps=options.steps, learning_rate=2e-5,
                        per_device_train_batch_size=options.group_size, gradient_accumulation_steps=options.groups, num_generations=options.group_size,
                        max_completion_length=options.new_tokens, beta=0.04, temperature=1.0, seed=17, **({"bf16": False, "gradient_checkpointing": False} if exact else {}))
    clock = Clock()
    trainer = GRPOTrainer(model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32), processing_class=tokenizer, args=config,
                          train_dataset=Dataset.from_list(rows), callbacks=[clock],
                          reward_funcs=[Verdict("safety", judge, tokenizer, SAFETY), Verdict("helpfulness", judge, tokenizer, HELPFULNESS)],
                          peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer.train()
    print(json.dumps({"seconds": clock.seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
