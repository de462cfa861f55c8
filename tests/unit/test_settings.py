"""Settings from ATTENDANCE_*: defaults, durations, what a bad one says, and that no secret is ever shown."""

import logging
import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import hypothesis
import pytest
from aiokafka.protocol.admin import SaslAuthenticateRequest_v0
from aiokafka.protocol.metadata import MetadataRequest_v0
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from worker.durations import duration
from worker.logs import configure_client_logs
from worker.ops import doctor
from worker.settings import Settings, SettingsError, changed, load_settings, shown, unknown_variables, variables

SECRET = "hidden-word"
VARIABLES = [f"ATTENDANCE_{name.upper()}" for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables, no .env."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(f"ATTENDANCE_{name}", value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


def test_defaults_are_those_of_the_contract() -> None:
    settings = load_settings()
    assert settings.partitions == 16
    assert settings.topic_prefix == settings.redis_namespace == "attendance"
    assert settings.clock_tolerance == timedelta(minutes=5)
    assert settings.conflict_window == timedelta(minutes=10)
    assert settings.max_event_age == timedelta(days=30)


@hypothesis.given(
    st.timedeltas(timedelta(0), timedelta(days=36_500)),
    st.sampled_from(["", "a secret = 'of $HOME'"]),
    st.booleans(),
    st.sampled_from([None, Path("/a b/tokens.json")]),
)
def test_a_process_is_given_the_settings_of_another(
    window: timedelta, password: str, is_first_only: bool, tokens: Path | None
) -> None:
    settings = load_settings(
        conflict_window=window, broker_password=password, query_first_filter_only=is_first_only, api_tokens=tokens, tables="3"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(settings).items():
            patch.setenv(name, value)
        assert load_settings() == settings


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ATTENDANCE_PARTITIONS=7\nATTENDANCE_NAMESPACE=n\nATTENDANCE_NO_SUCH=1\nOTHER=2\n")
    monkeypatch.setenv("ATTENDANCE_NAMESPACE", "m")
    settings = load_settings()
    assert (settings.partitions, settings.redis_namespace) == (7, "m")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("2h", 7200), ("30d", 2_592_000), ("1.5h", 5400), (" 5 m ", 300), ("0s", 0)]
    + [("PT5M", 300), ("P30D", 2_592_000), ("P1DT2H", 93_600), ("PT0.5S", 0.5)],
)
def test_durations_are_read_with_their_units(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("ATTENDANCE_CLOCK_TOLERANCE", text)
    assert load_settings().clock_tolerance == timedelta(seconds=seconds)


def test_every_wrong_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_SESSION_TIMEOUT", "8")
    monkeypatch.setenv("ATTENDANCE_BROKER", "http://localhost")
    said = refusal(monkeypatch, "PARTITIONS", "many").splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "ATTENDANCE_BROKER",
        "ATTENDANCE_PARTITIONS",
        "ATTENDANCE_SESSION_TIMEOUT",
    ]


def test_choices_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_LOG_LEVEL", "debug")
    monkeypatch.setenv("ATTENDANCE_BROKER_SECURITY", "Sasl_Ssl ")
    monkeypatch.setenv("ATTENDANCE_BROKER_SASL_MECHANISM", "scram-sha-256")
    settings = load_settings()
    assert (settings.log_level, settings.broker_security) == ("DEBUG", "SASL_SSL")
    assert settings.broker_sasl_mechanism == "SCRAM-SHA-256"


def test_unknown_variables_are_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ATTENDANCE_BROKR=1\nATTENDANCE_REDIS_PASSWORD=2\nattendance_partitions=3\n")
    monkeypatch.setenv("ATTENDANCE_ZZZ", "")
    assert [line for line in unknown_variables() if "TEST" not in line] == [
        "ATTENDANCE_BROKR: there is no such setting; did you mean ATTENDANCE_BROKER?",
        "ATTENDANCE_ZZZ: there is no such setting; deploy/README.md lists them",
    ]


