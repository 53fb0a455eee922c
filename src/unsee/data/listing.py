"""Which files of a folder are pictures, which are not read, and what other programs left behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unsee.data.images import SUFFIXES, head
from unsee.data.pixels import kind_of
from unsee.errors import UnseeError
from unsee.untrusted import shown

# What macOS, Windows, Synology, QNAP, Linux and Jupyter put beside pictures; names that begin with a dot go too.
LEFT_BEHIND = frozenset(
    (
        *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("recycler", "recycled", "system volume information", "@eadir", "@recycle", "@recently-snapshot"),
        *("@synoresource", "#recycle", "#snapshot", "@tmp", "lost+found", "__pycache__"),
    )
)


@dataclass(frozen=True)
class Listing:
    """The pictures of a concept's folder and of folders in it, and the other files; each sorted."""

    pictures: tuple[Path, ...]
    others: tuple[Path, ...]


def is_left_behind(name: str) -> bool:
    """A file or folder that belongs to no concept: hidden, or another program's."""
    return name.startswith((".", "~$")) or name.lower() in LEFT_BEHIND or "@Syno" in name


def listed(folder: Path) -> Listing:
    """The order must not depend on the file system: files as they are named, then those of folders within."""
    pictures: list[Path] = []
    others: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_unreadable):  # which does not go into folders that are links
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in links and not is_left_behind(name))
        for name in sorted([*files, *links]):
            if not is_left_behind(name):
                path = Path(place) / name
                (pictures if is_picture(path) else others).append(path)
    return Listing(tuple(pictures), tuple(others))


def _unreadable(error: OSError) -> None:
    raise UnseeError(f"cannot read {shown(error.filename)}: {error.strerror}.") from error


def is_picture(path: Path) -> bool:
    """By its name, or by its first bytes where its name says nothing that is known."""
    if path.is_dir() or is_left_behind(path.name):
        return False
    # Raw photographs begin as TIFF files do and hold a thumbnail, so those have to be named as what they are.
    return path.suffix.lower() in SUFFIXES or kind_of(head(path)) not in ("", "TIFF", "BMP")


def suffixes(paths: Iterable[Path]) -> tuple[tuple[str, int], ...]:
    """How many files of each suffix, most first."""
    counts = Counter(shown(path.suffix.lower()) or "no suffix" for path in paths)
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def counted(files: Sequence[tuple[str, int]]) -> str:
    """``.jxl (3), .txt (1)``."""
    return ", ".join(f"{suffix} ({count})" for suffix, count in files)


def few(names: Sequence[str], most: int = 5) -> str:
    """Some names in one line, and how many more there are."""
    more = f" … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
