"""The programs on the CloudEvents SDKs of JavaScript, Go and Java: each prints its messages as JSON lines, or publishes them.

They are installed from lock files with hashes where the language has them.
"""

from pathlib import Path
from typing import NamedTuple

from tests.support.programs import Program
from tests.support.services.processes import run_tool

HERE = Path(__file__).parent
_SECONDS = 120.0


class Sdk(NamedTuple):
    """A program, and the command that runs it in its folder."""

    program: Program
    command: list[str]

    @property
    def language(self) -> str:
        return self.program.folder.name

    def run(self, *arguments: str) -> str:
        """What it prints. Raises ServiceUnavailable where it cannot be installed."""
        return run_tool(["env", "-C", str(self.program.installed()), *self.command, *arguments], timeout=_SECONDS)


def _sdk(language: str, sources: list[str], fetch: list[str], build: list[str], command: list[str]) -> Sdk:
    return Sdk(Program(f"sdk-{language}", HERE / language, sources, fetch, build), command)


_COPY_JARS = "mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars -DincludeScope=runtime"
SDKS = [
    _sdk(
        "javascript",
        ["package.json", "package-lock.json", "messages.js"],
        ["npm ci --no-audit --no-fund --silent"],
        [],
        ["node", "messages.js"],
    ),
    _sdk("go", ["go.mod", "go.sum", "main.go"], ["go mod download"], ["go build -mod=readonly -o messages ."], ["./messages"]),
    _sdk(
        "java",
        ["pom.xml", "Messages.java"],
        [_COPY_JARS],
        ["javac -cp 'jars/*' Messages.java"],
        ["java", "-XX:TieredStopAtLevel=1", "-cp", "jars/*:.", "Messages"],
    ),
]
