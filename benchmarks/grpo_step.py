# SPDX-License-Identifier: Apache-2.0
"""One whole GRPO step - generate, score by two scorers, reference, learn, publish - of Wideberth and of TRL's GRPOTrainer, in turn, on one core each.

usage: grpo_step.py --build DIR --model FOLDER [--groups 8] [--group_size 8] [--new_tokens 48] [--steps 2] [--variant defaults] [--core 0]
Settings of configs/quickstart.txtpb otherwise. All processes of either side are pinned to one core with one intra-op thread each, so neither gains by using more
of the machine. The first step of TRL and of ours (loading, first touch of every page) is shown and left out of the ratio where there is a second. Memory: the
largest sum of proportional set sizes over all processes of a side, sampled four times a second.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parent


def family(root):
    children = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def proportional_bytes(pids):
    total = 0
    for pid in pids:
        try:
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            pass
    return total


def watched(command, core, log):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], cwd=REPOSITORY, env=environment, stdout=out, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, proportional_bytes(family(process.pid)))
            time.sleep(0.25)
    if process.returncode != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}:\n" + pathlib.Path(log).read_text()[-3000:])
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--variant", choices=["defaults", "float32"], default="defaults")
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="wideberth-benchmark-"))
    override = (f"evaluation {{ num_prompts: 0 }} generation {{ max_new_tokens: {options.new_tokens} }} actor {{ groups_per_lease: {options.groups} }} "
                f"learner {{ max_steps: {options.steps} groups_per_step: {options.groups} group_size: {options.group_size} }}")
    ours_peak = watched([options.build / "bin/wideberth", "run", "--config=configs/quickstart.txtpb", f"--override={override}", f"--run_dir={scratch / 'run'}"],
                        options.core, scratch / "ours.log")
    steps = [json.loads(line) for line in (scratch / "run/metrics.jsonl").read_text().splitlines()]
    ours = [step["seconds"]["total"] for step in steps]
    peer_log = scratch / "trl.log"
    peer_peak = watched([sys.executable, HERE / "trl_worker.py", "--model", options.model, "--prompts", "configs/prompts/quickstart.jsonl", "--steps", options.steps,
                         "--groups", options.groups, "--group_size", options.group_size, "--new_tokens", options.new_tokens, "--variant", options.variant,
                         "--scratch", scratch / "trl"], options.core, peer_log)
    peer = json.loads(peer_log.read_text().splitlines()[-1])["seconds"]
    shown = slice(1, None) if options.steps > 1 else slice(None)
    ratio = statistics.median(peer[shown]) / statistics.median(ours[shown])
    print(f"{options.groups} x {options.group_size}, {options.new_tokens} new tokens, TRL {options.variant}, one core")
    print(f"  wideberth  s/step {[round(s, 1) for s in ours]}  of the last: { {k: round(v, 1) for k, v in steps[-1]['seconds'].items()} }")
    print(f"  TRL        s/step {[round(s, 1) for s in peer]}")
    print(f"  speed ratio {ratio:.2f}; peak memory {ours_peak / 1e9:.2f} GB (all roles) against {peer_peak / 1e9:.2f} GB, ratio {ours_peak / peer_peak:.2f}")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
