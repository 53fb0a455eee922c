"""A folder of images as concepts: ``DIR/<concept>/*.jpg``, and ``questions.jsonl`` if it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from unsee.concepts import Concept, Question
from unsee.data.images import FileImage, Rejected, check, leaves
from unsee.data.listing import Listing, counted, few, is_left_behind, is_picture, listed, suffixes
from unsee.data.questions import BySplit, Split, read_questions
from unsee.errors import UnseeError, nearest
from unsee.untrusted import shown

OnBad = Literal["error", "skip"]
LAYOUT = "Images lie in one folder per concept: DIR/<concept>/*.jpg (or .png, .webp, .avif, .heic, .tif, .gif, .bmp)."


@dataclass(frozen=True)
class FolderSource:
    """What a folder holds. ``ignored``: files in concept folders that are no images that are read."""

    root: Path
    concepts: tuple[Concept, ...]
    by_split: BySplit
    rejected: tuple[Rejected, ...] = ()
    ignored: tuple[Path, ...] = ()

    def questions(self, split: Split) -> tuple[Question, ...]:
        if split not in self.by_split:
            raise UnseeError(f"split '{split}'. {nearest(split, self.by_split)}")
        return self.by_split[split]


def read_folder(root: Path | str, on_bad: OnBad = "error") -> FolderSource:
    """Reads and checks everything; each image is decoded once. ``on_bad`` skip: bad images are left out and listed."""
    if on_bad not in get_args(OnBad):
        raise UnseeError(f"on_bad '{on_bad}'. {nearest(on_bad, get_args(OnBad))}")
    root = Path(root)
    found = {folder: listed(folder) for folder in _concept_folders(root)}
    _check_filled(root, found)
    good, rejected = _check_images(root, [path for listing in found.values() for path in listing.pictures])
    if rejected and on_bad == "error":
        raise UnseeError(*_bad_images(root, rejected))
    concepts = _concepts(found, good)
    by_split, dropped = _read_questions(root, concepts, rejected)
    ignored = tuple(path for listing in found.values() for path in listing.others)
    return FolderSource(root, concepts, by_split, (*rejected, *dropped), ignored)


def _concept_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UnseeError(f"{shown(root)} {what}. {LAYOUT}")
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise UnseeError(f"cannot read {shown(root)}: {error.strerror}.") from error
    if loose := [path.name for path in entries if is_picture(path)]:
        raise UnseeError(
            f"{shown(root)} has {len(loose)} image(s) directly in it, {shown(loose[0])} first: whose are they? {LAYOUT}"
        )
    folders = [path for path in entries if path.is_dir() and not is_left_behind(path.name)]
    if not folders:
        raise UnseeError(f"{shown(root)} has no concept folder. {LAYOUT}")
    for folder in folders:
        if leaves(folder, root):
            raise UnseeError(f"{shown(folder)} is a link that leaves {shown(root)}. Copy the folder in.")
        if shown(folder.name) != folder.name:  # control and text-direction characters forge lines of a report
            raise UnseeError(
                f"the folder name '{shown(folder.name)}' in {shown(root)} is not UTF-8, or has control or direction "
                f"characters. Rename it."
            )
    return folders


def _check_filled(root: Path, found: Mapping[Path, Listing]) -> None:
    empty = {f: listing for f, listing in found.items() if not any(p.parent == f for p in listing.pictures)}
    if not empty:
        return
    head = f"{shown(root)}: no image in {len(empty)} concept folder(s): {few([folder.name for folder in empty])}."
    if nested := [f for f, listing in empty.items() if listing.pictures]:
        inner = f"{shown(nested[0])} holds folders of images: did you mean that one? Else put one image beside them."
        raise UnseeError(f"{head} {inner} {LAYOUT}")
    others = suffixes(path for listing in empty.values() for path in listing.others)
    there = f" There are only files that are not read: {counted(others)}." if others else ""
    raise UnseeError(f"{head}{there} Fill or delete it. {LAYOUT}")


def _check_images(root: Path, paths: Sequence[Path]) -> tuple[list[FileImage], list[Rejected]]:
    reasons = {path: why for path in paths if (why := _unfit(path, root))}
    good, broken = check({p: shown(p.relative_to(root).as_posix()) for p in paths if p not in reasons})
    refused = [Rejected(path, why) for path, why in reasons.items()]
    return good, sorted([*refused, *broken], key=lambda rejected: rejected.path)


def _unfit(path: Path, root: Path) -> str:
    """Why a picture is not even opened."""
    if leaves(path, root):
        return "a link that leaves the folder; copy the file in"
    try:
        str(path.relative_to(root)).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it (unzip -O, or convmv)"
    return ""


def _bad_images(root: Path, rejected: Sequence[Rejected]) -> list[str]:
    """All of them: whoever mends a data set wants the whole list, once."""
    lines = [f"  {shown(bad.path.relative_to(root))}: {bad.reason}" for bad in rejected]
    head = f"{shown(root)} has {len(rejected)} unreadable image(s):"
    return [head, *lines, "Mend or delete them, or leave them out with --skip-bad."]


def _concepts(found: Mapping[Path, Listing], good: Sequence[FileImage]) -> tuple[Concept, ...]:
    """``unread`` of each counts all that its folder holds and that is not among its images."""
    concepts, images = [], {image.path: image for image in good}
    for folder, listing in found.items():
        own = tuple(images[path] for path in listing.pictures if path in images)
        bad = [path for path in listing.pictures if path not in images]
        concepts.append(Concept(folder.name, own, suffixes([*bad, *listing.others])))
    if empty := [concept.id for concept in concepts if not concept.images]:
        raise UnseeError(f"no readable image is left of {len(empty)} concept(s): {few(empty)}. Delete the folder(s).")
    return tuple(concepts)


def _read_questions(
    root: Path, concepts: Sequence[Concept], rejected: Sequence[Rejected]
) -> tuple[BySplit, list[Rejected]]:
    path = root / "questions.jsonl"
    gone = {shown(bad.path.relative_to(root).as_posix()) for bad in rejected}
    return read_questions(path, concepts, gone) if path.exists() else ({"train": (), "test": ()}, [])