@pytest.mark.parametrize("name", ["CLOCK_TOLERANCE", "CONFLICT_WINDOW", "MAX_EVENT_AGE", "SESSION_TIMEOUT"])
@pytest.mark.parametrize(
    "bad", ["soon", "5 minutes", "5w", "-5m", "-PT5M", "5m5s", "1e3s", "99999999999d", "9" * 400 + "s", "45", "1.5", "0"]
)
def test_bad_durations_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, bad: str) -> None:
    said = refusal(monkeypatch, name, bad)
    assert said.startswith(f"ATTENDANCE_{name}: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "bad", "cure"),
    [
        ("PARTITIONS", "0", "1"),
        ("PARTITIONS", "many", "integer"),
        ("PARTITIONS", "10001", "10000"),
        ("REPLICATION", "-1", "0"),
        ("BROKER", "http://localhost:9092", "kafka://"),
        ("BROKER", "kafka://", "kafka://"),
        ("BROKER", "kafka://host:port", "ort"),
        ("BROKER", "kafka://a..b:9092", "kafka://"),
        ("BROKER", "kafka://\x9b31m", "kafka://"),
        ("REDIS", f"redis://{'x' * 64}.org:6379", "redis://"),
        ("BROKER", "kafka://host:99999", "ort"),
        ("BROKER_SECURITY", "TLS", "SASL_SSL"),
        ("BROKER_SASL_MECHANISM", "MD5", "SCRAM-SHA-512"),
        ("REDIS", "localhost:6379", "redis://"),
        ("REDIS", "http://localhost", "redis://"),
        ("REDIS", "redis://", "redis://"),
        ("REDIS", f"http://joe:{SECRET}@host/0", "redis://"),
        ("REDIS", f"redis://joe:{SECRET}@host:port/0", "redis://"),
        ("REDIS", f"redis://joe:{SECRET}@host:99999/0", "redis://"),
        ("REDIS", f"redis://joe:{SECRET}@a:1,b:2/0", "redis+cluster://"),
        ("REDIS", f"redis://joe:{SECRET}@host/first", "number"),
        ("REDIS", "redis://host/0/1", "number"),
        ("REDIS", f"redis+cluster://joe:{SECRET}@", "redis+cluster://"),
        ("REDIS", f"redis+cluster://joe:{SECRET}@a:1,:2", "redis+cluster://"),
        ("REDIS", f"redis+cluster://joe:{SECRET}@a:1,b:port", "redis+cluster://"),
        ("REDIS", f"redis+cluster://joe:{SECRET}@a:1,", "redis+cluster://"),
        ("REDIS", f"redis+cluster://joe:{SECRET}@a:1/3", "databases"),
        ("REDIS", f"redis+cluster://joe:{SECRET}@a:1?db=3", "databases"),
        ("REDIS", f"unix+cluster://joe:{SECRET}@a:1", "redis+cluster://"),
        ("STORE", "sqlite://", "memory://"),
        ("STORE", "rocksdb:", "rocksdb://"),
        ("STORE", "rocksdb:///", "absolute"),
        ("STORE", "rocksdb://folder/below", "absolute"),
        ("STORE", "rocksdb:///folder?query", "absolute"),
        ("STORE", "memory:///folder", "memory://"),
        ("TOPIC_PREFIX", "a b", "letters"),
        ("TOPIC_PREFIX", "x" * 101, "100"),
        ("NAMESPACE", "{a}", "letters"),
        ("LOG_LEVEL", "LOUD", "WARNING"),
    ],
)
def test_a_bad_value_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, name: str, bad: str, cure: str) -> None:
    said = refusal(monkeypatch, name, bad)
    assert said.startswith(f"ATTENDANCE_{name}: ")
    assert cure in said
    assert "\n" not in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("scheme", "url"),
    [
        (scheme, url)
        for scheme in ("redis", "rediss")
        for url in ("joe:{}@host:7/1", ":{}@host", "joe:{}@[::1]:7", "host:7?password={}", "host:7/0?db=1&password={}")
    ]
    + [
        (f"{scheme}+cluster", url)
        for scheme in ("redis", "rediss")
        for url in (
            "joe:{}@host:7/0",
            ":{}@a,host",
            "joe:{}@[::1]:7,[::2]:7",
            "host:7,b?password={}",
            "host:7?client_name=d&password={}",
        )
    ],
)
def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch, scheme: str, url: str) -> None:
    monkeypatch.setenv("ATTENDANCE_REDIS", f"{scheme}://{url.format(SECRET)}")
    monkeypatch.setenv("ATTENDANCE_BROKER_PASSWORD", SECRET)
    settings = load_settings()
    values = shown(settings)
    assert SECRET not in str(values)
    assert SECRET not in repr(settings)
    assert SECRET not in doctor.redis_away(settings, OSError("refused"))
    assert ("host" if "host" in url else "::1") in values["ATTENDANCE_REDIS"]
    assert values["ATTENDANCE_BROKER_PASSWORD"] not in ("", SECRET)


