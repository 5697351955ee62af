# SPDX-License-Identifier: Apache-2.0
"""Tiny models whose weights follow from the tensors' names alone, so that Python and C++ build the
same model without a stored file.

The C++ twin is tests/testing/tiny_model.cc. The formula and the kinds are described in README.md.
"""

import argparse
import json
import os
import tempfile

import numpy as np
import torch

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
LLAMA = dict(
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=112,
    vocab_size=320,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    attention_bias=False,
    mlp_bias=False,
    hidden_act="silu",
)
QWEN2 = dict(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=320,
    max_position_embeddings=512,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    hidden_act="silu",
    use_sliding_window=False,
)
LLAMA3_SCALING = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
KINDS = ("llama", "llama3_rope", "qwen2", "llama_reward")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def fnv1a64(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def uniform(name, count):
    """`count` float32 values in [-1, 1), multiples of 2^-23."""
    with np.errstate(over="ignore"):
        z = (
            np.uint64(fnv1a64(name))
            + np.arange(count, dtype=np.uint64) * GOLDEN_RATIO
            + GOLDEN_RATIO
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / 2.0**24
    return (2.0 * u - 1.0).astype(np.float32)


def integers(name, count, low, high):
    """`count` integers in [low, high), for token ids."""
    return [low + int((float(x) + 1.0) / 2.0 * (high - low)) for x in uniform(name, count)]


def tensor(name, shape, adapter=False):
    values = uniform(name, int(np.prod(shape)))
    if name.endswith("norm.weight"):
        values = np.float32(1) + values * np.float32(0.125)
    else:
        values = values * np.float32(0.25 if adapter else 0.5)
    return torch.from_numpy(values.reshape(tuple(shape)))


def config(kind):
    from transformers import LlamaConfig, Qwen2Config

    if kind == "qwen2":
        return Qwen2Config(**QWEN2, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if kind == "llama3_rope":
        rope = {"rope_theta": 10000.0, **LLAMA3_SCALING}
    extra = {"num_labels": 1} if kind == "llama_reward" else {}
    return LlamaConfig(**LLAMA, rope_parameters=rope, **extra)


def build(kind, dtype=torch.float32, attention="sdpa"):
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification, Qwen2ForCausalLM

    classes = {"qwen2": Qwen2ForCausalLM, "llama_reward": LlamaForSequenceClassification}
    settings = config(kind)
    settings._attn_implementation = attention
    model = classes.get(kind, LlamaForCausalLM)(settings).eval()
    with torch.no_grad():
        for (
            name,
            parameter,
        ) in model.named_parameters():  # a tied head appears once, under the embedding's name
            parameter.copy_(tensor(name, parameter.shape))
    return in_dtype(model, dtype)


def in_dtype(model, dtype):
    """Through a saved folder, because `.to(dtype)` would round the rotary frequencies too, which
    loading a folder does not.
    """
    if dtype == torch.float32:
        return model
    if dtype == torch.float64:
        return model.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        model.to(dtype).save_pretrained(folder)
        return type(model).from_pretrained(folder, dtype=dtype).eval()


def fill_adapter(peft_model):
    """Adapter tensors by the formula, under the names PEFT gives them in
    adapter_model.safetensors.
    """
    names = {}
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                saved = name.replace(".default.", ".")
                parameter.copy_(tensor(saved, parameter.shape, adapter=True))
                names[saved] = parameter
    return names


def write_old_style(kind, folder):
    """config.json as transformers 4 wrote it (`rope_theta`, `rope_scaling`), which most published
    folders have.
    """
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        settings = json.load(f)
    rope = settings.pop("rope_parameters")
    settings["rope_theta"] = rope.pop("rope_theta")
    settings["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    settings["torch_dtype"] = settings.pop("dtype")
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(settings, f, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--old_style", action="store_true", help="config.json in the style of transformers 4"
    )
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument(
        "--max_shard_size", default="1GB", help="for example 60KB for several shards"
    )
    args = parser.parse_args()
    model = build(args.kind, torch.bfloat16 if args.bfloat16 else torch.float32)
    model.save_pretrained(args.out, max_shard_size=args.max_shard_size)
    if args.old_style:
        write_old_style(args.kind, args.out)


if __name__ == "__main__":
    main()
