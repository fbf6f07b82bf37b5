"""Sessions of the API with their encoded examples, limited in number, size and age."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from fewseg.core.errors import did_you_mean
from fewseg.core.objects import Kind
from fewseg.inference.supports import LabelSupport
from fewseg.server.api_errors import ApiError
from fewseg.server.limits import MEGABYTE, Limits
from fewseg.server.model import SupportsByLabel, supports_bytes


@dataclass(frozen=True)
class SessionState:
    """The labels of one client, as a value: teaching makes another value with the same `id`."""

    id: str
    name: str
    created: float
    """Seconds since 1970."""
    supports: SupportsByLabel = field(default_factory=lambda: MappingProxyType({}))

    @property
    def shots(self) -> int:
        return sum(support.shots for support in self.supports.values())

    def shot_ids(self, label: str) -> tuple[str, ...]:
        """Ids of a label's examples, in order of teaching; the same example of the same label gets the same id."""
        return tuple(shot_id(label, digest) for digest in self.supports[label].digests)

    def chosen(self, labels: list[str] | None) -> SupportsByLabel:
        """The supports of `labels`, or of all; raises `ApiError` 404 for an unknown label, 409 for an empty session."""
        if not self.supports:
            raise ApiError(409, f"session {self.id} was taught nothing yet: send examples to /sessions/{self.id}/shots")
        if not labels:
            return self.supports
        for label in labels:
            self.require(label)
        return {label: self.supports[label] for label in labels}

    def require(self, label: str) -> None:
        """Raise `ApiError` 404 for a label that was not taught."""
        if label not in self.supports:
            hint = did_you_mean(label, list(self.supports)) or f"there are {len(self.supports)}"
            raise ApiError(404, f"no label {label[:100]!r} in session {self.id}; {hint}")


def shot_id(label: str, digest: str) -> str:
    """The id of an example; `digest` is that of its pixels and mask."""
    return hashlib.sha256(f"{label}\0{digest}".encode()).hexdigest()[:16]


