"""The documentation is a test subject: nothing undocumented, no dead link, no page that went out of date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fhirserver.cli.reference import commands, render_page
from fhirserver.config import rows
from fhirserver.http.routes import ROUTES

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *(TOP / "fixtures").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ANCHOR = re.compile(r"[^\w\- ]")


def text(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {ANCHOR.sub("", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    readme = text("README.md")
    assert len(readme.splitlines()) <= 120
    assert readme.index("make demo") < readme.index("make test") < readme.index("## ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), link
        if anchor:
            assert anchor in anchors(found), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [TOP / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.exists() or page.suffix != ".md":
            continue
        seen.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")))
        waiting += [(page.parent / link).resolve() for link in links if link and "://" not in link]
    assert {page for page in PAGES if page.is_relative_to(TOP / "docs")} <= seen


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert text("docs/cli.md") == render_page(), "run `make docs`"


def test_every_command_and_option_explains_itself() -> None:
    names = set()
    for command in commands():
        names.add(command.name.split()[0])
        assert command.help.endswith("."), command.name
        for parameter in command.parameters:
            assert parameter.help.endswith("."), (command.name, parameter)
    assert names == {
        "serve",
        "ingest",
        "demo",
        "org",
        "person",
        "token",
        "consent",
        "audit",
        "client",
        "key",
        "check",
        "stats",
        "reindex",
        "relabel",
        "purge",
        "bench",
    }


def test_every_setting_explains_itself() -> None:
    for row in rows():
        assert row.doc.endswith("."), row.variable


def test_every_variable_that_is_mentioned_exists() -> None:
    known = {row.variable for row in rows()} | {f"{row.variable}_FILE" for row in rows() if row.secret}
    for page in [*PAGES, TOP / "Dockerfile", TOP / "compose.yaml"]:
        mentioned = set(re.findall(r"FHIRSERVER_[A-Z][A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
        assert mentioned <= known, page


def test_every_command_that_is_mentioned_exists() -> None:
    known = {command.name for command in commands()}
    words = {name.split()[0] for name in known}
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for line in re.findall(
            r"(?:^|`)fhirserver ([a-z]+(?: [a-z]+)?)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert line in known or line.split()[0] in words & known, (page, line)


def test_every_interaction_is_documented() -> None:
    documented = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for row in ROUTES:
        word = {"health": row.path, "capabilities": "/metadata"}.get(row.interaction, row.interaction)
        assert word in documented, row


@pytest.mark.parametrize("name", ["setup", "demo", "test", "quick", "proof", "bench"])
def test_every_make_target_that_others_rely_on_is_there(name: str) -> None:
    assert re.search(rf"^{name}:", text("Makefile"), re.MULTILINE)
