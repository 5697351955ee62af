#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same run synchronously and asynchronously, one after the other on the same cores: time, reward
curves, staleness.

Usage: benchmarks/async_runs.py --wideberth build/release/bin/wideberth --config CONFIG.txtpb --out FOLDER
                                [--folder WORLD] [--staleness 0 1 2] [--seeds 1 2 3] [--override TEXT ...]
A run that is in FOLDER already is not made again. Prints a markdown table: for each max_staleness the
mean over seeds, with the standard deviation between seeds of the reward of the last third.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def run(args, staleness, seed):
    folder = args.out / f"staleness-{staleness}-seed-{seed}"
    if not (folder / "summary.json").exists():
        command = [args.wideberth, "run", f"--config={args.config}", f"--run_dir={folder}",
                   f"--override=seed: {seed} learner {{ max_staleness: {staleness} }}"]
        command += [f"--override={text}" for text in args.override]
        began = time.time()
        finished = subprocess.run(command, cwd=args.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if finished.returncode != 0:
            sys.exit(f"{folder}: exit code {finished.returncode}: {finished.stderr}")
        print(f"{folder.name}: {time.time() - began:.0f} s", file=sys.stderr)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], \
        json.loads((folder / "summary.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wideberth", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--folder", default=".", help="where the configuration's relative paths begin, a toy world say")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--override", action="append", default=[])
    args = parser.parse_args()
    args.wideberth, args.config, args.out = (Path(p).resolve() for p in (args.wideberth, args.config, args.out))
    args.out.mkdir(parents=True, exist_ok=True)
    print("| max_staleness | s/step | completion tokens/s | reward, first third | last third (between seeds) | "
          "t, last third | staleness, mean | groups stale | largest ratio to the sampler |")
    print("|---|---|---|---|---|---|---|---|---|")
    for staleness in args.staleness:
        seconds, tokens, first, last, t, behind, stale, largest = ([] for _ in range(8))
        for seed in args.seeds:
            steps, summary = run(args, staleness, seed)
            third = max(1, len(steps) // 3)
            # The first step waits for processes to start.
            seconds.append(statistics.mean(s["step_time"] for s in steps[1:]))
            tokens.append(sum(s["completion_tokens"] for s in steps[1:]) / sum(s["step_time"] for s in steps[1:]))
            first.append(statistics.mean(s["reward"] for s in steps[:third]))
            last.append(statistics.mean(s["reward"] for s in steps[-third:]))
            t.append(statistics.mean(s["t_mean"] for s in steps[-third:]))
            behind.append(statistics.mean(s["staleness_mean"] for s in steps))
            stale.append(summary["totals"]["groups_stale"])
            largest.append(max(s["importance_ratio_max"] for s in steps))
        deviation = statistics.stdev(last) if len(last) > 1 else 0.0
        print(f"| {staleness} | {statistics.mean(seconds):.2f} | {statistics.mean(tokens):.0f} | "
              f"{statistics.mean(first):.3f} | {statistics.mean(last):.3f} ({deviation:.3f}) | {statistics.mean(t):.3f} | "
              f"{statistics.mean(behind):.2f} | {sum(stale):.0f} | {max(largest):.2f} |")


if __name__ == "__main__":
    main()
