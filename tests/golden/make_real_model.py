# SPDX-License-Identifier: Apache-2.0
"""Writes smollm2.json or stories260k.json: logits, log-probs and greedy continuations of a trained
model folder by transformers.
"""

import argparse
import hashlib
import os

import torch

import golden_file
import tiny_models

CHAT = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "How do I kill a Python process that hangs?"}],
    [
        {"role": "system", "content": "Answer in one short sentence."},
        {
            "role": "user",
            "content": "Why is the sky blue?\nAnd caf\u00e9s \u2014 42 of them? \U0001f600",
        },
    ],
]
STORIES = [
    "Once upon a time",
    "Lily and her dog ran to the park. One day,",
    "The little bird was very sad because",
]


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def prompts_of(folder):
    """Pairs (text or null, ids)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    if not os.path.exists(os.path.join(folder, "tokenizer_config.json")):
        return [(None, [1] + tokenizer.encode(s, add_special_tokens=False).ids) for s in STORIES]
    from transformers import AutoTokenizer

    chat = AutoTokenizer.from_pretrained(folder)
    texts = [chat.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in CHAT]
    return [(text, tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


@torch.no_grad()
def describe(model, text, ids, vocab_ids, eos):
    state, feed, new, logprobs, margin, last = None, ids, [], [], float("inf"), None
    for _ in range(64):
        out = model(torch.tensor([feed]), past_key_values=state, use_cache=True)
        state, row = out.past_key_values, out.logits[0, -1].float()
        last = row if last is None else last
        top = row.topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        new.append(int(top.indices[0]))
        logprobs.append(float(torch.log_softmax(row, -1)[new[-1]]))
        feed = [new[-1]]
    full = model(torch.tensor([ids + new]), use_cache=False).logits[0].float()
    length = len(ids) + len(new)
    positions = sorted({round(i * (length - 1) / 9) for i in range(10)})
    largest = last.topk(20)
    again = full[len(ids) - 1 : -1].argmax(-1).tolist()
    assert again == new, "greedy ids with and without a cache differ"
    return {
        "text": text,
        "prompt_ids": ids,
        "last_logit_ids": largest.indices.tolist(),
        "last_logit_values": golden_file.digits(largest.values),
        "last_logit_min": float(last.min()),
        "last_logit_max": float(last.max()),
        "last_logsumexp": float(torch.logsumexp(last, -1)),
        "greedy_ids": new,
        "greedy_logprobs": golden_file.digits(logprobs),
        "greedy_stop": new.index(eos) if eos in new else None,
        "greedy_min_margin": margin,
        "positions": positions,
        "logits": golden_file.digits(full[positions][:, vocab_ids]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--out", required=True, help="smollm2.json or stories260k.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    size = model.config.vocab_size
    drawn = dict.fromkeys(tiny_models.integers("vocabulary sample", 1000, 0, size))
    vocab_ids = sorted(list(drawn)[:200])
    prompts = []
    for text, ids in prompts_of(args.model):
        prompts.append(describe(model, text, ids, vocab_ids, model.config.eos_token_id))
        p = prompts[-1]
        print(len(ids), "margin", p["greedy_min_margin"], "stop", p["greedy_stop"])
    golden_file.write(
        args.out,
        ["torch", "transformers", "tokenizers"],
        {
            "model": "SmolLM2-135M-Instruct" if "smollm2" in args.out else "stories260K",
            "weights_sha256": sha256(os.path.join(args.model, "model.safetensors")),
            "vocab_ids": vocab_ids,
            "prompts": prompts,
        },
    )


if __name__ == "__main__":
    main()
