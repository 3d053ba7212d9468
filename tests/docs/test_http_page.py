"""The page on HTTP lists every status the server answers with, every limit, and every header it takes from a page."""

from __future__ import annotations

import re
from pathlib import Path

from fhirserver.config import rows
from fhirserver.core.errors import STATUS
from fhirserver.http.capabilities import TRIAL_USE
from fhirserver.http.definitions import OURS
from fhirserver.http.metadata import MODES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "http.md").read_text(encoding="utf-8")


def test_every_status_is_in_the_table_with_its_code() -> None:
    told = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `([\w-]+)` \|", PAGE, re.MULTILINE)}
    assert told == set(STATUS.values())


def test_every_limit_is_told() -> None:
    limits = {row.variable for row in rows() if row.variable.startswith("FHIRSERVER_MAX_")}
    assert limits
    assert all(f"`{variable}`" in PAGE for variable in limits)


def test_the_page_of_capabilities_tells_modes_and_definitions() -> None:
    page = (DOCS / "capabilities.md").read_text(encoding="utf-8")
    assert all(f"`{mode}`" in page for mode in MODES)
    assert all(f"OperationDefinition/{id_}" in page for id_ in OURS)
    assert "`versioning`" in page
    assert "versioning" in TRIAL_USE
