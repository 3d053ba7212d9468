"""`python -m fhirserver` is `fhirserver`."""

from __future__ import annotations

from fhirserver.cli import main

if __name__ == "__main__":
    main()
