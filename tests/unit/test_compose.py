"""The compose files and what they start: parsed, cross-checked, and the script of the secrets run for real."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fhirserver.config import load, mongo_place, rows
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.store.mongo.client import DATABASE
from fhirserver.store.mongo.schema import COLLECTIONS

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
FILES = ("compose.yaml", "compose.sqlite.yaml")


def parsed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TOP / name).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of mongod and of the server after the script ran, all of it owned by whoever runs this test."""
    folders = tmp_path_factory.mktemp("mongod"), tmp_path_factory.mktemp("server")
    make_secrets(folders)
    return folders


def make_secrets(folders: tuple[Path, Path]) -> None:
    user = str(os.getuid())
    environment = os.environ | {"MONGOD_USER": user, "SERVER_USER": user}
    subprocess.run(["bash", str(DEPLOY / "mongo-secrets.sh"), *map(str, folders)], env=environment, check=True)


@pytest.mark.parametrize("name", FILES)
def test_every_volume_dependency_and_file_that_is_named_is_there(name: str) -> None:
    compose = parsed(name)
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (TOP / source).exists() if source.startswith("./") else source in compose["volumes"], volume
        assert set(service.get("depends_on", {})) <= set(compose["services"])


@pytest.mark.parametrize("name", FILES)
def test_the_settings_of_the_server_are_ones_it_has(name: str) -> None:
    known = {row.variable for row in rows()} | {f"{row.variable}_FILE" for row in rows() if row.secret}
    assert set(parsed(name)["services"]["fhirserver"]["environment"]) <= known


@pytest.mark.parametrize("name", FILES)
def test_no_secret_stands_in_a_compose_file(name: str) -> None:
    for service in parsed(name)["services"].values():
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or variable.endswith("_FILE")
            assert "@" not in str(value)


def test_the_image_sets_no_store_for_then_its_url_could_not_come_from_a_file() -> None:
    dockerfile = (TOP / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"FHIRSERVER_STORE=", dockerfile)


def test_mongodb_is_a_replica_set_and_the_server_waits_until_it_can_be_written_to() -> None:
    services = parsed("compose.yaml")["services"]
    assert services["fhirserver"]["depends_on"] == {"mongo": {"condition": "service_healthy"}}
    assert services["mongo"]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}
    words = services["mongo"]["command"]
    assert words[:2] == ["mongod", "--replSet=rs0"]
    assert services["mongo"]["healthcheck"]["test"][-1] in services["mongo"]["volumes"][-1].split(":")
    ready = (DEPLOY / "mongo-ready.js").read_text(encoding="utf-8")
    assert '_id: "rs0"' in ready
    assert f'host: "{services["mongo"]["hostname"]}:27017"' in ready


def test_the_servers_url_names_the_replica_set_and_its_database(secrets: tuple[Path, Path]) -> None:
    mongod, server = secrets
    url = load({"FHIRSERVER_STORE_FILE": str(server / "store-url")}).store
    assert mongo_place(url) == f"mongodb://mongo:27017/{DATABASE}"
    assert "replicaSet=rs0" in url
    assert (mongod / "server-password").read_text() in url


def test_secrets_are_long_differ_and_can_be_read_by_their_owner_only(secrets: tuple[Path, Path]) -> None:
    made = [file for folder in secrets for file in folder.iterdir()]
    assert {file.name for file in made} == {"keyfile", "root-password", "server-password", "store-url"}
    texts = {file.read_text() for file in made}
    assert len(texts) == 4
    for file in made:
        assert stat.S_IMODE(file.stat().st_mode) == 0o400, file
        assert len(file.read_text()) >= 24
    keyfile = (secrets[0] / "keyfile").read_text()
    assert re.fullmatch(r"[A-Za-z0-9]{6,1024}", keyfile)  # what mongod takes


def test_secrets_that_are_there_are_kept(secrets: tuple[Path, Path]) -> None:
    before = {file: file.read_text() for folder in secrets for file in folder.iterdir()}
    make_secrets(secrets)
    assert {file: file.read_text() for folder in secrets for file in folder.iterdir()} == before


def test_each_secret_that_is_read_is_one_that_is_made(secrets: tuple[Path, Path]) -> None:
    made = {file.name for folder in secrets for file in folder.iterdir()}
    texts = [(TOP / "compose.yaml").read_text(encoding="utf-8"), *(file.read_text() for file in DEPLOY.glob("*.js"))]
    read = {name for text in texts for name in re.findall(r"/secrets/([a-z-]+)(?=[\s\",])", text)}
    assert read - {"mongo", "fhirserver"} == made


def test_the_role_names_every_collection_and_lets_nobody_change_the_trail() -> None:
    role = (DEPLOY / "mongo-role.js").read_text(encoding="utf-8")
    lists = {name: re.findall(r'"(\w+)"', text) for name, text in re.findall(r"const (\w+) = \[(.*?)\];", role)}
    assert "audit" in lists["appended"]
    assert sorted(lists["appended"] + lists["written"]) == sorted(COLLECTIONS)
    native = re.search(r"native = `(.*?)`", role, re.DOTALL)
    assert native
    assert set(native[1].split()) == RESOURCE_TYPES
    granted = dict(re.findall(r"\.\.\.(\w+)\.map\(\(name\) => may\(name, (.*?)\)\)", role))
    assert granted["appended"] == '"insert"'
    assert role.count('may("history", "remove")') == 1  # of the role for a purge, which no server has
    anywhere = re.search(r'may\("", (.*?)\)', role)
    assert anywhere
    actions = set(re.findall(r'"(\w+)"', anywhere[1]))
    assert "find" in actions
    assert not actions & {"insert", "update", "remove", "dropCollection", "dropDatabase"}
    assert f'database = "{DATABASE}"' in role
