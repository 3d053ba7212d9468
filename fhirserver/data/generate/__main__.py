"""``python -m fhirserver.data.generate PACKAGE.tgz [--check]``: write the tables, or compare without writing."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

from fhirserver.data.generate.package import Package, open_package

DATA = Path(__file__).resolve().parents[1]
_GENERATORS = ("search", "structure", "invariants")


def tables(package: Package) -> dict[str, bytes]:
    """Every generated file by name; the same package gives the same bytes."""
    made: dict[str, bytes] = {}
    for name in _GENERATORS:
        module = f"{__package__}.{name}"
        if importlib.util.find_spec(module) is not None:
            made |= importlib.import_module(module).generate(package)
    return made


def main(arguments: list[str] | None = None) -> int:
    """0 when all is written (or, with --check, equal); 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m fhirserver.data.generate", description=__doc__)
    parser.add_argument(
        "package", type=Path, help="the FHIR R4 package: hl7.fhir.r4.examples or hl7.fhir.r4.core 4.0.1"
    )
    parser.add_argument("--check", action="store_true", help="compare with the files that are there; write nothing")
    options = parser.parse_args(arguments)
    different = 0
    for name, content in sorted(tables(open_package(options.package)).items()):
        path = DATA / name
        same = path.exists() and path.read_bytes() == content
        if not same and not options.check:
            path.write_bytes(content)
        different += not same
        state = "same" if same else "DIFFERENT" if options.check else "written"
        sys.stdout.write(f"{name}: {len(content)} bytes, {state}\n")
    return 1 if options.check and different else 0


if __name__ == "__main__":
    sys.exit(main())
