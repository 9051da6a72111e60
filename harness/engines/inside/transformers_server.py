"""A plain PyTorch engine: a dense Llama-shaped model of `transformers` that serves static batches.

    python -m transformers_server --port 8000 --model DIR --max-sequences 64 --token-budget 8192 ...

For machines where no serving engine can be installed, and for gated batches. A batch is the oldest waiting request and
all waiting ones with prompts of its length, up to the limits; it is served to its end before the next is formed. So
there is no padding and no mask, and a step is what it says; requests of other lengths wait, which is why a replay
against this engine measures static batching and not a serving engine. A request that is over leaves its batch.

Prompts are computed whole, as many at once as the token budget holds; one longer than the budget, in pieces of it.
Then the batch decodes in lockstep, greedily. The KV cache is transformers' DynamicCache, which is copied whenever it
grows: a cost of plain PyTorch that this engine's energies include.

Runs in an environment with torch and transformers; of `harness`, nothing but this folder.
"""

import argparse
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from harness.engines.inside.engine_service import Request, Step
    from harness.engines.inside.http_front import run
else:
    from engine_service import Request, Step
    from http_front import run

DUMMY_WEIGHT = 1e-3
"""Dummy weights are uniform within this of zero, as vLLM's and Sarathi's are."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Batch:
    """Requests with prompts of one length; rows of the cache are in their order.

    Attributes:
        prompts: (requests, length) token ids.
        last: (requests,) the newest token of each.
        parts: caches of the rows that were computed together, until all prompts are; then they are one `cache`.
        row, column: where the prompts that are not computed yet begin.
    """

    def __init__(self, requests: list[Request], device: torch.device) -> None:
        self.requests = requests
        self.prompts = torch.tensor([request.prompt for request in requests], device=device)
        self.generated = [0] * len(requests)
        self.last = torch.zeros(len(requests), dtype=torch.long, device=device)
        self.parts: list[DynamicCache] = []
        self.cache = DynamicCache()
        self.row = self.column = 0
        self.prefilled = False

    @property
    def length(self) -> int:
        return int(self.prompts.shape[1])

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, dtype=torch.long, device=self.last.device)
        self.requests = [self.requests[row] for row in rows]
        self.generated = [self.generated[row] for row in rows]
        self.last = self.last[index]
        self.cache = gathered([layers_of(self.cache)], index)


def layers_of(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, (rows, heads, tokens, width) each."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def gathered(parts: list[list[tuple[torch.Tensor, torch.Tensor]]], index: torch.Tensor | None = None) -> DynamicCache:
    """One cache of the rows of several, or of those at `index`."""
    cache = DynamicCache()
    for number, layer in enumerate(zip(*parts, strict=True)):
        keys, values = (torch.cat(tensors) if len(tensors) > 1 else tensors[0] for tensors in zip(*layer, strict=True))
        if index is not None:
            keys, values = keys[index], values[index]
        cache.update(keys, values, number)
    return cache


class StaticBatches:
    """The engine, as an `engine_service.Backend`."""

    most_under_way = 1

    def __init__(self, model: LlamaForCausalLM, limits: argparse.Namespace, described: Mapping[str, Any]) -> None:
        self._model, self._described = model, described
        self._device = model.device
        self._max_sequences: int = min(limits.max_sequences, limits.token_budget)
        self._token_budget: int = limits.token_budget
        self.max_context_tokens: int = limits.max_context_tokens
        self.vocabulary: int = model.config.vocab_size
        self._lock = threading.Lock()
        self._waiting: list[Request] = []
        self._unwanted: set[int] = set()
        self._batch: Batch | None = None

    def submit(self, requests: Sequence[Request]) -> None:
        with self._lock:
            self._waiting.extend(requests)

    def abort(self, key: int) -> None:
        with self._lock:
            self._unwanted.add(key)

    def has_work(self) -> bool:
        return bool(self._waiting or self._batch)

    def describe(self) -> Mapping[str, Any]:
        return self._described

    def close(self) -> None:
        pass

    def step(self) -> Step | None:
        start_s = time.monotonic()
        with torch.inference_mode():
            batch = self._current()
            if batch is None:
                return None
            return self._decode(batch, start_s) if batch.prefilled else self._prefill(batch, start_s)

    def _current(self) -> Batch | None:
        """The batch under way without what was aborted in it, or a new one."""
        with self._lock:
            unwanted, self._unwanted = self._unwanted, set()
            self._waiting = [request for request in self._waiting if request.key not in unwanted]
            if self._batch is not None and any(request.key in unwanted for request in self._batch.requests):
                self._drop(self._batch, unwanted)
            if self._batch is None and self._waiting:
                length = len(self._waiting[0].prompt)
                alike = [request for request in self._waiting if len(request.prompt) == length]
                admitted = alike[: self._max_sequences]
                keys = {request.key for request in admitted}
                self._waiting = [request for request in self._waiting if request.key not in keys]
                self._batch = Batch(admitted, self._device)
            return self._batch

    def _drop(self, batch: Batch, unwanted: set[int]) -> None:
        if batch.prefilled:
            self._shrink(batch, [row for row, request in enumerate(batch.requests) if request.key not in unwanted])
        elif all(request.key in unwanted for request in batch.requests):
            self._batch = None
        else:
            # Its rows are still in parts; it leaves when they are one cache.
            self._unwanted |= unwanted

    def _shrink(self, batch: Batch, rows: list[int]) -> None:
        if not rows:
            self._batch = None
        elif len(rows) < len(batch.requests):
            batch.keep(rows)

    def _forward(self, tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """The likeliest next token after each row of `tokens` (rows, columns); the cache grows by the columns."""
        hidden = self._model.model(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        likeliest: torch.Tensor = self._model.lm_head(hidden[:, -1]).argmax(-1)
        return likeliest

    def _prefill(self, batch: Batch, start_s: float) -> Step:
        """Whole prompts, as many as the budget holds; or the next piece of one that exceeds it."""
        rows = slice(batch.row, batch.row + max(1, self._token_budget // batch.length))
        columns = slice(batch.column, batch.column + self._token_budget)
        if batch.column == 0:
            batch.parts.append(DynamicCache())
        tokens = batch.prompts[rows, columns]
        likeliest = self._forward(tokens, batch.parts[-1])
        held, width = tokens.shape
        keys = [request.key for request in batch.requests[rows]]
        context = held * (batch.column + width)
        batch.column += width
        new_tokens: dict[int, int] = {}
        if batch.column == batch.length:
            batch.last[rows] = likeliest
            batch.generated[rows] = [1] * held
            new_tokens = dict.fromkeys(keys, 1)
            batch.row, batch.column = batch.row + held, 0
            batch.prefilled = batch.row == len(batch.requests)
            if batch.prefilled:
                batch.cache = gathered([layers_of(part) for part in batch.parts])
                batch.parts = []
        end_s = self._now_s()
        if batch.prefilled:
            self._leave(batch)
        return Step(start_s, end_s, dict.fromkeys(keys, width), context, new_tokens)

    def _decode(self, batch: Batch, start_s: float) -> Step:
        batch.last = self._forward(batch.last[:, None], batch.cache)
        batch.generated = [count + 1 for count in batch.generated]
        keys = [request.key for request in batch.requests]
        context = len(keys) * batch.cache.get_seq_length()
        end_s = self._now_s()
        self._leave(batch)
        return Step(start_s, end_s, dict.fromkeys(keys, 0), context, dict.fromkeys(keys, 1))

    def _leave(self, batch: Batch) -> None:
        """Requests that have their tokens leave the batch."""
        rows = [row for row, request in enumerate(batch.requests) if batch.generated[row] < request.max_tokens]
        with self._lock:
            self._shrink(batch, rows)

    def _now_s(self) -> float:
        """Once the step's tokens are known: kernels run behind the calls that start them."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.monotonic()


