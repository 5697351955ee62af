# SPDX-License-Identifier: Apache-2.0
"""What the `tensorboard` package reads of a folder of event files, as one JSON object:
{tag: [[step, wall time, value]]}. Used by tensorboard_test.cc.
"""

import json
import sys

from tensorboard.backend.event_processing import event_accumulator, event_file_loader
from tensorboard.backend.event_processing import io_wrapper


def main():
    folder = sys.argv[1]
    files = list(io_wrapper.ListDirectoryAbsolute(folder))
    # The loader checks every frame's CRC; it stops silently at a bad one, so they are counted.
    events = sum(1 for path in files for _ in event_file_loader.EventFileLoader(path).Load())
    accumulator = event_accumulator.EventAccumulator(folder, size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = {
        tag: [[e.step, e.wall_time, e.value] for e in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }
    # Newer readers migrate simple values to tensors.
    for tag in accumulator.Tags()["tensors"]:
        tags[tag] = [
            [e.step, e.wall_time, e.tensor_proto.float_val[0]] for e in accumulator.Tensors(tag)
        ]
    json.dump({"files": len(files), "events": events, "tags": tags}, sys.stdout)


if __name__ == "__main__":
    main()
