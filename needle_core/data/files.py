"""Where the files of a data set are looked for, and what is said of a file that is not what it should be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from needle_core.errors import DataError


def find_files(
    title: str,
    forms: Mapping[str, Sequence[str]],
    directory: str | os.PathLike[str] | None,
    *,
    suffixes: Sequence[str] = ("",),
    packaged: Path | None = None,
    hint: str,
) -> list[Path]:
    """The files of a data set, in the first of the `forms` in which it is published that is there whole.

    A form is the names of its files, in the order of the result, under the name of the folder that its archive makes; each
    name may end in any of `suffixes`. One place is looked in, and in those folders there: `directory`; where it is not given,
    $NEEDLE_DATA; where that is not set, `packaged`, the folder of Debian's package.

    Raises:   DataError that says where was looked and what is missing there, with the `hint`
    """
    wanted = " or ".join(", ".join(names) for names in forms.values()) + (
        ", each plain or with .gz" if ".gz" in suffixes else ""
    )
    if directory is not None:
        place, folder = "the given directory", Path(directory)
    elif given := os.environ.get("NEEDLE_DATA"):
        place, folder = "NEEDLE_DATA", Path(given)
    elif packaged is not None:
        place, folder = "the Debian package", packaged
    else:
        details = {"files": wanted, "looked in": "no folder, for none was given"}
        raise DataError(f"the files of {title} were not found", details=details, hint=hint)
    lacking: list[str] = []
    for archive, names in forms.items():
        for inside in (folder, folder / archive):
            files = [next((f for f in (inside / (name + s) for s in suffixes) if f.is_file()), None) for name in names]
            missing = [name for name, file in zip(names, files, strict=True) if file is None]
            if not missing:
                return [file for file in files if file is not None]
            if len(missing) < len(names):
                lacking.append(f"{inside} lacks {', '.join(missing)}")
    nothing = f"{folder} has none of them" if folder.is_dir() else f"{folder} is not a folder"
    details = {"files": wanted, place: "; ".join(lacking) or nothing}
    raise DataError(f"the files of {title} were not found", details=details, hint=hint)


def mismatch(
    path: str | os.PathLike[str], what: str, found: object, expected: str, *, cause: Exception | None = None
) -> NoReturn:
    """Raise the DataError of a file that is not what it should be."""
    raise DataError(f"{os.fspath(path)}: {what}", details={"found": found, "expected": expected}) from cause
