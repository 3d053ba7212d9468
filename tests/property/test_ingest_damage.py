"""Whatever bytes come, the two passes over them end in resources and rejections, never in an error of ours."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ingest.prepare import Preparer
from ingest.read import read
from ingest.resolve import Resolver
from ingest.scratch import Scratch
from ingest.source import Source
from ingest.survey import Survey
from tests.imported import bundle, entry, observation, patient, practitioner

URL = "urn:uuid:11111111-1111-4111-8111-111111111111"
BUNDLE = bundle(
    entry(patient(None, birthDate="1970-01-01T00:00:00Z"), URL),
    entry(observation(URL), "urn:uuid:x"),
    entry(practitioner("d", "7"), ifNoneExist="identifier=http://npi|7"),
    entry(observation("Patient?identifier=http://npi|7", "o"), method="PUT"),
    entry({"resourceType": "Person", "link": [{"target": {"reference": URL, "assurance": "level1"}}]}),
)
WHOLES = (
    json.dumps(BUNDLE).encode(),
    json.dumps(BUNDLE, indent=1, sort_keys=True).encode(),
    b"\n".join(json.dumps(item).encode() for item in [patient("a"), BUNDLE, observation("Patient/a")]),
)
SHARDS = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(
        [
            b"",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b'"',
            b"\\",
            b"\n",
            b"null",
            b"\xff",
            b"\\ud800",
            b"[" * 3000,
            b"...",
            b"//",
        ]
    ),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = draw(st.sampled_from(WHOLES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 6)))
        raw = raw[:start] + draw(SHARDS) + raw[end:]
    return raw


@given(damaged(), st.sampled_from(["x.json", "x.ndjson"]), st.booleans(), st.sampled_from([None, "org"]))
def test_no_damage_makes_more_than_rejections(raw: bytes, name: str, unwrap: bool, organization: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(raw)
        source = Source(str(path), path, len(raw))
        scratch = Scratch(Path(folder))
        survey = Survey(scratch)
        for _ in survey.note(source.name, read(source, unwrap=unwrap)):
            pass
        scratch.finish()
        preparer = Preparer(scratch, Resolver(scratch, organization), organization)
        batches = [*preparer.batches(source.name, read(source, unwrap=unwrap)), preparer.rest()]
        scratch.close()
    for batch in batches:
        assert all(rejection.reason for rejection in batch.rejections)
        assert all(put.resource["resourceType"] == key.type for key, put in batch.puts.items())
