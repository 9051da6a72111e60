"""A cluster without a token is not for use, nor one whose token others can read; no engine gets to see it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.sweep import sweep
from harness.cluster.raytoken import MODE, TOKEN, TOKEN_PATH, require_token, write_token
from harness.engines.commandline import process_environment
from harness.errors import BadInput
from tests.unit.builders import write_sweep


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (MODE, TOKEN, TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_is_made_for_its_owner_alone(home: Path) -> None:
    first = write_token(home / "token")
    content = (home / "token").read_text()
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    assert first == {MODE: "token", TOKEN_PATH: str(home / "token")}
    assert len(content) >= 32
    assert require_token(first, "--cluster") == first
    write_token(home / "token")
    assert (home / "token").read_text() != content, "one for each occasion"


def test_rays_own_places_are_looked_at(home: Path) -> None:
    assert require_token({TOKEN: "secret"}, "--cluster") == {MODE: "token"}
    (home / ".ray").mkdir()
    written = write_token(home / ".ray" / "auth_token")
    assert require_token({}, "--cluster") == written


@pytest.mark.parametrize(
    ("content", "mode", "environment", "said"),
    [
        (None, 0o600, {}, "no token: "),
        ("", 0o600, {}, "is empty"),
        ("secret", 0o640, {}, "0640"),
        ("secret", 0o604, {}, "0604"),
        ("secret", 0o600, {MODE: "disabled"}, "unset RAY_AUTH_MODE"),
        ("secret", 0o600, {TOKEN_PATH: "/nowhere"}, "no token: /nowhere"),
    ],
)
def test_what_is_no_token_is_refused(
    content: str | None, mode: int, environment: dict[str, str], said: str, home: Path
) -> None:
    if content is not None:
        (home / ".ray").mkdir()
        path = home / ".ray" / "auth_token"
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(BadInput, match=said) as refused:
        require_token(environment, "--cluster ray")
    assert "secret" not in str(refused.value)


def test_engines_keep_their_gpus_and_learn_nothing_of_ray() -> None:
    """Ray hides GPUs from what did not ask for them, and limits threads, by variables that it gives to an actor."""
    actor = {
        "CUDA_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "OMP_NUM_THREADS": "1",
        TOKEN: "secret",
        TOKEN_PATH: "/secret",
        "RAY_JOB_ID": "01",
        "PATH": "/bin",
    }
    made = process_environment(actor, {}, (4, 5))
    assert made == {"PATH": "/bin", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "4,5"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cluster", "kubernetes"), "accepted: local, ray, ray:HOST:PORT"),
        (("--cluster", "ray:there"), "accepted: local, ray, ray:HOST:PORT"),
        (("--cluster", "ray:127.0.0.1:1"), "no token: "),
        (("--cluster", "slurm"), "--budget"),
        (("--slurm-nodes", "2"), "'local'; accepted: slurm"),
        (("--cluster", "slurm", "--budget", "1h", "--slurm-set", "exclusive"), "OPTION=VALUE"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], said: str, home: Path
) -> None:
    results = home / "out"
    done = CliRunner().invoke(sweep, [str(write_sweep(home)), "--results", str(results), *arguments])
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)
    assert not results.exists()
