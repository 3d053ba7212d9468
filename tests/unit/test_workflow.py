"""The public CI workflow: it is YAML, runs what the Makefile has, and covers the versions that are promised."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymongo.uri_parser import parse_uri

TOP = Path(__file__).parents[2]
WORKFLOW: dict[str, Any] = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
JOBS: dict[str, Any] = WORKFLOW["jobs"]
SCRIPTS = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]


def scripts(job: str) -> str:
    return "\n".join(step["run"] for step in JOBS[job]["steps"] if "run" in step)


def test_it_runs_on_every_push_to_main_and_every_pull_request() -> None:
    events = WORKFLOW[True]  # YAML 1.1 reads the key `on` as a truth value
    assert events["push"]["branches"] == ["main"]
    assert "pull_request" in events


def test_every_job_runs_the_tests_as_everybody_does() -> None:
    for name in JOBS:
        assert "make test" in scripts(name).splitlines(), name


def test_only_make_targets_that_exist_are_used() -> None:
    targets = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {target for script in SCRIPTS for target in re.findall(r"^\s*make (\S+)", script, re.MULTILINE)}
    assert used
    assert used <= targets


def test_the_oldest_python_that_is_supported_and_a_current_one_are_tested() -> None:
    versions = JOBS["sqlite"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.13"]
    assert f'requires-python = ">={versions[0]}"' in (TOP / "pyproject.toml").read_text(encoding="utf-8")
    assert "MONGODB_URL" not in {**WORKFLOW["env"], **JOBS["sqlite"].get("env", {})}


def test_two_versions_of_mongodb_are_tested_as_three_nodes_that_can_elect() -> None:
    job = JOBS["mongodb"]
    assert job["strategy"]["matrix"]["mongodb"] == ["7.0", "8.0"]
    url = parse_uri(job["env"]["MONGODB_URL"])
    assert len(url["nodelist"]) == 3
    assert f"--replSet {url['options']['replicaSet']} " in scripts("mongodb")
    for _, port in url["nodelist"]:
        assert str(port) in scripts("mongodb")


def test_actions_are_pinned_to_a_major_version() -> None:
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", action), action


def test_the_workflow_may_only_read() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_is_one_that_bash_can_read(script: str) -> None:
    plain = re.sub(r"\$\{\{[^}]*\}\}", "expression", script)
    assert subprocess.run(["bash", "-n"], input=plain, text=True, check=False, capture_output=True).returncode == 0
