"""The settings of a command that talks to Kafka or Redis: where the environment names neither, those of a running `dev`."""

import os
import sys

from worker.cli.show import print_line
from worker.ops.running_dev import ADDRESSES, RunningDev, running_devs
from worker.settings import ENV_PREFIX, Settings, load_settings, shown


def service_settings() -> Settings:
    """The settings; a line on stderr says which running `dev` they lead to, or why it is not used.

    Variables that are set always win. A `dev` is used as a whole or not at all: a command must not read the Redis of one
    system and publish to the Kafka of another.

    Raises:
        SettingsError: some settings are wrong.
    """
    settings, devs = load_settings(), running_devs()
    if not devs:
        return settings
    dev, explicit = devs[0], settings.model_fields_set
    different = [name for name in ADDRESSES if name in explicit and _is_other(name, settings, dev)]
    lacking = [name for name in dev.given if name not in explicit]
    if explicit.issuperset(ADDRESSES) and different:
        return settings
    if different:
        _explain(f"{_name(dev)} is not used, since {_variables(different)} is set", settings)
    elif lacking:
        _explain(f"{_name(dev)} is not used: set {_variables(lacking)} here as it was set for it", settings)
    elif taken := {name: value for name, value in dev.settings.items() if name not in explicit}:
        # as variables: the processes of `api --workers N`, and what explains an error at the end, read them too
        os.environ.update({_variable(name): value for name, value in taken.items()})
        settings = load_settings()
        _explain(f"{_name(dev)} is used{f', the newest of {len(devs)}' if len(devs) > 1 else ''}", settings)
    return settings


def tokens_settings() -> Settings:
    """As `service_settings`, for the commands that need the file of the API's tokens alone."""
    settings = load_settings()
    if settings.api_tokens is None and any("api_tokens" in dev.settings for dev in running_devs()[:1]):
        return service_settings()
    return settings


def _is_other(name: str, settings: Settings, dev: RunningDev) -> bool:
    """Whether an address that is set is not that of the dev."""
    return dev.settings[name] != shown(settings)[_variable(name)]


def _name(dev: RunningDev) -> str:
    return f"the running dev (pid {dev.pid})"


def _variables(names: list[str]) -> str:
    return " and ".join(map(_variable, names))


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def _explain(line: str, settings: Settings) -> None:
    values = shown(settings)
    print_line(f"{line}: {values[_variable('broker')]}, {values[_variable('redis')]}", sys.stderr)
