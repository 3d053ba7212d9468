"""Settings: read once, refused in a sentence, documented from the rows themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhirserver import config
from fhirserver.config import Settings, load, mongo_place, rows, sqlite_path, unknown
from fhirserver.store.mongo.client import understand


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load({}) == Settings()


def test_every_row_can_be_set_by_its_variable() -> None:
    other = {
        "FHIRSERVER_LOG_LEVEL": "debug",
        "FHIRSERVER_OPERATOR_TOKENS": "false",
        "FHIRSERVER_NATIVE_DOCUMENTS": "false",
        "FHIRSERVER_BASE_URL": "https://fhir.example.org",
        "FHIRSERVER_STORE": "sqlite:///other.db",
        "FHIRSERVER_MAX_BODY": "4096",
        "FHIRSERVER_MAX_BINARY": "4096",
        "FHIRSERVER_CONDITIONAL_DELETE": "multiple",
        "FHIRSERVER_REFERENTIAL_INTEGRITY": "warn",
        "FHIRSERVER_CORS_ORIGINS": "https://app.example.org",
        "FHIRSERVER_OUTBOUND_LOOPBACK": "true",
    }
    for row in rows():
        value = other.get(row.variable) or ("7" if row.default.isdecimal() else "other")
        changed = load({row.variable: value})
        name = row.variable.removeprefix("FHIRSERVER_").lower()
        assert getattr(changed, name) != getattr(Settings(), name), row.variable


def test_the_command_line_wins_over_the_environment_and_none_is_not_given() -> None:
    assert load({"FHIRSERVER_PORT": "9000"}, port=9001).port == 9001
    assert load({"FHIRSERVER_PORT": "9000"}, port=None).port == 9000


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FHIRSERVER_PORT", "many"),
        ("FHIRSERVER_PORT", "65536"),
        ("FHIRSERVER_PORT", "-1"),
        ("FHIRSERVER_WORKERS", "0"),
        ("FHIRSERVER_WORKERS", "1.5"),
        ("FHIRSERVER_LOG_LEVEL", "loud"),
        ("FHIRSERVER_HOST", ""),
        ("FHIRSERVER_OPERATOR_TOKENS", "perhaps"),
        ("FHIRSERVER_NATIVE_DOCUMENTS", "some"),
        ("FHIRSERVER_BASE_URL", "fhir.example.org"),
        ("FHIRSERVER_BASE_URL", "https://fhir.example.org/FHIR/R4"),
        ("FHIRSERVER_BASE_URL", "https://fhir.example.org/?a=b"),
    ],
)
def test_a_value_that_cannot_be_understood_is_refused_by_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        load({variable: value})


def test_a_secret_may_come_from_a_file_and_its_value_is_never_repeated(tmp_path: Path) -> None:
    secret = tmp_path / "store"
    secret.write_text("sqlite:///from-a-file.db\n")
    assert load({"FHIRSERVER_STORE_FILE": str(secret)}).store == "sqlite:///from-a-file.db"
    assert load({"FHIRSERVER_STORE_FILE": str(secret), "FHIRSERVER_STORE": "sqlite:///x.db"}).store == "sqlite:///x.db"
    with pytest.raises(OSError, match="nowhere"):
        load({"FHIRSERVER_STORE_FILE": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///data/fhir.db", "data/fhir.db"),
        ("sqlite:////srv/fhir.db", "/srv/fhir.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url: str, path: str) -> None:
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize("url", ["mongodb://localhost/db", "mongodb+srv://host/db"])
def test_a_mongodb_url_names_no_file(url: str) -> None:
    assert sqlite_path(url) is None


MISTAKEN = (
    "",
    "data.db",
    "sqlite:",
    "sqlite://",
    "sqlite:///",
    "sqlite://data.db",
    "sqlite://u:secret@h/d/",
    "postgres://u:secret@h/d",
    "mongodb:/u:secret@h/d",
    "mongo://u:se/secret@h/d",
    "u:secret@h/d",
)


@pytest.mark.parametrize("url", MISTAKEN)
def test_what_names_no_store_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///") as refused:
        sqlite_path(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("mongodb://localhost:27017/charts?replicaSet=rs0", "mongodb://localhost:27017/charts"),
        ("mongodb://localhost/?replicaSet=rs0", "mongodb://localhost/fhirserver"),
        ("mongodb://localhost?replicaSet=rs0", "mongodb://localhost/fhirserver"),
        ("mongodb://user:secret@a:1,b:2/charts", "mongodb://a:1,b:2/charts"),
        ("mongodb://user:se/cr@secret@h/", "mongodb://h/fhirserver"),
        ("mongodb://user:se?secret@h/charts", "mongodb://h/charts"),
        (
            "mongodb+srv://user:secret@db.example.org/?tlsCertificateKeyFilePassword=secret",
            "mongodb+srv://db.example.org/fhirserver",
        ),
        ("mongodb://[::1]:27017/charts", "mongodb://[::1]:27017/charts"),
    ],
)
def test_a_mongodb_store_is_shown_by_hosts_and_database_alone(url: str, place: str) -> None:
    assert mongo_place(url) == place
    assert load({"FHIRSERVER_STORE": url}).store_place == place


@pytest.mark.parametrize("path", ["", "/", "/charts", "?replicaSet=rs0", "/charts?replicaSet=rs0"])
def test_the_database_that_is_shown_is_the_one_that_is_opened(path: str) -> None:
    for url in (f"mongodb://user:secret@localhost{path}", f"mongodb+srv://user:secret@db.example.org{path}"):
        assert mongo_place(url).rpartition("/")[2] == understand(url).database


def test_an_embedded_store_is_shown_by_its_file() -> None:
    assert load({"FHIRSERVER_STORE": "sqlite:////srv/fhir.db"}).store_place == "/srv/fhir.db"


def test_a_mongodb_url_with_a_password_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "store"
    secret.write_text("mongodb://user:secret@h/charts?replicaSet=rs0\n")
    settings = load({"FHIRSERVER_STORE_FILE": str(secret)})
    assert settings.store.endswith("@h/charts?replicaSet=rs0")
    assert "secret" not in settings.store_place


def test_the_key_file_stands_beside_the_embedded_store() -> None:
    assert load({"FHIRSERVER_STORE": "sqlite:////srv/fhir.db"}).keys_path == Path("/srv/fhir.db.keys.json")
    assert load({"FHIRSERVER_KEYS_FILE": "/run/keys.json"}).keys_path == Path("/run/keys.json")


def test_a_store_that_is_no_file_needs_a_key_file_of_its_own() -> None:
    mongo = {"FHIRSERVER_STORE": "mongodb://user:secret@h/charts"}
    assert load(mongo | {"FHIRSERVER_KEYS_FILE": "/run/keys.json"}).keys_path == Path("/run/keys.json")
    with pytest.raises(ValueError, match="FHIRSERVER_KEYS_FILE") as refused:
        _ = load(mongo).keys_path
    assert "secret" not in str(refused.value)


def test_the_root_is_what_a_client_can_reach() -> None:
    assert load({}).base == "http://127.0.0.1:8000/FHIR/R4"
    assert load({"FHIRSERVER_HOST": "0.0.0.0", "FHIRSERVER_PORT": "81"}).root == "http://127.0.0.1:81"  # noqa: S104  not bound
    assert load({"FHIRSERVER_HOST": "::1"}).root == "http://[::1]:8000"
    assert load({"FHIRSERVER_BASE_URL": "https://fhir.example.org/"}).base == "https://fhir.example.org/FHIR/R4"


def test_a_slip_of_the_pen_is_noticed() -> None:
    assert unknown({"FHIRSERVER_PORTT": "1", "FHIRSERVER_PORT": "1", "FHIRSERVER_STORE_FILE": "x", "HOME": "/"}) == [
        "FHIRSERVER_PORTT"
    ]


def test_the_configuration_page_is_what_the_rows_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == config.render_page(), "run `make docs`"


def test_origins_are_what_a_browser_sends() -> None:
    given = load({"FHIRSERVER_CORS_ORIGINS": " https://App.example.org/ , http://localhost:3000,"})
    assert given.origins == {"https://app.example.org", "http://localhost:3000"}
    assert load({"FHIRSERVER_CORS_ORIGINS": "*"}).origins == {"*"}
    assert load({}).origins == frozenset()


@pytest.mark.parametrize("value", ["app.example.org", "https://*.example.org", "https://a/path", "ftp://a", "https://"])
def test_an_origin_that_no_browser_sends_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="FHIRSERVER_CORS_ORIGINS"):
        load({"FHIRSERVER_CORS_ORIGINS": value})
