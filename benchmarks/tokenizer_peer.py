# SPDX-License-Identifier: Apache-2.0
"""Runs tokenizer_benchmark, times the `tokenizers` package on the same texts (one thread each, in turn, CPU time), and prints both as a table.

Usage: tokenizer_peer.py --benchmark BUILD/bin/tokenizer_benchmark --shared SHARED_FOLDER [--repeats 3]
"""
import argparse
import json
import os
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden"))

import tokenizers  # noqa: E402
from make_tokenizer_goldens import random_string  # noqa: E402


def texts(shared):
    with open(os.path.join(shared, "data/alpaca-2000-with-outputs/alpaca_data.json"), encoding="utf-8") as f:
        documents = ["\n".join((row["instruction"], row["input"], row["output"])) for row in json.load(f)]
    return {"documents": documents, "long": ["\n".join(documents)], "unicode": [random_string(i) for i in range(2000)]}


def best(repeats, action):
    """The shortest of several times; the first run is not counted."""
    result, least = action(), float("inf")
    for _ in range(repeats):
        start = time.process_time()
        result = action()
        least = min(least, time.process_time() - start)
    return result, least


def peer(shared, name, all_texts, repeats):
    path = os.path.join(shared, "data", name, "tokenizer.json")
    tokenizer, seconds = best(repeats, lambda: tokenizers.Tokenizer.from_file(path))
    rates = {f"{name}/load": seconds}
    for kind, batch in all_texts.items():
        one_by_one, first = best(repeats, lambda: [tokenizer.encode(t, add_special_tokens=False) for t in batch])
        # Without offsets and in one call: its fastest way.
        _, second = best(repeats, lambda: tokenizer.encode_batch_fast(batch, add_special_tokens=False))
        rates[f"{name}/encode/{kind}"] = sum(len(e.ids) for e in one_by_one) / min(first, second)
        if kind == "documents":
            ids = [e.ids for e in one_by_one]
            _, seconds = best(repeats, lambda: [tokenizer.decode(i) for i in ids])
            rates[f"{name}/decode/{kind}"] = sum(map(len, ids)) / seconds
    return rates


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--shared", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    all_texts = texts(arguments.shared)
    print(f"| tokenizers {tokenizers.__version__}, one thread, CPU time | Wideberth | tokenizers | ratio |\n|---|---|---|---|")
    for name in ("tok-qwen2", "tok-llama3", "tok-llama-spm"):
        command = [arguments.benchmark, f"--benchmark_filter=^{name}/", "--benchmark_format=json", f"--benchmark_repetitions={arguments.repeats}"]
        output = subprocess.run(command, env={**os.environ, "WIDEBERTH_SHARED": os.path.abspath(arguments.shared)}, check=True, capture_output=True)
        ours = {}
        for row in json.loads(output.stdout)["benchmarks"]:
            if row["run_type"] != "iteration":
                continue
            rate = row.get("tokens_per_second")
            if rate is None:
                ours[row["run_name"]] = min(ours.get(row["run_name"], float("inf")), row["cpu_time"] / 1000)
            else:
                ours[row["run_name"]] = max(ours.get(row["run_name"], 0.0), rate)
        for case, theirs in peer(arguments.shared, name, all_texts, arguments.repeats).items():
            mine = ours[case]
            if case.endswith("/load"):
                print(f"| {case} | {mine:.2f} s | {theirs:.2f} s | {theirs / mine:.1f} |")
            else:
                print(f"| {case} | {mine / 1e6:.2f} M tokens/s | {theirs / 1e6:.2f} M tokens/s | {mine / theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
