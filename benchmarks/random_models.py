# SPDX-License-Identifier: Apache-2.0
"""Model folders with seeded random weights, for speed and for comparisons on machines without a network. usage: random_models.py NAME FOLDER"""
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
# The shapes of Qwen2.5-0.5B and 1.5B; a Llama of 5M parameters, and one with SmolLM2-135M's shape and as many key heads as query heads.
MODELS = {
    "llama-5m": (LlamaForCausalLM, lambda: LlamaConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2, intermediate_size=688, vocab_size=4096,
        max_position_embeddings=2048, **TOKENS)),
    "llama-mha": (LlamaForCausalLM, lambda: LlamaConfig(
        hidden_size=576, num_hidden_layers=12, num_attention_heads=9, num_key_value_heads=9, intermediate_size=1536, vocab_size=49152,
        max_position_embeddings=2048, initializer_range=0.04, **TOKENS)),
    "qwen2-0.5b": (Qwen2ForCausalLM, lambda: Qwen2Config(
        hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864, vocab_size=151936,
        tie_word_embeddings=True, initializer_range=0.04, **TOKENS)),
    "qwen2-1.5b": (Qwen2ForCausalLM, lambda: Qwen2Config(
        hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, intermediate_size=8960, vocab_size=151936,
        tie_word_embeddings=True, **TOKENS)),
}


def make(name, folder):
    """Saved in bfloat16 where it is large, so that every reader begins with the same numbers."""
    kind, config = MODELS[name]
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = kind(config())
    if name.startswith("qwen2"):
        model = model.bfloat16()
    model.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2])
