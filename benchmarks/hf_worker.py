# SPDX-License-Identifier: Apache-2.0
"""The peer of benchmarks/compare.py: transformers and PEFT on one model folder. Reads a JSON line {"cell", "args"}, answers {"seconds", "tokens"}.

usage: hf_worker.py FOLDER DTYPE THREADS DEVICE
Cells and ids are those of benchmarks/model_benchmark.cc. `logprobs` answers the log-probs of given ids instead, for the check before any timing.
"""
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def main() -> None:
    folder, dtype, threads, device = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    vocab = model.config.vocab_size
    model.generation_config.eos_token_id = None
    tuned = None

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def ids(count: int, salt: int) -> list[int]:
        return [(7 * (i + 31 * salt) + 3) % (vocab - 10) + 5 for i in range(count)]

    def decode(groups, completions, prompt, new):
        batch = torch.tensor([ids(prompt, g) for g in range(groups) for _ in range(completions)], device=device)
        start = now()
        with torch.inference_mode():
            model.generate(batch, attention_mask=torch.ones_like(batch), max_new_tokens=new, min_new_tokens=new, do_sample=groups * completions > 1,
                           top_k=0, top_p=1.0, temperature=1.0, pad_token_id=0, use_cache=True)
        return now() - start, groups * completions * new

    def score(items, head, own):
        batch = torch.tensor([ids(head, 99) + ids(own, i) for i in range(items)], device=device)
        start = now()
        with torch.inference_mode():
            model(batch, logits_to_keep=1, use_cache=False)
        return now() - start, items * (head + own)

    def learner_pass(groups, completions, prompt, new):
        nonlocal tuned
        if tuned is None:
            tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
        start = now()
        for g in range(groups):
            batch = torch.tensor([ids(prompt, g) + ids(new, 100 + c) for c in range(completions)], device=device)
            logits = tuned(batch, logits_to_keep=new + 1, use_cache=False).logits[:, :-1]
            logprob = torch.log_softmax(logits.float(), -1).gather(2, batch[:, -new:, None])
            (-logprob.mean()).backward()
        return now() - start, groups * completions * (prompt + new)

    cells = {"Decode": decode, "Score": score, "LearnerPass": learner_pass}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["cell"] == "logprobs":
            batch = torch.tensor([request["prompt_ids"] + request["completion_ids"]], device=device)
            with torch.inference_mode():
                logprobs = torch.log_softmax(model(batch).logits.float(), -1)[0, len(request["prompt_ids"]) - 1 : -1]
            answer = {"logprobs": logprobs.gather(1, torch.tensor(request["completion_ids"], device=device)[:, None])[:, 0].tolist()}
        else:
            seconds, tokens = cells[request["cell"]](*request["args"])
            answer = {"seconds": seconds, "tokens": tokens}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
