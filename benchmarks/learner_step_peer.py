# SPDX-License-Identifier: Apache-2.0
"""The peers of benchmarks/learner_step.py: one GRPO optimiser step on given completions per line of standard input, answered by a JSON line with seconds, loss,
gradient norm and peak memory.

usage: learner_step_peer.py trl|peft MODEL ADAPTER DATA float32|bfloat16 CHECKPOINTING(0|1)
`peft`: transformers and PEFT, a plain loop: a group is one right-padded batch, logits of the completions, log_softmax, DAPO loss with the k3 KL, AdamW. `trl`: GRPOTrainer with
rollout_func handing over the completions, a group's worth of sequences per device, groups accumulated; its own scoring, log-probs, loss, clipping and AdamW.
With bfloat16 the base is bfloat16 and the adapter float32 (PEFT's way); TRL also autocasts, as it does by default.
"""
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# Answers go out alone: libraries that print do so on standard error.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def status_bytes(field):
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


def answer(**fields):
    ANSWERS.write(json.dumps(fields) + "\n")
    ANSWERS.flush()


class Watch:
    """Of the steps; made when everything is loaded."""

    def __init__(self):
        with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as score:
            score.write("1000")
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as marks:
            marks.write("5")  # The mark of the peak goes back to what is resident now.
        self.loaded = status_bytes("VmRSS")
        answer(ready=True)

    def await_request(self):
        if not sys.stdin.readline():
            os._exit(0)  # TRL has no other way out of the middle of a step.
        self.cpu, self.start = time.process_time(), time.perf_counter()

    def tell(self, loss, grad_norm):
        answer(seconds=time.perf_counter() - self.start, cpu_seconds=time.process_time() - self.cpu, loss=loss, grad_norm=grad_norm, loaded_bytes=self.loaded,
               peak_bytes=status_bytes("VmHWM"))


def load_adapter(model, folder):
    given = {name.replace(".weight", ".default.weight"): tensor for name, tensor in load_file(os.path.join(folder, "adapter_model.safetensors")).items()}
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert given.keys() == own.keys(), "the adapter's tensors are not the model's"
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def run_peft(base, adapter, data, checkpointing):
    model = get_peft_model(base, LORA)
    load_adapter(model, adapter)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=data["learning_rate"], weight_decay=0.0)
    num_tokens = sum(len(c) for group in data["groups"] for c in group["completions"])

    def logprobs(ids, mask, longest):
        logits = model(ids, attention_mask=mask, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1].float()
        return logits.log_softmax(-1).gather(2, ids[:, -longest:, None]).squeeze(2)

    def group_loss(group):
        longest = max(map(len, group["completions"]))
        ids = torch.tensor([group["prompt"] + c + [0] * (longest - len(c)) for c in group["completions"]])
        counted = torch.tensor([[1] * len(c) + [0] * (longest - len(c)) for c in group["completions"]])
        mask = torch.cat([torch.ones(len(ids), len(group["prompt"]), dtype=torch.long), counted], 1)
        rewards = torch.tensor(group["rewards"])
        advantages = ((rewards - rewards.mean()) / (rewards.std() + 1e-4))[:, None]
        with torch.no_grad(), model.disable_adapter():
            reference = logprobs(ids, mask, longest)
        new = logprobs(ids, mask, longest)
        ratio = torch.exp(new - new.detach())
        policy = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        kl = torch.exp(reference - new) - (reference - new) - 1
        return ((policy + data["beta"] * kl) * counted).sum() / num_tokens

    watch = Watch()
    while True:
        watch.await_request()
        total = 0.0
        for group in data["groups"]:
            loss = group_loss(group)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        watch.tell(total, norm)


def run_trl(base, model_folder, adapter, data, dtype, checkpointing):
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    groups, losses = data["groups"], []
    size = len(groups[0]["completions"])

    class Recorded(GRPOTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    class Teller(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            watch.tell(sum(losses), float(logs["grad_norm"]))
            losses.clear()

    def rollout(prompts, trainer):
        watch.await_request()
        return {"prompt_ids": [g["prompt"] for g in groups for _ in range(size)], "completion_ids": [c for g in groups for c in g["completions"]], "logprobs": None,
                "given_reward": [r for g in groups for r in g["rewards"]]}

    def reward(prompts, completions, given_reward, **_):
        return given_reward

    config = GRPOConfig(output_dir=os.path.join(adapter, "trl"), use_cpu=True, bf16=dtype == torch.bfloat16, gradient_checkpointing=checkpointing, report_to=[],
                        save_strategy="no", logging_steps=1, disable_tqdm=True, shuffle_dataset=False, max_steps=10**6, learning_rate=data["learning_rate"],
                        lr_scheduler_type="constant", weight_decay=0.0, per_device_train_batch_size=size, gradient_accumulation_steps=len(groups), num_generations=size,
                        max_completion_length=max(len(c) for g in groups for c in g["completions"]), beta=data["beta"], use_bias_correction_kl=False, temperature=1.0,
                        loss_type="dapo", seed=17)
    trainer = Recorded(model=base, processing_class=AutoTokenizer.from_pretrained(model_folder), args=config, reward_funcs=[reward], rollout_func=rollout, callbacks=[Teller()],
                       train_dataset=Dataset.from_list([{"prompt": f"prompt {i}"} for i in range(len(groups))]), peft_config=LORA)
    trainer.remove_callback(PrinterCallback)
    load_adapter(trainer.model, adapter)
    watch = Watch()
    trainer.train()


def main():
    kind, model_folder, adapter, data_file, dtype, checkpointing = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    with open(data_file, encoding="utf-8") as file:
        data = json.load(file)
    dtype = getattr(torch, dtype)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype)
    if kind == "peft":
        run_peft(base, adapter, data, checkpointing == "1")
    else:
        run_trl(base, model_folder, adapter, data, dtype, checkpointing == "1")


if __name__ == "__main__":
    main()
