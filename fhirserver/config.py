"""Settings: one row per variable, read once from the environment; the documentation page is generated from it.

A row's variable is ``FHIRSERVER_`` and the field's name in capitals. A secret one may come from a file instead:
``FHIRSERVER_STORE_FILE`` names a file whose content is the value, so that it stands in no process list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec

PREFIX = "FHIRSERVER_"
BASE_PATH = "/FHIR/R4"
"""Where the FHIR API stands below the root (`Settings.root`)."""
MONGO_DATABASE = "fhirserver"
"""The database of a `mongodb://` URL that names none."""


def _row(doc: str, *, secret: bool = False, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=doc, extra={"secret": secret}, **bounds)


class Settings(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that can be set; `load` reads it from the environment."""

    store: Annotated[
        str,
        _row(
            "The store's URL: `sqlite:///relative.db`, `sqlite:////absolute/file.db`, or"
            " `mongodb://host:port/database?replicaSet=rs0` (`mongodb+srv://` too), which must be a replica set; the"
            " database is `fhirserver` unless the URL names one.",
            secret=True,
        ),
    ] = "sqlite:///data/fhir.db"
    keys_file: Annotated[
        str,
        _row(
            "The file with the server's own keys; empty: beside the embedded store, `<db>.keys.json`."
            " Needed with MongoDB; all servers of one store share one such file."
        ),
    ] = ""
    native_documents: Annotated[
        bool,
        _row(
            "On MongoDB: whether current resources also stand as native documents in a collection per type."
            " Decides for a new store; one that exists is changed by `fhirserver reindex`."
        ),
    ] = True
    host: Annotated[str, _row("The address `serve` listens on.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, _row("The port `serve` listens on; 0 takes a free one.", ge=0, le=65535)] = 8000
    base_url: Annotated[
        str,
        _row("The root that clients see, without `/FHIR/R4`, when behind a proxy; empty: as each request names it."),
    ] = ""
    tls_certificate: Annotated[
        str,
        _row(
            "A file with the PEM certificate and its chain: `serve` then speaks HTTPS (TLS 1.2 and later) itself."
            " Needs `FHIRSERVER_TLS_KEY`. A renewed one counts from the next start."
        ),
    ] = ""
    tls_key: Annotated[str, _row("A file with the PEM key of that certificate, not encrypted, mode 0600.")] = ""
    workers: Annotated[int, _row("Server processes.", ge=1, le=64)] = 1
    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug"], _row("The least important log line that is written.")
    ] = "info"
    page_token_minutes: Annotated[
        int, _row("How long the `next` link of a paged `$everything` can be followed.", ge=1, le=1440)
    ] = 60
    stall_seconds: Annotated[
        int,
        _row(
            "A reader that takes nothing, or a sender that sends nothing, for so long is disconnected.", ge=1, le=3600
        ),
    ] = 60
    shutdown_seconds: Annotated[
        int, _row("How long running requests may take to finish after SIGTERM.", ge=0, le=14)
    ] = 10
    operator_tokens: Annotated[bool, _row("Whether operator tokens are issued and accepted at all.")] = True
    max_body: Annotated[
        int, _row("The largest body of a request in bytes, as sent and decompressed.", ge=1024, le=1 << 30)
    ] = 32 << 20
    max_binary: Annotated[int, _row("The largest raw content of a Binary in bytes.", ge=1024, le=1 << 30)] = 64 << 20
    max_entries: Annotated[int, _row("The most entries of a batch or transaction.", ge=1, le=100_000)] = 10_000
    requests_per_minute: Annotated[
        int,
        _row(
            "Requests that one client may make in a minute over all servers of the store, the entries of a batch"
            " counted one by one; beyond them 429. 0: no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    max_streams: Annotated[
        int,
        _row("Answers of more than 64 KiB that one server process sends at once; beyond them 503.", ge=1, le=100_000),
    ] = 256
    max_client_streams: Annotated[int, _row("The same for one client; beyond them 429.", ge=1, le=100_000)] = 32
    conditional_delete: Annotated[
        Literal["single", "multiple"],
        _row("Whether a conditional delete that matches several resources is refused or deletes them all."),
    ] = "single"
    referential_integrity: Annotated[
        Literal["off", "warn", "enforce"],
        _row("What a reference to a resource that is not there is: nothing, a warning, or an error."),
    ] = "off"
    sensitive_codes: Annotated[
        str,
        _row(
            "A JSON file with code lists of this installation, added to those that labels are derived from"
            " (docs/labels.md); all servers of a store use the same. After a change: `fhirserver relabel`."
        ),
    ] = ""
    cors_origins: Annotated[
        str,
        _row(
            "Web pages of these origins may call from a browser: `https://app.example.org`, several with commas"
            " between, `*` for any; empty: none."
        ),
    ] = ""

    issuers_file: Annotated[
        str, _row("A file with the outside issuers (OpenID Connect) whose tokens count here; empty: none.")
    ] = ""
    outbound_loopback: Annotated[
        bool, _row("Whether key sets may be fetched from this machine's own addresses, for tests.")
    ] = False
    outbound_ca: Annotated[
        str,
        _row("A file of certificates (PEM) that the server trusts when it fetches key sets; empty: the system's."),
    ] = ""

    def __repr__(self) -> str:
        given = [name for name in self.__struct_fields__ if name not in _SECRET]
        return f"Settings({', '.join(f'{name}={getattr(self, name)!r}' for name in given)})"

    @property
    def root(self) -> str:
        """The root URL that clients see, without a slash at the end and without `/FHIR/R4`."""
        if self.base_url:
            return self.base_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104  a comparison, not a bind
        scheme = "https" if self.tls_certificate else "http"
        return (
            f"{scheme}://[{host}]:{self.port}" if ":" in host and "[" not in host else f"{scheme}://{host}:{self.port}"
        )

    @property
    def base(self) -> str:
        """The FHIR base URL: what stands before ``/Patient/1`` in every `fullUrl`."""
        return self.root + BASE_PATH

    @cached_property
    def origins(self) -> frozenset[str]:
        """The origins of `cors_origins`. ValueError for what no browser sends as its Origin."""
        origins = frozenset(item.strip().rstrip("/").lower() for item in self.cors_origins.split(",") if item.strip())
        for origin in origins - {"*"}:
            scheme, _, host = origin.partition("://")
            if scheme not in ("http", "https") or not host or set(host) & set("/?#@* "):
                raise ValueError(f"{PREFIX}CORS_ORIGINS lists origins such as https://app.example.org, not {origin!r}.")
        return origins

    @cached_property
    def store_path(self) -> Path | None:
        """The embedded store's file; None for a store that is not a file. ValueError for a URL that names no store."""
        return sqlite_path(self.store)

    @property
    def store_place(self) -> str:
        """Where the store is, as people and logs may see it: the file, or hosts and database; no user, no password."""
        path = self.store_path
        return mongo_place(self.store) if path is None else str(path)

    @property
    def keys_path(self) -> Path:
        """Where the key file is or will be."""
        if self.keys_file:
            return Path(self.keys_file)
        path = self.store_path
        if path is None:
            raise ValueError(f"{PREFIX}KEYS_FILE must name the key file when the store is not a file.")
        return path.with_name(path.name + ".keys.json")


def sqlite_path(url: str) -> Path | None:
    """The file behind ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; None for `mongodb://…`.

    ValueError, in one sentence that never repeats a password, for anything else.
    """
    scheme, found, rest = url.partition("://")
    if scheme in ("mongodb", "mongodb+srv") and found:
        return None
    if scheme != "sqlite" or not found:
        raise ValueError(
            "The store URL must begin with sqlite:/// (for example sqlite:///data/fhir.db) or mongodb:// (for example "
            f"mongodb://localhost:27017/fhirserver?replicaSet=rs0), and {_repeated(url)} does not."
        )
    if not rest.startswith("/") or not rest[1:] or rest.endswith("/") or "?" in rest or ":memory:" in rest:
        raise ValueError(
            f"{_repeated(url)} names no file: write sqlite:///relative.db or sqlite:////absolute/file.db "
            "(count the slashes)."
        )
    return Path(unquote(rest[1:]))


def mongo_place(url: str) -> str:
    """Hosts and database of a `mongodb://` URL. All before the last ``@`` is left out, an unescaped password too."""
    scheme, _, rest = url.partition("://")
    hosts, _, tail = rest.rpartition("@")[2].partition("/")
    database = unquote(tail.partition("?")[0]) or MONGO_DATABASE
    return f"{scheme}://{hosts.partition('?')[0]}/{database}"


def _repeated(url: str) -> str:
    """A mistaken URL as a message may repeat it: not at all where it might hold a password."""
    return "this URL" if "@" in url else repr(url if "://" not in url or url.startswith("sqlite:") else _scheme(url))


def _scheme(url: str) -> str:
    return url.partition("://")[0]


_HINTS: dict[str, Any] = get_type_hints(Settings, include_extras=True)
_SECRET = frozenset(name for name, hint in _HINTS.items() if (hint.__metadata__[0].extra or {}).get("secret"))


class Row(msgspec.Struct, frozen=True):
    """One setting as the documentation shows it."""

    variable: str
    kind: str
    default: str
    doc: str
    secret: bool


def rows() -> tuple[Row, ...]:
    """Every setting, in the order of `Settings`."""
    found = []
    for field in msgspec.structs.fields(Settings):
        annotation = _HINTS[field.name]
        meta: msgspec.Meta = annotation.__metadata__[0]
        found.append(
            Row(
                variable=PREFIX + field.name.upper(),
                kind=_kind(annotation.__origin__, meta),
                default=str(field.default).lower() if isinstance(field.default, bool) else str(field.default),
                doc=meta.description or "",
                secret=bool((meta.extra or {}).get("secret")),
            )
        )
    return tuple(found)


def _kind(origin: Any, meta: msgspec.Meta) -> str:
    if origin is bool:
        return "`true` or `false`"
    if origin is int:
        return f"a whole number, {meta.ge} to {meta.le}"
    if origin is str:
        return "text"
    return "one of " + ", ".join(f"`{value}`" for value in origin.__args__)


def load(environment: Mapping[str, str] | None = None, /, **given: object) -> Settings:
    """The settings of ``environment`` (the process's own unless given), below those of ``given`` that are not None.

    ValueError, in one sentence naming the variable, for a value that cannot be understood. OSError for a
    ``…_FILE`` that cannot be read.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, object] = {}
    for row in rows():
        name = row.variable.removeprefix(PREFIX).lower()
        if given.get(name) is not None:
            values[name] = _convert(name, given[name], row, f"--{name.replace('_', '-')}")
        elif row.variable in environment:
            values[name] = _convert(name, environment[row.variable], row, row.variable)
        elif row.secret and f"{row.variable}_FILE" in environment:
            text = Path(environment[f"{row.variable}_FILE"]).read_text(encoding="utf-8").strip()
            values[name] = _convert(name, text, row, f"{row.variable}_FILE")
    settings = Settings(**values)  # type: ignore[arg-type]  # each value was converted to its field's type above
    _check_root(settings.base_url)
    _ = settings.origins  # whoever mistook one hears of it at once
    return settings


def _convert(name: str, value: object, row: Row, source: str) -> object:
    try:
        return msgspec.convert(value, _HINTS[name], strict=False)
    except msgspec.ValidationError:
        shown = "" if row.secret else f", not {str(value)!r}"
        raise ValueError(f"{source} must be {row.kind}{shown}.") from None


def _check_root(url: str) -> None:
    if not url:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{PREFIX}BASE_URL must be a root such as https://fhir.example.org, not {url!r}.")
    if parts.path.rstrip("/").endswith(BASE_PATH):
        raise ValueError(f"{PREFIX}BASE_URL is the root without {BASE_PATH}, which is added to it.")


def unknown(environment: Mapping[str, str]) -> list[str]:
    """The ``FHIRSERVER_…`` variables that no setting reads: most likely a slip of the pen."""
    known = {row.variable for row in rows()} | {f"{row.variable}_FILE" for row in rows() if row.secret}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def render_page() -> str:
    """The text of `docs/configuration.md`."""
    lines = [
        "# Configuration",
        "",
        "<!-- Generated by `python -m fhirserver.config > docs/configuration.md`; a test holds the two equal. -->",
        "",
        "Everything is set by environment variables, one row each. `--store`, `--host`, `--port` and `--workers` of",
        "the commands win over the environment. A value that cannot be understood is refused with a sentence.",
        "",
        "| variable | value | default | what it does |",
        "|---|---|---|---|",
    ]
    for row in rows():
        default = f"`{row.default}`" if row.default else "empty"
        lines.append(f"| `{row.variable}` | {row.kind} | {default} | {row.doc} |")
    secret = ", ".join(f"`{row.variable}_FILE`" for row in rows() if row.secret)
    lines += [
        "",
        "## Secrets from files",
        "",
        f"A value that may hold a secret can come from a file: {secret} names a file whose content is the value.",
        "Use it for a MongoDB URL with a password: what is given to `--store` stands in the list of processes.",
        "",
        "The server's own keys are always a file, made on first use, for its owner only: beside the embedded store, or",
        "where `FHIRSERVER_KEYS_FILE` says. With MongoDB that must be said, and it must be the same file (or an exact",
        "copy, mode 0600) for every server and command of one store, because each must know the others' tokens:",
        "[the key file](mongodb.md#the-key-file).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(render_page())