class SessionStore:
    """All sessions. Every method may be called from any thread and is atomic."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._sessions: dict[str, SessionState] = {}
        self._used: dict[str, float] = {}

    def create(self, name: str = "", supports: Mapping[str, LabelSupport] | None = None) -> SessionState:
        """A new session; raises `ApiError` 429 when there are too many, 413 when it does not fit."""
        with self._lock:
            self._drop_idle()
            if len(self._sessions) >= self._limits.sessions:
                wait = self._limits.idle_seconds - (self._clock() - min(self._used.values()))
                line = f"{len(self._sessions)} sessions are kept already: delete one, or wait until one has been idle"
                raise ApiError(429, line, retry_after=wait)
            session = SessionState(secrets.token_hex(8), name, time.time(), MappingProxyType(dict(supports or {})))
            self._put(session)
            return session

    def get(self, session_id: str) -> SessionState:
        """A session, whose idle time starts anew; raises `ApiError` 404."""
        with self._lock:
            self._drop_idle()
            return self._touch(session_id)

    def all(self) -> list[SessionState]:
        """Every session, the oldest first."""
        with self._lock:
            self._drop_idle()
            return list(self._sessions.values())

    def drop_idle(self) -> None:
        """Delete the sessions that were not used for `limits.idle_seconds`."""
        with self._lock:
            self._drop_idle()

    def seconds_left(self, session_id: str) -> float:
        """Time until a session is deleted, unless it is used before."""
        used = self._used.get(session_id, self._clock())
        return max(0.0, self._limits.idle_seconds - (self._clock() - used))

    def delete(self, session_id: str) -> None:
        """Delete a session; raises `ApiError` 404."""
        with self._lock:
            self._touch(session_id)
            self._remove(session_id)

    def teach(self, session_id: str, label: str, examples: list[LabelSupport]) -> SessionState:
        """Add encoded examples of a label; raises `ApiError` 409 for a known example, 413 for too many."""
        with self._lock:
            session = self._touch(session_id)
            known = session.supports.get(label)
            digests = list(known.digests) if known else []
            for example in examples:
                for digest in example.digests:
                    if digest in digests:
                        name = shot_id(label, digest)
                        raise ApiError(
                            409, f"{label[:100]!r} was taught this example already (shot {name}): send another"
                        )
                    digests.append(digest)
            support = LabelSupport.concatenate([*([known] if known else []), *examples])
            changed = replace(session, supports=MappingProxyType({**session.supports, label: support}))
            self._put(changed)
            return changed

    def keep_adapted(self, session_id: str, label: str, before: LabelSupport, after: LabelSupport) -> SessionState:
        """Put what was fitted to a label's examples in their place.

        Raises `ApiError` 404 for no such label, 409 where its examples are not those `before` any more.
        """
        with self._lock:
            session = self._touch(session_id)
            session.require(label)
            if session.supports[label].digests != before.digests:
                raise ApiError(409, f"{label[:100]!r} was taught or forgotten meanwhile: adapt it again")
            return self._replaced(session, {**session.supports, label: after})

    def set_kind(self, session_id: str, label: str, kind: Kind | None) -> SessionState:
        """Say whether a label is one of things or of stuff; raises `ApiError` 404."""
        with self._lock:
            session = self._touch(session_id)
            session.require(label)
            return self._replaced(session, {**session.supports, label: replace(session.supports[label], kind=kind)})

    def forget_label(self, session_id: str, label: str) -> SessionState:
        """Remove a label; raises `ApiError` 404."""
        with self._lock:
            session = self._touch(session_id)
            session.require(label)
            kept = {name: support for name, support in session.supports.items() if name != label}
            return self._replaced(session, kept)

    def forget_shot(self, session_id: str, shot: str) -> SessionState:
        """Remove an example, and its label with the last one; raises `ApiError` 404."""
        with self._lock:
            session = self._touch(session_id)
            for label, support in session.supports.items():
                names = session.shot_ids(label)
                if shot in names:
                    kept = dict(session.supports)
                    if support.shots == 1:
                        del kept[label]
                    else:
                        kept[label] = support.drop(names.index(shot))
                    return self._replaced(session, kept)
        raise ApiError(404, f"no shot {shot[:40]!r} in session {session.id}: GET its labels for those there are")

    # ------------------------------------------------------------------------------ with the lock held

    def _replaced(self, session: SessionState, supports: dict[str, LabelSupport]) -> SessionState:
        changed = replace(session, supports=MappingProxyType(supports))
        self._sessions[session.id] = changed
        return changed

    def _put(self, session: SessionState) -> None:
        """Store a session that may have grown; raises `ApiError` 413 where it exceeds a limit."""
        limits = self._limits
        if len(session.supports) > limits.labels:
            raise ApiError(413, f"a session has at most {limits.labels} labels: forget one, or use another session")
        if session.shots > limits.shots:
            raise ApiError(413, f"a session has at most {limits.shots} examples: forget some, or use another session")
        others = sum(supports_bytes(s.supports) for s in self._sessions.values() if s.id != session.id)
        total = others + supports_bytes(session.supports)
        if total > limits.taught_bytes:
            would = f"all examples would take {total // MEGABYTE} MB, the server keeps {limits.taught_mb}"
            raise ApiError(413, f"{would}: forget examples, or delete sessions")
        self._sessions[session.id] = session
        self._used[session.id] = self._clock()

    def _touch(self, session_id: str) -> SessionState:
        if session_id not in self._sessions:
            raise ApiError(404, f"no session {session_id[:40]!r}: create one; idle ones are forgotten")
        self._used[session_id] = self._clock()
        return self._sessions[session_id]

    def _drop_idle(self) -> None:
        now = self._clock()
        for session_id in [i for i, used in self._used.items() if now - used > self._limits.idle_seconds]:
            self._remove(session_id)

    def _remove(self, session_id: str) -> None:
        del self._sessions[session_id]
        del self._used[session_id]
