"""Formats with much foreign code behind them are read in a process of their own, bounded in memory and time.

``python -P -m unsee.data.apart`` reads one task after another from standard input: a line of JSON and the bytes of an
image, or the path of a parquet file to look through. It answers with a line of JSON, and the pixels.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock, Timer
from typing import Any, BinaryIO

import PIL.Image

from unsee.data.pixels import BadImage, Caps, pixels
from unsee.errors import UnseeError

try:
    import resource
except ImportError:  # Windows, where the other process is bounded in time alone
    resource = None  # type: ignore[assignment]

MEMORY = 2 * 2**30  # bytes of the other process; 64 megapixels of HEIC take half of it
SECONDS = 10  # of its processor, for one image
SPEED = 20 * 2**20  # bytes a second of a parquet file, beside that
WAIT = 300  # seconds on a machine that has other work too
THREADS = 4  # each reserves memory
COMMAND = [sys.executable, "-P", "-m", "unsee.data.apart"]


class _Reader:
    """The other process, started when it is first needed, and again when an image has ended it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, task: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """What it says to ``task``, and the bytes that follow. Every failure is a BadImage."""
        task |= {"bytes": len(data)}
        with self._lock:
            try:
                said, raw = self._ask(json.dumps(task).encode() + b"\n" + data, WAIT + 2 * task["seconds"])
            except (OSError, ValueError, EOFError) as error:  # it ended before it read or answered
                if self.stop() == 1:  # by an error of Python's own, which no image can bring about
                    raise UnseeError(
                        f"'{' '.join(COMMAND)}' does not run. Install unsee with what it needs."
                    ) from error
                bounds = f"{task['seconds']} s or {task['memory'] >> 30} GiB"
                raise BadImage(None, f"reading it takes over {bounds}") from error
        if "reason" in said:
            raise BadImage(None, str(said["reason"]))
        return said, raw

    def _ask(self, written: bytes, wait: float) -> tuple[dict[str, Any], bytes]:
        process = self._started()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise OSError("no pipe")
        late = Timer(wait, process.kill)  # reading a pipe has no time limit on every system
        late.start()
        try:
            stdin.write(written)
            stdin.flush()
            said = json.loads(stdout.readline())
            size = said.get("width", 0) * said.get("height", 0) * 3
            raw = stdout.read(size)
        finally:
            late.cancel()
        if len(raw) < size:
            raise EOFError
        return said, raw

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]  # wherever this unsee was found
            self._process = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )  # fmt: skip
            self._owner = os.getpid()  # one that was forked has pipes that are another's
        return self._process

    def stop(self) -> int:
        """End it; how it ended, where it had before."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return 0
        with suppress(subprocess.TimeoutExpired, OSError):  # with nothing to read it ends by itself
            if process.stdin:
                process.stdin.close()
            process.wait(0.5)
        process.kill()
        if process.stdout:
            process.stdout.close()
        process.wait()
        return process.returncode


_reader = _Reader()
atexit.register(_reader.stop)


def decode(data: bytes, kind: str, caps: Caps) -> PIL.Image.Image:
    """``pixels`` of an image, in the other process."""
    said, raw = _reader.ask({"kind": kind, "caps": asdict(caps), "seconds": SECONDS, "memory": MEMORY}, data)
    return PIL.Image.frombytes("RGB", (said["width"], said["height"]), raw)


def scan(file: Path) -> None:
    """BadImage: why a parquet file cannot be read."""
    size = file.stat().st_size  # of which a single page may hold all, and is unpacked and copied
    bounds = {"seconds": SECONDS + size // SPEED, "memory": MEMORY + 4 * size}
    _reader.ask({"kind": "PARQUET", "file": os.fspath(file.resolve()), **bounds})


def serve(source: BinaryIO, out: BinaryIO) -> None:
    """Answer until there is nothing more to read."""
    _prepare()
    while line := source.readline():
        task = json.loads(line)
        data = source.read(task["bytes"])
        _allow(task["seconds"], task["memory"])
        try:
            said, raw = _scanned(task) if task["kind"] == "PARQUET" else _decoded(task, data)
        except BadImage as error:
            said, raw = {"reason": error.reason}, b""
        except MemoryError:
            said, raw = {"reason": f"reading it takes over {task['memory'] >> 30} GiB"}, b""
        out.write(json.dumps(said).encode() + b"\n" + raw)
        out.flush()


def _decoded(task: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    image = pixels(data, task["kind"], Caps(**task["caps"]))
    return {"width": image.width, "height": image.height}, image.tobytes()


def _scanned(task: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    from unsee.data.scan import scan  # only here: pyarrow takes half a second

    if reason := scan(Path(task["file"])):
        raise BadImage(None, reason)
    return {}, b""


def _prepare() -> None:
    """Few threads, each of which reserves memory, and no image of what is killed."""
    import pi_heif
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=THREADS)
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow(seconds: int, memory: int) -> None:
    """So much more of the processor, past which the system ends this process, and so many bytes."""
    if not resource:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + seconds + 1
    for limit, most in ((resource.RLIMIT_CPU, until), (resource.RLIMIT_AS, memory)):
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
