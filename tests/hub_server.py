"""A small Hugging Face Hub on this machine, for tests: what downloads ask of the real one, answered alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

MAIN = "main"
WEIGHTS = (".safetensors", ".bin")  # kept in LFS: their hash is SHA-256


@dataclass
class Hub:
    """``requests``: method and path of each, in order. ``gated``: repositories whose files nobody may read.

    ``break_after``: the next contents break off after so many bytes, once.
    """

    repositories: dict[str, Path]
    endpoint: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    break_after: int = 0

    def downloaded(self) -> list[str]:
        """Names of the files whose contents were asked for, sorted."""
        found = [
            path.split("/resolve/")[1] for method, path in self.requests if method == "GET" and "/resolve/" in path
        ]
        return sorted(name.split("/", 1)[1] for name in found)

    def folder(self, repo: str, revision: str) -> Path | None:
        """``revision``: main, one that ``repositories`` names (``owner/name@revision``), or the commit of one."""
        for key, folder in self.repositories.items():
            name, _, branch = key.partition("@")
            if name == repo and revision in (branch or MAIN, commit(folder)):
                return folder
        return None


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def commit(folder: Path) -> str:
    """The commit hash of what is in the folder now."""
    return hashlib.sha1(repr(contents(folder)).encode()).hexdigest()


def etag(name: str, data: bytes) -> str:
    if name.endswith(WEIGHTS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Serve folders as model repositories: ``owner/name`` → folder, ``owner/name@revision`` → another of it."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path, offline: bool = False) -> None:
    """Point huggingface_hub in this process to ``endpoint`` and ``cache``, as HF_ENDPOINT, HF_HOME and
    HF_HUB_OFFLINE would at its import. Nobody is logged in."""
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    close_session()  # the client reads the proxies when it is made


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: 40 ms a file otherwise
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: Any) -> None:
        """Silent: standard error is the test's."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if path.startswith("/api/models/"):
            self._information(path.removeprefix("/api/models/").split("/"))
        elif "/resolve/" in path:
            repo, rest = path[1:].split("/resolve/")
            self._file(repo, *rest.split("/", 1))
        else:
            self._send(404, b"{}")

    def _information(self, parts: list[str]) -> None:
        """``owner/name``, ``owner/name/revision/R`` or ``owner/name/tree/R``."""
        repo, kind, revision = "/".join(parts[:2]), (parts[2:3] or [""])[0], "/".join(parts[3:]) or MAIN
        folder = self._folder(repo, revision)
        if folder is None:
            return
        if kind == "tree":
            self._json([_entry(name, data) for name, data in contents(folder).items()])
        else:
            siblings = [{"rfilename": name} for name in contents(folder)]
            gated = "manual" if repo in self.hub.gated else False
            self._json({"id": repo, "sha": commit(folder), "siblings": siblings, "private": False, "gated": gated})

    def _file(self, repo: str, revision: str, name: str) -> None:
        folder = self._folder(repo, revision)
        if folder is None:
            return
        if repo in self.hub.gated:
            self._refuse(401, "GatedRepo", f"Access to model {repo} is restricted. Please log in.")
            return
        head = {"X-Repo-Commit": commit(folder)}
        data = contents(folder).get(name)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found", head)
            return
        head |= {"ETag": f'"{etag(name, data)}"', "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked:
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        self._send(206 if asked else 200, data, head)

    def _folder(self, repo: str, revision: str) -> Path | None:
        """The folder that is asked for; where there is none, that is said."""
        if not any(key.partition("@")[0] == repo for key in self.hub.repositories):
            self._refuse(401, "RepoNotFound", "Repository not found")
            return None
        folder = self.hub.folder(repo, revision)
        if folder is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return folder

    def _refuse(self, status: int, code: str, message: str, head: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message} | (head or {}))

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, head: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(head or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.break_after and "/resolve/" in self.path:
            body, self.hub.break_after = body[: self.hub.break_after], 0
            self.close_connection = True
        self.wfile.write(body)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    lfs = {"lfs": {"oid": etag(name, data), "size": len(data), "pointerSize": 130}} if name.endswith(WEIGHTS) else {}
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest(), **lfs}
