"""What R4 search leaves open, and how the oracle reads it.

Stated freedoms, the same for every reading:

* Strings fold case and accents and collapse white space; a match starts at the beginning of a part (each part of a
  HumanName or Address, and its `text`). `:exact` compares the part as it stands.
* A date without a zone is in UTC. A value is the interval of its precision, in whole milliseconds; a Period without
  an end is open there, without both it is no value; a Timing is the hull of its events and its bounding Period.
* A number in a resource is exact; a search for `eq`, `ne` has the precision of its digits (3.1.1.4.6), every other
  prefix has none. `1e2` is [95, 105) as the specification's own example says: a mantissa without a point that has an
  exponent counts one digit more than it shows.
* `ge5` of a Range or of `<=5` holds where 5 is its upper limit. A date is a range instead (3.1.1.4.5): `ge2020` holds
  for what reaches beyond 2020 or lies within it, not for a Period that began in 2019 and ended in 2020.
* A quantity is compared whatever its unit unless the search names one; with `system|code` of UCUM also where the
  units convert into each other (`units.py`); `||unit` names the code or the printed unit, whatever the system.
* The system of a `code`, `boolean`, `string`, `uri` or ContactPoint is not in the data: only the plain form finds it.
  Tokens are compared by case.
* The version of a reference is cut off, in the data and in the search. A contained or conditional reference is found
  by nothing but `:missing`, `:identifier` and `:text`; it leads nowhere in a chain. Neither does a canonical.
* `where(resolve() is T)` knows the type from the reference's text, else from what it contains, else from its `type`.
* A canonical with `|version` in the data is found by its url as well.
* `:not` with several values: none of them. It holds for a resource that has no value.
* `_list` counts every entry.
* `_sort`: a resource without the key comes last in both directions; among several values the earliest date or least
  number counts, else the first in the document; `_lastUpdated` goes by when the store took a resource, also within a
  millisecond; ties keep the order of the store.
* `near` without a distance asks within `Reading.near_km`; the earth is a ball of 6,371.0088 km.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Reading(NamedTuple):
    """The freedoms in which the answer to a random query may well differ from one server to the next.

    ``missing``: `:missing` asks whether the expression yields an "element", whatever that holds, or one with a "value"
    to search by (a code or system, a date, a number, a text, a reference or identifier). ``ne_of_several``: with
    several values, `ne` holds when "any" of them is not equal, or when "all" are. ``text``: where `:text` of tokens and
    references must match: at the "start", at the start of any of its "words", or anywhere ("within").
    ``open_comparators``: whether the number of a Quantity with a comparator `<` or `>` stands outside its interval.
    ``below_segments``: whether `:below` of a uri ends at a path segment. ``near_km``: the distance of a `near` without
    one. ``ap``: the share of the value, or of a date's distance from now, that `ap` adds.
    """

    missing: Literal["element", "value"] = "element"
    ne_of_several: Literal["any", "all"] = "any"
    text: Literal["start", "words", "within"] = "within"
    open_comparators: bool = True
    below_segments: bool = False
    near_km: float = 50.0
    ap: float = 0.1


class Unreadable(ValueError):
    """A query that R4 gives no meaning: a server answers it with 400."""
