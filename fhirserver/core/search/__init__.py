"""Search parameters: `parse` makes a `Search` of those of one request (R4 search §3.1.1)."""

from fhirserver.core.search.asked import ValueSets
from fhirserver.core.search.links import Include, Order
from fhirserver.core.search.parser import (
    MAX_DEPTH,
    MAX_GROUPS,
    MAX_VALUES,
    MAX_WORK,
    UNSUPPORTED,
    Link,
    Search,
    answered,
    parse,
)
from fhirserver.core.search.residuals import Residual, meets

__all__ = [
    "MAX_DEPTH",
    "MAX_GROUPS",
    "MAX_VALUES",
    "MAX_WORK",
    "UNSUPPORTED",
    "Include",
    "Link",
    "Order",
    "Residual",
    "Search",
    "ValueSets",
    "answered",
    "meets",
    "parse",
]
