"""Pulls: read the server's log page by page, give the changes to the app, and move the confirmed cursor.

    cursor ──▶ page ──▶ decrypted: changes ──▶ the app ──▶ confirmed: the cursor moves past the page
                           ├── unreadable: left out, logged, reported; `retry_unreadable` goes back to the first one
                           └── locked: left out; the next pull with another key goes back to the first one

`feed` does the same for a store, which keeps a position of its own.

No change can stop a device, and no server can keep it in an endless pull: ProtocolError is raised if the cursor does
not advance, or if the log is replaced twice during one pull. Only the client uses this; thread-safe.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from .cancellable import holding
from .conflicts import ReadAgain
from .errors import DecryptionFailed, ProtocolError, ServerError
from .models import BEGINNING, Position, PulledChange, PulledChanges, PullFilter, PullResult, UnreadableChange, to_text
from .serialization import Keys, Opened, Page, member
from .session import Session
from .state import LeftOut, State
from .stores import Store

MAX_LOGGED = 10_000
"""Upper bound of unreadable changes that are remembered as logged; beyond it, some are logged again."""

LATEST = {"latest": True}

Apply = Callable[[list[PulledChange]], object]
OnPage = Callable[[Page], object]
OnReadAgain = Callable[[ReadAgain], object]
OnUnreadable = Callable[[UnreadableChange], object]

log = logging.getLogger("synckit_notify.client")


class MasterKeys(Keys, Protocol):
    """The keys of this process and their ids: an `Encryption`, or `NoEncryption`."""

    @property
    def key_ids(self) -> frozenset[str]: ...
    def require_newest(self) -> None: ...


class LogReader:
    """Reads one account's log for one device; with `strict` it raises DecryptionFailed for an unreadable change."""

    def __init__(self, session: Session, state: State, keys: MasterKeys, *, strict: bool) -> None:
        self._session, self._state, self._keys, self._strict = session, state, keys, strict
        self._applying = threading.Lock()
        self._logged: set[tuple[str | None, int]] = set()
        self._whole_history = False

    def apply(
        self,
        apply: Apply,
        on_unreadable: OnUnreadable | None,
        *,
        latest: bool = False,
        on_page: OnPage = lambda page: None,
        on_read_again: OnReadAgain = lambda again: None,
    ) -> PullResult:
        """Pass each page to `apply`, and confirm it when `apply` has returned.

        `latest` asks for the winner of each row only. `on_page` is called with each page that was confirmed,
        `on_read_again` if the log must be read from its start.
        """

        def restart(stale: Position, again: ReadAgain) -> tuple[Position, bool]:
            on_read_again(again)
            return self._restart(stale, again)

        with holding(self._applying):
            start, restarting = self._start()
            end, unreadable, locked = start, 0, 0
            for page, opened in self._pages(start, restarting, LATEST if latest else {}, restart):
                if page.start != end:
                    unreadable = locked = 0
                if opened.changes:
                    apply(opened.changes)
                _report_to_app(opened.unreadable, on_unreadable)
                self._confirm(page.start, page, opened.left_out())
                on_page(page)
                end = page.end
                unreadable += len(opened.unreadable)
                locked += len(opened.locked)
        return PullResult([], end, page.restarted, lambda: None, unreadable=unreadable, locked=locked)

    def feed(
        self, store: Store, on_unreadable: OnUnreadable | None, on_page: OnPage, on_read_again: OnReadAgain
    ) -> None:
        """Pass all changes after the store's position to the store, this device's own included.

        The state follows, so that it keeps the first locked change. It may go back (`unlock`, `retry_unreadable`), or
        come from a copy that is older than the store; the lower of the two positions counts.
        """

        position = store.position()

        def restart(stale: Position, again: ReadAgain) -> tuple[Position, bool]:
            nonlocal position
            on_read_again(again)
            self.begin_again(store, was_away=again.was_away)
            position = BEGINNING
            return position, True

        start = self._common_start(position)
        if start.cursor == 0 and position.epoch is not None:
            # The server answers a device that was away too, if it reads from the start. So each such reading counts.
            self.begin_again(store, was_away=False)
            start = position = BEGINNING
        for page, opened in self._pages(start, True, LATEST, restart):
            if opened.rows_left_out:
                store.keep(opened.rows_left_out)
            if opened.changes or page.end != position or page.end.is_complete != position.is_complete:
                store.apply(opened.changes, page.end)
                position = page.end
            _report_to_app(opened.unreadable, on_unreadable)
            self._confirm(page.start, page, opened.left_out())
            on_page(page)

    def begin_again(self, store: Store, *, was_away: bool) -> None:
        """Let the store and the state begin again at the start of the log.

        First the queue forgets the edits of the store: one of them may be of a row that the log no longer has. The
        store still has them, and says after that which of them are still to send.
        """
        self._state.queue.give_back()
        store.begin_again(was_away=was_away)
        self.read_again()

    def read_again(self) -> None:
        """Let the state begin again at the start of the log."""
        self._state.restart(self._state.position()[0])

    def collect(self, on_unreadable: OnUnreadable | None) -> PullResult:
        """Return the changes of all pages, for the app to confirm."""
        start, restarting = self._start()
        first, last, total = _gather(start, self._pages(start, restarting, {}, self._restart))
        _report_to_app(total.unreadable, on_unreadable)
        left_out = total.left_out()

        def confirm() -> None:
            self._confirm(first, last, left_out)

        if not total.changes:  # only changes of this device, perhaps: the app has nothing to confirm
            confirm()
        return PullResult(total.changes, last.end, last.restarted, confirm, **_counts(total))

    def choose(self, chosen: PullFilter, on_unreadable: OnUnreadable | None) -> PulledChanges:
        """Return the changes that match the filter; the state does not change."""
        confirmed = self._state.confirmed()
        pages = self._pages(chosen.position, False, chosen.body(), lambda *_: (BEGINNING, True), confirmed=confirmed)
        try:
            _, last, total = _gather(chosen.position, pages)
        except ServerError as error:
            again = ReadAgain.asked_by(error)
            raise (again.as_error() if again is not None and again.was_away else error) from None
        _report_to_app(total.unreadable, on_unreadable)
        return PulledChanges(total.changes, last.end, last.restarted, **_counts(total))

    def _start(self) -> tuple[Position, bool]:
        self._state.unlock(self._keys.key_ids)
        return self._state.position()

    def _common_start(self, stored: Position) -> Position:
        """Return the lower of the positions of a store and of the state."""
        own, _ = self._start()
        if stored.epoch is None:
            return Position(own.epoch, 0)
        if own.epoch not in (None, stored.epoch):
            self._state.restart(own)
            own = BEGINNING
        return Position(stored.epoch, min(stored.cursor, own.cursor))

    def _pages(
        self,
        position: Position,
        restarted: bool,
        query: Mapping[str, Any],
        restart: Callable[[Position, ReadAgain], tuple[Position, bool]],
        *,
        confirmed: int | None = None,
    ) -> Iterator[tuple[Page, Opened]]:
        """Yield pages from a position on, at least one; start again, once, if the log must be read again."""
        device, account = self._state.device_id(), self._session.account()
        replaced = is_newest = False
        while True:
            known = min(position.cursor, self._state.confirmed()) if confirmed is None else confirmed
            body = {**query, "device_id": device, "cursor": position.cursor, "confirmed": known}
            try:
                answer = self._ask(body, position)
            except ReadAgain as again:
                if replaced:
                    raise ProtocolError(
                        "the server's log was replaced twice during one pull: check that all servers at this address "
                        "use the same database"
                    ) from None
                log.warning("%s", again)
                position, restarted = restart(position, again)
                confirmed, replaced = None, True
                continue
            page = Page.read(answer, position, restarted, filtered=bool(query))
            opened = page.open(self._keys, account, device)
            if opened.locked and not is_newest:
                self._keys.require_newest()
                is_newest = True
                opened = page.open(self._keys, account, device)  # a newer envelope may have brought older keys
            self._report(page, opened.unreadable)
            yield page, opened
            if not page.has_more:
                return
            position = page.end

    def _ask(self, body: dict[str, Any], position: Position) -> Mapping[str, Any]:
        """Return the server's answer; raises ReadAgain if its log does not go on after this position.

        A server that does not serve `latest` for this app says so once, and is asked for the history from then on.
        """
        if self._whole_history:
            body.pop("latest", None)
        try:
            answer = self._session.call("POST", "/api/sync/pull", body | {"epoch": position.epoch}, idempotent=True)
        except ServerError as error:
            again = ReadAgain.asked_by(error)
            if again is not None and (position != BEGINNING or body["confirmed"]):
                raise again from error
            if error.status != 422 or "latest" not in body or not str(error).startswith("latest:"):
                raise
            log.warning("reading the whole history instead of the newest rows: %s", error)
            self._whole_history = True
            return self._ask(body, position)
        if position.epoch not in (None, member(answer, "epoch", str)):
            raise ReadAgain("the server's log was replaced")
        return answer

    def _restart(self, stale: Position, again: ReadAgain) -> tuple[Position, bool]:
        self._state.restart(stale)
        return self._state.position()

    def _confirm(self, start: Position, last: Page, left_out: LeftOut) -> None:
        complete_until = None if last.has_more else to_text(last.server_time)
        self._state.advance(start.cursor, last.end, complete_until, left_out)

    def _report(self, page: Page, unreadable: list[UnreadableChange]) -> None:
        """Log the changes that are left out, each once; raise DecryptionFailed if strict."""
        if self._strict and unreadable:
            raise DecryptionFailed(**asdict(unreadable[0]))
        new = [change for change in unreadable if (page.end.epoch, change.seq) not in self._logged]
        if len(self._logged) + len(new) > MAX_LOGGED:
            self._logged.clear()
        self._logged |= {(page.end.epoch, change.seq) for change in new}
        if new:
            log.warning(
                "changes that cannot be read were left out: %d. The first is %d (table %.130r, row %.260r, "
                "device %.130r): %s",
                *(len(new), new[0].seq, new[0].table, new[0].row_id, new[0].device_id, new[0].reason),
            )


def _gather(start: Position, pages: Iterable[tuple[Page, Opened]]) -> tuple[Position, Page, Opened]:
    """Return the start of the pages, the last page and all changes; pages of a log that was replaced are dropped."""
    total, end = Opened(), start
    for page, opened in pages:
        if page.start != end:
            total, start = Opened(), page.start
        total.extend(opened)
        end = page.end
    return start, page, total


def _report_to_app(unreadable: list[UnreadableChange], on_unreadable: OnUnreadable | None) -> None:
    if on_unreadable is not None:
        for change in unreadable:
            on_unreadable(change)


def _counts(opened: Opened) -> dict[str, int]:
    return {"unreadable": len(opened.unreadable), "locked": len(opened.locked)}
