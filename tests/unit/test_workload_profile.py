"""The bundled profiles against the traces that they stand in for."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp, spearmanr

from harness.bundled import bundled_path
from harness.errors import BadInput
from harness.workload.azure import Trace, load_trace
from harness.workload.profile import Profile, fit_profile, load_profile

SEEDS = (0, 1, 2)


def small_trace(arrival_s: list[float]) -> Trace:
    tokens = np.arange(1, len(arrival_s) + 1)
    return Trace("small", "0" * 64, datetime(2024, 1, 1, tzinfo=UTC), np.array(arrival_s), tokens, tokens)


def bundled(kind: str) -> Profile:
    return load_profile(bundled_path("traces", f"azure2023-{kind}-profile.json"))


def gap_cv(arrival_s: np.ndarray) -> float:
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean())


@pytest.fixture(params=["code", "conv"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def real(data_dir: Path, kind: str) -> Trace:
    return load_trace(data_dir / "azure" / f"AzureLLMInferenceTrace_{kind}.csv", f"azure2023-{kind}")


def test_bundled_file_is_what_the_command_makes_of_the_trace(data_dir: Path, kind: str) -> None:
    csv = data_dir / "azure" / f"AzureLLMInferenceTrace_{kind}.csv"
    command = [sys.executable, "-m", "harness.workload.profile", str(csv), f"azure2023-{kind}"]
    made = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    path = bundled_path("traces", f"azure2023-{kind}-profile.json")
    assert made == path.read_text()
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("seed", SEEDS)
def test_sample_has_the_lengths_of_the_trace(real: Trace, kind: str, seed: int) -> None:
    sample = bundled(kind).sample(seed)
    assert len(sample) == len(real)
    assert sample.source == "profile"
    assert ks_2samp(sample.prompt_tokens, real.prompt_tokens).statistic < 0.02
    assert ks_2samp(sample.generated_tokens, real.generated_tokens).statistic < 0.02
    assert sample.prompt_tokens.mean() == pytest.approx(real.prompt_tokens.mean(), rel=0.01)
    assert sample.generated_tokens.mean() == pytest.approx(real.generated_tokens.mean(), rel=0.01)
    expected = spearmanr(real.prompt_tokens, real.generated_tokens).statistic
    assert spearmanr(sample.prompt_tokens, sample.generated_tokens).statistic == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_sample_keeps_how_generated_tokens_depend_on_the_prompt(real: Trace, kind: str, seed: int) -> None:
    sample = bundled(kind).sample(seed)
    edges = np.quantile(real.prompt_tokens, [0.25, 0.5, 0.75])
    for quarter in range(4):
        expected = real.generated_tokens[np.searchsorted(edges, real.prompt_tokens) == quarter].mean()
        found = sample.generated_tokens[np.searchsorted(edges, sample.prompt_tokens) == quarter].mean()
        assert found == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("seed", SEEDS)
def test_sample_has_the_arrivals_of_the_trace(real: Trace, kind: str, seed: int) -> None:
    sample = bundled(kind).sample(seed)
    assert (np.diff(sample.arrival_s) >= 0).all()
    assert sample.arrival_s[0] == 0.0
    assert sample.span_s == pytest.approx(real.span_s, abs=0.002)
    per_minute = [np.bincount((trace.arrival_s // 60).astype(int)) for trace in (sample, real)]
    assert per_minute[0].tolist() == per_minute[1].tolist()
    assert gap_cv(sample.arrival_s) == pytest.approx(gap_cv(real.arrival_s), rel=0.03)


@pytest.mark.parametrize("seed", SEEDS)
def test_sample_is_as_bursty_within_a_minute(real: Trace, kind: str, seed: int) -> None:
    """Variance over mean of the requests per second and per 10 s (1 for Poisson, 13 and 71 for the code trace)."""
    sample = bundled(kind).sample(seed)
    for width_s in (1, 10):
        counts = [np.bincount((trace.arrival_s // width_s).astype(int)) for trace in (sample, real)]
        found, expected = (count.var() / count.mean() for count in counts)
        assert found == pytest.approx(expected, rel=0.25)


def test_sample_is_the_same_for_the_same_seed_only(kind: str) -> None:
    profile = bundled(kind)
    first, again, other = profile.sample(7), profile.sample(7), profile.sample(8)
    for column in ("arrival_s", "prompt_tokens", "generated_tokens"):
        assert (getattr(first, column) == getattr(again, column)).all()
        assert (getattr(first, column) != getattr(other, column)).any()
    assert first.sha256 == again.sha256 != other.sha256
    assert first.name == f"azure2023-{kind}-profile"


def test_sample_does_not_depend_on_the_numpy_version() -> None:
    sample = bundled("conv").sample(0)
    assert sample.prompt_tokens[:5].tolist() == [1313, 4111, 2131, 982, 3239]
    assert sample.generated_tokens[:5].tolist() == [189, 41, 93, 72, 156]


@pytest.mark.parametrize(
    "arrival_s",
    [[0.0], [0.0, 0.0], [0.0] * 50 + [59.9999999], [0.0] * 200 + [50.0, 60.0, 61.0], [0.0, 300.0, 300.0001]],
)
def test_tiny_and_tied_traces_have_a_profile(arrival_s: list[float]) -> None:
    profile = fit_profile(small_trace(arrival_s))
    sample = profile.sample(0)
    assert np.isfinite(sample.arrival_s).all()
    assert (np.diff(sample.arrival_s) >= 0).all()
    assert sample.span_s == pytest.approx(arrival_s[-1], abs=0.002)
    assert Profile.model_validate_json(profile.to_json()) == profile


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests", 3),
        ("minute_last_s", [0.0] * 57),
        ("prompt_quantiles", [1.0]),
        ("gap_levels", [0.0, 0.5]),
        ("start_utc", "2023-11-16T18:17:03"),
        ("form", 2),
        ("unknown", 1),
    ],
)
def test_damaged_profile_is_refused_by_its_field(tmp_path: Path, field: str, value: object) -> None:
    content = json.loads(bundled_path("traces", "azure2023-code-profile.json").read_text())
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content | {field: value}))
    with pytest.raises(BadInput) as caught:
        load_profile(path)
    assert caught.value.field.startswith(str(path))
    path.write_text("{")
    with pytest.raises(BadInput):
        load_profile(path)