def test_a_cluster_has_servers_that_share_password_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_REDIS", "rediss+cluster://joe:a,b%40c@one:7000,two,[::1]:7001/0?ssl_cert_reqs=none")
    settings = load_settings()
    assert settings.is_redis_cluster
    assert settings.redis_servers == [("one", 7000), ("two", 6379), ("::1", 7001)]
    assert settings.redis_url("three", 7002) == "rediss://joe:a,b%40c@three:7002/0?ssl_cert_reqs=none"
    assert settings.redis_url("::2", 7003) == "rediss://joe:a,b%40c@[::2]:7003/0?ssl_cert_reqs=none"


def test_a_redis_url_of_one_server_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_REDIS", "redis://joe:secret@one:7000/2")
    settings = load_settings()
    assert not settings.is_redis_cluster
    assert settings.redis_servers == [("one", 7000)]
    assert settings.redis_url() == "redis://joe:secret@one:7000/2"


def test_a_password_in_the_brokers_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password has a setting of its own; who writes it here, or has it refused, must not find it in a log."""
    monkeypatch.setenv("ATTENDANCE_BROKER", f"kafka://joe:{SECRET}@host:9092")
    try:
        said = str(shown(load_settings()))
    except SettingsError as refused:
        said = str(refused)
    assert SECRET not in said


def test_the_doctor_shows_every_setting() -> None:
    assert set(shown(load_settings())) == set(VARIABLES)


def test_the_doctor_shows_effective_values_that_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_TOPIC_PREFIX", "north")
    settings = load_settings()
    values = shown(settings)
    assert (values["ATTENDANCE_NAMESPACE"], values["ATTENDANCE_API_TOKENS"], values["ATTENDANCE_BROKER_CA_FILE"]) == (
        "north",
        "",
        "",
    )
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert shown(load_settings()) == values


def test_brokers_are_listed_with_commas_or_semicolons(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("kafka://a:1;kafka://b", "kafka://a:1,kafka://b", "a:1,b"):
        monkeypatch.setenv("ATTENDANCE_BROKER", given)
        assert load_settings().bootstrap_servers == ["a:1", "b:9092"]


def test_shaping_is_what_the_contract_records_with_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"partitions": 16, "clock_tolerance": 300, "conflict_window": 600, "max_event_age": 2_592_000}
    micros = {name: value if name == "partitions" else value * 1_000_000 for name, value in expected.items()}
    assert load_settings().shaping() == micros
    for name, value in {"partitions": "3", "clock_tolerance": "0.5s", "conflict_window": "0s", "max_event_age": "1d"}.items():
        monkeypatch.setenv(f"ATTENDANCE_{name.upper()}", value)
    others = {"partitions": 3, "clock_tolerance": 500_000, "conflict_window": 0, "max_event_age": 86_400_000_000}
    assert load_settings().shaping() == others


@pytest.mark.parametrize("name", [field.upper() for field in Settings.model_fields])
def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose and Helm write `VAR: ${VAR:-}`: what is not set comes as an empty text."""
    monkeypatch.setenv(f"ATTENDANCE_{name}", "")
    assert load_settings(_env_file=None) == Settings(_env_file=None)  # type: ignore[call-arg]


def test_a_broker_may_have_an_address_of_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_BROKER", "kafka://[::1]:9199,[fe80::1],localhost:1")
    assert load_settings(_env_file=None).bootstrap_servers == ["[::1]:9199", "[fe80::1]:9092", "localhost:1"]


SPECIAL = ["p@ss", "a:b", "#1", "50%", "%41", "a b", "a/b", "a?b=c", "[x]", "é東", "a&b", "a+b", ";,"]


@pytest.mark.parametrize("password", SPECIAL)
@pytest.mark.parametrize("address", ["redis://u:{}@h:6379/0", "redis://:{}@[::1]", "redis+cluster://:{}@h:1,i:2"])
def test_any_password_of_redis_arrives(monkeypatch: pytest.MonkeyPatch, address: str, password: str) -> None:
    monkeypatch.setenv("ATTENDANCE_REDIS", address.format(quote(password, safe="")))
    loaded = load_settings()
    for server in loaded.redis_servers:
        assert parse_url(loaded.redis_url(*server))["password"] == password
    for text in (password, quote(password, safe="")):
        assert f":{text}@" not in shown(loaded)["ATTENDANCE_REDIS"]
        assert f":{text}@" not in repr(loaded)


