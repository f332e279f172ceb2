"""Try every behaviour in every library, and write the tables of docs/comparison.md."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from benchmarks.behaviours.judging import BEHAVIOURS, GROUPS
from benchmarks.behaviours.libraries import LIBRARIES
from benchmarks.behaviours.running import Outcome, run_apart, run_inside

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"
BEGIN, END = "<!-- behaviours: written by benchmarks/behaviours -->", "<!-- end of behaviours -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="print the cases whose names hold TEXT")
    parser.add_argument("--libraries", default=",".join(LIBRARIES), metavar="NAME,...", help="print these libraries")
    parser.add_argument("--explain", action="store_true", help="show the tracebacks of errors, too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        for line in run_inside(arguments.inside, arguments.only):
            print(line, flush=True)
        return
    names = arguments.libraries.split(",")
    results: dict[str, tuple[str, list[Outcome]]] = {}
    for name in names:
        print(f"{name} ...", flush=True)
        results[name] = run_apart(name, arguments.only)
        if arguments.explain:
            for outcome in results[name][1]:
                if outcome.message:
                    print(f"--- {outcome.behaviour}\n{outcome.message}")
    text = tables(results)
    if arguments.only or names != list(LIBRARIES):
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    print(f"wrote {PAGE}")


def tables(results: dict[str, tuple[str, list[Outcome]]]) -> str:
    """A Markdown table for each group of behaviours, a column for each library."""
    import torch

    outcomes = {name: {outcome.behaviour: outcome for outcome in found} for name, (_, found) in results.items()}
    titles = {name: LIBRARIES[name].title or LIBRARIES[name].distribution for name in results}
    versions = ", ".join(f"{titles[name]} {version}" for name, (version, _) in results.items())
    python = platform.python_version()
    lines = [f"Versions: {versions}; torch {torch.__version__}, Python {python}, {platform.machine()} CPU.", ""]
    for group in GROUPS:
        cases = [case for case in BEHAVIOURS if case.group == group]
        shown = [case for case in cases if all(case.name in found for found in outcomes.values())]
        if not shown:
            continue
        lines += [f"### {group}", "", f"| | {' | '.join(titles.values())} |"]
        lines += ["|---" * (len(results) + 1) + "|"]
        for case in shown:
            title = case.title.replace("|", "\\|")
            lines.append(f"| {title} | {' | '.join(_cell(found[case.name]) for found in outcomes.values())} |")
        lines.append("")
    return "\n".join(lines)


def _cell(outcome: Outcome) -> str:
    detail = outcome.detail.replace("|", "\\|")
    return {
        "ok": f"ok {detail}".strip(),
        "wrong": f"**wrong** {detail}",
        "error": f"*error* {detail}",
        "absent": "-",
    }[outcome.verdict]


if __name__ == "__main__":
    main()
