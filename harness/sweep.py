"""A resumable queue: asks the controller, lets agents measure, stores each run before the next begins.

Simulated runs are computed faster than they are written one by one, and computed again at no cost. Those that one
launch completes within `HELD_S` are stored together.

Agents of this process take turns; those of a fleet, each on a machine of its own, measure at once (`crew`).
"""

from collections.abc import Callable, Iterator, Sequence

from harness.agent import Fleet, MeasuringAgent
from harness.clock import Clock
from harness.desk import PLAN_PREFIX, Budget, Desk
from harness.order import Progress, Stage, SweepOrder, SweepOutcome
from harness.points import Point
from harness.shelf import Shelf
from harness.space import Space
from harness.store import Writer

__all__ = ["HELD_S", "PLAN_PREFIX", "Progress", "Stage", "Stages", "SweepOrder", "SweepOutcome", "can_run", "run_sweep"]

HELD_S = 0.5
"""Of simulated runs, a kill loses what was computed in so long; measured ones are never held back."""

Stages = Callable[[], Iterator[Stage]]
"""Asked for the next stage when the last one is done, while the results folder is held for writing."""


def run_sweep(
    order: SweepOrder,
    space: Space,
    agents: Sequence[MeasuringAgent],
    progress: Progress,
    wall: Clock,
    owner: str,
    stages: Stages | None = None,
    fleet: Fleet | None = None,
) -> SweepOutcome:
    """Measure what is missing, in as many launches as it takes.

    Args:
        agents: at least one. Without a fleet they measure one after another, in this order.
        wall: the clock of the budget (agents have their own).
        owner: how to name this process in the folder's lock.
        stages: None: the space in its order, by as many points and rounds as the order says.
        fleet: where agents come from that measure at the same time; `agents` are those that are there now.

    Raises:
        StoreRefused: the results folder is in use, not writable, newer, or of another source.
        StoreError: a write failed; all runs before it are stored.
    """
    budget = Budget(order.budget_s, wall)
    source = agents[0].source
    with Writer(order.results, source=source, owner=owner, durable=source == "measured") as writer:
        for stage in _in_order(order, space, agents) if stages is None else stages():
            shelf = Shelf(writer, progress, wall, HELD_S if source == "simulated" else 0.0)
            beyond = len(space) - len(stage.space)
            desk = Desk(order, stage, beyond, agents, shelf, progress, budget)
            if fleet is None:
                spent = desk.take_turns()
            else:
                spent = desk.take_together(fleet, wall)
                agents = desk.agents
            # Whoever stages would take what is not measured yet for what cannot be.
            if spent or desk.is_held_up:
                break
        return desk.outcome(spent)


def _in_order(order: SweepOrder, space: Space, agents: Sequence[MeasuringAgent]) -> Iterator[Stage]:
    """The space grows by so many points each round; probes come once, when the last round's points are done."""
    if order.points is None:
        yield Stage(space, probing=True)
        return
    for number in range(1, order.rounds + 1):
        yield Stage(space.first(order.points * number, can_run(agents)), probing=number == order.rounds)


def can_run(agents: Sequence[MeasuringAgent]) -> Callable[[Point], bool]:
    """Whether any of them can measure a point."""

    def feasible(point: Point) -> bool:
        return any(agent.hosts(point.deployment) and not agent.obstacle(point) for agent in agents)

    return feasible
