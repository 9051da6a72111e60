"""What the clients are asked to do, and how each of them is asked: its command, at its best documented settings.

A trace has one JSON object per line: `timestamp` in ms, `input_length`, `output_length`, and `hash_ids`, from which
`vllm bench serve` makes prompts (16 tokens each). GuideLLM reads seconds: a copy of its own.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BURST, CLOSED, STEADY = "burst", "closed loop", "steady"
SCENARIOS = (BURST, CLOSED, STEADY)
WHAT = {
    BURST: "100 requests within 100 ms, 1000 prompt tokens, 16 generated, 10 ms per token",
    CLOSED: "64 streams, 8 prompt tokens, 8 generated, no pace",
    STEADY: "5 requests/s for 10 s, 200 prompt tokens, 100-200 generated, 10 ms per token",
}
PACE_MS = {BURST: 10.0, CLOSED: 0.0, STEADY: 10.0}
STREAMS, SMALL = 64, 8
REQUESTS = {"harness": 60_000, "aiperf": 4_000, "vllm": 4_000, "guidellm": 1_000}
"""Of the closed loop: some seconds for each; the harness's would be over at once."""
VLLM_HASH_TOKENS = 16
WORDS = 1000


@dataclass(frozen=True)
class Request:
    due_s: float
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Pythons:
    """Executables: a Python that has the harness, and the peers' own commands."""

    harness: str
    aiperf: str
    vllm: str
    guidellm: str


def schedule(scenario: str) -> list[Request]:
    """The open-loop scenarios, in whole milliseconds: what every tool's trace format can say."""
    draw = random.Random(4)
    if scenario == BURST:
        return [Request(due_ms / 1000, 1000, 16) for due_ms in sorted(draw.randrange(100) for _ in range(100))]
    due_ms, found = 0.0, []
    for _ in range(50):
        found.append(Request(round(due_ms) / 1000, 200, draw.randint(100, 200)))
        due_ms += draw.expovariate(5 / 1000)
    return found


def write_inputs(folder: Path) -> None:
    """The traces, and a tokenizer of a thousand words, one token each: nothing is fetched."""
    for scenario in (BURST, STEADY):
        rows, rows_s, first_hash = [], [], 0
        for request in schedule(scenario):
            hashes = -(-request.prompt_tokens // VLLM_HASH_TOKENS)
            row = {
                "timestamp": round(request.due_s * 1000),
                "input_length": request.prompt_tokens,
                "output_length": request.generated_tokens,
            }
            rows.append(row | {"hash_ids": list(range(first_hash, first_hash + hashes))})
            rows_s.append(row | {"timestamp": request.due_s})
            first_hash += hashes
        plain = [{key: value for key, value in row.items() if key != "hash_ids"} for row in rows]
        for name, content in (("hashes", rows), ("ms", plain), ("s", rows_s)):
            lines = "".join(json.dumps(row) + "\n" for row in content)
            (folder / f"{scenario}.{name}.jsonl").write_text(lines, "utf-8")
    words = {f"w{number:03d}": number for number in range(WORDS)}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w000"},
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000}
    config = {"model_type": "gpt2", "vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0}
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name, document in (("tokenizer", tokenizer), ("tokenizer_config", settings), ("config", config)):
        (folder / "tokenizer" / f"{name}.json").write_text(json.dumps(document), "utf-8")


def tools(scenario: str) -> list[str]:
    ours = ["harness", "harness, token times"] if scenario == STEADY else ["harness"]
    return [*ours, "aiperf", "vllm", "guidellm"]


def command(tool: str, scenario: str, port: int, pythons: Pythons, folder: Path) -> list[str]:
    """What is run, in `folder`."""
    build = {"harness": _harness, "aiperf": _aiperf, "vllm": _vllm, "guidellm": _guidellm}
    return build[tool.partition(",")[0]](tool, scenario, port, pythons)


def _harness(tool: str, scenario: str, port: int, pythons: Pythons) -> list[str]:
    worker = [pythons.harness or sys.executable, str(HERE / "client_worker.py"), str(port)]
    if scenario == CLOSED:
        return [*worker, "--closed", str(STREAMS), str(REQUESTS["harness"]), str(SMALL), str(SMALL)]
    return [*worker, f"{scenario}.ms.jsonl", *(["--chunk-times"] if "token times" in tool else [])]


def _aiperf(tool: str, scenario: str, port: int, pythons: Pythons) -> list[str]:
    base = [pythons.aiperf, "profile", "--model", "mock", "--url", f"http://127.0.0.1:{port}"]
    base += ["--endpoint-type", "completions", "--streaming", "--tokenizer", "tokenizer"]
    base += ["--use-server-token-count", "--use-legacy-max-tokens", "--ui", "none", "--no-server-metrics"]
    base += ["--no-gpu-telemetry", "--output-artifact-dir", "aiperf"]
    if scenario == CLOSED:
        small = ["--isl", str(SMALL), "--isl-stddev", "0", "--osl", str(SMALL), "--osl-stddev", "0"]
        return [*base, "--concurrency", str(STREAMS), "--request-count", str(REQUESTS[tool]), *small]
    return [
        *base,
        "--input-file",
        f"{scenario}.ms.jsonl",
        "--custom-dataset-type",
        "mooncake-trace",
        "--fixed-schedule",
    ]


def _vllm(tool: str, scenario: str, port: int, pythons: Pythons) -> list[str]:
    base = [pythons.vllm, "bench", "serve", "--backend", "openai", "--base-url", f"http://127.0.0.1:{port}"]
    base += ["--endpoint", "/v1/completions", "--model", "mock", "--tokenizer", "tokenizer", "--ignore-eos"]
    base += ["--disable-tqdm"]
    if scenario == CLOSED:
        small = ["--random-input-len", str(SMALL), "--random-output-len", str(SMALL)]
        count = ["--num-prompts", str(REQUESTS[tool]), "--max-concurrency", str(STREAMS)]
        return [*base, "--dataset-name", "random", *small, *count]
    trace = ["--dataset-name", "timed_trace", "--dataset-path", f"{scenario}.hashes.jsonl"]
    count = ["--num-prompts", str(len(schedule(scenario))), "--timed-trace-sec-multiplier", "0.001"]
    return [*base, *trace, *count]


def _guidellm(tool: str, scenario: str, port: int, pythons: Pythons) -> list[str]:
    base = [pythons.guidellm, "run", "--tokenizer", "kind=huggingface_auto,model=tokenizer"]
    base += ["--backend", f"kind=openai_http,target=http://127.0.0.1:{port},model=mock,request_format=/v1/completions"]
    base += ["--output", "kind=json,path=guidellm.json", "--disable-console"]
    if scenario == CLOSED:
        data = f"kind=synthetic_text,prompt_tokens={SMALL},output_tokens={SMALL}"
        limit = ["--constraint", f"kind=max_requests,count={REQUESTS[tool]}"]
        return [*base, "--profile", f"kind=concurrent,streams={STREAMS}", "--data", data, *limit]
    data = f"kind=trace_synthetic,source.kind=json_file,source.path={scenario}.s.jsonl"
    return [*base, "--profile", "kind=replay,schedule_turn=timestamp", "--data", data]