@pytest.mark.parametrize("password", ["se#cret", "1/cret", "se?cret", "12#cret", "12?cret", "[cret]", "a[cret]b", "12/@cret"])
def test_a_password_that_cuts_its_address_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """Cut at its own sign, `1/cret` would be a port, which the line about a Redis that is away names."""
    for login in (f":{password}", f"user:{password}"):
        said = refusal(monkeypatch, "REDIS", f"redis://{login}@host:6379/0")
        assert said.startswith("ATTENDANCE_REDIS: ")
        assert "cret" not in said


@pytest.mark.parametrize("option", ["password=cret", "%70assword=cret", "ssl_password=cret"])
def test_a_password_among_the_options_is_masked(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setenv("ATTENDANCE_REDIS", f"rediss://h:6379/0?socket_timeout=3&{option}")
    assert "cret" not in shown(load_settings())["ATTENDANCE_REDIS"]
    assert "socket_timeout=3" in shown(load_settings())["ATTENDANCE_REDIS"]


@pytest.mark.parametrize(
    "option",
    ["PassWord=cret", "nosuch=cret", "socket_timeout=cret", "ssl_password=cret", "decode_responses=true", "protocol=9"],
)
@pytest.mark.parametrize("address", ["redis://h:1/0?", "redis+cluster://h:1,i:2/0?", "redis://h?client_name=a&"])
def test_an_option_that_the_client_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch, address: str, option: str) -> None:
    said = refusal(monkeypatch, "REDIS", address + option)
    assert option.partition("=")[0] in said
    assert "cret" not in said


def test_an_unusable_certificate_file_is_named_with_all_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    monkeypatch.setenv("ATTENDANCE_PARTITIONS", "many")
    for path in ("/no/such/file", tmp_path / "text", tmp_path):
        said = refusal(monkeypatch, "BROKER_CA_FILE", str(path)).splitlines()
        assert [line.partition(":")[0] for line in said] == ["ATTENDANCE_BROKER_CA_FILE", "ATTENDANCE_PARTITIONS"]
        assert f"{path} cannot be used" in said[0]


def test_the_login_at_kafka_is_in_no_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At DEBUG aiokafka logs each request as it is, also the one that holds user and password."""
    monkeypatch.setenv("ATTENDANCE_LOG_LEVEL", "DEBUG")
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        configure_client_logs(load_settings())
        log = logging.getLogger("aiokafka.conn")
        for request in (SaslAuthenticateRequest_v0(b"\0user\0cret"), MetadataRequest_v0([])):
            log.debug("Request to %s:%d %d: %s", "h", 9092, 1, request)
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level
    said = capsys.readouterr().err
    assert "Metadata" in said
    assert "cret" not in said


def test_changed_settings_are_those_that_differ_from_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert changed(load_settings()) == {}
    monkeypatch.setenv("ATTENDANCE_PARTITIONS", "4")
    monkeypatch.setenv("ATTENDANCE_SESSION_TIMEOUT", "20s")
    monkeypatch.setenv("ATTENDANCE_REDIS", f"redis://joe:{SECRET}@host:6379/0")
    assert changed(load_settings()) == {
        "ATTENDANCE_PARTITIONS": "4",
        "ATTENDANCE_REDIS": "redis://joe:***@host:6379/0",
        "ATTENDANCE_SESSION_TIMEOUT": "20s",
    }


@hypothesis.given(st.timedeltas(timedelta(0), timedelta(days=36_500)))
def test_a_duration_is_shown_as_a_setting_may_have_it(value: timedelta) -> None:
    settings = Settings(_env_file=None, conflict_window=value)  # type: ignore[call-arg]
    assert duration(shown(settings)["ATTENDANCE_CONFLICT_WINDOW"]) == value


def test_kafka_shows_host_and_process_of_each_client() -> None:
    name = load_settings().kafka_client()["client_id"]
    assert re.fullmatch(rf"attendance-worker-[A-Za-z0-9._-]+-{os.getpid()}", name)
    assert name.removesuffix(f"-{os.getpid()}").endswith(re.sub("[^A-Za-z0-9._-]", "-", socket.gethostname()))
