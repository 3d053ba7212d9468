"""Snapshots and sealed links of paged answers: what `$everything` and searches do alike."""

from __future__ import annotations

import msgspec

from fhirserver.core import page
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.page import Page, Position
from fhirserver.http.selection import number
from fhirserver.http.server import Server
from fhirserver.policy.gate import Scoped

DEFAULT_COUNT = 50
MAX_COUNT = 1000


def page_size(given: str | None) -> int:
    """The `_count` of a search or history; Fault BAD_REQUEST for what is no whole number."""
    return DEFAULT_COUNT if given is None else min(number("_count", given), MAX_COUNT)


class Paging(msgspec.Struct, frozen=True):
    """The pages of one request by one client. ``request`` is its path below the base with its fixed parameters (the
    host may differ between two pages); ``view`` the digest of what the caller may see of it."""

    server: Server
    scoped: Scoped
    request: str
    view: str

    async def here(self, sealed: str | None, *, offset: int = 0) -> Page:
        """The page asked for: the sealed one, or ``offset`` entries into a fresh snapshot. Fault EXPIRED when the
        view is another than on the first page, since two views must not be mixed in one walk."""
        now = self.server.clock()
        if sealed is not None:
            here = self.opened(sealed)
            if here.view != self.view:
                raise Fault(Kind.EXPIRED, "What you may see of this has changed; start again.")
            return here
        high = await self.scoped.high_water()
        return Page(
            as_of=high.seq,
            time=high.time,
            total=None,
            offset=offset,
            at=Position(0, 0) if offset == 0 else None,
            view=self.view,
            expires=now + self.server.page_minutes * 60_000,
        )

    def opened(self, sealed: str) -> Page:
        """The sealed page, whatever view it was made for."""
        return page.open_sealed(sealed, key=self.server.page_key, bound=self._bound, now=self.server.clock())

    def seal(self, here: Page, *, offset: int, at: Position | None) -> str:
        """The value of `_page` that leads ``offset`` entries into the walk of ``here``."""
        place = msgspec.structs.replace(here, offset=offset, at=at)
        return page.seal(place, key=self.server.page_key, nonce=self.server.nonce(), bound=self._bound)

    @property
    def _bound(self) -> bytes:
        who = self.scoped.principal
        return page.binding(f"{who.organization}/{who.subject}", self.request)
