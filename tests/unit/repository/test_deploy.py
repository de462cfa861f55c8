"""The compose file and the image agree with the settings, the topics and the commands; no Docker engine is needed."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from worker.engine.faust_consumer import DRAIN_SECONDS
from worker.settings import ENV_PREFIX, Settings, load_settings
from worker.topics import MAX_DEAD_LETTER_BYTES

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith(f"{PROJECT['name']}:")]
LOOPBACK = "127.0.0.1"
#: Services that start with the profile of this name alone.
OBSERVABILITY = [name for name, service in SERVICES.items() if "observability" in service.get("profiles", ())]
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
#: The port redis-server takes when its command names none.
REDIS_PORT = 6379


class Port(NamedTuple):
    """A published port."""

    address: str
    host: int
    container: int


class Listener(NamedTuple):
    """Where a listener binds, or what it says of itself."""

    host: str
    port: int


class Instruction(NamedTuple):
    """One instruction of the Dockerfile, its lines joined."""

    name: str
    words: list[str]

    @property
    def flags(self) -> list[str]:
        return [word for word in self.words if word.startswith("--")]

    @property
    def arguments(self) -> list[str]:
        return [word for word in self.words if not word.startswith("--")]

    @property
    def exec_form(self) -> list[str]:
        """The words of a JSON array; a shell's line is none, since a shell would keep signals from the program."""
        text = " ".join(self.words)
        assert text.startswith("["), f"{self.name} {text} is not in exec form"
        return [str(word) for word in yaml.safe_load(text)]


def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions, a list for each stage."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.split() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    found: list[list[Instruction]] = []
    for name, *words in lines:
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, words))
    return found


def last(name: str) -> Instruction:
    """The instruction of this name that holds in the image."""
    *_, final = stages()
    return [one for one in final if one.name == name][-1]


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    copies = [one for stage in stages() for one in stage if one.name in ("COPY", "ADD")]
    return [source for one in copies if not any(f.startswith("--from=") for f in one.flags) for source in one.arguments[:-1]]


def port(text: str) -> Port:
    """``address:host:container``; without an address Docker binds every one."""
    *address, host, container = text.split(":")
    return Port(":".join(address) or "0.0.0.0", int(host), int(container))


def ports(service: str) -> list[Port]:
    return [port(text) for text in SERVICES[service].get("ports", ())]


def listeners(setting: str) -> dict[str, Listener]:
    """``NAME://host:port``, several joined by commas, by their names."""
    found = {}
    for entry in SERVICES["kafka"]["environment"][setting].split(","):
        name, host, number = re.fullmatch(r"(\w+)://([\w.-]*):(\d+)", entry).groups()  # type: ignore[union-attr]
        found[name] = Listener(host, int(number))
    return found


def broker_number(setting: str) -> int:
    return int(SERVICES["kafka"]["environment"][setting])


def health_check(service: str) -> str:
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind in ("CMD", "CMD-SHELL")
    return " ".join(command)


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    assert match, f"{text}: write 20s or 2m"
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


#: Docker Compose's ``${NAME:?what to do}``: it refuses to start without a value.
INTERPOLATION = re.compile(r"\$\{(\w+):\?([^}]*)\}")
PASSWORD = "ATTENDANCE_REDIS_PASSWORD"


def interpolated(text: str) -> str:
    """What Docker Compose makes of a value, with the password ``sesame``."""
    assert {match[1] for match in INTERPOLATION.finditer(text)} <= {PASSWORD}
    return INTERPOLATION.sub("sesame", text)


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a service of ours runs with: those of its environment and nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, interpolated(value))
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    return load_settings()


def listens(service: str) -> set[int]:
    """The ports that the other services may use."""
    if service == "redis":
        command = SERVICES["redis"]["command"]
        return {int(command[command.index("--port") + 1]) if "--port" in command else REDIS_PORT}
    assert service == "kafka"
    bound = listeners("KAFKA_LISTENERS")
    return {
        at.port
        for name, at in listeners("KAFKA_ADVERTISED_LISTENERS").items()
        if at.host == service and bound[name] == Listener("", at.port)
    }


