"""From what was measured to the record of a run: energies per batch, prefill and decode apart."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from harness import __version__
from harness.engines.base import Engine, Requests, Served, Steps
from harness.happened import latency_columns, step_columns, tokens_generated
from harness.hygiene import Verdict
from harness.measured import METERED, Baselines, Measured
from harness.meters.window import GPU_GAIN_UNCERTAINTY, WindowEnergies
from harness.node import NodeIdentity
from harness.plan import Assignment, LaunchPlan
from harness.points import NO_GPU, BatchWorkload, Environment, ReplayWorkload, Schedule, Source
from harness.records import ENERGY_DOMAINS, Energy, RunBundle, RunRecord, Status, Window, WindowDetail
from harness.replay import saturation, steady_window

_POWER_DISAGREEMENT = 0.05
"""Counter and integrated power further apart than this are flagged (measurement rule 5)."""


@dataclass(frozen=True, slots=True, eq=False)
class LaunchContext:
    """What all runs of a launch share."""

    node: NodeIdentity
    plan: LaunchPlan
    environment: Environment
    launch_id: str
    gpu_uuids: tuple[str, ...] = ()
    load_s: float | None = None
    launch: str = ""
    idle_w: Mapping[str, float | None] | None = None
    start_temperature_c: float | None = None

    def launched(self, engine: Engine, baselines: Baselines) -> "LaunchContext":
        uuids = engine.gpu_uuids
        return replace(
            self,
            gpu_uuids=uuids,
            load_s=engine.load_s,
            launch=json.dumps(engine.launched, sort_keys=True) if engine.launched else "",
            idle_w=baselines.power_w(uuids),
        )


def identity(context: LaunchContext, assignment: Assignment) -> dict[str, Any]:
    """The columns that say what was measured, where and as which repetition."""
    plan, environment, point = context.plan, context.environment, assignment.point
    deployment, limits, spec = point.deployment, point.deployment.limits, context.node.spec
    columns: dict[str, Any] = {
        "sweep": plan.sweep,
        "point_id": point.point_id,
        "environment_id": environment.environment_id,
        "launch_id": context.launch_id,
        "repetition": assignment.repetition,
        "attempt": assignment.attempt,
        "purpose": assignment.purpose,
        "source": context.node.source,
        "node": context.node.name,
        "n_nodes": deployment.nodes,
        "node_kind": spec.kind,
        "gpu": deployment.gpu,
        "gpu_name": environment.gpu_name,
        "gpu_uuids": context.gpu_uuids,
        "n_gpus": 0 if deployment.gpu == NO_GPU else deployment.gpus,
        "cpu": context.node.processor,
        "driver_version": environment.driver_version,
        "power_limit_w": environment.power_limit_w,
        "engine": environment.engine,
        "engine_version": environment.engine_version,
        "harness_version": __version__,
        "weights": deployment.weights,
        "revision": deployment.revision,
        "model": deployment.model.name,
        "bits": deployment.bits,
        "tp": deployment.tensor_parallel,
        "pp": deployment.pipeline_parallel,
        "token_budget": limits.token_budget,
        "max_sequences": limits.max_sequences,
        "max_context_tokens": limits.max_context_tokens,
        "enforce_eager": limits.enforce_eager,
        "trace": assignment.lengths_from,
        "load_s": context.load_s,
        "point": point.to_json(),
        "launch": context.launch,
        **(context.idle_w or {}),
    }
    workload = point.workload
    if isinstance(workload, BatchWorkload):
        columns |= {
            "workload": "batch",
            "batch_size": workload.batch_size,
            "prompt_tokens": float(workload.prompt_tokens),
            "generated_tokens": float(workload.generated_tokens),
        }
    else:
        columns |= {
            "workload": "replay",
            "stream_interval": limits.stream_interval,
            "trace": workload.trace,
            "rate_scale": workload.rate_scale,
            "capacity_share": workload.capacity_share,
            "length_scale": workload.length_scale,
            "slice_start_s": workload.start_s,
            "slice_duration_s": workload.duration_s,
            "context_policy": workload.context_policy,
        }
    return columns


def new_launch_id() -> str:
    """Of a launch that begins now, here or anywhere."""
    return uuid.uuid4().hex[:12]


def unmeasured_run(
    context: LaunchContext, assignment: Assignment, status: Status, reason: str, partial: object = None
) -> RunBundle:
    """A run that has no energies, and says why.

    Args:
        partial: what was served of a replay before it was cut short (`Served`): its requests and steps are kept.
    """
    energies = {domain: Energy.absent(f"run is {status}") for domain in ENERGY_DOMAINS}
    clock = context.node.clock
    columns = identity(context, assignment) | {"started_at": clock.utc()}
    details: tuple[WindowDetail, ...] = ()
    if isinstance(partial, Served) and isinstance(assignment.point.workload, ReplayWorkload):
        requests = partial.requests
        columns["started_at"] -= timedelta(seconds=clock.monotonic_s() - partial.start_s)
        finished = ~np.isnan(requests.finished_s)
        columns |= latency_columns(requests) | {
            "requests": int(finished.sum()),
            "requests_unfinished": int((~finished).sum()),
            "window_started_s": partial.start_s,
        }
        details = (WindowDetail("replay", partial.start_s, requests, partial.steps),)
    return RunBundle(RunRecord(**columns, status=status, reason=reason, energies=energies), details)


def warmup_run(
    context: LaunchContext,
    assignment: Assignment,
    served: Served,
    started_at: datetime,
    capacity_requests_per_s: float | None,
) -> RunBundle:
    """A warm-up: stored and marked, without energies."""
    energies = {domain: Energy.absent("warm-ups are not metered") for domain in ENERGY_DOMAINS}
    columns = identity(context, assignment) | {
        "started_at": started_at,
        "requests": len(served.requests),
        "window_started_s": served.start_s,
        "window_s": served.end_s - served.start_s,
        "capacity_requests_per_s": capacity_requests_per_s,
        **latency_columns(served.requests),
    }
    return RunBundle(RunRecord(**columns, status="ok", energies=energies))


def batch_run(context: LaunchContext, assignment: Assignment, prefill: Measured, full: Measured) -> RunBundle:
    """A repetition of a batch from its two windows; energies are per batch.

    `prefill` may be the same window as `full`, for batches that generate one token.

    Raises:
        MeasurementError: the GPUs' energy cannot be believed.
    """
    uuids, batches = context.gpu_uuids, full.served.batches
    estimate = context.plan.rules.estimate_dram
    full_energy, prefill_energy = full.energies(uuids, estimate), prefill.energies(uuids, estimate)
    rest, rest_flags = full.rest(uuids, full_energy)
    energies: dict[str, Energy] = {
        "idle_gpus": _divided(full_energy.idle_gpus, batches),
        "rest": _divided(rest, batches),
    }
    for domain in METERED:
        energies[domain] = _divided(getattr(full_energy, domain), batches)
        energies[f"{domain}_prefill"] = _divided(getattr(prefill_energy, domain), prefill.served.batches)
        energies[f"{domain}_decode"] = _difference(energies[domain], energies[f"{domain}_prefill"], prefill is full)
    verdict = full.verdict(uuids).and_also(prefill.verdict(uuids))
    duration_s = full.window_s / batches
    composition = step_columns(full)
    flags = rest_flags + (("marginal_decode",) if composition["mixed_step_fraction"] else ())
    columns = _window_columns(context, assignment, full, full_energy, verdict, flags, duration_s, energies)
    columns |= composition | {
        "requests": len(full.served.requests),
        **_token_columns(full),
        "batches_in_window": batches,
        "prefill_window_started_s": prefill.start_s,
        "prefill_window_s": prefill.window_s,
        "prefill_batches_in_window": prefill.served.batches,
        "prefill_gap_fraction": step_columns(prefill)["gap_fraction"],
        "clock_uncertainty_s": _widest(full, prefill),
        "prefill_s": prefill.window_s / prefill.served.batches,
        "gpu_energy_by_gpu_j": tuple(
            energy.energy_j / batches for energy in full_energy.by_gpu if energy.energy_j is not None
        ),
        **latency_columns(full.served.requests),
    }
    run = RunRecord(**columns)
    details = [_first_batch(full, "full", uuids)]
    if prefill is not full:
        details.insert(0, _first_batch(prefill, "prefill", uuids))
    return RunBundle(run, tuple(details))


def replay_run(
    context: LaunchContext, assignment: Assignment, measured: Measured, schedule: Schedule, rate_scale: float
) -> RunBundle:
    """A repetition of a replay; energies are of the whole window, or of the steady state of a saturated one.

    Raises:
        MeasurementError: the GPUs' energy cannot be believed.
    """
    workload = assignment.point.workload
    assert isinstance(workload, ReplayWorkload)
    served, uuids = measured.served, context.gpu_uuids
    saturated, flags = saturation(served), ()  # type: str, tuple[str, ...]
    if saturated:
        steady = steady_window(served, assignment.point.deployment.limits.max_sequences)
        if steady is not None:
            measured, flags = measured.part(*steady), ("steady_state_window",)
    window = measured.energies(uuids, context.plan.rules.estimate_dram)
    energies = {domain: getattr(window, domain) for domain in (*METERED, "idle_gpus")}
    for domain in METERED:
        for phase in ("prefill", "decode"):
            energies[f"{domain}_{phase}"] = Energy.absent("a replay mixes prefill and decode in the same steps")
    energies["rest"], rest_flags = measured.rest(uuids, window)
    flags += rest_flags
    finished = ~np.isnan(served.requests.finished_s)
    if not finished.all():
        flags += ("drain_limit",)
    verdict = measured.verdict(uuids)
    columns = _window_columns(context, assignment, measured, window, verdict, flags, measured.window_s, energies)
    if saturated and columns["status"] == "ok":
        columns |= {"status": "saturated", "reason": saturated}
    inside = finished
    if "steady_state_window" in flags:
        finished_s = served.requests.finished_s
        inside = finished & (finished_s >= measured.start_s) & (finished_s <= measured.end_s)
    columns |= step_columns(measured) | {
        "requests": int(inside.sum()),
        **_token_columns(measured),
        "prompt_tokens": float(np.mean(schedule.prompt_tokens)),
        "generated_tokens": float(np.mean(schedule.generated_tokens)),
        "rate_scale": rate_scale,
        "requests_clipped": schedule.clipped,
        "requests_dropped": schedule.dropped,
        "requests_unfinished": int((~finished).sum()),
        "gpu_energy_by_gpu_j": tuple(energy.energy_j for energy in window.by_gpu if energy.energy_j is not None),
        **latency_columns(served.requests, inside),
    }
    detail = WindowDetail("replay", measured.start_s, served.requests, served.steps, measured.power_of(uuids))
    return RunBundle(RunRecord(**columns), (detail,))


def _window_columns(
    context: LaunchContext,
    assignment: Assignment,
    measured: Measured,
    window: WindowEnergies,
    verdict: Verdict,
    flags: tuple[str, ...],
    duration_s: float,
    energies: dict[str, Energy],
) -> dict[str, Any]:
    columns = identity(context, assignment)
    integral_j = window.gpu_power_integral_j
    if integral_j and window.gpu.energy_j and abs(integral_j / window.gpu.energy_j - 1.0) > _POWER_DISAGREEMENT:
        flags += ("power_integral_disagrees",)
    unseen_j = window.gpu_sampling_bound_j
    if unseen_j is None and window.gpu.energy_j is not None:
        flags += ("sampling_unknown",)
    first_c, start_c = context.start_temperature_c, verdict.temperature_start_c
    if first_c is not None and start_c is not None and abs(start_c - first_c) > context.plan.rules.warm_drift_c:
        flags += ("temperature_drift",)
    for domain in METERED:
        idle_w, energy_j = columns.get(f"{domain}_loaded_idle_w"), energies[domain].energy_j
        if idle_w is not None and energy_j is not None:
            columns[f"{domain}_net_energy_j"] = energy_j - idle_w * duration_s
    return columns | {
        "status": "invalid" if verdict.invalid else "ok",
        "reason": "; ".join(verdict.invalid),
        "flags": verdict.flags + flags,
        "started_at": measured.started_at,
        "window_started_s": measured.start_s,
        "window_s": measured.window_s,
        "clock_uncertainty_s": measured.recording.clock_uncertainty_s,
        "duration_s": duration_s,
        "energies": energies,
        "gpu_power_integral_j": None if integral_j is None else integral_j * duration_s / measured.window_s,
        "gpu_sampling_bound_j": None if unseen_j is None else unseen_j * duration_s / measured.window_s,
        "gpu_gain_uncertainty": None if window.gpu.energy_j is None else GPU_GAIN_UNCERTAINTY,
        "gpu_temperature_start_c": verdict.temperature_start_c,
        "gpu_temperature_max_c": verdict.temperature_max_c,
        "sm_clock_mean_mhz": verdict.sm_clock_mean_mhz,
    }


def _widest(*windows: Measured) -> float | None:
    known_s = [one.recording.clock_uncertainty_s for one in windows]
    return max((one_s for one_s in known_s if one_s is not None), default=None)


def _token_columns(measured: Measured) -> dict[str, float | None]:
    """Tokens of the window, and what the client's processors took for them."""
    tokens, cpu_s = tokens_generated(measured), measured.served.client_cpu_s
    per_1000 = None if cpu_s is None or tokens == 0 else 1000 * cpu_s / tokens
    return {"tokens_generated": tokens, "client_cpu_s": cpu_s, "client_cpu_s_per_1000_tokens": per_1000}


