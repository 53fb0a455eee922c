"""Safe decoding of image files: three formats, caps on bytes and pixels, and never a substitute for a bad image."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import PIL.Image
from PIL import ExifTags, ImageOps, UnidentifiedImageError

from unsee.concepts import ImageRef
from unsee.errors import UnseeError

FORMATS = ("JPEG", "PNG", "WEBP")  # every further format is further C code that a stranger's file can reach
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MEGA = 1_000_000
TURNED = (5, 6, 7, 8)  # EXIF orientations of a picture that lies on its side


@dataclass(frozen=True)
class Caps:
    """The largest image that is decoded: bytes of the file, pixels of the picture."""

    bytes: int = 32 * 2**20
    pixels: int = 64 * MEGA


CAPS = Caps()


class BadImage(UnseeError):
    """An image that cannot, or must not, be decoded."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(f"{path or 'image bytes'}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Rejected:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FileImage:
    """An image file, decoded when it is asked for. ``id``: ``concept/filename``."""

    id: str
    path: Path

    def load(self) -> PIL.Image.Image:
        return decode(self.path)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height as it is shown, upright; from its header where that tells."""
        try:
            with PIL.Image.open(self.path, formats=FORMATS) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
                return (image.height, image.width) if turned else image.size
        except Exception:  # whatever Pillow raises on broken bytes: the decoder words it
            return self.load().size


def decode(source: Path | str | bytes, caps: Caps = CAPS) -> PIL.Image.Image:
    """The whole image: upright, RGB, on white where it was transparent. Every failure is a BadImage."""
    path = None if isinstance(source, bytes) else Path(source)
    data = source if isinstance(source, bytes) else _read(Path(source), caps)
    if len(data) > caps.bytes:
        raise BadImage(path, f"larger than {caps.bytes / 2**20:.0f} MiB; make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            return _decode(data, caps, path)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(path, "not a JPEG, PNG or WebP image, whatever its name says") from error
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise BadImage(path, f"more than {caps.pixels / MEGA:g} megapixels") from error
    except (
        Exception
    ) as error:  # on broken bytes Pillow raises OSError, SyntaxError, struct.error, zlib.error, IndexError …
        raise BadImage(path, f"broken image: {error or type(error).__name__}") from error


def check(paths: Iterable[Path], caps: Caps = CAPS) -> tuple[list[Path], list[Rejected]]:
    """Decodes each image in full: those that are good, and those that are not with the reason."""
    good: list[Path] = []
    rejected: list[Rejected] = []
    for path in paths:
        try:
            decode(path, caps)
            good.append(path)
        except BadImage as error:
            rejected.append(Rejected(path, error.reason))
    return good, rejected


def leaves(path: Path, root: Path) -> bool:
    """Whether ``path``, its links followed, lies outside ``root``."""
    return not path.resolve().is_relative_to(root.resolve())


def _read(path: Path, caps: Caps) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            raise BadImage(path, "not a regular file")
        with path.open("rb") as file:
            return file.read(caps.bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadImage(path, getattr(error, "strerror", None) or str(error)) from error


def _decode(data: bytes, caps: Caps, path: Path | None) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > caps.pixels:  # before anything is unpacked
            raise BadImage(path, f"{width}×{height} is more than {caps.pixels / MEGA:g} megapixels; make it smaller")
        # Phones store a depth or brightness map as a second frame of a JPEG (MPO): its first frame is the photograph.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise BadImage(path, "an animation; save one frame of it")
        image.load()
        return upright(image)


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """A picture that somebody opened, as ``decode`` gives it: upright, RGB, on white where it was transparent."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel: convert() alone would clip all but the darkest 1/256 to white
        image = image.point(lambda level: level * (1 / 257)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def load_all(images: Sequence[ImageRef]) -> list[PIL.Image.Image]:
    """Load many images with all cores, in the order given."""
    # Threads: Pillow decodes without Python's lock, and new processes would run the caller's script once more.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda image: image.load(), images))
