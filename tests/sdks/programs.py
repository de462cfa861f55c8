"""The programs on the CloudEvents SDKs of JavaScript, Go and Java: one that prints messages, and the guide's, which publishes.

They are installed together, from lock files with hashes where the language has them.
"""

from pathlib import Path
from typing import NamedTuple

from tests.support.programs import Program

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "schemas/guide/sdks"


class Sdk(NamedTuple):
    """Both programs of a language, and the command that prints the messages."""

    program: Program
    command: list[str]

    @property
    def language(self) -> str:
        return self.program.name.removeprefix("sdk-")


def _sdk(language: str, messages: str, sources: list[str], fetch: list[str], build: list[str], command: list[str]) -> Sdk:
    files = [HERE / messages, *(GUIDE / language / name for name in sources)]
    return Sdk(Program(f"sdk-{language}", files, fetch, build), command)


_COPY_JARS = "mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars -DincludeScope=runtime"
_QUICKLY = "-XX:TieredStopAtLevel=1"
SDKS = [
    _sdk(
        "javascript",
        "messages.js",
        ["package.json", "package-lock.json", "publish.js"],
        ["npm ci --no-audit --no-fund --silent"],
        [],
        ["node", "messages.js"],
    ),
    _sdk(
        "go",
        "messages.go",
        ["go.mod", "go.sum", "publish.go"],
        ["go mod download"],
        [f"go build -mod=readonly -o {name} {name}.go" for name in ("publish", "messages")],
        ["./messages"],
    ),
    _sdk(
        "java",
        "Messages.java",
        ["pom.xml", "Publish.java"],
        [_COPY_JARS],
        ["javac -cp 'jars/*' Messages.java Publish.java"],
        ["java", _QUICKLY, "-cp", "jars/*:.", "Messages"],
    ),
]
