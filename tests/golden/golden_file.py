# SPDX-License-Identifier: Apache-2.0
"""Header, number format and writer shared by all golden scripts."""

import json
import os
import platform
import sys

GOLDEN_DIR = os.path.dirname(os.path.abspath(__file__))


def versions(*packages):
    import importlib.metadata

    found = {"python": platform.python_version()}
    for name in packages:
        found[name] = importlib.metadata.version(name)
    return found


def command():
    """The command line with folders cut down to their last name: files must not depend on where
    they were made.
    """
    words = [os.path.basename(w.rstrip("/")) if "/" in w else w for w in sys.argv[1:]]
    return " ".join(["python", "tests/golden/" + os.path.basename(sys.argv[0])] + words)


def digits(values, significant=9):
    """Nested lists of floats rounded to `significant` digits (9 restore a float32, 17 a
    float64).
    """
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list):
        return [digits(v, significant) for v in values]
    if isinstance(values, float):
        return float(f"{values:.{significant}g}")
    return values


def _encode(value, indent):
    pad = "  " * indent
    if isinstance(value, dict):
        rows = [f"{pad}  {json.dumps(k)}: {_encode(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + pad + "}" if rows else "{}"
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        rows = [pad + "  " + _encode(v, indent + 1) for v in value]
        return "[\n" + ",\n".join(rows) + "\n" + pad + "]"
    return json.dumps(value, allow_nan=False)


def write(name, packages, body):
    path = os.path.join(GOLDEN_DIR, name)
    content = {"versions": versions(*packages), "command": command(), **body}
    text = _encode(content, 0) + "\n"
    if len(text) > 300_000:
        raise SystemExit(f"{name} would be {len(text)} bytes, must stay under 300000")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    print(f"{name}: {len(text)} bytes")
