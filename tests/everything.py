"""A small chart for tests of `$everything`, and what they ask of a Bundle."""

from __future__ import annotations

from typing import Any

from tests.build import by, condition, encounter, load, observation, organization, patient, practitioner
from tests.served import Served

Bundle = dict[str, Any]


def names(bundle: Bundle) -> list[str]:
    """``Type/id`` of every entry, in order."""
    return [f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in bundle.get("entry", [])]


def links(bundle: Bundle) -> dict[str, str]:
    """The URL of each relation."""
    return {link["relation"]: link["url"] for link in bundle["link"]}


async def small_chart(server: Served) -> None:
    """Store the chart of the patient p (`ALL`), and what does not belong to it."""
    await load(
        server.gate,
        [
            practitioner("dr"),
            organization("clinic"),
            patient("p", managingOrganization={"reference": "Organization/clinic"}),
            encounter("e", "p", period={"start": "2020-01-01", "end": "2020-01-02"}),
            observation("o1", "p", performer=by("dr"), effectiveDateTime="2020-01-01T10:00:00Z"),
            observation("o2", "p", effectiveDateTime="2024-05-05"),
            condition("c", "p"),
            patient("other"),
            observation("foreign", "other", performer=by("dr")),
            practitioner("unrelated"),
        ],
    )


ALL = [
    "Person/p", "Patient/p", "Encounter/e", "Observation/o1", "Observation/o2", "Condition/c",
    "Organization/clinic", "Practitioner/dr",
]  # fmt: skip
"""What the small chart holds, the Person first and the supporting resources last."""
