"""Settings from the environment (``ATTENDANCE_*``) and an optional ``.env``; `deploy/README.md` lists them all."""

import os
import re
import socket
import ssl
from datetime import timedelta
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

ENV_PREFIX = "ATTENDANCE_"
_DISTRIBUTION = "attendance-worker"

_BROKER_HINT = "write kafka://host:port, several joined by commas"
_LOGIN_HINT = "percent-encode user and password: # as %23, / as %2F, ? as %3F, @ as %40, [ as %5B, % as %25"
_REDIS_HINT = "write redis://host:port/db or rediss://host:port/db"
_CLUSTER = "+cluster"
_CLUSTER_HINT = "write redis+cluster://host:port,host:port or rediss+cluster://host:port"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


#: Variables with this prefix that are no settings: they belong to Docker compose and to the tests.
_OTHER_VARIABLES = {
    "ATTENDANCE_REDIS_PASSWORD",
    "ATTENDANCE_TEST_BROKER",
    "ATTENDANCE_TEST_BROKER_KIND",
    "ATTENDANCE_TEST_REDIS",
}


class SettingsError(Exception):
    """A setting is wrong. The message names it and how to fix it; no retry helps."""


def _duration(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([smhd])", text.strip())
    try:
        # None refuses a number without a unit, which pydantic would take for seconds
        return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None if _is_number(text) else text
    except OverflowError:
        return None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d.\s]*", text) is not None


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(0), le=timedelta(days=36_500))]
_DURATION_HINT = "write a duration as 90s, 5m, 2h or 30d, at most 36500d"


def duration(text: str) -> timedelta | None:
    """The duration written as ``90s``, ``5m``, ``2h`` or ``30d``; None if the text is no duration."""
    value = _duration(text)
    return value if isinstance(value, timedelta) else None


