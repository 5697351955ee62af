# SPDX-License-Identifier: Apache-2.0
"""tokenizer.json: what the `tokenizers` package makes of 10,000 random Unicode strings with real tokenizers (as hashes), and of short
texts with small tokenizers that exercise each supported field (in full). tests/model/tokenizer_test.cc makes the same strings.

Usage: make_tokenizer_goldens.py --shared SHARED_FOLDER [--smollm2 FOLDER]
"""
import argparse
import copy
import json
import os

from tokenizers import Tokenizer

import golden_file

MASK = (1 << 64) - 1
NUM_STRINGS, BLOCK = 10_000, 100
TAG_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

# (share of 100, first code point, last code point)
CLASSES = [
    (30, 0x21, 0x7E), (10, 0x20, 0x20), (5, 0x9, 0xD), (4, 0x30, 0x39), (8, 0xA0, 0x24F), (6, 0x300, 0x36F),
    (6, 0x370, 0x2FFF), (6, 0x3000, 0xD7A3), (6, 0x1F300, 0x1FAFF), (4, 0x10000, 0x1FFFF), (9, 0x0, 0x10FFFF),
]
# The remaining share.
FRAGMENTS = [
    "'s", "'S", "'\u017f", "'ll", "'LL", "'re", "'VE", "'d", "'M", "'t", " the", " and", "ing", "1234567", "\u0661\u0662\u0663", "don't",
    "e\u0301", "\u1112\u1161\u11ab", "  \n\n  ", "\r\n", "\u180e", "\u2003", "\u2581", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|eot_id|>", "<|begin_of_text|>", "<s>", "</s>", "<unk>", "<|im_start", "\u0d3c", "\u1c89", "\U00011de0", "\U0001e4ec",
]


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def random_string(index):
    """Draw k of string i is splitmix64(i * 2^20 + k): the length, then for each character its class and its code point."""
    draws = 0

    def draw(size):
        nonlocal draws
        draws += 1
        return splitmix64((index << 20) + draws) % size

    text = ""
    for _ in range(draw(80)):
        share = draw(100)
        for weight, first, last in CLASSES:
            if share < weight:
                point = first + draw(last - first + 1)
                text += chr(point - 0x800 if 0xD800 <= point <= 0xDFFF else point)
                break
            share -= weight
        else:
            text += FRAGMENTS[draw(len(FRAGMENTS))]
    return text * 20 if index % 50 == 0 else text


def fnv(values, start=0xCBF29CE484222325):
    for value in values:
        start = ((start ^ value) * 0x100000001B3) & MASK
    return start


def hashes(tokenizer):
    """Per block of 100 strings: the hash of all, and two base64 digits (12 bits) of each string's, so that a test can name it."""
    blocks, tags = [], []
    for start in range(0, NUM_STRINGS, BLOCK):
        per_string = []
        for index in range(start, start + BLOCK):
            ids = tokenizer.encode(random_string(index), add_special_tokens=index % 3 == 0).ids
            decoded = tokenizer.decode(ids, skip_special_tokens=index % 2 == 0)
            per_string.append(fnv(decoded.encode(), fnv(ids)))
        blocks.append(f"{fnv(per_string):016x}")
        tags.append("".join(TAG_DIGITS[h >> 6 & 63] + TAG_DIGITS[h & 63] for h in per_string))
    return {"blocks": blocks, "tags": tags}


def byte_characters():
    plain = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    spelling, following = {}, 256
    for b in range(256):
        if b in plain:
            spelling[b] = chr(b)
        else:
            spelling[b] = chr(following)
            following += 1
    return spelling


def byte_level_base():
    spell = byte_characters()
    vocab = {spell[b]: b for b in range(256)}
    words = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("a", "nd"), ("n", "d"), ("Ġ", "Ġ"), ("1", "2"), ("Ġ", "a"), ("Ã", "©")]
    merges = []
    for left, right in words:
        if left in vocab and right in vocab:
            merges.append([left, right])
            vocab.setdefault(left + right, len(vocab))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": byte_level,
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges},
    }


