# SPDX-License-Identifier: Apache-2.0
"""One GRPO optimiser step on given completions - reference and policy forward, loss, backward, clipping, AdamW on LoRA r=16 of all linear layers - of Wideberth's learner, of
transformers + PEFT in a plain loop and of TRL's GRPOTrainer, in turn, one thread each.

usage: learner_step.py --build DIR --model FOLDER [--case NAME ...] [--variant stock|switch|lean ...] [--groups 1] [--group_size 8] [--rounds 2] [--json FILE]
All sides start from the same adapter and take the same steps on the same tokens; losses and gradient norms must agree, or the run ends. Wideberth and a peer take steps in turn,
each in its own process, which waits while the other computes. A group is one batch of the peers, and one packed tree of Wideberth: memory does not depend on their number.
Peers as they come (stock); with the MKL switch that this project sets for itself (switch, see compare.py; on Intel the same as stock); and with malloc's mmap threshold at
1 MB as well (lean), without which activations fragment the heap to twice the memory, while with it page faults cost time. Judge speed by the fastest, memory by the leanest.
Ratios: peer's seconds / Wideberth's of the same round, median; Wideberth's memory / peer's. Memory: the highest resident size since everything was loaded, above what was
resident then, and in total. The first round warms up and is not counted. A peer that runs out of memory is the first the kernel kills.
"""
import argparse
import functools
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

from compare import HERE, Worker, make_switch, switch_matters

CASES = {  # name -> prompt tokens, least and most completion tokens, dtype, activation checkpointing
    "float32": (96, 48, 128, "float32", False),
    "long-prompt": (256, 16, 48, "float32", False),
    "checkpointing": (96, 48, 128, "float32", True),
    "bfloat16": (96, 48, 128, "bfloat16", False),
}
TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 0.1)}  # loss, absolute; gradient norm, relative


def make_data(options, prompt, least, most):
    """Seeded ids in place of text: what a step costs does not depend on them. The longest completion has `most` tokens, so that padding does not depend on the seed."""
    vocab = json.loads((pathlib.Path(options.model) / "config.json").read_text())["vocab_size"]
    generator = random.Random(17)
    groups = []
    for _ in range(options.groups):
        lengths = [most] + [generator.randint(least, most) for _ in range(options.group_size - 1)]
        generator.shuffle(lengths)
        groups.append({"prompt": generator.choices(range(20, vocab), k=prompt), "completions": [generator.choices(range(20, vocab), k=n) for n in lengths],
                       "rewards": [generator.randint(-64, 64) / 64 for _ in lengths]})
    return {"beta": 0.04, "learning_rate": 2e-5, "groups": groups}


def make_adapter(model, folder):
    """PEFT's own start, with B drawn as well: at B = 0 the KL and half of the gradients would be zero."""
    script = ("import sys, torch; from peft import LoraConfig, get_peft_model; from transformers import AutoModelForCausalLM; torch.manual_seed(3); "
              "m = get_peft_model(AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32), "
              "LoraConfig(r=16, lora_alpha=32, target_modules='all-linear', task_type='CAUSAL_LM'))\n"
              "for n, p in m.named_parameters():\n"
              "    if 'lora_B' in n: torch.nn.init.uniform_(p, -0.01, 0.01)\n"
              "m.save_pretrained(sys.argv[2])")
    subprocess.run([sys.executable, "-c", script, model, folder], check=True, stderr=subprocess.DEVNULL)


def peers_of(options, scratch, settings):
    """Title -> what starts it."""
    peers = {}
    for kind, title in (("peft", "transformers + PEFT"), ("trl", "TRL")):
        command = [sys.executable, HERE / "learner_step_peer.py", kind, *settings]
        if kind not in options.peer:
            continue
        switch = make_switch(scratch) if switch_matters() else None
        variants = {"stock": functools.partial(Worker, command, 1), "switch": functools.partial(Worker, command, 1, switch),
                    "lean": functools.partial(Worker, command, 1, switch, MALLOC_MMAP_THRESHOLD_=str(1 << 20))}
        peers.update({f"{title}, {variant}": variants[variant] for variant in options.variant})
    return peers