def _divided(energy: Energy, batches: int) -> Energy:
    if energy.energy_j is None:
        return energy
    uncertainty_j = None if energy.uncertainty_j is None else energy.uncertainty_j / batches
    return replace(energy, energy_j=energy.energy_j / batches, uncertainty_j=uncertainty_j)


def _difference(total: Energy, part: Energy, same_window: bool) -> Energy:
    """total - part with the variances added, unless one window is both; absent when either is."""
    if total.energy_j is None or part.energy_j is None:
        return Energy.absent(total.reason or part.reason)
    uncertainty_j = 0.0 if same_window else float(np.hypot(total.uncertainty_j or 0.0, part.uncertainty_j or 0.0))
    if total.source == part.source == "estimated":  # by one and the same figure
        uncertainty_j = abs((total.uncertainty_j or 0.0) - (part.uncertainty_j or 0.0))
    source: Source | None = "estimated" if "estimated" in (total.source, part.source) else total.source
    return Energy(total.energy_j - part.energy_j, uncertainty_j, source)


def _first_batch(measured: Measured, window: Window, gpu_uuids: tuple[str, ...]) -> WindowDetail:
    """Details of the first batch only: the others of a window are alike, and would fill disks."""
    requests, steps = measured.served.requests, measured.served.steps
    first_request, first_step = requests.batch_index == 0, steps.batch_index == 0
    return WindowDetail(
        window,
        measured.start_s,
        Requests(**{name: getattr(requests, name)[first_request] for name in Requests.__dataclass_fields__}),
        Steps(**{name: getattr(steps, name)[first_step] for name in Steps.__dataclass_fields__}),
        measured.power_of(gpu_uuids),
    )
