"""Where artefacts are kept: one fsspec URL, e.g. ``./artefacts`` or ``s3://bucket/models``."""

import hashlib
import posixpath
import re
from collections.abc import Mapping
from typing import Final

import fsspec
from fsspec.core import url_to_fs

from schemas.artefact import MANIFEST, File, Manifest, decode_manifest, encode_manifest
from schemas.malformed import Malformed
from schemas.settings import Refused

_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
"""a directory's name: nothing that a file system or a pattern of fsspec reads in another way"""


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
        directory = self._inside(manifest.path)
        files: dict[str, bytes] = {}
        for name, expected in manifest.files.items():
            content: bytes = self._fs.cat_file(posixpath.join(directory, name))
            if _file(content) != expected:
                raise Malformed(
                    f"{manifest.path}/{name}",
                    f"{len(content)} bytes",
                    f"must be {expected.size} bytes with SHA-256 {expected.sha256}",
                )
            files[name] = content
        return files

    def manifests(self) -> list[Manifest]:
        """The manifests of all complete artefacts, oldest version first."""
        found = self._fs.glob(posixpath.join(self._root, "*", MANIFEST)) if self._fs.exists(self._root) else []
        return sorted((decode_manifest(self._fs.cat_file(path)) for path in found), key=lambda m: m.version)

    def _inside(self, path: str) -> str:
        if not all(_PLAIN.fullmatch(part) and part.strip(".") for part in path.split("/")):
            rule = "must be a relative path inside the artefact store, of letters, digits, '.', '_' and '-'"
            raise Malformed("manifest.path", path, rule)
        return posixpath.join(self._root, path)


def described(files: Mapping[str, bytes]) -> dict[str, File]:
    """Size and SHA-256 of each file, as a manifest holds them."""
    return {name: _file(content) for name, content in files.items()}


def _file(content: bytes) -> File:
    return File(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
