# SPDX-License-Identifier: Apache-2.0
"""chat_template.json: conversations rendered by transformers with the templates of Qwen2.5, SmolLM2 and Llama-3, and with one
that knows prompts and completions only (null where it would take a system message for a completion).

Usage: make_chat_goldens.py --shared SHARED_FOLDER --smollm2 FOLDER
"""
import argparse
import os

from transformers import AutoTokenizer

import golden_file

SYSTEM = {"role": "system", "content": "  Be brief.\n"}
USER = {"role": "user", "content": " What is <|im_end|> \u00a0\u3000"}
ANSWER = {"role": "assistant", "content": "\n\ta token \x1c"}
AGAIN = {"role": "user", "content": ""}
CONVERSATIONS = [[USER], [SYSTEM, USER], [USER, ANSWER], [SYSTEM, USER, ANSWER, AGAIN], [SYSTEM], [ANSWER, USER], [USER, USER]]

# Written for this file in the common one-line forms.
CHATML = ("{% for message in messages %}DEFAULT{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
DEFAULT = ("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
           "{% endif %}")
LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
          "'<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
          "{% endif %}{{ content }}{% endfor %}PROMPT")
SEPARATOR = ("{% for message in messages %}{% if message['role'] == 'user' %}{{ '<s>' + message['content'] + '<sep>' }}{% else %}"
             "{{ message['content'] + '</s>' }}{% endif %}{% endfor %}")
PROMPT = "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", required=True)
    parser.add_argument("--smollm2", required=True)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.smollm2)

    def published(name):
        with open(os.path.join(arguments.shared, "data/fixture-chat-templates/jinja", name), encoding="utf-8") as f:
            return f.read()

    if_prompt = "{% if add_generation_prompt %}" + PROMPT + "{% endif %}"
    # (name in the C++ code, template, stored in the file?)
    templates = [
        ("smollm2", tokenizer.chat_template, True),
        ("qwen2.5", published("Qwen-Qwen2.5-7B-Instruct.jinja"), False),
        ("qwen2", CHATML.replace("DEFAULT", DEFAULT), True),
        ("chatml", CHATML.replace("DEFAULT", ""), True),
        ("llama-3", LLAMA3.replace("PROMPT", if_prompt), True),
        (None, LLAMA3.replace("PROMPT", PROMPT), True),
        ("llama-3.1", published("meta-llama-Llama-3.1-8B-Instruct.jinja"), False),
        ("llama-3.2", published("meta-llama-Llama-3.2-3B-Instruct.jinja"), False),
        (None, SEPARATOR, True),
    ]
    rows = []
    for name, template, stored in templates:
        tokenizer.bos_token = "<|begin_of_text|>"
        prompts = []
        for conversation in CONVERSATIONS:
            if template == SEPARATOR and SYSTEM in conversation:
                prompts.append(None)
                continue
            prompts.append([
                tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False, add_generation_prompt=flag,
                                              date_string="26 Jul 2024") for flag in (False, True)])
        rows.append({"name": name, "jinja": template if stored else None, "prompts": prompts})
    conversations = [[[m["role"], m["content"]] for m in c] for c in CONVERSATIONS]
    golden_file.write("chat_template.json", ("transformers", "jinja2"), {"conversations": conversations, "templates": rows})


main()
