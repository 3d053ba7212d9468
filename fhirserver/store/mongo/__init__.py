"""The production store: MongoDB (a replica set) through pymongo's asynchronous client."""

from fhirserver.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
