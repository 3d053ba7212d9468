"""Development-time generators of the tables in `fhirserver.data`, from the official FHIR R4 package.

Run as ``python -m fhirserver.data.generate PACKAGE.tgz``; nothing at run time imports this package.
"""
