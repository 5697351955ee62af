# SPDX-License-Identifier: Apache-2.0
"""Writes lora_<kind>_<case>.json: PEFT's forward pass, loss and gradients of a LoRA adapter on a
tiny model.
"""

import argparse
import json
import os
import tempfile

import torch

import golden_file
import tiny_models

POSITIONS = [0, 5, 20, 31]
FULL = ("q_proj.lora_A", "q_proj.lora_B", "down_proj.lora_A", "down_proj.lora_B")
CASES = {
    "all": tiny_models.TARGETS,
    "qv": ("q_proj", "v_proj"),
    "rslora": tiny_models.TARGETS,
    "modules": ("k_proj", "layers.1.mlp.up_proj", "model.layers.2.self_attn.o_proj"),
}


def exact_norms(model):
    """transformers computes RMSNorm in float32 whatever the model's type; the float64 run should be
    float64 throughout.
    """

    def forward(self, x):
        return self.weight * (
            x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        )

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = forward.__get__(module)


def run(kind, targets, dtype, ids, rslora):
    from peft import LoraConfig, get_peft_model

    base = tiny_models.build(kind, dtype)
    if dtype == torch.float64:
        exact_norms(base)
    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets,
        use_rslora=rslora,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, settings, autocast_adapter_dtype=False).eval()
    for parameter in model.parameters():
        assert parameter.dtype == dtype
    names = tiny_models.fill_adapter(model)
    with torch.no_grad(), model.disable_adapter():
        off = model(torch.tensor([ids]), use_cache=False).logits[0]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    following = torch.tensor(ids[1:])[:, None]
    logprobs = torch.log_softmax(logits[:-1], -1).gather(1, following)[:, 0]
    loss = -logprobs.mean()
    loss.backward()
    base_logprobs = torch.log_softmax(off[:-1], -1).gather(1, following)[:, 0]
    return {
        "model": model,
        "names": names,
        "logits": logits.detach(),
        "logprobs": logprobs.detach(),
        "loss": float(loss.detach()),
        "base": base_logprobs,
        "gradients": {n: p.grad.clone() for n, p in names.items()},
    }


def chosen(names, layers):
    """Four tensors: first layer q_proj A and down_proj B, last layer q_proj B and down_proj A, or
    what the targets offer instead.
    """
    offered = [f for f in FULL if any(f in n for n in names)]
    last = f"layers.{layers - 1}."
    picks = []
    for i, part in enumerate(offered):
        layer = "layers.0." if i in (0, 3) else last
        picks += [n for n in names if part in n and layer in n]
    if len(picks) < 4:
        picks += [n for n in names if "v_proj" in n and last in n]
    picks += [n for n in names if n not in picks]
    return picks[:4]


def saved_config(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as f:
            settings = json.load(f)
    settings["target_modules"] = sorted(settings["target_modules"])
    return settings


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["llama", "qwen2"], required=True)
    parser.add_argument("--case", choices=list(CASES), required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    targets = list(CASES[args.case])
    ids = tiny_models.integers("sequence for adapters", 32, 3, 320)
    single, double = (
        run(args.kind, targets, dtype, ids, args.case == "rslora") for dtype in (torch.float32, torch.float64)
    )
    exact = double["gradients"]
    difference = max(
        float((single["gradients"][n].double() - g).abs().max()) for n, g in exact.items()
    )
    worst = max(
        float((single["gradients"][n].double() - g).norm() / g.norm()) for n, g in exact.items()
    )
    picks = chosen(list(exact), tiny_models.config(args.kind).num_hidden_layers)
    print(
        args.kind,
        args.case,
        "loss",
        single["loss"],
        double["loss"],
        "gradient difference",
        difference,
        worst,
        picks,
    )
    golden_file.write(
        f"lora_{args.kind}_{args.case}.json",
        ["torch", "transformers", "peft"],
        {
            "kind": args.kind,
            "r": 4,
            "alpha": 8,
            "targets": targets,
            "adapter_config": saved_config(single["model"]),
            "adapter_tensors": {n: list(p.shape) for n, p in single["names"].items()},
            "ids": ids,
            "base_next_logprobs": golden_file.digits(single["base"]),
            "next_logprobs": golden_file.digits(single["logprobs"]),
            "next_logprobs_float64": golden_file.digits(double["logprobs"], 15),
            "positions": POSITIONS,
            "logits": golden_file.digits(single["logits"][POSITIONS]),
            "loss": single["loss"],
            "loss_float64": double["loss"],
            "gradient_norms": {
                n: golden_file.digits(float(g.norm()), 12) for n, g in exact.items()
            },
            "gradients": {n: golden_file.digits(exact[n].flatten(), 12) for n in picks},
            "max_abs_gradient_difference": difference,
        },
    )


if __name__ == "__main__":
    main()