def character_base():
    vocab = {"<unk>": 0}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    for c in "▁abcdehnt12":
        vocab[c] = len(vocab)
    merges = [["t", "h"], ["th", "e"], ["▁", "the"], ["a", "n"], ["▁", "▁"]]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    base = copy.deepcopy(byte_level_base())
    base["pre_tokenizer"] = None
    base["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    base["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    base["model"].update(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return base


def token(index, content, **flags):
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": index, "content": content, **{n: flags.get(n, False) for n in names}}


def variants():
    """(name, base, the fields replaced in it)"""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            for pattern in ({"Regex": "\\s+|\\p{N}"}, {"String": " a"}):
                split = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
                sequence = {"type": "Sequence", "pretokenizers": [split, byte_level]}
                yield f"split {behavior} invert={invert} {list(pattern)[0]}", "bytes", {"pre_tokenizer": sequence}
    empty = {"type": "Split", "pattern": {"Regex": "\\p{N}*"}, "behavior": "Isolated", "invert": False}
    yield "split by what may be empty", "bytes", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [empty, byte_level]}}
    for individual in (False, True):
        digits = {"type": "Digits", "individual_digits": individual}
        sequence = {"type": "Sequence", "pretokenizers": [digits, {**byte_level, "add_prefix_space": True, "use_regex": True}]}
        yield f"digits individual={individual}, prefix space", "bytes", {"pre_tokenizer": sequence}
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield form, "bytes", {"normalizer": {"type": form}}
    first = len(byte_level_base()["model"]["vocab"])
    tokens = [
        token(first, "<one>", single_word=True), token(first + 1, "<left>", lstrip=True), token(first + 2, "<right>", rstrip=True),
        token(first + 3, "<both>", lstrip=True, rstrip=True, special=True), token(first + 4, "<on"), token(first + 5, "caf\u00e9", normalized=True),
        token(first + 6, "<n>", normalized=True, special=True), token(first + 7, "a b"),
    ]
    yield "added tokens", "bytes", {"added_tokens": tokens, "normalizer": {"type": "NFD"}}
    special = {"[A]": {"id": "[A]", "ids": [first, first + 1], "tokens": ["[A]", "[B]"]}, "[E]": {"id": "[E]", "ids": [first + 2], "tokens": ["[E]"]}}
    template = {"type": "TemplateProcessing", "special_tokens": special, "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}], "single": [
        {"SpecialToken": {"id": "[A]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[E]", "type_id": 0}}]}
    frame = [token(first + i, name, special=True) for i, name in enumerate(("[A]", "[B]", "[E]"))]
    yield "template", "bytes", {"post_processor": template, "added_tokens": frame}
    base = byte_level_base()
    partial = {k: v for k, v in base["model"]["vocab"].items() if k not in "xyÃ" and k != "Ã©"}
    fewer = [m for m in base["model"]["merges"] if m != ["Ã", "©"]]
    yield "bytes missing", "bytes", {"model": {**base["model"], "vocab": partial, "merges": fewer}}
    yield "bytes missing, unknown token", "bytes", {
        "model": {**base["model"], "vocab": partial, "merges": fewer, "unk_token": "!", "fuse_unk": False}}
    yield "ignore merges", "bytes", {
        "model": {**base["model"], "ignore_merges": True, "vocab": {**base["model"]["vocab"], "xyz": 400, "Ġzyx": 401, "é": 233}}}
    yield "byte fallback", "characters", {}
    last = len(character_base()["model"]["vocab"])
    yield "byte fallback, added tokens", "characters", {"added_tokens": [
        token(last, "<one>", normalized=True), token(last + 1, "<both>", normalized=True, special=True), token(last + 2, "<n>", special=True)]}
    spm = character_base()["model"]
    no_bytes = {k: v for k, v in spm["vocab"].items() if not k.startswith("<0x")}
    for fuse in (False, True):
        yield f"no byte tokens, fuse={fuse}", "characters", {"model": {**spm, "vocab": no_bytes, "fuse_unk": fuse}}
    half = {k: v for k, v in spm["vocab"].items() if not k.startswith("<0xC")}
    yield "some byte tokens", "characters", {"model": {**spm, "vocab": half}}


TEXTS = [
    "", " ", "the and the", " the  and   ", "a 12 b345\u0662 6", "caf\u00e9 cafe\u0301", "x<one>y <one> z<one>", "a  <left>  b <right>  c  <both>  d",
    "<on<one>", "<n>a b a  b<n> <n", "xyz zyx xyzxyz", "\n\n  a\tb \r\n", "\ufb01 \u2126 \u212b", "\u65e5\u672c\u8a9e 12\u8a9e", "<both><both> <left><right>",
    "\U0001f600 a\u0300\u0301 th", "the" * 40, "\u2581the \u2581", "\u00a0a \u3000 a",
]


def small_tokenizers():
    bases = {"bytes": byte_level_base(), "characters": character_base()}
    rows = []
    for name, base, fields in variants():
        tokenizer = Tokenizer.from_str(json.dumps({**bases[base], **fields}))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=True).ids
            cases.append([text, ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=False)])
        rows.append({"name": name, "base": base, "fields": json.dumps(fields), "cases": json.dumps(cases)})
    # As JSON texts: one line each.
    return {"bases": {k: json.dumps(v) for k, v in bases.items()}, "variants": rows}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", required=True)
    parser.add_argument("--smollm2")
    arguments = parser.parse_args()
    names = ["tok-qwen2/tokenizer.json", "tok-llama3/tokenizer.json", "tok-llama-spm/tokenizer.json",
             "tok-small-fixtures/scalellm-tokenizer.json", "tok-small-fixtures/torchtitan-tokenizer.json", "model-stories260k/hf/tokenizer.json"]
    files = {name: os.path.join(arguments.shared, "data", name) for name in names}
    if arguments.smollm2:
        files["smollm2"] = os.path.join(arguments.smollm2, "tokenizer.json")
    body = {"num_strings": NUM_STRINGS, "block": BLOCK, "tokenizers": []}
    body["string_hashes"] = [f"{fnv(map(ord, random_string(i))):016x}" for i in range(0, NUM_STRINGS, 500)]
    for name, path in files.items():
        body["tokenizers"].append({"name": name, **hashes(Tokenizer.from_file(path))})
    golden_file.write("tokenizer.json", ("tokenizers",), body)
    golden_file.write("tokenizer_fields.json", ("tokenizers",), small_tokenizers())


if __name__ == "__main__":
    main()
