"""A registry's table in Redis, for several registries behind one name: whoever is asked knows what all were told.

    p2p:{registry}:peer:KEY       the entry as JSON; Redis lets it expire
    p2p:{registry}:scope:N        sorted set of KEYs by their expiry; what a question draws from
    p2p:{registry}:source:SOURCE  sorted set likewise; what bounds one source

The braces keep all of it on one node of a cluster. An announcement is one script, so that two registries cannot both
give the last place away; it takes the time from Redis, so that their clocks need not agree. redis-py's asyncio client
does not run on trio, so its blocking one is used, in as many threads as there are connections.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from http_control.registry.table import Noted, TableUnavailable
from p2p import ConfigError, registry

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

PREFIX: Final = "p2p:{registry}:"
ANSWER_S: Final = 1.0
"""What Redis has for a connection, and for each answer: a call that nobody waits for any more ends soon after."""

REFUSED: Final = (
    "Redis lets nobody in with the user and password of --store, or not at these keys: write "
    "redis://USER:PASSWORD@HOST:PORT/0, or redis://:PASSWORD@HOST:PORT/0 where users have no names; and give that user "
    "the keys p2p:{registry}:*"
)

_NOTE: Final = """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local peer, scope, source = KEYS[1], KEYS[2], KEYS[3]
    local member, value, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
    redis.call('ZREMRANGEBYSCORE', scope, '-inf', now)
    redis.call('ZREMRANGEBYSCORE', source, '-inf', now)
    if not redis.call('ZSCORE', source, member) then
        if redis.call('ZCARD', source) >= tonumber(ARGV[5]) then
            local unsigned = nil
            if ARGV[6] == 'signed' then
                for _, other in ipairs(redis.call('ZRANGE', source, 0, -1)) do
                    if string.find(other, '|=', 1, true) then
                        unsigned = other
                        break
                    end
                end
            end
            if not unsigned then return 'source_full' end
            -- What it said expires by itself: nobody finds it without these.
            redis.call('ZREM', source, unsigned)
            redis.call('ZREM', scope, unsigned)
        end
        if redis.call('ZCARD', scope) >= tonumber(ARGV[4]) then return 'full' end
    end
    redis.call('SET', peer, value, 'PX', ttl)
    redis.call('ZADD', scope, now + ttl, member)
    redis.call('ZADD', source, now + ttl, member)
    for _, set in ipairs({scope, source}) do
        -- Another registry may have a longer ttl: its entries need the set for longer.
        if redis.call('PTTL', set) < ttl then redis.call('PEXPIRE', set, ttl) end
    end
    return 'taken'
"""


class RedisTable:
    """`Table` in Redis 6.2 or later.

    Args:
        url: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` with TLS, or `unix://PATH`.
        chance: where random numbers come from.

    Raises:
        ConfigError: redis-py is not installed, the URL is not usable, or nobody answers there.
    """

    calls_max = 8
    may_be_abandoned = True

    def __init__(self, url: str, *, chance: random.Random | None = None) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ConfigError(
                "a table in Redis needs redis-py: pip install 'trio-p2p[redis]', or '.[redis]' in a clone"
            ) from None
        self._errors = redis.RedisError
        self._refusals = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
        self._chance = chance or random.SystemRandom()
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=self.calls_max,
                timeout=ANSWER_S,
                socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S,
                retry=Retry(NoBackoff(), 1),  # a connection that Redis closed meanwhile is made anew
                decode_responses=True,
            )
        except ValueError as error:
            # It may quote the URL, and that may hold a password.
            del error
            raise ConfigError("the URL of Redis is not usable: write redis://HOST:PORT/0") from None
        self._redis: Redis = redis.Redis(connection_pool=pool)
        self._note_script = self._redis.register_script(_NOTE)
        try:
            self._within(self._redis.ping)
        except TableUnavailable as error:
            self.close()
            raise ConfigError(str(error)) from None

    def note(self, entry: registry.Entry, room: registry.Room) -> Noted:
        peer = entry.peer
        member = f"{peer.host}|{peer.tcp_port}|{peer.scheme}|{peer.peer_id or '=' + peer.node_id}"
        keys = [f"{PREFIX}peer:{member}", _scope_key(entry.scope), f"{PREFIX}source:{entry.source}"]
        ttl_ms = int(room.ttl_s * 1000)
        values: list[str | bytes | int] = [
            member,
            msgspec.json.encode(peer),
            ttl_ms,
            room.entries_max,
            room.of_source(entry.scope),
            "signed" if peer.peer_id else "unsigned",
        ]
        return Noted(self._within(lambda: self._note_script(keys=keys, args=values)))

    def pick(self, scopes: Sequence[registry.Scope], count: int) -> list[registry.ListedPeer]:
        members = self._within(lambda: self._draw(scopes, count))
        if not members:
            return []
        chosen = self._chance.sample(members, min(count, len(members)))
        keys = [f"{PREFIX}peer:{member}" for member in chosen]
        values, lives = self._within(lambda: self._read(keys))
        found = [_listed(value, life) for value, life in zip(values, lives, strict=True)]
        return [peer for peer in found if peer is not None]

    def _draw(self, scopes: Sequence[registry.Scope], count: int) -> list[str]:
        with self._redis.pipeline(transaction=False) as pipe:
            for scope in scopes:
                pipe.zrandmember(_scope_key(scope), count)
            return [member for members in pipe.execute() for member in members or ()]

    def _read(self, keys: Sequence[str]) -> tuple[list[str | None], list[int]]:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.mget(keys)
            for key in keys:
                pipe.pttl(key)
            values, *lives = pipe.execute()
            return values, lives

    def size(self) -> int:
        def count() -> list[int]:
            seconds, microseconds = self._redis.time()
            now_ms = seconds * 1000 + microseconds // 1000
            with self._redis.pipeline(transaction=False) as pipe:
                for scope in registry.Scope:
                    pipe.zcount(_scope_key(scope), f"({now_ms}", "+inf")
                return pipe.execute()

        return sum(self._within(count))

    def close(self) -> None:
        self._redis.close()
        self._redis.connection_pool.disconnect()

    def _within(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except self._refusals:
            raise TableUnavailable(REFUSED) from None
        except self._errors as error:
            raise TableUnavailable(f"Redis cannot be used: {error}") from None


def _listed(value: str | None, life_ms: int) -> registry.ListedPeer | None:
    """An entry as it is listed; None if it expired meanwhile, or if it is not one of ours."""
    if value is None or life_ms <= 0:
        return None
    try:
        peer = msgspec.json.decode(value, type=registry.ListedPeer)
    except msgspec.MsgspecError:
        return None
    return msgspec.structs.replace(peer, expires_s=round(life_ms / 1000, 1))


def _scope_key(scope: registry.Scope) -> str:
    return f"{PREFIX}scope:{int(scope)}"
