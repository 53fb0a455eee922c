"""Safe decoding of image files: known formats, caps on bytes and pixels, and never a substitute for a bad image."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import PIL.Image

from unsee.concepts import ImageRef
from unsee.data import apart
from unsee.data.pixels import CAPS, HERE, READ, BadImage, Caps, kind_of, pixels

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif"),
    *(".tif", ".tiff", ".gif", ".bmp", ".dib"),
)


@dataclass(frozen=True)
class Rejected:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FileImage:
    """An image file, decoded when it is asked for.

    ``id``: ``concept/filename``; ``digest``, ``shape``: of its pixels, where it was decoded before.
    """

    id: str
    path: Path
    digest: str = field(default="", compare=False)
    shape: tuple[int, int] | None = field(default=None, compare=False)

    def load(self) -> PIL.Image.Image:
        return decode(self.path)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height as it is shown, upright."""
        return self.shape or self.load().size


def decode(source: Path | str | bytes, caps: Caps = CAPS) -> PIL.Image.Image:
    """The whole image: upright, RGB, on white where it was transparent. Every failure is a BadImage."""
    path = None if isinstance(source, bytes) else Path(source)
    data = source if isinstance(source, bytes) else _read(Path(source), caps.bytes + 1)
    if len(data) > caps.bytes:
        raise BadImage(path, f"larger than {caps.bytes / 2**20:.0f} MiB; make it smaller")
    kind = kind_of(data[:64])
    if not kind:
        raise BadImage(path, f"not a {READ} image, whatever its name says")
    try:
        return pixels(data, kind, caps) if kind in HERE else apart.decode(data, kind, caps)
    except BadImage as error:
        raise BadImage(path, error.reason) from error


def digest(image: PIL.Image.Image) -> str:
    """The same for the same pixels, in whatever file they came."""
    size = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.blake2b(size + image.tobytes(), digest_size=16).hexdigest()


def among(images: Iterable[ImageRef], pictures: Collection[str]) -> tuple[FileImage, ...]:
    """Those image files that show one of ``pictures``, by the hash of their pixels."""
    files = [image for image in images if isinstance(image, FileImage)]
    known = [replace(image, digest=image.digest or digest(image.load())) for image in files]
    return tuple(image for image in known if image.digest in pictures)


def checked(id: str, path: Path, caps: Caps = CAPS) -> FileImage:
    """An image file that was decoded once in full. BadImage: it cannot be."""
    image = decode(path, caps)
    return FileImage(id, path, digest(image), image.size)


def check(paths: Mapping[Path, str], caps: Caps = CAPS) -> tuple[list[FileImage], list[Rejected]]:
    """Decodes each image in full: those that are good, and those that are not with the reason. ``paths``: with ids."""
    good: list[FileImage] = []
    rejected: list[Rejected] = []
    for path, id in paths.items():
        try:
            good.append(checked(id, path, caps))
        except BadImage as error:
            rejected.append(Rejected(path, error.reason))
    return good, rejected


def leaves(path: Path, root: Path) -> bool:
    """Whether ``path``, its links followed, lies outside ``root``."""
    return not path.resolve().is_relative_to(root.resolve())


def head(path: Path) -> bytes:
    """The first bytes of a file, which tell its format; none of what cannot be read."""
    try:
        return _read(path, 64)
    except BadImage:
        return b""


def _read(path: Path, most: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            raise BadImage(path, "not a regular file")
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadImage(path, getattr(error, "strerror", None) or str(error)) from error


def load_all(images: Sequence[ImageRef]) -> list[PIL.Image.Image]:
    """Load many images with all cores, in the order given."""
    # Threads: Pillow decodes without Python's lock, and new processes would run the caller's script once more.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda image: image.load(), images))
