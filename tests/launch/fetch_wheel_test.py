# SPDX-License-Identifier: Apache-2.0
# launch/fetch_wheel.py against a package index on loopback that breaks off, lies, or is not there.
# Run by ctest with the Python of .deps/python or any other that has pip; exit 77 (skipped) where
# there is none.
import hashlib
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
NAME = "demo-1.0-py3-none-any.whl"
CONTENT = bytes(range(256)) * (4 << 12)  # 4 MiB


class Index(http.server.BaseHTTPRequestHandler):
    """Serves one project. `sends` is how many bytes a request gets before the connection closes; `ranges` records what was asked."""

    content, sends, ranges, project_there = CONTENT, None, [], True

    def do_GET(self):
        if "/simple/" in self.path:
            page = f'<a href="/files/{NAME}">{NAME}</a>'.encode()
            self.send_response(200 if self.project_there else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        asked = self.headers.get("Range")
        Index.ranges.append(asked)
        start = int(re.match(r"bytes=(\d+)-", asked).group(1)) if asked else 0
        if asked and start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        end = len(self.content) if Index.sends is None else start + Index.sends
        self.wfile.write(self.content[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


class FetchWheelTest(unittest.TestCase):
    def setUp(self):
        Index.content, Index.sends, Index.ranges, Index.project_there = CONTENT, None, [], True
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copy(TOP / "launch" / "fetch_wheel.py", self.folder)
        digest = hashlib.sha256(CONTENT).hexdigest()
        (self.folder / "wheels.sha256").write_text(f"{digest}  {NAME}\n")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.index = f"http://127.0.0.1:{self.server.server_address[1]}/simple"
        self.wheel = self.folder / "wheels" / NAME
        self.part = self.folder / "wheels" / f"{NAME}.part"

    def fetch(self, index=None):
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("PIP_") and "proxy" not in key.lower()
        }
        environment |= {
            "PIP_INDEX_URL": index or self.index,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "0",
        }
        command = [sys.executable, self.folder / "fetch_wheel.py", NAME, self.folder / "wheels"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def put_part(self, content):
        self.part.parent.mkdir()
        self.part.write_bytes(content)

    def test_a_whole_download_is_checked_and_named(self):
        result = self.fetch()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.wheel.read_bytes(), CONTENT)
        self.assertFalse(self.part.exists())

    def test_a_sound_wheel_is_not_asked_for_again(self):
        self.put_part(b"")
        self.wheel.write_bytes(CONTENT)
        self.assertEqual(self.fetch().returncode, 0)
        self.assertEqual(Index.ranges, [])

    def test_a_part_left_by_a_killed_run_is_continued(self):
        self.put_part(CONTENT[:1234567])
        result = self.fetch()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(Index.ranges, ["bytes=1234567-"])
        self.assertEqual(self.wheel.read_bytes(), CONTENT)

    def test_a_connection_that_breaks_off_is_continued(self):
        Index.sends = 1500000
        result = self.fetch()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(Index.ranges), 3)
        self.assertIsNone(Index.ranges[0])
        self.assertEqual(self.wheel.read_bytes(), CONTENT)

    def test_a_network_that_stays_away_keeps_the_part_and_says_so(self):
        self.put_part(CONTENT[:3000000])
        Index.sends = 0
        result = self.fetch()
        self.assertEqual(result.returncode, 1)
        self.assertIn("3 MB are kept", result.stderr)
        self.assertEqual(self.part.read_bytes(), CONTENT[:3000000])

    def test_a_corrupt_part_is_downloaded_afresh(self):
        self.put_part(b"x" * 1000)
        result = self.fetch()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(Index.ranges, ["bytes=1000-", None])
        self.assertEqual(self.wheel.read_bytes(), CONTENT)

    def test_a_part_longer_than_the_file_is_downloaded_afresh(self):
        self.put_part(CONTENT + b"x")
        result = self.fetch()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.wheel.read_bytes(), CONTENT)

    def test_another_file_under_the_name_is_refused_and_deleted(self):
        Index.content = CONTENT[:-1] + b"!"
        result = self.fetch()
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"expected {hashlib.sha256(CONTENT).hexdigest()}", result.stderr)
        self.assertFalse(self.wheel.exists() or self.part.exists())

    def test_an_index_without_the_project_and_no_index_at_all(self):
        Index.project_there = False
        for index in (None, "http://127.0.0.1:1/simple"):
            result = self.fetch(index)
            self.assertEqual(result.returncode, 1)
            self.assertIn("check the network, the proxy", result.stderr)
            self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)


if __name__ == "__main__":
    try:
        import pip  # noqa: F401
    except ImportError:
        if "WIDEBERTH_TEST_PYTHON" not in os.environ and (TOP / ".deps/python/bin/python").exists():
            python = str(TOP / ".deps/python/bin/python")
            os.execve(python, [python, *sys.argv], {**os.environ, "WIDEBERTH_TEST_PYTHON": "1"})
        print("[  SKIPPED ] this Python has no pip, and .deps/python is not there")
        sys.exit(77)
    unittest.main()
