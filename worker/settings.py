"""Settings from the environment (``ATTENDANCE_*``) and an optional ``.env``; `deploy/README.md` lists them all."""

import os
import re
import socket
import ssl
from datetime import timedelta
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker import addresses
from worker.durations import DURATION_HINT, Duration, micros, written
from worker.topics import group_of

ENV_PREFIX = "ATTENDANCE_"
_DISTRIBUTION = "attendance-worker"
#: Variables with this prefix that are no settings: they belong to Docker compose and to the tests.
_OTHER_VARIABLES = {
    "ATTENDANCE_REDIS_PASSWORD",
    "ATTENDANCE_TEST_BROKER",
    "ATTENDANCE_TEST_BROKER_KIND",
    "ATTENDANCE_TEST_REDIS",
}


class SettingsError(Exception):
    """A setting is wrong. The message names it and how to fix it; no retry helps."""


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
    core: Literal["auto", "native", "python"] = Field(
        "auto",
        description="what folds events: native, python, or auto, which is native where attendance-native is installed",
    )
    tables: str = Field(
        "",
        pattern="^([1-9][0-9]{0,8})?$",
        description="number of the tables that this process uses; empty: those of the live read models, or of a build with "
        "the settings of this process",
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
    metrics_bind: str = Field(
        "127.0.0.1:9464",
        description="where a worker serves its metrics and health, as host:port; if the port is taken, the next free one",
    )
    api_bind: str = Field("127.0.0.1:8080", description="where the API listens, as host:port")
    api_tokens: Path | None = Field(
        None, description="file of the API's tokens; without it only this machine is served, without tokens"
    )
    api_max_body: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="largest request body, bytes")
    api_max_requests: int = Field(512, ge=1, le=100_000, description="concurrent requests of an API process")
    api_max_streams: int = Field(1000, ge=1, le=100_000, description="concurrent live streams of an API process")
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

    @field_validator("log_format", "core", mode="before")
    @classmethod
    def _in_small_letters(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("broker")
    @classmethod
    def _kafka_url(cls, value: str) -> str:
        addresses.check_kafka(value)
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
        addresses.check_redis(value.get_secret_value())
        return value

    @field_validator("store")
    @classmethod
    def _store_url(cls, value: str) -> str:
        url = urlsplit(value)
        has_folder = url.scheme == "rocksdb" and url.path.strip("/")
        if value not in ("memory://", "rocksdb://") and (not has_folder or value != f"rocksdb://{url.path}"):
            raise ValueError("write rocksdb://, rocksdb:///absolute/folder or memory://")
        return value

    @field_validator("api_bind", "metrics_bind")
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
    def group(self) -> str:
        """The consumer group of the workers, whose name changelogs and state folder have too."""
        return group_of(self.topic_prefix, self.tables)

    @property
    def bootstrap_servers(self) -> list[str]:
        """``host:port`` of each broker."""
        return addresses.kafka_servers(self.broker)

    @property
    def api_address(self) -> tuple[str, int]:
        """Host and port where the API listens."""
        return _address(self.api_bind)

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and first port where a worker serves its metrics."""
        return _address(self.metrics_bind)

    @property
    def is_redis_cluster(self) -> bool:
        return addresses.is_cluster(self.redis.get_secret_value())

    @property
    def redis_servers(self) -> list[tuple[str, int]]:
        """Host and port of Redis, or of each named server of a cluster."""
        return addresses.redis_servers(self.redis.get_secret_value())

    @property
    def kafka_address(self) -> str:
        """The brokers, for messages."""
        return ", ".join(self.bootstrap_servers)

    @property
    def redis_address(self) -> str:
        """Redis, or the named servers of a cluster, for messages; without a password."""
        return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.redis_servers)

    def redis_url(self, host: str = "", port: int = 0) -> str:
        """The URL for a client of one server: of Redis, or of this server of the cluster, with the same login and options."""
        return addresses.server_url(self.redis.get_secret_value(), host, port)

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


def _address(bind: str) -> tuple[str, int]:
    url = urlsplit(f"//{bind}")
    return url.hostname or "", url.port or 0


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
    return f"{ENV_PREFIX}{field.upper()}: {DURATION_HINT if is_duration else message.removeprefix('Value error, ')}"


def variables(settings: Settings) -> dict[str, str]:
    """The environment of a process that is to have these settings, passwords included; what is empty there is left out."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {ENV_PREFIX + name.upper(): _as_given(value) for name, value in values.items()}


def _as_given(value: Any) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case timedelta():
            return written(value)
    return str(value)


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
    """All settings by environment variable, as they take effect, secrets masked."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    values["namespace"] = settings.redis_namespace
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


def _masked(name: str, value: Any) -> str:
    if name == "redis":
        return addresses.masked(value.get_secret_value())
    if name == "broker_password":
        return "***" if value.get_secret_value() else ""
    if value is None:
        # as it is written: a variable that is empty counts as not set
        return ""
    return written(value) if isinstance(value, timedelta) else str(value)
