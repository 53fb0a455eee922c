"""A folder of images as concepts: ``DIR/<concept>/*.jpg``, and ``metadata.csv`` and ``questions.jsonl`` if there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from unsee.concepts import Concept, Question
from unsee.data.images import SUFFIXES, FileImage, Rejected, check, leaves
from unsee.data.questions import BySplit, Split, read_questions
from unsee.data.tables import Row, read_csv, read_jsonl, refuse
from unsee.errors import UnseeError, nearest

OnBad = Literal["error", "skip"]
LAYOUT = "Images lie in one folder per concept: DIR/<concept>/*.jpg (or .jpeg, .png, .webp)."


@dataclass(frozen=True)
class FolderSource:
    """What a folder holds. ``ignored``: files in concept folders that are not images by their suffix."""

    root: Path
    concepts: tuple[Concept, ...]
    by_split: BySplit
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
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
    folders = _concept_folders(root)
    listed = {folder.name: _listed(folder) for folder in folders}
    _check_filled(root, folders, {name: images for name, (images, _) in listed.items()})
    good, rejected = _check_images(root, [path for images, _ in listed.values() for path in images])
    if rejected and on_bad == "error":
        raise UnseeError(*_bad_images(root, rejected))
    concepts = _concepts(folders, good)
    metadata = _read_metadata(root)
    by_split, dropped = _read_questions(root, concepts, rejected)
    ignored = tuple(path for _, others in listed.values() for path in others)
    return FolderSource(root, concepts, by_split, metadata, (*rejected, *dropped), ignored)


def _concept_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UnseeError(f"{root} {what}. {LAYOUT}")
    entries = sorted(root.iterdir())
    loose = [path for path in entries if _is_image_name(path)]
    if loose:
        raise UnseeError(
            f"{root} has {len(loose)} image(s) directly in it, {loose[0].name} first: whose are they? {LAYOUT}"
        )
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        raise UnseeError(f"{root} has no concept folder. {LAYOUT}")
    for folder in folders:
        if not folder.name.isprintable():  # control and text-direction characters forge lines of a report
            raise UnseeError(
                f"the folder name {folder.name!a} has control characters. Give it a name of letters and digits."
            )
    return folders


def _is_image_name(path: Path) -> bool:
    """By the name alone. Hidden files, such as the ``._a.jpg`` that macOS leaves behind, are no images."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images of a folder and its other entries, sorted: the order must not depend on the file system."""
    entries = sorted(folder.iterdir())
    return [p for p in entries if _is_image_name(p)], [p for p in entries if not _is_image_name(p)]


def _check_filled(root: Path, folders: Sequence[Path], images: dict[str, list[Path]]) -> None:
    empty = [folder for folder in folders if not images[folder.name]]
    if not empty:
        return
    names = ", ".join(folder.name for folder in empty)
    nested = [folder for folder in empty if any(path.is_dir() for path in folder.iterdir())]
    hint = f" {nested[0]} holds folders: did you mean that one?" if nested else " Fill or delete it."
    raise UnseeError(f"{root}: no image in {len(empty)} concept folder(s): {names}.{hint} {LAYOUT}")


def _check_images(root: Path, paths: Sequence[Path]) -> tuple[list[Path], list[Rejected]]:
    outside = [
        Rejected(path, "a link that leaves the folder; copy the file in") for path in paths if leaves(path, root)
    ]
    left = {rejected.path for rejected in outside}
    good, broken = check(path for path in paths if path not in left)
    return good, sorted([*outside, *broken], key=lambda rejected: rejected.path)


def _bad_images(root: Path, rejected: Sequence[Rejected]) -> list[str]:
    """All of them: whoever mends a data set wants the whole list, once."""
    lines = [f"  {bad.path.relative_to(root)}: {bad.reason}" for bad in rejected]
    head = f"{root} has {len(rejected)} unreadable image(s):"
    return [head, *lines, "Mend or delete them, or leave them out with --skip-bad."]


def _concepts(folders: Sequence[Path], good: Sequence[Path]) -> tuple[Concept, ...]:
    images: dict[Path, list[FileImage]] = {folder: [] for folder in folders}
    for path in good:
        images[path.parent].append(FileImage(f"{path.parent.name}/{path.name}", path))
    empty = [folder.name for folder, left in images.items() if not left]
    if empty:
        raise UnseeError(
            f"no readable image is left of {len(empty)} concept(s): {', '.join(empty)}. Delete the folder(s)."
        )
    return tuple(Concept(folder.name, tuple(left)) for folder, left in images.items())


def _read_questions(
    root: Path, concepts: Sequence[Concept], rejected: Sequence[Rejected]
) -> tuple[BySplit, list[Rejected]]:
    path = root / "questions.jsonl"
    return read_questions(path, concepts, rejected) if path.exists() else ({"train": (), "test": ()}, [])


def _read_metadata(root: Path) -> dict[str, dict[str, Any]]:
    """The other columns of ``metadata.csv`` or ``metadata.jsonl``, by file name."""
    paths = [path for path in (root / "metadata.csv", root / "metadata.jsonl") if path.exists()]
    if not paths:
        return {}
    if len(paths) > 1:
        raise UnseeError(f"{root} has both metadata.csv and metadata.jsonl. Keep one of them.")
    path = paths[0]
    rows = read_csv(path) if path.suffix == ".csv" else read_jsonl(path)
    metadata: dict[str, dict[str, Any]] = {}
    errors: list[str] = []
    for row in rows:
        try:
            name = _file_name(root, row)
            if name in metadata:
                raise UnseeError(f"{name} is listed twice.")
            metadata[name] = {key: value for key, value in row.values.items() if key != "file_name"}
        except UnseeError as error:
            errors.append(f"line {row.line}: {error}")
    refuse(path, errors)
    return metadata


def _file_name(root: Path, row: Row) -> str:
    if "file_name" not in row.values:
        raise UnseeError(f"no column 'file_name'. The columns are: {', '.join(row.values)}.")
    given = row.values["file_name"]
    if not isinstance(given, str) or not given or "\0" in given:
        raise UnseeError(f"file_name is {given!r}; it must be a path inside the folder.")
    name = PurePosixPath(given)
    if name.is_absolute() or ".." in name.parts or leaves(root / name, root):
        raise UnseeError(f"{given} leaves the folder. Give the path from {root}, such as <concept>/1.jpg.")
    if not (root / name).is_file():
        raise UnseeError(f"{given} is not there. Take the line out, or put the file in.")
    return name.as_posix()
