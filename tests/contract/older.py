"""Stores as earlier versions of the server left them."""

from __future__ import annotations

import sqlite3

from pymongo.database import Database

from fhirserver.store.mongo.schema import COUNTER


def as_version_2(connection: sqlite3.Connection) -> None:
    """The audit trail of a SQLite store without links, events, and times of patients."""
    for statement in (
        "DROP TRIGGER audit_stays",
        "DROP TRIGGER audit_stands",
        "ALTER TABLE audit DROP COLUMN link",
        "DROP INDEX audit_organization",
        "CREATE INDEX audit_organization ON audit(organization, n)",
        "CREATE TABLE before(patient TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (patient, n)) WITHOUT ROWID",
        "INSERT INTO before SELECT patient, n FROM audit_patients",
        "DROP TABLE audit_patients",
        "ALTER TABLE before RENAME TO audit_patients",
        "DROP TABLE audit_events",
        "DROP TABLE audit_dropped",
        "CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'append-only'); END",
        "CREATE TRIGGER audit_stands BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'append-only'); END",
        "PRAGMA user_version = 2",
    ):
        connection.execute(statement)


def as_mongo_version_2(database: Database[dict[str, object]]) -> None:
    """The audit trail of a MongoDB store without links and events."""
    for name in ("organization", "patients", "at", "event"):
        database.audit.drop_index(name)
    database.audit.create_index([("organization", 1), ("_id", 1)], name="organization")
    database.audit.create_index([("patients", 1), ("_id", 1)], name="patients")
    database.audit.create_index([("at", 1), ("_id", 1)], name="at")
    database.audit.update_many({}, {"$unset": {"chain": "", "event": ""}})
    database.drop_collection("lines")
    database.store.update_one({"_id": COUNTER}, {"$unset": {"trail": ""}})
    database.store.update_one({"_id": "store"}, {"$set": {"schema": 2}, "$unset": {"unlinked": ""}})
