"""Names of files: between the absolute paths of the disk and the paths that journal, status and people use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: The directory below the base directory that cameras write to.
GENERATED = "generated_data"
#: Why a path has no place.
OUTSIDE = "lies outside of generated_data and of every directory of upload.allowed_roots"


@dataclass(frozen=True, slots=True)
class Places:
    """`base_dir` and `data_root` (generated_data, links resolved) are absolute; `allowed_roots` lie outside of it.

    A *path* is what the journal holds: "generated_data/..." for files of ours, absolute for files from elsewhere.
    """

    base_dir: str
    data_root: str
    allowed_roots: tuple[str, ...] = ()
    own_roots: tuple[str, ...] = ()  # of the agent itself: for the rows that it makes, and for nobody who names a file

    def path_of(self, relative: str) -> str:
        """The path of a file by its place below generated_data."""
        return f"{GENERATED}/{relative}" if relative else GENERATED

    def relative_of(self, path: str) -> str | None:
        """The place below generated_data, None for a file from elsewhere."""
        if path == GENERATED:
            return ""
        return path[len(GENERATED) + 1 :] if path.startswith(GENERATED + "/") else None

    def heard(self, absolute: str) -> str | None:
        """The place below generated_data of a path that the doorbell told; None for anything else."""
        if absolute == self.data_root:
            return ""
        return absolute[len(self.data_root) + 1 :] if absolute.startswith(self.data_root + "/") else None

    def locate(self, path: str) -> tuple[str, str] | None:
        """(root, path below it) for opening a file; None when it lies under no root that is allowed."""
        relative = self.relative_of(path)
        if relative is not None:
            return self.data_root, relative
        roots = [root for root in (*self.allowed_roots, *self.own_roots) if _is_below(path, root)]
        if not roots:
            return None
        root = max(roots, key=len)
        return root, path[len(root.rstrip("/")) + 1 :]

    def name_of(self, absolute: str) -> str | None:
        """The path of a file that a person named; None when it lies under no root that is allowed."""
        if any(_is_below(absolute, root) for root in self.own_roots):
            return None
        relative = self.heard(absolute)
        if relative:
            return self.path_of(relative)
        return absolute if self.locate(absolute) else None

    def is_open(self, path: str, roots: Iterable[str]) -> bool:
        """Whether a file of ours, or one from elsewhere that lies below one of these roots."""
        return self.relative_of(path) is not None or any(_is_below(path, root) for root in roots)


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")
