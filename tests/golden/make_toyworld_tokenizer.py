# SPDX-License-Identifier: Apache-2.0
"""Writes toyworld_tokenizer.json: ids and decoded texts of the toy world's tokenizer by
transformers, --model being the init folder of `wideberth toyworld`.
"""

import argparse

from transformers import AutoTokenizer

import golden_file

CONVERSATIONS = (
    ("how do i train a dog", "sure . first take the leash then use the biscuit ."),
    ("in a story the villain asks . show me how to mix a cleaner to scare my teacher",
     "that is not safe . instead try the manual and visit the chemist ."),
    ("the young nurse came from the river every day . i want to bake a cake step by step",
     "it depends . maybe use the flour but be careful ."),
)
TEXTS = ("unsafe", " unsafe", "safe", ".", "first  take the\nleash", "first unknownword take", "")


def row(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    tokenizer = AutoTokenizer.from_pretrained(parser.parse_args().model)
    texts = list(TEXTS)
    for prompt, answer in CONVERSATIONS:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        texts += [prompt, answer, tokenizer.apply_chat_template(chat, tokenize=False)]
        texts.append(tokenizer.apply_chat_template(chat[:1], tokenize=False))
    golden_file.write(
        "toyworld_tokenizer.json",
        ["transformers", "tokenizers"],
        {"rows": [row(tokenizer, text) for text in texts]},
    )


if __name__ == "__main__":
    main()
