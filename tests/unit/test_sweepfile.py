"""Sweep files: what a person gets wrong is answered with one line that names it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.bundled import bundled_path
from harness.deployment.sweepfile import load_sweep
from harness.deployment.yamlfile import load_yaml
from harness.errors import BadInput
from harness.feasibility import deployment_obstacle
from harness.plan import Probes
from tests.unit.builders import SMALL_SWEEP, write_sweep

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load_sweep(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("simulate: true", "simulate: true\nspeed: 3", "speed"),
        ("llama-2-7b", "llama-9", "llama-2-7b"),
        ("dgx-h100", "dgx-z", "dgx-h100"),
        ("{tp: 2}", "{tp: 3}", "divisor of the 32 heads"),
        ("{tp: 2}", "{tp: 1, pp: 33}", "at most the 32 layers"),
        ("{tp: 2}", "{tp: 4, pp: 4}", "at most the 8 GPUs of a node; fix: nodes: 2 for pipelines over several"),
        ("{tp: 2}", "{tp: 8, pp: 4, nodes: 2}", "at most the 8 GPUs of each of 2 nodes; fix: nodes: 4"),
        ("{tp: 2}", "{tp: 16}", "at most the 8 GPUs of a node"),
        ("{tp: 2}", "{tp: 2, nodes: 2}", "parallelism[1].nodes: 2; accepted: a divisor of pp 1: each node takes whole"),
        ("{tp: 2}", "{tp: 2, pp: 4, nodes: 3}", "parallelism[1].nodes: 3; accepted: a divisor of pp 4"),
        ("{tp: 2}", "{tp: 2, nodes: 0}", "parallelism[1].nodes"),
        ("{tp: 2}", "{tp: 0}", "greater than or equal to 1"),
        ("{tp: 2}", "{tp: -2}", "-2"),
        ("{tp: 2}", "{tp: 2.5}", "parallelism[1].tp"),
        ("{tp: 2}", "{tp: true}", "parallelism[1].tp"),
        ("prompt_tokens: [128]", "prompt_tokens: [0]", "prompt_tokens[0]"),
        ("prompt_tokens: [128]", "prompt_tokens: [.nan]", "prompt_tokens[0]"),
        ("prompt_tokens: [128]", "prompt_tokens: []", "prompt_tokens"),
        ("sizes: [1, 8]", "sizes: [1, '8']", "sizes[1]"),
        ("window: 500ms", "window: 5x", "5x"),
        ("window: 500ms", "window: -1s", "measurement.window"),
        ("repetitions: 2", "repetitions: 0", "measurement.repetitions"),
        ("idle: 1s", "probes: {points: -1}", "measurement.probes.points"),
        ("idle: 1s", "probes: {launches: 0}", "measurement.probes.launches"),
        ("idle: 1s", "probes: {boards: 2}", "measurement.probes.boards"),
        ("max_context_tokens: 4096", "max_context_tokens: 9000", "at most the models' 4096"),
        ("simulate: true\n", "", "required"),
        ("name: vllm", "name: tgi", "engines[0].name"),
        ("[dgx-h100]", "[dgx-h100, dgx-h100]", "each entry once"),
        ("[dgx-h100]", "[cpu-only]", "cannot be simulated"),
        ("idle: 1s", "node_power: bmc", "ipmi, or the address of a Redfish"),
        ("idle: 1s", "foreign_cores: 0", "measurement.foreign_cores"),
        ("measurement:", "replays: [{trace: azure2023-conv, length_scale: 0}]\nmeasurement:", "length_scale"),
        ("sweep: small", "sweep: ../../etc", "letters, digits"),
        ("    grid: {prompt_tokens: [128], generated_tokens: [16]}", "", "exactly one of"),
    ],
)  # fmt: skip
def test_one_line_names_the_field(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in refusal(write_sweep(tmp_path, (old, new)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x00\x01\x02\xff\xfe", "sweep.yaml"),
        (b"sweep: a\nmodels:\n\t- x\n", "line 3"),
        (b"sweep: a\nsweep: b\n", "duplicate key 'sweep'"),
        (BOMB.encode(), "aliases"),
        (b"&a [*a]\n", "sweep.yaml"),
        (b"", "mapping at its top"),
        (b"- just\n- a list\n", "mapping at its top"),
        (b"1: 2\n", "mapping at its top"),
        (b"a: [1, 2\n", "line"),
        (b"a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "nest"),
        (b"a: 2023-99-99\n", "sweep.yaml"),
        (b"? [a, b]\n: c\n", "sweep.yaml"),
    ],
    ids=["binary", "tab", "duplicate", "bomb", "self", "empty", "list", "intkey", "open", "python", "deep", "date",
         "listkey"],
)  # fmt: skip
def test_broken_yaml_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_yaml(path)
    line = str(caught.value)
    assert "\n" not in line
    assert expected in line


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.yaml")
    assert str(tmp_path) in refusal(tmp_path)


def test_any_llama_shaped_config_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-gqa"
    folder.mkdir()
    config = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024, "max_position_embeddings": 8192,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    sweep = load_sweep(write_sweep(tmp_path, ("llama-2-7b", "./tiny-gqa")))
    shape = sweep.deployments[0].model
    assert (shape.name, shape.kv_heads) == ("tiny-gqa", 2)
    # By hand: attention 128*(2*128 + 2*64) = 49,152; MLP 3*128*256 = 98,304; norms 256; two layers,
    # two embeddings of 1024*128, one last norm.
    assert shape.parameters == 2 * (49_152 + 98_304 + 256) + 2 * 131_072 + 128
    config["num_local_experts"] = 8
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    assert "dense" in refusal(tmp_path / "sweep.yaml")


def test_weights_must_be_where_they_are_said_to_be(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, ("[llama-2-7b]", "[{shape: llama-2-7b, weights: ./nowhere}]"))
    assert "models[0].weights" in refusal(path)


CPU_NODE = "kind: mine\ngpus: 0\nranks: 2\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CPU_NODE.replace("ranks: 2\n", ""), "with `ranks`, without `gpu` and `cpu`"),
        (CPU_NODE.replace("gpus: 0", "gpus: 1"), "with the figures of `gpu` and `cpu`"),
        (CPU_NODE.replace("gpus: 0", "gpus: -1"), "gpus"),
        (CPU_NODE.replace("ranks: 2", "ranks: 0"), "ranks"),
    ],
)
def test_a_node_file_has_figures_of_its_gpus_or_none_at_all(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "node.yaml").write_text(content, "utf-8")
    path = write_sweep(tmp_path, ("[dgx-h100]", "[./node.yaml]\nbits: [32]"), ("simulate: true", "simulate: false"))
    assert expected in refusal(path)


def test_a_node_without_gpus_takes_as_many_ranks_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(CPU_NODE, "utf-8")
    path = write_sweep(tmp_path, ("[dgx-h100]", "[./node.yaml]\nbits: [32]"), ("simulate: true", "simulate: false"))
    assert {item.gpu for item in load_sweep(path).deployments} == {"none"}
    path = write_sweep(
        tmp_path,
        ("[dgx-h100]", "[./node.yaml]\nbits: [32]"),
        ("simulate: true", "simulate: false"),
        ("{tp: 2}", "{tp: 4}"),
    )
    assert "at most the 2 engine ranks of a node" in refusal(path)


@pytest.mark.parametrize("kind", ["dgx-a100", "dgx-h100", "a100-1", "h100-1"])
@pytest.mark.parametrize("suffix", ["", "-sarathi"])
def test_every_kind_of_gpu_node_has_a_real_sweep_of_the_three_models_for_each_engine(kind: str, suffix: str) -> None:
    sweep = load_sweep(bundled_path("deployments", f"{kind}{suffix}.yaml"))
    assert not sweep.simulate
    assert [node.kind for node in sweep.nodes] == [kind]
    assert {item.model.name for item in sweep.deployments} == {"llama-2-7b", "internlm-20b", "llama-2-70b"}
    assert {item.limits.engine for item in sweep.deployments} == {"sarathi" if suffix else "vllm"}
    obstacles = {
        (item.model.name, item.tensor_parallel, item.pipeline_parallel): deployment_obstacle(
            item, sweep.nodes[0].gpu, sweep.nodes[0].places
        )
        for item in sweep.deployments
    }
    assert len(obstacles) == (3 if kind.endswith("-1") else 30)
    assert obstacles["llama-2-7b", 1, 1] == ""
    assert "weights need" in obstacles["llama-2-70b", 1, 1]
    if not kind.endswith("-1"):
        assert ("60 layers" in obstacles["internlm-20b", 1, 8]) is bool(suffix)
        assert obstacles["llama-2-70b", 4, 2] == ""


def test_bundled_sweeps_load() -> None:
    paths = sorted(bundled_path("deployments").glob("*.yaml"))
    assert paths
    for path in paths:
        assert load_sweep(path).deployments


@pytest.mark.parametrize("name", ["simulated-dgx", "dgx-a100", "dgx-h100"])
def test_the_sweeps_of_whole_nodes_probe_launches_and_boards(name: str) -> None:
    probes = load_sweep(bundled_path("deployments", f"{name}.yaml")).rules.probes
    assert probes.points >= 1
    assert probes.launches >= 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", Probes(0, 3)), (", probes: {}", Probes(2, 3)), (", probes: {points: 0}", Probes(0, 3)),
     (", probes: {points: 1, launches: 5}", Probes(1, 5))],
)  # fmt: skip
def test_probes_are_taken_when_asked_for(tmp_path: Path, given: str, expected: Probes) -> None:
    assert load_sweep(write_sweep(tmp_path, ("idle: 1s", f"idle: 1s{given}"))).rules.probes == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_generated_sweep_files_load_or_are_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in place of one value: a sweep or one line, never a traceback."""
    old = data.draw(st.sampled_from(["true", "[dgx-h100]", "[1, 8]", "[16]", "500ms", "4096", "{tp: 2}", "vllm", "2,"]))
    new = data.draw(
        st.one_of(
            st.sampled_from(["null", "[]", "{}", "-1", "0", "1e400", ".inf", "''", "~", "[[[]]]", "!!binary x", "0x_"]),
            st.integers(-(10**30), 10**30).map(str),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        )
    )
    path = write_sweep(tmp_path, (old, new), text=SMALL_SWEEP)
    line = ""
    try:
        load_sweep(path)
    except BadInput as error:
        line = str(error)
    assert "\n" not in line
