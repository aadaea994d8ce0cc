"""Every fault that is tested, next to what Sample Factory 2.1 did: docs/fault_table.md, from the results of real tests.

    python -m pytest tests --fault-matrix --junitxml=build/faults.xml
    python -m benchmarks.fault_table build/faults.xml

A row is shown by the tests named in it. Results are kept in benchmarks/results/faults.json; without an argument the
page is written from that file.
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from benchmarks.fault_cases import CASES, Case
from benchmarks.results_io import git_commit, machine_info

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
PAGE = ROOT / "docs" / "fault_table.md"

HEAD = """\
# Table of faults

What Sample Factory 2.1 did was found by running it on a CPU with tiny networks and shortened heartbeats; "hang" means
that it waited without end. What happens here is shown by tests with real processes, signals and files
(`make test-faults`): every row names them by the beginning of their names, and says how many ran and passed for this
page (commit {commit}, {cpus} cores).

| # | fault | Sample Factory 2.1 | exit | here | exit | tests | passed |
|---|---|---|---|---|---|---|---|
"""


def read_junit(path: Path) -> dict[str, str]:
    """Test name with parameters -> ``passed``, ``failed`` or ``skipped``."""
    outcomes = {}
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        outcomes[case.attrib["name"]] = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
    return outcomes


def outcome_of(case: Case, outcomes: dict[str, str]) -> str:
    """How many of the tests of this row passed.

    :raises ValueError: a test that the row names did not run.
    """
    counts: Counter[str] = Counter()
    for prefix in case.tests:
        found = [outcome for name, outcome in outcomes.items() if name.startswith(f"test_{prefix}")]
        if not found:
            raise ValueError(f"case {case.number}: no test whose name begins with test_{prefix} has run")
        counts.update(found)
    total = sum(counts.values())
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    return f"{counts['passed']} of {total}{skipped}"


def render(results: dict) -> str:
    lines = [HEAD.format(commit=results["commit"], cpus=results["machine"]["cores"])]
    for case in CASES:
        tests = ", ".join(f"`{prefix}`" for prefix in case.tests) or "-"
        passed = outcome_of(case, results["outcomes"]) if case.tests else "-"
        cells = (str(case.number), case.fault, case.original, case.original_exit, case.ours, case.exit, tests, passed)
        lines.append(f"| {' | '.join(cells)} |\n")
    counts = Counter(results["outcomes"].values())
    summary = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    return "".join(lines) + f"\nAll tests of faults together: {summary}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "junit", type=Path, nargs="*", help="results of pytest --junitxml=..., later ones replace earlier"
    )
    args = parser.parse_args()
    if args.junit:
        outcomes = {name: outcome for path in args.junit for name, outcome in read_junit(path).items()}
        results = {
            "machine": machine_info(),
            "commit": git_commit(),
            "outcomes": dict(sorted(outcomes.items())),
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
