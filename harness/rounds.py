"""A sweep in rounds: a first look, drawn by the traffic; then those points that a predictor would learn most from.

    round 1 | train, score | choose | round 2 | train, score | choose | ... | probes

What was chosen lies in files (`roundfiles`), so that a sweep that was cut short finishes its round before anything is
learnt anew. Without a trainer, or with too little to train on, a round takes the next points of the space instead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness import roundfiles
from harness.agent import MeasuringAgent
from harness.clock import Clock
from harness.errors import BadInput
from harness.predictorfiles import predictor_of
from harness.records import SETTLED
from harness.roundfiles import DRAWN, SPREAD, TARGETED, Pick, Round, Scored
from harness.sampling.candidates import Cost
from harness.space import Space, by_deployment, in_looks
from harness.spending import costs, gpu_hours, spending
from harness.store import read_ledger
from harness.sweep import Stage, SweepOrder, can_run
from harness.targeting import drawn, picked, spread, targeted, traffic_of
from harness.trainer import Accuracy, Trainer, TrainOrder, Watch

LEAST_TESTS = 20
"""Test points without which no accuracy counts as reached: the interval of fewer is too narrow."""
_MOST_REGIONS = 3


@dataclass(frozen=True, slots=True)
class RoundsOutcome:
    """How a sweep in rounds went: what was learnt after each round, in order, and why there was no further one."""

    scored: tuple[Scored, ...]
    stopped: str


@dataclass(frozen=True, slots=True)
class Learner:
    """What learns between rounds: a trainer, or in words why there is none; told how far a training is."""

    trainer: Trainer | None
    missing: str
    watch: Watch


class Rounds:
    """The rounds of one sweep in one results folder.

    Args:
        order: with `points`, those of each round.
        learner: asked when there is something to learn from: a trainer takes seconds to load.
        say: told in a line what happens between rounds.
        wall: of the order's budget, which begins now.
        at_once: the agents measure at the same time, so that a budget is as many times its hours.

    Raises:
        ValueError: an order without points.
    """

    def __init__(
        self,
        order: SweepOrder,
        space: Space,
        agents: Sequence[MeasuringAgent],
        learner: Callable[[], Learner],
        say: Callable[[str], None],
        wall: Clock,
        at_once: bool = False,
    ) -> None:
        if order.points is None:
            raise ValueError("rounds have a number of points")
        self._order, self._space, self._agents = order, in_looks(space), agents
        self._points = order.points
        self._find_learner, self._say, self._wall, self._at_once = learner, say, wall, at_once
        self._deadline_s = None if order.budget_s is None else wall.monotonic_s() + order.budget_s
        self._feasible = can_run(agents)
        self._stopped = "the last round is not finished"
        self._said: set[str] = set()

    @cached_property
    def _learner(self) -> Learner:
        return self._find_learner()

    @cached_property
    def _traffic(self) -> dict[str, float]:
        return traffic_of(self._space, self._feasible, self._order.sweep.sampling.traffic)

    def stages(self) -> Iterator[Stage]:
        """One for each round, and one for the probes at the end.

        Raises:
            BadInput: rounds of another seed, or of another space.
            UnreadableFile: a file of a round that is none.
        """
        rounds = self.begun()
        if not rounds:
            rounds.append(self._first())
        while True:
            yield Stage(self._space_of(rounds), probing=False)
            scored = self._score(rounds)
            self._stopped = self._reached(scored.accuracy) or self._all_done(rounds)
            if self._stopped:
                break
            following = self._next(rounds)
            if following is None:
                break
            rounds.append(following)
            self._stopped = "the last round is not finished"
        # Probes are points of one deployment, whichever rounds they were of.
        yield Stage(by_deployment(self._space_of(rounds)), probing=True)

    def begun(self) -> list[Round]:
        """The rounds that there are.

        Raises:
            BadInput: of another seed, or of another space.
        """
        rounds = list(roundfiles.read_rounds(self._order.results, self._order.sweep.name))
        if rounds and rounds[0].seed != self._order.seed:
            raise BadInput(
                "--seed",
                self._order.seed,
                f"{rounds[0].seed}, that of the rounds in {self._order.results / roundfiles.FOLDER}",
                "take that seed, or another --results",
            )
        if any(made.picks for made in rounds) and not self._space_of(rounds).groups:
            raise BadInput(
                "sweep",
                self._order.sweep.name,
                f"points of the rounds in {self._order.results / roundfiles.FOLDER}; this sweep has none of them",
                "give the changed sweep another name, or take another --results",
            )
        return rounds

    def outcome(self) -> RoundsOutcome:
        """What was learnt, also by earlier calls."""
        name, found = self._order.sweep.name, []
        for made in roundfiles.read_rounds(self._order.results, name):
            scored = roundfiles.read_scored(self._order.results, name, made.number)
            if scored is not None:
                found.append(scored)
        return RoundsOutcome(tuple(found), self._stopped)

    def unfinished(self) -> Space | None:
        """The points of all rounds that were begun; None where none was."""
        rounds = self.begun()
        return self._space_of(rounds) if rounds else None

    def upcoming(self) -> Space:
        """What a further round would take, by the predictor as it is now; nothing is trained and no file written."""
        rounds = self.begun()
        picks: tuple[Pick, ...] = ()
        predictor = predictor_of((self._order.results,))
        trained = predictor.with_name(f"{predictor.name}.json").is_file()
        if self._learner.trainer is not None and trained:
            picks, _ = self._targeted(rounds, self._learner.trainer)
        if not picks:
            picks = spread(self._space, self._feasible, roundfiles.point_ids(rounds), self._points)
        return Space(picked(self._space, picks), self._space.schedules)

    def _space_of(self, rounds: list[Round]) -> Space:
        groups = (group for made in rounds for group in picked(self._space, made.picks))
        return Space(tuple(groups), self._space.schedules)

    def _first(self) -> Round:
        """Drawn by the traffic; in the order of the space where nobody learns, or nothing can run."""
        picks: tuple[Pick, ...] = ()
        if self._learner.trainer is not None:
            rules = self._order.sweep.sampling
            picks = drawn(self._space, self._feasible, self._costs(), self._points, rules, self._order.seed)
        if picks:
            return self._begin([], DRAWN, picks)
        return self._begin([], SPREAD, spread(self._space, self._feasible, frozenset(), self._points))

    def _costs(self) -> dict[str, Cost]:
        """What a launch and a point take, by the runs there are."""
        results, sweep = self._order.results, self._order.sweep
        spent = spending(results, sweep.name, sweep.rules) if results.is_dir() else {}
        return costs(spent, sweep.nodes, sweep.rules.repetitions)

    def _begin(self, rounds: list[Round], kind: str, picks: tuple[Pick, ...], gpu_s: float | None = None) -> Round:
        results = self._order.results
        made = Round(
            sweep=self._order.sweep.name,
            number=len(rounds) + 1,
            kind=kind,
            seed=self._order.seed,
            picks=picks,
            based_on=roundfiles.runs_fingerprint(results, roundfiles.point_ids(rounds)),
            expected_gpu_hours=None if gpu_s is None else round(gpu_s / 3600, 3),
        )
        return roundfiles.begin(results, made)

    def _score(self, rounds: list[Round]) -> Scored:
        """Train, and say how good the predictor is; what was learnt from the same runs before stands."""
        results, sweep, number = self._order.results, self._order.sweep, len(rounds)
        ids = roundfiles.point_ids(rounds)
        based_on = roundfiles.runs_fingerprint(results, ids)
        trainer, predictor = self._learner.trainer, predictor_of((results,))
        known = roundfiles.read_scored(results, sweep.name, number)
        usable = trainer is None or predictor.with_name(f"{predictor.name}.json").is_file()
        if known is not None and known.based_on == based_on and usable and (trainer is None or not known.note):
            return known
        accuracy: Accuracy | None = None
        worst: tuple[str, ...] = ()
        note = self._learner.missing
        if trainer is not None:
            try:
                accuracy, worst = self._train(trainer, predictor, number)
            except BadInput as error:
                note = str(error)
        scored = Scored(
            number=number,
            kind=rounds[-1].kind,
            based_on=based_on,
            points=len(self._settled() & ids),
            gpu_hours=round(gpu_hours(spending(results, sweep.name, sweep.rules), sweep.nodes), 3),
            accuracy=accuracy,
            worst=worst,
            note=note,
        )
        roundfiles.write_scored(results, sweep.name, scored)
        return scored

    def _train(self, trainer: Trainer, predictor: Path, number: int) -> tuple[Accuracy | None, tuple[str, ...]]:
        self._say(f"Round {number} is measured; training on all rounds so far.")
        order = TrainOrder((self._order.results,), predictor, self._order.seed, traffic=self._traffic)
        accuracy = trainer.train(order, self._learner.watch).accuracy
        if accuracy is not None:
            self._say(f"After round {number}: {in_words(accuracy)}.")
        regions = trainer.regions(predictor).regions[:_MOST_REGIONS]
        return accuracy, tuple(f"{one.label}: MAPE {one.mape_pct:.1f}% on {one.n} points" for one in regions)

    def _reached(self, accuracy: Accuracy | None) -> str:
        rules = self._order.sweep.sampling
        if accuracy is None or accuracy.n < LEAST_TESTS:
            return ""
        asked = []
        if rules.target_mape_pct is not None:
            asked.append((f"MAPE {rules.target_mape_pct:g}%", accuracy.mape_high_pct <= rules.target_mape_pct))
        if rules.target_eba10_pct is not None:
            asked.append((f"EBA10 {rules.target_eba10_pct:g}%", accuracy.eba10_low_pct >= rules.target_eba10_pct))
        if not asked or not all(is_met for _, is_met in asked):
            return ""
        return f"the target is reached ({', '.join(name for name, _ in asked)}), by the interval's worse end"

    def _all_done(self, rounds: list[Round]) -> str:
        return f"all {len(rounds)} rounds are done" if len(rounds) >= self._order.rounds else ""

    def _next(self, rounds: list[Round]) -> Round | None:
        """The next round, in its file; None where there is nothing to gain, and `_stopped` says so."""
        trainer, note = self._learner.trainer, self._learner.missing
        if trainer is not None:
            scored = roundfiles.read_scored(self._order.results, self._order.sweep.name, len(rounds))
            note = "" if scored is None else scored.note
            if not note:
                try:
                    picks, gpu_s = self._targeted(rounds, trainer)
                except BadInput as error:
                    note = str(error)
                else:
                    self._stopped = "" if picks else self._no_gain()
                    return self._begin(rounds, TARGETED, picks, gpu_s) if picks else None
        if note not in self._said:
            self._said.add(note)
            self._say(f"Round {len(rounds) + 1} fills the space in its order, since nothing was learnt: {note}")
        further = spread(self._space, self._feasible, roundfiles.point_ids(rounds), self._points)
        # A round of nothing that can run would be followed by another.
        if not any(self._feasible(item.point) for group in picked(self._space, further) for item in group.candidates):
            self._stopped = "every point that can run is measured"
            return None
        return self._begin(rounds, SPREAD, further)

    def _targeted(self, rounds: list[Round], trainer: Trainer) -> tuple[tuple[Pick, ...], float]:
        results, sweep = self._order.results, self._order.sweep
        return targeted(
            self._space,
            self._feasible,
            roundfiles.point_ids(rounds) | self._settled(),
            trainer,
            predictor_of((results,)),
            self._costs(),
            self._points,
            sweep.sampling,
            self._gpu_s_left(),
            self._order.seed,
        )

    def _gpu_s_left(self) -> float:
        """Of the budget; on simulated nodes, whose hours take seconds, it bounds nothing."""
        if self._deadline_s is None or self._agents[0].source == "simulated":
            return float("inf")
        left_s = max(self._deadline_s - self._wall.monotonic_s(), 0.0)
        gpus = [max(agent.spec.gpus, 1) for agent in self._agents if agent.nodes == 1]
        return left_s * (sum(gpus) if self._at_once else max(gpus))

    def _no_gain(self) -> str:
        if self._gpu_s_left() < float("inf"):
            return "no gain is expected from any point that fits the rest of the budget"
        return "no gain is expected: what is left teaches nothing, or errors are no larger than the noise"

    def _settled(self) -> frozenset[str]:
        """Ids of the points that have a settled repetition, in any environment."""
        if not self._order.results.is_dir():
            return frozenset()
        return frozenset(row.point_id for row in read_ledger(self._order.results) if row.status in SETTLED)


def in_words(accuracy: Accuracy) -> str:
    """Such as "MAPE 4.1% (3.2 to 5.3), EBA10 93% (86 to 98) on 40 test points"."""
    mape = f"MAPE {accuracy.mape_pct:.1f}% ({accuracy.mape_low_pct:.1f} to {accuracy.mape_high_pct:.1f})"
    eba10 = f"EBA10 {accuracy.eba10_pct:.0f}% ({accuracy.eba10_low_pct:.0f} to {accuracy.eba10_high_pct:.0f})"
    return f"{mape}, {eba10} on {accuracy.n} test points"