def load_model(folder: Path, real: bool, dtype: torch.dtype, device: str, seed: int) -> LlamaForCausalLM:
    """The model, from safetensors alone, or with made-up weights. Raises OSError, ValueError."""
    content = json.loads((folder / "config.json").read_text("utf-8"))
    if "LlamaForCausalLM" not in content.get("architectures", []):
        raise ValueError(f"{folder}: only LlamaForCausalLM is served, not {content.get('architectures')}")
    if real:
        loaded = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
        return loaded.to(device).eval()
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**content))
    finally:
        torch.set_default_dtype(default)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-DUMMY_WEIGHT, DUMMY_WEIGHT)
    return model.eval()


def make_backend(options: argparse.Namespace) -> StaticBatches:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Half precision on a CPU is emulated in places, and slow.
    dtype = options.dtype if device == "cuda" else "float32"
    model = load_model(Path(options.model), options.real_weights, DTYPES[dtype], device, options.seed)
    described = {
        **vars(options),
        "dtype": dtype,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "attention": str(getattr(model.config, "_attn_implementation", "")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return StaticBatches(model, options, described)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json, and the weights where they are real")
    parser.add_argument("--real-weights", action="store_true", help="load the folder's safetensors")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float16", help="on a GPU; float32 on a CPU")
    parser.add_argument("--max-sequences", type=int, default=128)
    parser.add_argument("--token-budget", type=int, default=8192, help="tokens computed in one step at most")
    parser.add_argument("--max-context-tokens", type=int, default=4096)
    parser.add_argument("--stream-interval", type=int, default=1, help="tokens per streamed event")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    run(lambda: make_backend(options), options.host, options.port, options.stream_interval)


if __name__ == "__main__":
    main()