class Settings(BaseSettings):
    """The settings of a process. Durations are written as ``90s``, ``5m``, ``2h`` or ``30d``."""

    # compose and Helm write `VAR: ${VAR:-}`: a variable that is not set arrives as an empty text
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    broker: str = Field("kafka://localhost:9092", description="Kafka, as kafka://host:port, several joined by commas")
    broker_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="security protocol of the connections to Kafka"
    )
    broker_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism"
    )
    broker_username: str = Field("", description="user name for SASL")
    broker_password: SecretStr = Field(SecretStr(""), description="password for SASL")
    broker_ca_file: Path | None = Field(None, description="PEM file of the authority that signed the broker's certificate")
    redis: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        description="Redis or Valkey, as redis://host:port/db or rediss://; a cluster as redis+cluster://host:port,host:port",
    )
    topic_prefix: str = Field("attendance", description="prefix of all topics, and the consumer group; one tenant each")
    namespace: str = Field("", description="prefix of all Redis keys; the topic prefix where empty")
    partitions: int = Field(
        16,
        ge=1,
        le=10_000,
        description="partitions of every topic except the group changelog, which has one; cannot be changed in place",
    )
    replication: int = Field(
        0, ge=0, le=10, description="replication factor of topics that are created; 0: three, or the number of brokers if fewer"
    )
    store: str = Field(
        "rocksdb://", description="where workers keep table rows: rocksdb://, rocksdb:///absolute/folder or memory://"
    )
    clock_tolerance: Duration = Field(
        timedelta(minutes=5), description="how far ahead of its reception an event's time may count"
    )
    conflict_window: Duration = Field(
        timedelta(minutes=10), description="how close two reports must be to contradict each other"
    )
    max_event_age: Duration = Field(timedelta(days=30), description="how long before its reception an event may have happened")
    session_timeout: Duration = Field(
        timedelta(seconds=8),
        description="how long a silent worker keeps its partitions (the broker allows 6 s and more)",
    )
    api_bind: str = Field("127.0.0.1:8080", description="where the API listens, as host:port")
    api_tokens: Path | None = Field(
        None, description="file of the API's tokens; without it only this machine is served, without tokens"
    )
    api_max_body: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="largest request body, bytes")
    api_max_requests: int = Field(512, ge=1, le=100_000, description="concurrent requests of an API process")
    api_body_timeout: Duration = Field(timedelta(seconds=10), description="how long a request may take to arrive")
    api_request_timeout: Duration = Field(timedelta(seconds=30), description="how long a request may take altogether")
    api_set_timeout: Duration = Field(timedelta(seconds=5), description="how long a set waits until a worker has applied it")
    api_stop_timeout: Duration = Field(timedelta(seconds=10), description="how long a stopping API finishes requests")
    api_cors_origins: str = Field(
        "", description="web pages and webhook senders of other origins that may call the API, joined by commas"
    )
    api_access_log: bool = Field(False, description="whether the API logs each request")
    query_first_filter_only: bool = Field(
        False, description="apply only the first of several filters, as the original Attendance API does"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level that is logged")
    log_format: Literal["logfmt", "json"] = Field("logfmt", description="format of log lines: logfmt or json")

    @field_validator("broker_security", "broker_sasl_mechanism", "log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _in_small_letters(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("broker")
    @classmethod
    def _kafka_url(cls, value: str) -> str:
        for part in re.split("[,;]", value):
            try:
                url = urlsplit(part if "://" in part else f"kafka://{part}")
            except ValueError:
                raise ValueError(f"{_BROKER_HINT}; an address of IPv6 in brackets") from None
            if url.username is not None:
                raise ValueError("write user and password to ATTENDANCE_BROKER_USERNAME and ATTENDANCE_BROKER_PASSWORD")
            if url.scheme != "kafka" or not _is_server(url):
                raise ValueError(_BROKER_HINT)
        return value

    @field_validator("broker_ca_file")
    @classmethod
    def _certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:
                raise ValueError(f"{value} cannot be used ({error}): name a PEM file of certificates") from None
        return value

    @field_validator("redis")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        try:
            url = urlsplit(value.get_secret_value())
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
        _check_redis_options(url)
        return value

    @field_validator("store")
    @classmethod
    def _store_url(cls, value: str) -> str:
        url = urlsplit(value)
        has_folder = url.scheme == "rocksdb" and url.path.strip("/")
        if value not in ("memory://", "rocksdb://") and (not has_folder or value != f"rocksdb://{url.path}"):
            raise ValueError("write rocksdb://, rocksdb:///absolute/folder or memory://")
        return value

    @field_validator("api_bind")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        try:
            url = urlsplit(f"//{value}")
            is_valid = url.hostname and url.port is not None and not url.path and url.username is None
        except ValueError:
            is_valid = None
        if not is_valid:
            raise ValueError("write host:port, as in 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080")
        return value

    @field_validator("api_cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for entry in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(r"\*|(https?://)?[A-Za-z0-9._-]+(:\d{1,5})?/?|https?://\[[0-9A-Fa-f:.]+\](:\d{1,5})?/?", entry):
                raise ValueError(
                    "write origins as https://app.example.org, webhook senders as eventgrid.example, joined by commas"
                )
        return value

    @field_validator("topic_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not value:
            raise ValueError("write a name of letters, digits, dots, dashes and underscores; all topics begin with it")
        return value

    @field_validator("topic_prefix", "namespace")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", value):
            raise ValueError("write up to 100 letters, digits, dots, dashes and underscores")
        return value

    @classmethod
    def for_redis(cls, url: str) -> "Settings":
        """Settings with only ``redis`` set, without reading the environment.

        Raises:
            ValueError: the URL is wrong; the message tells how to write it.
        """
        return cls.model_construct(redis=cls._redis_url(SecretStr(url)))

    @property
    def redis_namespace(self) -> str:
        return self.namespace or self.topic_prefix

    @property
    def bootstrap_servers(self) -> list[str]:
        """``host:port`` of each broker."""
        urls = (urlsplit(p if "://" in p else f"kafka://{p}") for p in re.split("[,;]", self.broker))
        return [f"{_host(url)}:{url.port or 9092}" for url in urls]

    @property
    def api_address(self) -> tuple[str, int]:
        """Host and port where the API listens."""
        url = urlsplit(f"//{self.api_bind}")
        return url.hostname or "", url.port or 0

    @property
    def is_redis_cluster(self) -> bool:
        return urlsplit(self.redis.get_secret_value()).scheme.endswith(_CLUSTER)

    @property
    def redis_servers(self) -> list[tuple[str, int]]:
        """Host and port of Redis, or of each named server of a cluster."""
        return [(str(server.hostname), server.port or 6379) for server in _servers(urlsplit(self.redis.get_secret_value()))]

    def redis_url(self, host: str = "", port: int = 0) -> str:
        """The URL for a client of one server: of Redis, or of this server of the cluster, with the same login and options."""
        url = urlsplit(self.redis.get_secret_value())
        if host:
            login, at, _ = url.netloc.rpartition("@")
            url = url._replace(netloc=f"{login}{at}[{host}]:{port}" if ":" in host else f"{login}{at}{host}:{port}")
        return url._replace(scheme=url.scheme.removesuffix(_CLUSTER)).geturl()

    def kafka_client(self) -> dict[str, Any]:
        """Connection settings for any aiokafka client."""
        client: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.broker_security,
            "client_id": client_id(),
        }
        if self.broker_security.endswith("SSL"):
            client["ssl_context"] = ssl.create_default_context(cafile=self.broker_ca_file)
        if self.broker_security.startswith("SASL"):
            client["sasl_mechanism"] = self.broker_sasl_mechanism
            client["sasl_plain_username"] = self.broker_username
            client["sasl_plain_password"] = self.broker_password.get_secret_value()
        return client

    def shaping(self) -> dict[str, int]:
        """The settings that shape results, recorded with the tables: durations in microseconds."""
        return {
            "partitions": self.partitions,
            "clock_tolerance": micros(self.clock_tolerance),
            "conflict_window": micros(self.conflict_window),
            "max_event_age": micros(self.max_event_age),
        }


def micros(duration: timedelta) -> int:
    """Whole microseconds of a duration."""
    return duration // timedelta(microseconds=1)


def _servers(redis: SplitResult) -> list[SplitResult]:
    return [urlsplit(f"//{server}") for server in redis.netloc.rpartition("@")[2].split(",")]


def _check_redis_options(url: SplitResult) -> None:
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


def client_id() -> str:
    """The name of this process in Kafka's logs and metrics."""
    host = re.sub("[^A-Za-z0-9._-]", "-", socket.gethostname())
    return f"attendance-worker-{host}-{os.getpid()}"


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: some are wrong; the message has a line for each, with its variable and how to fix it.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        messages = {str(each["loc"][0]): each["msg"] for each in reversed(error.errors(include_url=False))}
        raise SettingsError("\n".join(_error_line(*each) for each in reversed(messages.items()))) from None


def _error_line(field: str, message: str) -> str:
    is_duration = Settings.model_fields[field].annotation is timedelta
    return f"{ENV_PREFIX}{field.upper()}: {_DURATION_HINT if is_duration else message.removeprefix('Value error, ')}"


def unknown_variables() -> list[str]:
    """A line for each variable of the environment or `.env` that has the prefix but is no setting, with the nearest setting."""
    names = {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields}
    variables = {name.upper() for name in (*os.environ, *dotenv_values(".env")) if name.upper().startswith(ENV_PREFIX)}
    lines = []
    for name in sorted(variables - names - _OTHER_VARIABLES):
        if nearest := get_close_matches(name, names, 1, 0.8):
            lines.append(f"{name}: there is no such setting; did you mean {nearest[0]}?")
        else:
            lines.append(f"{name}: there is no such setting; deploy/README.md lists them")
    return lines


def shown(settings: Settings) -> dict[str, str]:
    """All settings by environment variable, secrets masked."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {ENV_PREFIX + name.upper(): _masked(name, value) for name, value in values.items()}


def changed(settings: Settings) -> dict[str, str]:
    """Those of `shown` that differ from their defaults."""
    fields = type(settings).model_fields
    values = shown(settings)
    return {
        variable: value
        for (name, field), (variable, value) in zip(fields.items(), values.items(), strict=True)
        if getattr(settings, name) != field.get_default()
    }


def installed_version() -> str:
    """The version of this distribution."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "not installed"


def _masked_option(option: str) -> str:
    """An option of a Redis URL, masked if it is a password; its name may be percent-encoded."""
    name, equals, _ = option.partition("=")
    return f"{name}{equals}***" if "password" in unquote(name).lower() else option


def _masked(name: str, value: Any) -> str:
    if name == "redis":
        url = urlsplit(str(value.get_secret_value()))
        query = "&".join(_masked_option(option) for option in url.query.split("&"))
        login, at, servers = url.netloc.rpartition("@")
        user, colon, _ = login.partition(":")
        netloc = f"{user}{colon}***{at}{servers}" if colon else url.netloc
        return url._replace(query=query, netloc=netloc).geturl()
    if name == "broker_password":
        return "***" if value.get_secret_value() else ""
    return _written(value) if isinstance(value, timedelta) else str(value)


def _written(duration: timedelta) -> str:
    """A duration as a setting has it, in the largest unit of which it is a whole number."""
    for unit, name in reversed(_UNITS.items()):
        if duration and not duration % timedelta(**{name: 1}):
            return f"{duration // timedelta(**{name: 1})}{unit}"
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
