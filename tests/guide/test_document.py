"""The guide has the programs word for word, tables as the schemas have them, and settings as the programs read them."""

import re
import tomllib
from pathlib import Path

import pytest

from schemas.events import EventType, Reason
from tests.guide.document import GUIDE, ROOT, commands, rewritten, settings
from tests.guide.kiosks import LANGUAGES

STALE = "stale: run `python -m tests.guide.document`"
PROGRAMS = [path for path in (ROOT / "schemas/guide").rglob("*") if path.suffix in (".py", ".js", ".java", ".go", ".sh")]
PROGRAMS = [path for path in PROGRAMS if "node_modules" not in path.parts]


def test_generated_parts_of_the_guide_are_current() -> None:
    text = GUIDE.read_text()
    assert text == rewritten(text), STALE


def test_generated_parts_name_every_type_and_reason() -> None:
    text = GUIDE.read_text()
    assert [kind.value for kind in EventType if f"| `{kind.value}` |" not in text] == []
    assert [reason.value for reason in Reason if f"| `{reason.value}` |" not in text] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_the_guide_has_each_program_word_for_word(path: Path) -> None:
    assert f"\n{path.read_text()}```\n" in GUIDE.read_text(), STALE


def test_there_is_a_program_for_each_language() -> None:
    files = {path.name for path in PROGRAMS if "KIOSK_SOURCE" in path.read_text()}
    assert files == {language.sources[-1] for language in LANGUAGES.values()}


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_settings_of_a_program_are_listed_with_defaults(language) -> None:
    text = (language.folder / language.sources[-1]).read_text()
    read = set(re.findall(r"\bKIOSK_\w+", text))
    kafka, http = {"KIOSK_BROKER", "KIOSK_TOPIC"}, {"KIOSK_URL", "KIOSK_TOKEN"}
    assert read == set(settings()) - (kafka if language.heading == "Shell" else http)
    for name in read:
        assert re.search(rf"{name}\W+(\?\? |:-)?\W*{re.escape(settings()[name])}\b", text) or not settings()[name], name


def test_pythons_packages_are_those_of_the_tests() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    names = [name for heading in ("Python", "SDK of Python") for name in re.findall(r"'(.*?)'", commands(heading)[0])]
    assert len(names) == 3
    assert set(names) <= set(required)
