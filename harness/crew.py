"""Several agents at once, each on a machine of its own: what they do in turn, and what becomes of those that are lost.

Whatever knows of the sweep (controller, store, progress) is used from the thread that calls `Crew.work` alone. Agents
are waited for in threads of a pool, one each; what they bring comes back through one queue:

    idle -> look whether it is free -> ask for a launch -> measure, run by run -> idle ...

An agent for which nothing is left waits while others measure: what a lost node was to measure comes back to it, and
several that wait are put together for what spans as many nodes.
"""

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from harness.agent import Fleet, MeasuringAgent
from harness.clock import Clock
from harness.errors import AgentLost, EngineError, MeasurementError
from harness.plan import LaunchPlan
from harness.records import RunBundle

MOST_AGENTS = 1024
POLL_S = 1.0
"""How often to look for new agents, and whether time is up, while nothing comes in."""
_MOST_WAITING = 200
"""Runs; with more that are not stored yet, agents wait before they bring another."""


class Desk(Protocol):
    """Where agents get launches and leave runs; called from one thread."""

    def join(self, agent: MeasuringAgent) -> None:
        """A new one, or one that came back."""
        ...

    def has_work(self, agent: MeasuringAgent) -> bool: ...

    def skip(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        """Others use the node."""
        ...

    def next_launch(self, agent: MeasuringAgent) -> LaunchPlan | None:
        """What it is to measure; it is in flight until `ended` or `lose`."""
        ...

    def take(self, bundle: RunBundle) -> None: ...

    def ended(self, agent: MeasuringAgent, plan: LaunchPlan) -> None: ...

    def lose(self, agent: MeasuringAgent, plan: LaunchPlan | None, error: AgentLost) -> None:
        """It stopped answering, in this launch or in none."""
        ...

    def waits_for_more(self, agents: Sequence[MeasuringAgent]) -> bool:
        """Whether something is left that spans more nodes than these."""
        ...

    def out_of_time(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Task:
    """What an agent is doing: a launch, or, without one, the look before it."""

    agent: MeasuringAgent
    plan: LaunchPlan | None


_Looked = tuple[str, ...]
_Result = Future[_Looked]
_Message = RunBundle | _Result


class Crew:
    """Drives the agents of a fleet until nothing is left for any of them.

    Args:
        most_losses: a node that was lost so often is not taken up again.
    """

    def __init__(self, desk: Desk, fleet: Fleet, wall: Clock, most_losses: int) -> None:
        self._desk, self._fleet, self._wall, self._most_losses = desk, fleet, wall, most_losses
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._known: dict[int, MeasuringAgent] = {}
        self._teams: dict[int, MeasuringAgent] = {}
        self._idle: dict[int, MeasuringAgent] = {}
        self._busy: dict[_Result, _Task] = {}
        self._lost: dict[str, MeasuringAgent] = {}
        self._losses: Counter[str] = Counter()
        self._looked_s = -float("inf")
        self._lost_s = wall.monotonic_s()
        self._changed = True

    def work(self) -> None:
        """Until nothing is left, or time is up. However it ends, every agent has stopped, and its runs were taken.

        Raises:
            Whatever an agent or the desk raised, but for what costs one agent: that it was lost, or that its engine or
                a meter failed it outside of a run.
        """
        with ThreadPoolExecutor(MOST_AGENTS, thread_name_prefix="agent") as pool:
            try:
                self._work(pool)
            finally:
                self._stopping.set()
                for task in self._busy.values():
                    task.agent.interrupt()
                while self._busy:
                    self._receive(self._inbox.get(), pool)

    def _work(self, pool: ThreadPoolExecutor) -> None:
        while True:
            self._take_up()
            if self._desk.out_of_time():
                # Each ends when its repetition in hand is done.
                self._stopping.set()
            elif self._changed:
                self._changed = False
                for agent in [agent for agent in self._idle.values() if self._desk.has_work(agent)]:
                    self._begin(pool, _Task(agent, None))
                self._team_up(pool)
            if not self._busy and (self._stopping.is_set() or not self._may_come_back()):
                return
            try:
                message = self._inbox.get(timeout=POLL_S)
            except queue.Empty:
                continue
            self._receive(message, pool)

    def _take_up(self) -> None:
        now_s = self._wall.monotonic_s()
        if now_s - self._looked_s < POLL_S:
            return
        self._looked_s = now_s
        for agent in self._fleet.present():
            if id(agent) not in self._known and self._losses[agent.name] < self._most_losses:
                # Known ones are kept, so that no other gets the id of one.
                self._known[id(agent)] = self._idle[id(agent)] = agent
                self._lost.pop(agent.name, None)
                self._desk.join(agent)
                self._changed = True

    def _team_up(self, pool: ThreadPoolExecutor) -> None:
        """Begin what only several can do together, among those that have nothing left to do alone."""
        for team in self._fleet.teams(list(self._idle.values())):
            if not all(id(part) in self._idle for part in team.parts):
                continue
            if id(team) not in self._teams:
                self._teams[id(team)] = team
                self._desk.join(team)
            if self._desk.has_work(team):
                self._begin(pool, _Task(team, None))

    def _begin(self, pool: ThreadPoolExecutor, task: _Task) -> None:
        for part in task.agent.parts:
            self._idle.pop(id(part), None)
        future = pool.submit(self._do, task)
        self._busy[future] = task
        # After all runs that it brings, since the thread that brings them calls back.
        future.add_done_callback(self._inbox.put)

    def _do(self, task: _Task) -> _Looked:
        """In a thread of the pool."""
        if task.plan is None:
            return task.agent.wait_until_free()
        bundles = task.agent.measure(task.plan)
        try:
            for bundle in bundles:
                self._inbox.put(bundle)
                while self._inbox.qsize() > _MOST_WAITING and not self._stopping.is_set():
                    self._stopping.wait(0.02)
                if self._stopping.is_set():
                    break
        finally:
            bundles.close()
        return ()

    def _receive(self, message: _Message, pool: ThreadPoolExecutor) -> None:
        if isinstance(message, RunBundle):
            self._desk.take(message)
            return
        task = self._busy.pop(message)
        agent, plan = task.agent, task.plan
        self._changed = True
        try:
            reasons = message.result()
        except (AgentLost, EngineError, MeasurementError) as failed:
            # An engine that would not end, or a meter that failed outside of a run, costs its node and no other.
            error = failed if isinstance(failed, AgentLost) else AgentLost(str(failed))
            gone = [part for part in agent.parts if part.name == error.node] or agent.parts[:1]
            for part in gone:
                self._losses[part.name] += 1
                self._lost[part.name] = part
                self._fleet.lost(part)
            self._lost_s, self._looked_s = self._wall.monotonic_s(), -float("inf")
            self._rest(part for part in agent.parts if part not in gone)
            self._desk.lose(agent, plan, error)
            return
        if plan is not None:
            self._desk.ended(agent, plan)
            self._rest(agent.parts)
        elif reasons:
            if not self._stopping.is_set():
                self._desk.skip(agent, reasons)
                self._rest(part for part in agent.parts if part not in agent.in_use)
        elif not self._stopping.is_set() and (following := self._desk.next_launch(agent)) is not None:
            self._begin(pool, _Task(agent, following))
        else:
            self._rest(agent.parts)

    def _rest(self, parts: Iterable[MeasuringAgent]) -> None:
        self._idle |= {id(part): part for part in parts}

    def _may_come_back(self) -> bool:
        """Whether only a lost node could go on (or there are too few yet), and it may still come."""
        if self._wall.monotonic_s() - self._lost_s >= self._fleet.patience_s:
            return False
        if not self._known or self._desk.waits_for_more(self._fleet.present()):
            return True
        waited_for = [agent for name, agent in self._lost.items() if self._losses[name] < self._most_losses]
        waited_for += [team for team in self._teams.values() if any(part in waited_for for part in team.parts)]
        return any(self._desk.has_work(agent) for agent in waited_for)
