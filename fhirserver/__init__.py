"""A FHIR R4 (4.0.1) facade server over a document store, with a streaming, consent-aware `$everything`."""

__version__ = "0.1.0"
