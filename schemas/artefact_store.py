"""Where artefacts are kept: one fsspec URL, e.g. ``./artefacts`` or ``s3://bucket/models``."""

import hashlib
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict

from schemas.artefact import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    File,
    Manifest,
    Version,
    decode_manifest,
    encode_manifest,
)
from schemas.malformed import Malformed
from schemas.settings import Refused

_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
"""a directory's name: nothing that a file system or a pattern of fsspec reads in another way"""
_ANNOUNCEMENTS: Final = "announcements"
"""directory of the announcements, one file each: not every file system can append"""


class Announcement(BaseModel):
    """That a model became the champion. The topic `models` is compacted; this stays."""

    model_config = ConfigDict(frozen=True)

    version: Version
    at_ms: int
    """UTC milliseconds"""
    by: str
    """the command: run, promote or rollback"""


class Contents(NamedTuple):
    """What a store has."""

    manifests: list[Manifest]
    """of all complete artefacts, oldest version first"""
    announcements: list[Announcement]
    """oldest first"""
    broken: dict[str, str]
    """what is wrong with every other file of these, by its name"""


class ArtefactStore:
    """Reads and writes whole artefacts; no path leaves the store's root.

    Raises:
        Refused: there is no such file system, or the package for it is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs: fsspec.AbstractFileSystem
        try:
            self._fs, self._root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise Refused(f"artefact store {url} cannot be opened: {error}") from error

    def require(self) -> None:
        """See that artefacts can be kept here, before much work is done for one.

        Raises:
            Refused: there is a file of that name.
            OSError: the store cannot be reached.
        """
        if self._fs.exists(self._root) and not self._fs.isdir(self._root):
            raise Refused(f"artefact store {self.url} is a file, and must be a directory")

    def write(self, files: Mapping[str, bytes], manifest: Manifest) -> None:
        """Write an artefact, its manifest last; on any failure nothing of it stays behind.

        Raises:
            FileExistsError: the manifest's path is taken.
            Malformed: the manifest does not describe exactly `files`, or its path leaves the store.
            OSError: the store cannot be written.
        """
        if described(files) != manifest.files:
            raise Malformed("manifest.files", sorted(manifest.files), f"must describe {sorted(files)}")
        directory = self._inside(manifest.path)
        if self._fs.exists(directory):
            raise FileExistsError(f"{directory} exists already")
        try:
            self._fs.makedirs(directory, exist_ok=True)
            for name, content in files.items():
                self._fs.pipe_file(posixpath.join(directory, name), content)
            self._fs.pipe_file(posixpath.join(directory, MANIFEST), encode_manifest(manifest))
        except BaseException:
            if self._fs.exists(directory):
                self._fs.rm(directory, recursive=True)
            raise

    def read(self, manifest: Manifest) -> dict[str, bytes]:
        """The files that `manifest` describes, each checked against its size and SHA-256.

        Raises:
            Malformed: a file differs from the manifest, or the path leaves the store.
            OSError: a file is missing or the store cannot be reached.
        """
        files: dict[str, bytes] = {}
        for name, expected in manifest.files.items():
            path = self._inside(manifest.path, name)
            rule = f"must be {expected.size} bytes with SHA-256 {expected.sha256}"
            if (size := self._fs.size(path)) != expected.size:  # before it is in memory
                raise Malformed(f"{manifest.path}/{name}", f"{size} bytes", rule)
            content: bytes = self._fs.cat_file(path)
            if _file(content) != expected:
                raise Malformed(f"{manifest.path}/{name}", f"{len(content)} bytes", rule)
            files[name] = content
        return files

    def remove(self, manifest: Manifest) -> None:
        """Remove an artefact, its manifest first: half an artefact is none.

        Raises:
            OSError: the store cannot be written.
        """
        directory = self._inside(manifest.path)
        self._fs.rm_file(posixpath.join(directory, MANIFEST))
        self._fs.rm(directory, recursive=True)

    def manifests(self) -> list[Manifest]:
        """The manifests of all complete artefacts, oldest version first; one that cannot be read is left out."""
        return self.contents().manifests

    def contents(self) -> Contents:
        """Everything that the store has.

        Raises:
            OSError: the store cannot be reached.
        """
        manifests, announcements, broken = [], [], {}
        for path in self._glob("*", MANIFEST) + self._glob(_ANNOUNCEMENTS, "*.json"):
            try:
                if (size := self._fs.size(path) or 0) > MAX_MANIFEST_BYTES:
                    raise Malformed("size", size, f"must be at most {MAX_MANIFEST_BYTES} bytes")
                content = self._fs.cat_file(path)
                if posixpath.basename(path) == MANIFEST:
                    manifests.append(decode_manifest(content))
                else:
                    announcements.append(Announcement.model_validate_json(content))
            except (OSError, ValueError) as error:  # Malformed and pydantic's are ValueErrors
                broken[posixpath.join(*path.split("/")[-2:])] = " ".join(str(error).split())
        return Contents(
            sorted(manifests, key=lambda manifest: manifest.version),
            sorted(announcements, key=lambda announcement: announcement.at_ms),
            broken,
        )

    def note(self, announcement: Announcement) -> None:
        """Keep that a model was announced.

        Raises:
            OSError: the store cannot be written.
        """
        directory = posixpath.join(self._root, _ANNOUNCEMENTS)
        self._fs.makedirs(directory, exist_ok=True)
        path = posixpath.join(directory, f"{announcement.at_ms}-{announcement.version}.json")
        self._fs.pipe_file(path, announcement.model_dump_json().encode())

    def _glob(self, *pattern: str) -> list[str]:
        found: list[str] = self._fs.glob(posixpath.join(self._root, *pattern)) if self._fs.exists(self._root) else []
        return found

    def _inside(self, path: str, *names: str) -> str:
        """The place of an artefact, or of a file of it; a link must not lead out of the store either."""
        if not all(_PLAIN.fullmatch(part) and part.strip(".") for part in path.split("/")):
            rule = "must be a relative path inside the artefact store, of letters, digits, '.', '_' and '-'"
            raise Malformed("manifest.path", path, rule)
        place = posixpath.join(self._root, path, *names)
        if isinstance(self._fs, LocalFileSystem):
            root, leads_to = Path(self._root).resolve(), Path(place).resolve()
            if not leads_to.is_relative_to(root):
                raise Malformed("manifest.path", path, f"must not be a link out of the artefact store, to {leads_to}")
        return place


def described(files: Mapping[str, bytes]) -> dict[str, File]:
    """Size and SHA-256 of each file, as a manifest holds them."""
    return {name: _file(content) for name, content in files.items()}


def _file(content: bytes) -> File:
    return File(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
