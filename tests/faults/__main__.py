"""``python -m tests.faults``: fifty rounds, or the one of ``--seed``; exits 1 on any difference."""

import argparse
import logging
import signal
import sys
import time
from pathlib import Path

from tests.faults.round import EVIDENCE, Report, run
from tests.faults.schedule import plan
from tests.faults.stage import Stage


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="this round alone; may be repeated")
    parser.add_argument("--rounds", type=int, default=50, help="rounds of the seeds from --first on (default 50)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument(
        "--evidence", type=Path, default=EVIDENCE, help=f"folder for topics and logs of wrong rounds ({EVIDENCE})"
    )
    parser.add_argument(
        "--cores", default="auto", help="what workers fold with (ATTENDANCE_CORE), in turn: native, python, or native,python"
    )
    given = parser.parse_args()
    plans = map(plan, given.seed or range(given.first, given.first + given.rounds))
    ended = _end_when_told()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # clients of a broker that is away say so ten times a second
    began = time.monotonic()
    reports = []
    with Stage() as stage:
        for each in sorted(plans, key=lambda each: each.brokers):  # a cluster is started once
            if ended:
                sys.exit(ended[0])
            reports.append(run(each, stage, given.evidence, given.cores.split(",")))
            print(reports[-1], f"  {_verdict(reports[-1])} after {reports[-1].seconds:.0f} s", sep="\n", flush=True)
    print(_table(reports), flush=True)
    wrong = [report.plan.seed for report in reports if report.wrong]
    minutes = (time.monotonic() - began) / 60
    alone = sum(len(report.ended) for report in reports)
    print(
        f"{len(reports)} rounds in {minutes:.1f} minutes, {alone} workers ended by themselves, wrong seeds: {wrong or 'none'}"
    )
    return 1 if wrong else 0


def _end_when_told() -> list[int]:
    """Has SIGINT and SIGTERM end the round they meet; the exit codes to end with, if any came."""
    codes: list[int] = []

    def end(received: int, _: object) -> None:
        # an exception is lost where Python ignores it, in a finalizer: then the round goes on, and is the last
        codes.append(128 + received)
        sys.exit(codes[0])

    # a shell's background job ignores SIGINT, and SIGTERM would leave folders behind
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return codes


def _table(reports: list[Report]) -> str:
    lines = ["seed  seconds  caught up  events  ended  verdict  faults"]
    for report in reports:
        faults = ", ".join(fault.kind for fault in report.plan.faults)
        late, ended = report.phases.get("caught up", 0.0), len(report.ended)
        numbers = f"{report.plan.seed:4}  {report.seconds:7.0f}  {late:9.0f}  {report.events:6}  {ended:5}"
        lines.append(f"{numbers}  {_verdict(report):7}  {faults}")
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    return "WRONG" if report.wrong else "right"


if __name__ == "__main__":
    sys.exit(main())
