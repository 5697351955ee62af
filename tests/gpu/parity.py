# SPDX-License-Identifier: Apache-2.0
"""The model's numbers on a GPU beside those of transformers and PEFT on the same GPU, for models with seeded random weights.

Log-probs in float64 and float32 by a tolerance; in bfloat16 the error, against transformers in float64, may be half as large again as that of transformers in
bfloat16. Greedy ids in float32. With and without an adapter. Exit code 1 with what differed.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import random_models

TOLERANCES = {"float64": 1e-5, "float32": 2e-4}  # transformers computes rotary angles in float32 whatever the dtype.
NEW_TOKENS = 40


def requests(vocab):
    draw = torch.Generator().manual_seed(5)
    return [{"prompt_ids": torch.randint(3, vocab, (length,), generator=draw).tolist(), "completion_ids": torch.randint(3, vocab, (30,), generator=draw).tolist()}
            for length in (1, 17, 64, 200)]


def ours(options, subcommand, folder, adapter, dtype, lines, *flags):
    command = [options.wideberth, subcommand, f"--model={folder}", f"--dtype={dtype}", f"--device={options.device}", *flags]
    if adapter:
        command.append(f"--adapter={adapter}")
    done = subprocess.run(command, input="".join(json.dumps(line) + "\n" for line in lines), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def load(options, folder, adapter, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager").to(options.device).eval()
    return PeftModel.from_pretrained(model, adapter).eval() if adapter else model


@torch.inference_mode()
def logprobs(options, folder, adapter, dtype, lines):
    model = load(options, folder, adapter, dtype)
    result = []
    for line in lines:
        ids = torch.tensor([line["prompt_ids"] + line["completion_ids"]], device=options.device)
        logits = model(ids, use_cache=False).logits[0, len(line["prompt_ids"]) - 1 : -1].to(torch.float64 if dtype == "float64" else torch.float32)
        result.append(torch.log_softmax(logits, -1).gather(1, ids[0, len(line["prompt_ids"]) :, None])[:, 0].double().cpu())
    return torch.cat(result)


@torch.inference_mode()
def greedy(options, folder, adapter, lines):
    model = load(options, folder, adapter, "float32")
    result = []
    for line in lines:
        ids = torch.tensor([line["prompt_ids"]], device=options.device)
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        result.append(out[0, ids.shape[1] :].tolist())
    return result


def make_adapter(folder, out):
    torch.manual_seed(1)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    tuned.save_pretrained(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wideberth", required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="a folder with tokenizer.json, which `wideberth generate` reads and these ids do not need")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", action="append", choices=random_models.MODELS)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = False
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.model or ["llama-mha", "qwen2-0.5b"]:
            folder, tuned = f"{scratch}/{name}", f"{scratch}/{name}-adapter"
            random_models.make(name, folder)
            shutil.copy(options.tokenizer / "tokenizer.json", folder)
            make_adapter(folder, tuned)
            lines = requests(json.load(open(f"{folder}/config.json"))["vocab_size"])
            for adapter in (None, tuned):
                what = name + (" with an adapter" if adapter else "")
                exact = logprobs(options, folder, adapter, "float64", lines)
                for dtype in ("float64", "float32", "bfloat16"):
                    answers = ours(options, "logprobs", folder, adapter, dtype, lines)
                    found = torch.cat([torch.tensor(answer["logprobs"], dtype=torch.float64) for answer in answers])
                    peer = exact if dtype == "float64" else logprobs(options, folder, adapter, dtype, lines)
                    apart, error, its = float((found - peer).abs().max()), float((found - exact).pow(2).mean().sqrt()), float((peer - exact).pow(2).mean().sqrt())
                    ok = apart <= TOLERANCES[dtype] if dtype in TOLERANCES else error <= 1.5 * its
                    print(f"{what}, {dtype}: largest difference {apart:.2e}; error to float64 {error:.2e}, that of transformers {its:.2e}{'' if ok else '  FAILED'}", flush=True)
                    if not ok:
                        problems.append(f"{what}, {dtype}")
                expected = greedy(options, folder, adapter, lines)
                answers = ours(options, "generate", folder, adapter, "float32", [{"prompt_ids": line["prompt_ids"]} for line in lines], f"--max_new_tokens={NEW_TOKENS}")
                same = sum(answer["completion_ids"] == ids for answer, ids in zip(answers, expected, strict=True))
                print(f"{what}: {same} of {len(expected)} greedy completions of up to {NEW_TOKENS} tokens equal", flush=True)
                if same < len(expected):
                    problems.append(f"{what}, greedy ids")
    if problems:
        sys.exit("differs: " + "; ".join(problems))


if __name__ == "__main__":
    main()
