"""A race against the clients people use: the same requests to the same server, which keeps the book on all of them.

    python benchmarks/bench_client.py [--rounds 5] [--aiperf PROGRAM] [--vllm PROGRAM] [--guidellm PROGRAM]

Every tool, the harness included, runs as processes of its own against a fresh mock server (tests/fixtures/
mock_openai.c), in turns; a round in which the machine itself stalled for more than 20 ms within a load window is run
again for all tools. Lateness and rate come from the server's book, CPU seconds from the CPU clocks of each tool's
whole process tree, from the first request's arrival to the last answer: neither start-up nor evaluation counts.
Writes results/bench/client.json (medians) and client_targets.json. Five rounds take about a quarter of an hour.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from client_race import Outcome, ToolFailed, race
from client_tools import BURST, CLOSED, SCENARIOS, STEADY, WHAT, Pythons, command, tools, write_inputs
from client_watch import STALL_S, StallProbe
from common import report

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.fixtures.mock_openai import compile_mock

ROOT = Path(__file__).parent.parent
MOST_REPEATS = 3
"""Rounds of a scenario that are run again for a stall, before its rounds are taken as they are, and say so."""
Row = dict[str, object]
PEERS = ("aiperf", "vllm", "guidellm")
FIGURES = {BURST: "lateness_p99_ms", CLOSED: "requests_per_s", STEADY: "cpu_s_per_1000_tokens"}
"""What each scenario is about."""


@dataclass
class Standing:
    """What a tool did in a scenario, round by round."""

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def median(self, figure: str) -> float:
        return float(np.median([getattr(one, figure) for one in self.outcomes])) if self.outcomes else float("nan")


Standings = dict[tuple[str, str], Standing]


def run_scenario(
    scenario: str, rounds: int, program: Path, pythons: Pythons, folder: Path, probe: StallProbe, standings: Standings
) -> int:
    """All rounds, the tools in turns, each round beginning with another; the number of rounds that were run again."""
    repeats = 0
    done = 0
    while done < rounds:
        names = tools(scenario)
        names = names[done % len(names) :] + names[: done % len(names)]
        found: dict[str, Outcome | str] = {}
        for tool in names:
            try:
                found[tool] = race(tool, scenario, program, pythons, folder, probe)
            except ToolFailed as failure:
                found[tool] = str(failure)
            print(f"{scenario}, round {done + 1}: {tool}: {found[tool]}", file=sys.stderr)
        stalled = any(isinstance(one, Outcome) and one.stall_s > STALL_S for one in found.values())
        if stalled and repeats < MOST_REPEATS:
            repeats += 1
            continue
        for tool, one in found.items():
            standing = standings.setdefault((scenario, tool), Standing())
            if isinstance(one, Outcome):
                standing.outcomes.append(one)
            else:
                standing.failures.append(one)
        done += 1
    return repeats


def rows(
    standings: Standings, repeats: dict[str, int], versions: dict[str, str], commands: dict[str, str]
) -> list[Row]:
    found: list[Row] = []
    for (scenario, tool), standing in standings.items():
        best = best_peer(standings, scenario)
        package = tool.partition(",")[0]
        ahead = ""
        if package == "harness":
            figure = FIGURES[scenario]
            sign = -1 if scenario == CLOSED else 1
            ours, theirs = standing.median(figure), standings[scenario, best].median(figure) if best else float("nan")
            ahead = best if sign * theirs < sign * ours else "harness"
        found.append(
            {
                "scenario": scenario,
                "tool": f"{tool.replace('vllm', 'vllm bench serve')} {versions[package]}",
                "lateness_p99_ms": shown(standing.median("lateness_p99_ms")),
                "requests_per_s": shown(standing.median("requests_per_s")),
                "cpu_s_per_1000_tokens": shown(standing.median("cpu_s_per_1000_tokens")),
                "server_busy": shown(max((one.server_busy for one in standing.outcomes), default=float("nan"))),
                "rounds": len(standing.outcomes),
                "stalled": sum(one.stall_s > STALL_S for one in standing.outcomes),
                "repeated": repeats[scenario],
                "ahead": ahead,
                "error": standing.failures[0] if standing.failures else "",
                "command": commands[f"{scenario}: {tool}"],
                "each_round": " ".join(f"{getattr(one, FIGURES[scenario]):.4g}" for one in standing.outcomes),
            }
        )
    return found


def shown(figure: float) -> float | str:
    """Nothing where there is no such figure: JSON knows no NaN."""
    return "" if np.isnan(figure) else figure


def best_peer(standings: Standings, scenario: str) -> str:
    """The peer with the best median of what the scenario is about; "" where none did it."""
    figure, sign = FIGURES[scenario], -1 if scenario == CLOSED else 1
    able = [
        tool
        for name, tool in standings
        if name == scenario and "harness" not in tool and standings[name, tool].outcomes
    ]
    return min(able, key=lambda tool: sign * standings[scenario, tool].median(figure), default="")


def targets(standings: Standings) -> list[Row]:
    """Ratios are to the best peer of the scenario."""

    def ratio(scenario: str, tool: str) -> float:
        peer = best_peer(standings, scenario)
        theirs = standings[scenario, peer].median(FIGURES[scenario]) if peer else float("nan")
        return standings[scenario, tool].median(FIGURES[scenario]) / theirs

    late_ms = standings[BURST, "harness"].median("lateness_p99_ms")
    busiest = max(one.server_busy for standing in standings.values() for one in standing.outcomes)
    against = {scenario: best_peer(standings, scenario) or "no peer" for scenario in SCENARIOS}
    return [
        target("lateness p99 over the best peer's", against[BURST], ratio(BURST, "harness"), 0.25),
        target("lateness p99, ms", "", late_ms, 6.0),
        target("requests/s over the best peer's", against[CLOSED], ratio(CLOSED, "harness"), 5.0, at_least=True),
        target("CPU s per 1000 tokens, token times", against[STEADY], ratio(STEADY, "harness, token times"), 0.25),
        target("CPU s per 1000 tokens", against[STEADY], ratio(STEADY, "harness"), 0.2),
        target("share of a core that the server used", "the busiest run", busiest, 0.8),
    ]


def target(name: str, against: str, figure: float, limit: float, at_least: bool = False) -> Row:
    met = figure >= limit if at_least else figure <= limit
    return {
        "target": name,
        "against": against,
        "figure": shown(round(figure, 4)),
        "limit": f"{'at least' if at_least else 'at most'} {limit:g}",
        "verdict": "PASS" if met else "FAIL",
    }


def peer_version(program: str, package: str) -> str:
    """As the environment of the program says it."""
    python = Path(program).parent / "python"
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not installed"
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one; writes client_part.json")
    parser.add_argument("--scratch", type=Path, help="keep traces and what the tools said in this folder")
    for peer in PEERS:
        parser.add_argument(f"--{peer}", default=str(ROOT / f".venv-client-peers-{peer}" / "bin" / peer))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no tool stays behind
    pythons = Pythons(sys.executable, *(str(Path(getattr(options, peer)).absolute()) for peer in PEERS))
    versions = {
        "harness": version("llm-energy-harness"),
        "aiperf": peer_version(pythons.aiperf, "aiperf"),
        "vllm": peer_version(pythons.vllm, "vllm"),
        "guidellm": peer_version(pythons.guidellm, "guidellm"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.scratch or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        program = compile_mock(folder)
        if program is None:
            sys.exit("bench-client needs a C compiler for the mock server")
        write_inputs(folder)
        run(options.scenario or list(SCENARIOS), options.rounds, program, pythons, folder, versions)


def run(
    scenarios: list[str], rounds: int, program: Path, pythons: Pythons, folder: Path, versions: dict[str, str]
) -> None:
    standings: Standings = {}
    probe = StallProbe()
    try:
        repeats = {
            scenario: run_scenario(scenario, rounds, program, pythons, folder, probe, standings)
            for scenario in scenarios
        }
    finally:
        probe.stop()
    commands = {
        f"{scenario}: {tool}": " ".join([Path(line[0]).name, *(part.replace(str(ROOT) + "/", "") for part in line[1:])])
        for scenario, tool in standings
        for line in [command(tool, scenario, 8000, pythons, folder)]
    }
    name = "client" if set(scenarios) == set(SCENARIOS) else "client_part"
    for scenario in scenarios:
        print(f"{scenario}: {WHAT[scenario]}")
    found = rows(standings, repeats, versions, commands)
    report(name, "Clients beside one server: medians", found, ["numpy"], unprinted=("command", "each_round"))
    for one in dict.fromkeys(commands.values()):
        print(one)
    if name == "client":
        report("client_targets", "Targets", targets(standings))


if __name__ == "__main__":
    main()