def check(name, title, dtype, number, own, theirs):
    """Differences of loss and gradient norm (relative). Ends the run where the two did not do the same work."""
    loss, norm = abs(theirs["loss"] - own["loss"]), abs(theirs["grad_norm"] / own["grad_norm"] - 1)
    if not (loss <= TOLERANCES[dtype][0] and norm <= TOLERANCES[dtype][1]):
        sys.exit(f"{name}, step {number}, {title}: loss {theirs['loss']:.7f}, gradient norm {theirs['grad_norm']:.6f}; Wideberth: loss {own['loss']:.7f}, gradient norm "
                 f"{own['grad_norm']:.6f}: not the same step")
    return loss, norm


def alternate(options, ours, peer, name, title, dtype):
    """Both sides' answers round after round, and the largest differences. Only these two processes are there: some peers need several GB."""
    own, other = Worker(ours, 1), peer()
    rounds, differences = [], []
    for number in range(options.rounds + 1):
        rounds.append((own.ask(), other.ask()))
        differences.append(check(name, title, dtype, number + 1, *rounds[-1]))
    own.close()
    other.close()
    return rounds, tuple(map(max, zip(*differences)))


def summary(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


def compare(options, scratch, name):
    prompt, least, most, dtype, checkpointing = CASES[name]
    data = make_data(options, prompt, least, most)
    (scratch / "data.json").write_text(json.dumps(data))
    settings = [options.model, scratch / "adapter", scratch / "data.json", dtype, int(checkpointing)]
    lengths = [len(c) for group in data["groups"] for c in group["completions"]]
    print(f"\n**{name}**: {options.groups} x {options.group_size}, prompts of {prompt}, completions of {min(lengths)} .. {max(lengths)} (mean {statistics.mean(lengths):.0f}), {dtype}"
          f"{', activation checkpointing' if checkpointing else ''}; {options.rounds} rounds\n", flush=True)
    print("| peer | its s/step | Wideberth's | ratio | ratio of CPU time | its MB above loaded, in total | Wideberth's | ratios | difference of loss, gradient norm |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for title, peer in peers_of(options, scratch, settings).items():
        rounds, (loss, norm) = alternate(options, [options.build / "bin/learner_benchmark", *settings], peer, name, title, dtype)
        rows.append({"case": name, "peer": title, "rounds": rounds})
        own_seconds, seconds = ([side["seconds"] for side in sides] for sides in zip(*rounds[1:]))
        speed, cpu = (statistics.median(theirs[key] / own[key] for own, theirs in rounds[1:]) for key in ("seconds", "cpu_seconds"))
        (own_above, above), (own_peak, peak) = zip(*((side["peak_bytes"] - side["loaded_bytes"], side["peak_bytes"]) for side in rounds[-1]))
        print(f"| {title} | {summary(seconds)} | {summary(own_seconds)} | {speed:.2f} | {cpu:.2f} | {above / 1e6:.0f}, {peak / 1e6:.0f} | {own_above / 1e6:.0f}, {own_peak / 1e6:.0f} | "
              f"{own_above / above:.2f}, {own_peak / peak:.2f} | {loss:.0e}, {norm:.0e} |", flush=True)
    if rows:
        phases = {phase: statistics.median(own["phases"][phase] for row in rows for own, _ in row["rounds"][1:]) for phase in rows[0]["rounds"][0][0]["phases"]}
        print("\nWideberth's seconds: " + ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.items()), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be given several times; float32, if not given")
    parser.add_argument("--peer", action="append", choices=["peft", "trl"], help="may be given several times; both, if not given")
    parser.add_argument("--variant", action="append", choices=["stock", "switch", "lean"], help="of the peers, may be given several times; switch, if not given")
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    options.peer, options.variant = options.peer or ["peft", "trl"], options.variant or ["switch"]
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        make_adapter(options.model, scratch / "adapter")
        rows = [row for name in options.case or ["float32"] for row in compare(options, scratch, name)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