def host_and_port(url: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\w+://)?([\w.-]+):(\d+)(?:/\d+)?", url)
    assert match, f"{url}: the compose file names hosts and ports in full"
    return match[1], int(match[2])


# --- the compose file --------------------------------------------------------


def test_all_services_of_the_system_are_composed() -> None:
    assert set(SERVICES) >= {"kafka", "redis", "topics", "worker", "api"}
    assert set(OURS) >= {"topics", "worker", "api"}


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting(service: str) -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    assert SERVICES[service]["environment"].keys() <= known


@pytest.mark.parametrize("service", OURS)
def test_the_environment_is_shared_and_loads(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[service]["environment"]
    shared = COMPOSE["x-attendance-environment"]
    own = {name for name in environment if name.startswith(("ATTENDANCE_API_", "ATTENDANCE_METRICS_"))}
    assert {name: value for name, value in environment.items() if name not in own} == shared
    assert own == {
        "api": {"ATTENDANCE_API_BIND", "ATTENDANCE_API_TOKENS"},
        "worker": {"ATTENDANCE_METRICS_BIND"},
    }.get(service, set())
    # text, so that YAML's idea of a number or a truth value does not come between; nothing to interpolate but the password
    assert all(isinstance(value, str) and "$" not in interpolated(value) for value in environment.values())
    loaded = settings_of(service, monkeypatch)
    for name in ("broker", "partitions", "log_level"):
        assert str(getattr(loaded, name)) == environment[ENV_PREFIX + name.upper()]
    assert loaded.redis.get_secret_value() == interpolated(environment["ATTENDANCE_REDIS"])


@pytest.mark.parametrize("service", OURS)
def test_broker_and_redis_are_services_at_ports_they_listen_on(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = settings_of(service, monkeypatch)
    for host, number in (*map(host_and_port, loaded.bootstrap_servers), *loaded.redis_servers):
        assert host in SERVICES
        assert number in listens(host), f"{host} does not listen on {number} for the other services"


def test_default_settings_on_the_host_reach_broker_and_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVICES["worker"], "environment", {})
    defaults = settings_of("worker", monkeypatch)
    (broker,) = (host_and_port(server) for server in defaults.bootstrap_servers)
    bound = listeners("KAFKA_LISTENERS")
    advertised = {at: bound[name] for name, at in listeners("KAFKA_ADVERTISED_LISTENERS").items()}
    assert advertised[Listener(*broker)].host == ""
    assert Port(LOOPBACK, broker[1], advertised[Listener(*broker)].port) in ports("kafka")
    redis_port = host_and_port(defaults.redis.get_secret_value())[1]
    assert Port(LOOPBACK, redis_port, REDIS_PORT) in ports("redis")
    assert listens("redis") == {REDIS_PORT}


def test_the_broker_takes_the_largest_dead_letter() -> None:
    assert broker_number("KAFKA_MESSAGE_MAX_BYTES") >= MAX_DEAD_LETTER_BYTES
    assert broker_number("KAFKA_REPLICA_FETCH_MAX_BYTES") >= broker_number("KAFKA_MESSAGE_MAX_BYTES")


def test_topics_are_made_by_the_command_alone() -> None:
    assert SERVICES["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert SERVICES["topics"]["command"] == ["topics", "create"]


def test_the_broker_is_one_kraft_node_and_uses_every_listener() -> None:
    environment = SERVICES["kafka"]["environment"]
    bound, advertised = listeners("KAFKA_LISTENERS"), listeners("KAFKA_ADVERTISED_LISTENERS")
    controller = environment["KAFKA_CONTROLLER_LISTENER_NAMES"]
    protocols = dict(entry.split(":") for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(environment["KAFKA_PROCESS_ROLES"].split(",")) == {"broker", "controller"}
    assert set(bound) == set(protocols) == {*advertised, controller}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    voter = f"{environment['KAFKA_NODE_ID']}@{bound[controller].host}:{bound[controller].port}"
    assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voter
    assert all(environment[name] == "1" for name in environment if name.endswith(("_FACTOR", "_ISR", "_REPLICAS")))


def test_the_broker_keeps_data_and_identity_in_a_volume() -> None:
    environment = SERVICES["kafka"]["environment"]
    targets = dict(volume.split(":") for volume in SERVICES["kafka"]["volumes"] if ":" in volume)
    assert re.fullmatch(r"[\w-]{22}", environment["CLUSTER_ID"]), "Kafka formats its folder with this; 16 bytes in base64"
    assert [name for name, target in targets.items() if target == environment["KAFKA_LOG_DIRS"]] == ["kafka-data"]
    assert set(targets) <= COMPOSE["volumes"].keys()


def test_workers_keep_rows_in_a_volume_that_they_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = settings_of("worker", monkeypatch).store.removeprefix("rocksdb://")
    volume, mounted = SERVICES["worker"]["volumes"][0].split(":")
    assert (volume in COMPOSE["volumes"], mounted) == (True, folder)
    # a new volume takes the owner of the folder that the image has there
    user = next(each.words for each in stages()[-1] if each.name == "RUN" and "useradd" in each.words)
    assert user[user.index("install") :][:4] == ["install", "--directory", "--owner=attendance", "--group=attendance"]
    assert folder in user


def test_the_api_keeps_tokens_in_a_volume_that_it_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = settings_of("api", monkeypatch).api_tokens
    assert tokens is not None
    volume, mounted = SERVICES["api"]["volumes"][0].split(":")
    assert (volume in COMPOSE["volumes"], mounted) == (True, str(tokens.parent))
    assert str(tokens.parent) in next(each.words for each in stages()[-1] if each.name == "RUN" and "useradd" in each.words)


def test_the_api_is_reached_at_the_port_it_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = settings_of("api", monkeypatch)
    host, number = loaded.api_address
    assert host == "0.0.0.0"
    assert ports("api") == [Port(LOOPBACK, 8080, number)]
    assert f"http://localhost:{number}/healthz" in health_check("api")
    assert seconds(SERVICES["api"]["stop_grace_period"]) > loaded.api_stop_timeout.total_seconds()


def test_redis_evicts_nothing() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_redis_asks_for_the_password_that_the_others_send(monkeypatch: pytest.MonkeyPatch) -> None:
    redis = SERVICES["redis"]
    command = redis["command"]
    asked = command[command.index("--requirepass") + 1]
    assert INTERPOLATION.fullmatch(asked), "a password in the repository is none"
    assert redis["environment"]["REDISCLI_AUTH"] == asked, "the health check logs in too"
    for service in OURS:
        assert urlsplit(settings_of(service, monkeypatch).redis.get_secret_value()).password == "sesame"


def test_without_a_password_compose_says_how_to_make_one() -> None:
    first = INTERPOLATION.search((ROOT / "docker-compose.yml").read_text())
    assert first
    assert "make .env" in first[2], "Docker Compose prints this text of the first variable that it misses"
    assert "${" not in INTERPOLATION.sub("", (ROOT / "docker-compose.yml").read_text()), "no default"


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_make_names_the_pythons_that_it_needs(tmp_path: Path, python: str) -> None:
    """`false` stands for a Python of another version: its answer to the question is no."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "deploy").mkdir()
    for name in ("build", "run"):
        (tmp_path / f"deploy/requirements-{name}.txt").touch()
    done = subprocess.run(
        ["make", f"PYTHON={python}", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"{python} is no Python 3.11, 3.12 or 3.13: name one, as in make PYTHON=python3.11 run" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_writes_the_password_once_for_its_owner_alone(tmp_path: Path) -> None:
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), ".env"]
    subprocess.run(command, cwd=tmp_path, check=True)
    path = tmp_path / ".env"
    made = path.read_text()
    assert re.fullmatch(rf"{PASSWORD}=[0-9a-z]{{32,}}", made.strip())
    assert path.stat().st_mode & 0o777 == 0o600
    subprocess.run(command, cwd=tmp_path, check=True)
    assert path.read_text() == made
    path.write_text("OTHER=1")
    subprocess.run(command, cwd=tmp_path, check=True)
    assert [line.split("=")[0] for line in path.read_text().split()] == ["OTHER", PASSWORD]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_no_right_it_does_not_need(service: str) -> None:
    found = SERVICES[service]
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["read_only"] is True
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & found.keys()
    assert any(entry.split(":")[0] == "/tmp" for entry in found["tmpfs"])


@pytest.mark.parametrize("service", ["redis", *OBSERVABILITY])
def test_a_service_needs_no_rights_to_become_its_user(service: str) -> None:
    assert re.fullmatch(r"[1-9]\d*:\d+", SERVICES[service]["user"])


@pytest.mark.parametrize("service", ["kafka", "redis"])
def test_a_health_check_asks_the_service_itself(service: str) -> None:
    command = health_check(service)
    if service == "redis":
        assert "redis-cli ping" in command
        return
    assert command.startswith("/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server ")
    host, number = host_and_port(command.split()[-1])
    assert host == service
    assert number in listens(service)


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_open_to_this_machine_only(service: str) -> None:
    assert {at.address for at in ports(service)} <= {LOOPBACK}
    assert SERVICES[service].get("network_mode") != "host"


@pytest.mark.parametrize(("text", "address"), [("9092:9092", "0.0.0.0"), ("127.0.0.1:1:2", LOOPBACK), ("::1:1:2", "::1")])
def test_a_port_without_an_address_counts_as_open(text: str, address: str) -> None:
    assert port(text).address == address


def test_no_two_services_publish_the_same_port() -> None:
    taken = [at.host for service in SERVICES for at in ports(service)]
    assert len(taken) == len(set(taken))
    assert not ports("worker"), "replicas cannot share a port"


def base_images() -> list[str]:
    return [stage[0].arguments[0] for stage in stages()]


@pytest.mark.parametrize("image", [*sorted({service["image"] for service in SERVICES.values()}), *base_images()])
def test_images_are_pinned_to_a_release(image: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+(-[\w.-]+)?(@sha256:[0-9a-f]{64})?$", image), f"{image}: name a whole version"


def test_our_image_is_built_once_with_the_project_version() -> None:
    assert {SERVICES[service]["image"] for service in OURS} == {f"{PROJECT['name']}:{PROJECT['version']}"}
    assert [service for service in OURS if "build" in SERVICES[service]] == ["topics"]
    # the others wait for nothing from a registry, where somebody else could own the name
    assert {SERVICES[service]["pull_policy"] for service in OURS} == {"build", "never"}
    assert SERVICES["topics"]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}


def test_services_start_in_order() -> None:
    waits: Mapping[str, Mapping[str, Mapping[str, str]]] = {s: SERVICES[s]["depends_on"] for s in ("topics", "worker", "api")}
    assert waits["topics"]["kafka"]["condition"] == "service_healthy"
    for service in ("worker", "api"):
        assert waits[service]["topics"]["condition"] == "service_completed_successfully"
        assert waits[service]["redis"]["condition"] == "service_healthy"
    assert SERVICES["topics"]["restart"] == "no"
    assert SERVICES["worker"]["restart"] == SERVICES["api"]["restart"] == "unless-stopped"


def test_there_is_more_than_one_worker_and_each_may_drain() -> None:
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert "container_name" not in SERVICES["worker"], "replicas cannot share a name"
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > DRAIN_SECONDS


@pytest.mark.parametrize("service", OURS)
def test_a_process_that_handles_no_signal_ends_all_the_same(service: str) -> None:
    # process 1 ignores what it does not handle
    assert SERVICES[service]["init"] is True


# --- the profile `observability` ----------------------------------------------


def test_prometheus_and_grafana_start_with_their_profile_alone() -> None:
    assert OBSERVABILITY == ["prometheus", "grafana"]
    assert all("profiles" not in service for name, service in SERVICES.items() if name not in OBSERVABILITY)
    waited_for = {
        name for each, service in SERVICES.items() if each not in OBSERVABILITY for name in service.get("depends_on", ())
    }
    assert not waited_for & {*OBSERVABILITY}, "the system starts without them"


def test_prometheus_finds_replicas_at_the_ports_they_listen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {job["job_name"]: job["dns_sd_configs"] for job in PROMETHEUS["scrape_configs"]}
    bound = {"api": settings_of("api", monkeypatch).api_address, "worker": settings_of("worker", monkeypatch).metrics_address}
    for service, (host, number) in bound.items():
        (found,) = jobs.pop(f"attendance-{service}")
        assert (found["names"], found["type"], found["port"]) == ([service], "A", number)
        assert host == "0.0.0.0"
        assert "networks" not in SERVICES[service], "it is in the default network"
    assert not jobs
    assert "default" in SERVICES["prometheus"]["networks"]


def test_prometheus_has_its_files_and_keeps_thirty_days() -> None:
    service = SERVICES["prometheus"]
    flags = dict(word.removeprefix("--").split("=") for word in service["command"])
    sources = {target: source for source, target, *_ in (volume.split(":") for volume in service["volumes"])}
    config = Path(flags["config.file"])
    assert (ROOT / sources[str(config.parent)] / config.name).exists()
    assert sources[flags["storage.tsdb.path"]] in COMPOSE["volumes"]
    days = re.fullmatch(r"(\d+)d", flags["storage.tsdb.retention.time"])
    assert days
    assert int(days[1]) > 30, "the error budget is that of 30 days"
    assert ports("prometheus")[0].container == 9090, "Prometheus' default, which the command does not change"


def test_grafana_has_its_files_and_reaches_prometheus_alone() -> None:
    service = SERVICES["grafana"]
    source, target, mode = service["volumes"][0].split(":")
    assert mode == "ro"
    folder = Path(service["environment"]["GF_PATHS_PROVISIONING"])
    assert folder.parent == Path(target)
    provisioning = ROOT / source / folder.name
    (data_source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    host, number = host_and_port(data_source["url"])
    assert number == ports(host)[0].container
    (provider,) = yaml.safe_load((provisioning / "dashboards/attendance.yml").read_text())["providers"]
    assert [path.name for path in (ROOT / source / Path(provider["options"]["path"]).relative_to(target)).glob("*.json")] == [
        "attendance.json"
    ]
    assert service["networks"] == ["observability"], "neither Kafka nor Redis"
    assert {name for name, each in SERVICES.items() if "observability" in each.get("networks", ())} == {*OBSERVABILITY}


def test_grafana_has_no_password_and_nobody_may_change_it() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    for name in ("AUTH_ANONYMOUS_ENABLED", "AUTH_DISABLE_LOGIN_FORM", "SECURITY_DISABLE_INITIAL_ADMIN_CREATION"):
        assert environment[f"GF_{name}"] == "true", "the image's admin has a password that everybody knows"
    assert not any("PASSWORD" in name for name in environment)


@pytest.mark.parametrize("service", OBSERVABILITY)
def test_what_is_mounted_from_the_checkout_is_read_only(service: str) -> None:
    for source, *_, mode in (volume.split(":") for volume in SERVICES[service]["volumes"]):
        assert (mode == "ro") == source.startswith("./")


def command_named(words: list[str]) -> Any:
    """The command that these words reach; a missing one is a KeyError."""
    from worker.cli.commands import app  # here, so that the rest of this file does not need it

    found: Any = typer.main.get_command(app)
    for word in words:
        found = found.commands[word]
    return found


@pytest.mark.parametrize("service", OURS)
def test_every_command_of_the_compose_file_is_one(service: str) -> None:
    found = command_named(SERVICES[service]["command"])
    assert not hasattr(found, "commands"), "a group, which only prints its help"


# --- the image ---------------------------------------------------------------


def test_files_that_the_dockerfile_copies_reach_the_builder() -> None:
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert first == "*", "what is not asked for, secrets and .venv among it, stays out"
    assert {source.rstrip("/") for source in copied()} == let_in
    assert all((ROOT / source).exists() for source in copied())
    assert not any(fnmatch(name, rule) for name in let_in for rule in rules if not rule.startswith("!"))


def test_the_dockerfile_copies_all_that_the_wheel_is_made_of() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = {*build["packages"], *build.get("force-include", ()), "pyproject.toml", PROJECT["readme"]}
    assert parts <= set(copied())


def test_what_the_dockerfile_copies_keeps_its_place() -> None:
    build, *_ = stages()
    for *sources, target in (one.arguments for one in build if one.name == "COPY"):
        for source in sources:
            inside = Path(target) / Path(source).name if target.endswith("/") else Path(target)
            assert inside == Path(source)


def pip_commands() -> list[list[str]]:
    """The words after ``pip`` of each RUN instruction."""
    runs = [one.words for stage in stages() for one in stage if one.name == "RUN"]
    return [words[words.index("pip") + 1 :] for words in runs if "pip" in words]


def test_the_image_takes_only_files_whose_hash_is_known() -> None:
    for words in pip_commands():
        files = [words[at + 1] for at, word in enumerate(words) if word == "-r"]
        if files:
            assert "--require-hashes" in words
            assert set(files) <= set(copied())
        else:
            assert "--no-deps" in words
        # an isolated build fetches its backend without a hash
        assert "--no-build-isolation" in words or "--no-index" in words or files == ["deploy/requirements-build.txt"]
    assert {file for words in pip_commands() for file in words if file.endswith(".txt")} == {
        "deploy/requirements-build.txt",
        "deploy/requirements.txt",  # extras are for tests and for `attendance dev`
    }


def test_make_takes_only_files_whose_hash_is_known() -> None:
    text = (ROOT / "Makefile").read_text()
    installs = [line.strip() for line in text.splitlines() if line.startswith("\t$(INSTALL)")]
    assert installs == [
        "$(INSTALL) --require-hashes -r deploy/requirements-build.txt",
        "$(INSTALL) --require-hashes -r deploy/requirements-$*.txt",
        "$(INSTALL) --no-deps -e .",
    ]
    assert "--no-build-isolation" in next(line for line in text.splitlines() if line.startswith("INSTALL"))
    assert text.count("pip install") == 1


def test_every_stage_has_the_same_supported_python() -> None:
    versions = {re.fullmatch(r"python:(\d+)\.(\d+)\.\d+(?:-\w+)+", image).groups() for image in base_images()}  # type: ignore[union-attr]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()  # type: ignore[union-attr]
    ((major, minor),) = versions
    assert major == "3"
    assert int(low) <= int(minor) < int(high)
    # a virtual environment copied to another release of Debian may miss its libraries
    assert len({image.replace("-slim", "") for image in base_images()}) == 1


def test_the_image_has_no_build_tools() -> None:
    first, *_, final = stages()
    assert "-slim" in final[0].arguments[0]
    assert len(stages()) > 1
    assert [one.flags for one in final if one.name == "COPY"] == [[f"--from={first[0].arguments[-1]}"]]
    run = " ".join(word for one in final if one.name == "RUN" for word in one.words)
    assert not re.search(r"\b(apt|apt-get|pip|gcc|curl|wget)\b", run)


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    (user,) = last("USER").words
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user), "numbers, so that Kubernetes can tell"
    *_, final = stages()
    names = [one.name for one in final]
    assert "RUN" not in names[names.index("USER") :]


def test_the_image_starts_the_console_script() -> None:
    (script,) = last("ENTRYPOINT").exec_form
    assert script in PROJECT["scripts"]
    assert command_named(last("CMD").exec_form).name == "worker"
    path, value = last("ENV").words[0].split("=")
    assert path == "PATH"
    *_, final = stages()
    (copy,) = [one for one in final if one.name == "COPY"]
    assert value.split(":")[0] == f"{copy.arguments[-1]}/bin"
    assert copy.arguments[0] == copy.arguments[-1], "a virtual environment does not work in another folder"


def test_the_image_stops_at_once_and_logs_at_once() -> None:
    assert last("STOPSIGNAL").words == ["SIGTERM"]
    assert "PYTHONUNBUFFERED=1" in last("ENV").words
