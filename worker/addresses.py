"""The addresses of Kafka and Redis as settings have them: how they are written, what they name, and their passwords masked."""

import re
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

_BROKER_HINT = "write kafka://host:port, several joined by commas"
_LOGIN_HINT = "percent-encode user and password: # as %23, / as %2F, ? as %3F, @ as %40, [ as %5B, % as %25"
_REDIS_HINT = "write redis://host:port/db or rediss://host:port/db"
_CLUSTER = "+cluster"
_CLUSTER_HINT = "write redis+cluster://host:port,host:port or rediss+cluster://host:port"


def check_kafka(urls: str) -> None:
    """Checks the addresses of brokers.

    Raises:
        ValueError: one is wrong; the message tells how to write it.
    """
    for part in re.split("[,;]", urls):
        try:
            url = _kafka_url(part)
        except ValueError:
            raise ValueError(f"{_BROKER_HINT}; an address of IPv6 in brackets") from None
        if url.username is not None:
            raise ValueError("write user and password to ATTENDANCE_BROKER_USERNAME and ATTENDANCE_BROKER_PASSWORD")
        if url.scheme != "kafka" or not _is_server(url):
            raise ValueError(_BROKER_HINT)


def kafka_servers(urls: str) -> list[str]:
    """``host:port`` of each broker."""
    return [f"{_host(url)}:{url.port or 9092}" for url in map(_kafka_url, re.split("[,;]", urls))]


def check_redis(redis: str) -> None:
    """Checks the URL of Redis or of a cluster.

    Raises:
        ValueError: it is wrong; the message tells how to write it, and quotes no part of a password.
    """
    try:
        url = urlsplit(redis)
    except ValueError:
        # the text of the error would quote a part of the password
        raise ValueError(_LOGIN_HINT) from None
    if url.fragment or "@" in url.path or any("=" not in option for option in filter(None, url.query.split("&"))):
        # a sign in the password cut the URL: part of it would be taken for host and port, which error messages quote
        raise ValueError(_LOGIN_HINT)
    if url.scheme.endswith(_CLUSTER):
        if url.scheme not in ("redis" + _CLUSTER, "rediss" + _CLUSTER) or not all(map(_is_server, _servers(url))):
            raise ValueError(_CLUSTER_HINT)
        if url.path not in ("", "/", "/0") or re.search(r"(^|&)db=", url.query):
            raise ValueError(f"{_CLUSTER_HINT}; a cluster has no numbered databases")
    elif url.scheme not in ("redis", "rediss") or "," in url.netloc or not _is_server(url):
        raise ValueError(f"{_REDIS_HINT}; of a cluster {_CLUSTER_HINT[6:]}")
    elif not re.fullmatch(r"/?\d*/?", url.path):
        raise ValueError(f"{_REDIS_HINT}, where db is a number")
    _check_options(url)


def is_cluster(redis: str) -> bool:
    return urlsplit(redis).scheme.endswith(_CLUSTER)


def redis_servers(redis: str) -> list[tuple[str, int]]:
    """Host and port of Redis, or of each named server of a cluster."""
    return [(str(server.hostname), server.port or 6379) for server in _servers(urlsplit(redis))]


def server_url(redis: str, host: str, port: int) -> str:
    """The URL of one server: of Redis, or of this server of the cluster, with the same login and options."""
    url = urlsplit(redis)
    if host:
        login, at, _ = url.netloc.rpartition("@")
        url = url._replace(netloc=f"{login}{at}[{host}]:{port}" if ":" in host else f"{login}{at}{host}:{port}")
    return url._replace(scheme=url.scheme.removesuffix(_CLUSTER)).geturl()


def masked(redis: str) -> str:
    """The URL with its passwords masked."""
    url = urlsplit(redis)
    query = "&".join(_masked_option(option) for option in url.query.split("&"))
    login, at, servers = url.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    netloc = f"{user}{colon}***{at}{servers}" if colon else url.netloc
    return url._replace(query=query, netloc=netloc).geturl()


def _kafka_url(text: str) -> SplitResult:
    return urlsplit(text if "://" in text else f"kafka://{text}")


def _servers(redis: SplitResult) -> list[SplitResult]:
    return [urlsplit(f"//{server}") for server in redis.netloc.rpartition("@")[2].split(",")]


def _host(url: SplitResult) -> str:
    """The host as part of an address: IPv6 in brackets."""
    host = url.hostname or ""
    return f"[{host}]" if ":" in host else host


def _is_server(url: SplitResult) -> bool:
    return _has_good_host(url) and _has_good_port(url)


def _has_good_host(url: SplitResult) -> bool:
    try:
        # as the standard library does before it resolves the name
        return bool((url.hostname or "").encode("idna"))
    except UnicodeError:
        return False


def _has_good_port(url: SplitResult) -> bool:
    try:
        return url.port != 0
    except ValueError:
        return False


def _check_options(url: SplitResult) -> None:
    """Raises ValueError if redis-py does not take an option of the URL, or if answers would be other than bytes."""
    plain = f"{url.scheme.removesuffix(_CLUSTER)}://localhost?{url.query}"
    try:
        pool: Any = ConnectionPool.from_url(plain)
        pool.make_connection()
        is_good = "decode_responses" not in parse_qs(url.query)
    except (TypeError, ValueError, RedisError):
        is_good = False
    if not is_good:
        names = ", ".join(unquote(option.partition("=")[0]) for option in url.query.split("&"))
        raise ValueError(f"leave out what redis-py does not take of the options {names}; those of TLS go with rediss://")


def _masked_option(option: str) -> str:
    """An option of a Redis URL, masked if it is a password; its name may be percent-encoded."""
    name, equals, _ = option.partition("=")
    return f"{name}{equals}***" if "password" in unquote(name).lower() else option
