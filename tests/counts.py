"""How many examples a property gets: few by default, ten times as many under FHIRSERVER_PROOF=1 (`make proof`).

On MongoDB each question is a round trip. There, unless for the proof, are run

* `test_pages_are_the_stream_and_since_misses_nothing`: a quarter of the examples;
* `test_pages_are_the_history_at_the_snapshot_for_every_caller`: a quarter;
* `test_no_chart_holds_what_another_organisation_brought`: a quarter;
* `test_every_patient_has_a_person_whichever_way_it_came`: a quarter;
* `test_no_request_whatever_makes_the_server_fail`: a quarter;
* `test_the_server_answers_what_the_oracle_does`: a quarter;
* `test_every_way_gives_what_the_naive_evaluation_lets_see`: one world of each way of deciding, not three;
* `test_any_history_gives_what_the_model_gives`: a half;
* `test_what_a_grant_narrows_to_is_exactly_what_it_admits`: a half;
* `test_writers_in_several_processes_lose_nothing_and_all_make_progress`: 24 commits of each process, not 40;
* `test_a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half`: 2 kills, not 4;
* nothing of the modules that say ``kind = every_kind_for_proof``: what stands in front of the store;
* the tests of `e2e/test_serve.py`: over a chart of 8,000 resources, not 15,000.
"""

from __future__ import annotations

import os

PROOF = "FHIRSERVER_PROOF" in os.environ


def examples(count: int, kind: str = "sqlite", *, on_mongo: float = 0.25) -> int:
    """``count``, or ten times as many for the proof; on MongoDB this share of it, or all for the proof."""
    if PROOF:
        return count * 10
    return max(1, int(count * on_mongo)) if kind == "mongo" else count
