# SPDX-License-Identifier: Apache-2.0
"""Wideberth beside transformers and PEFT on the same weights, ids and settings: cells in turn, median of the rounds with least and most, ratios.

usage: compare.py --build DIR --model FOLDER [--model FOLDER ...] [--rounds 5] [--dtype float32] [--device cpu] [--threads 1] [--json FILE]
A FOLDER named in random_models.py is made on the spot. Needs a Python with transformers and peft, and a C compiler.
On a processor that is not Intel's each peer cell runs twice: stock, and with the MKL switch that this project sets for itself (see model/runtime.cc), since
beating only the first could be no more than a choice of GEMM. On Intel's the switch changes nothing and is left out.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import random_models

HERE = pathlib.Path(__file__).parent
CELLS = {  # name -> (google-benchmark name, args)
    "decode, batch 1": ("Decode", [1, 1, 64, 96]),
    "decode, batch 32 (4 x 8)": ("Decode", [4, 8, 64, 48]),
    "decode, batch 64 (8 x 8)": ("Decode", [8, 8, 64, 48]),
    "scoring, 32 x (64 shared + 64)": ("Score", [32, 64, 64]),
    "LoRA forward + backward, 8 x (64 + 48)": ("LearnerPass", [1, 8, 64, 48]),
}
GPU_CELLS = {
    "decode, batch 256 (16 x 16)": ("Decode", [16, 16, 64, 48]),
    "scoring, 128 x (256 shared + 128)": ("Score", [128, 256, 128]),
    "LoRA forward + backward, 64 x (128 + 96)": ("LearnerPass", [4, 16, 128, 96]),
}


class Worker:
    """A process that answers JSON lines with JSON lines, the first of them when it is ready."""

    def __init__(self, command, threads, preload=None, **environment):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), **environment)
        if preload:
            environment["LD_PRELOAD"] = preload
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(list(map(str, command)), env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f"{' '.join(map(str, self.process.args))} ended:\n{self.errors.read()[-3000:]}")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def ours(options, folder, name, args):
    environment = dict(os.environ, WIDEBERTH_MODEL=folder, WIDEBERTH_DTYPE=options.dtype, WIDEBERTH_DEVICE=options.device,
                       WIDEBERTH_THREADS=str(options.threads), OMP_NUM_THREADS=str(options.threads))
    selected = name + "/" + "/".join(map(str, args)) + "/"
    out = subprocess.run([options.build / "bin/model_benchmark", f"--benchmark_filter=^{selected}", "--benchmark_format=json"], env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if out.returncode != 0:
        sys.exit(f"{selected} ended with {out.returncode}:\n{out.stderr[-3000:]}")
    return json.loads(out.stdout)["benchmarks"][0]["items_per_second"]


def check(options, folder, peer):
    """Largest difference of log-probs between `wideberth logprobs` and transformers on four sequences."""
    requests = [{"prompt_ids": [(11 * i + s) % 300 + 3 for i in range(20)], "completion_ids": [(5 * i + s) % 300 + 3 for i in range(30)]} for s in range(4)]
    command = [options.build / "bin/wideberth", "logprobs", "--model", folder, "--device", options.device, "--dtype", options.dtype]
    out = subprocess.run(command, input="".join(json.dumps(r) + "\n" for r in requests), check=True, stdout=subprocess.PIPE, text=True).stdout
    largest = 0.0
    for request, line in zip(requests, out.splitlines(), strict=True):
        expected = peer.ask(cell="logprobs", **request)["logprobs"]
        largest = max(largest, *(abs(a - b) for a, b in zip(json.loads(line)["logprobs"], expected, strict=True)))
    return largest


def switch_matters():
    return "GenuineIntel" not in pathlib.Path("/proc/cpuinfo").read_text()


def make_switch(folder):
    """The MKL switch as a library to preload."""
    source, library = f"{folder}/switch.c", f"{folder}/switch.so"
    pathlib.Path(source).write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def summary(values):
    return f"{statistics.median(values):9.1f} ({min(values):.1f} .. {max(values):.1f})"


def compare(options, folder, preload):
    print(f"\n{folder}, {options.dtype}, {options.device}, {options.threads} thread(s), {options.rounds} rounds; tokens a second, median (least .. most)", flush=True)
    command = [sys.executable, HERE / "hf_worker.py", folder, options.dtype, options.threads, options.device]
    peers = {"transformers": Worker(command, options.threads)}
    if options.device == "cpu" and switch_matters():
        peers["with the switch"] = Worker(command, options.threads, preload)
    print(f"largest difference of log-probs to transformers: {check(options, folder, peers['transformers']):.2e}", flush=True)
    rows = []
    for title, (name, args) in {**CELLS, **(GPU_CELLS if options.device != "cpu" else {})}.items():
        figures = {"wideberth": [], **{key: [] for key in peers}}
        for round_number in range(options.rounds + 1):
            sample = {"wideberth": ours(options, folder, name, args)}
            for key, peer in peers.items():
                answer = peer.ask(cell=name, args=args)
                sample[key] = answer["tokens"] / answer["seconds"]
            if round_number > 0:  # The first round warms up.
                for key, value in sample.items():
                    figures[key].append(value)
        ratios = {key: statistics.median(a / b for a, b in zip(figures["wideberth"], figures[key])) for key in peers}
        rows.append({"model": folder, "cell": title, "dtype": options.dtype, "figures": figures, "ratios": ratios})
        print(f"{title:40}", *(f"{key} {summary(values)} " for key, values in figures.items()), "ratio", *(f"{ratio:.2f}" for ratio in ratios.values()), flush=True)
    for peer in peers.values():
        peer.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        preload = make_switch(scratch)
        rows = []
        for model in options.model:
            folder = model
            if model in random_models.MODELS:
                folder = f"{scratch}/{model}"
                random_models.make(model, folder)
            rows += compare(options, folder, preload)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
