"""Run in an environment with torch: are the tokens of static batches those that `generate` finds?

    python check_tokens.py INSIDE MODEL_FOLDER

Prints `same N` for N compared sequences, or where they differ; status 1 then.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import torch
import transformers_server as server
from engine_service import Request


def served(backend: server.StaticBatches, requests: list[Request]) -> dict[int, list[int]]:
    """Tokens by request."""
    backend.submit(requests)
    tokens: dict[int, list[int]] = {request.key: [] for request in requests}
    while backend.has_work():
        # The batch as it is before finished requests leave it.
        seen: list[tuple[int, int]] = []
        leave = backend._leave

        def watched(batch: server.Batch, leave=leave, seen=seen) -> None:
            seen.extend(zip([request.key for request in batch.requests], batch.last.tolist(), strict=True))
            leave(batch)

        backend._leave = watched
        backend.step()
        backend._leave = leave
        for key, token in seen:
            tokens[key].append(token)
    return tokens


def main() -> int:
    folder = Path(sys.argv[2])
    torch.manual_seed(3)
    made = server.load_model(folder, False, torch.float32, "cpu", 1)
    with torch.no_grad():
        for parameter in made.parameters():
            # Far from ties, unlike dummy weights.
            parameter.normal_(0, 0.2)
    made.save_pretrained(folder / "saved")
    model = server.load_model(folder / "saved", True, torch.float32, "cpu", 1)
    compared = 0
    for budget in (1000, 48, 7):
        limits = argparse.Namespace(max_sequences=5, token_budget=budget, max_context_tokens=256)
        backend = server.StaticBatches(model, limits, {})
        draw = torch.Generator().manual_seed(budget)
        lengths = [(16, 3), (16, 9), (23, 5), (16, 6), (23, 5), (16, 1), (16, 12), (16, 4)]
        prompts = [torch.randint(0, 512, (length,), generator=draw).tolist() for length, _ in lengths]
        requests = [Request(key, prompts[key], count, time.monotonic()) for key, (_, count) in enumerate(lengths)]
        found = served(backend, requests)
        for request in requests:
            tensor = torch.tensor([request.prompt])
            whole = model.generate(
                tensor,
                attention_mask=torch.ones_like(tensor),
                do_sample=False,
                max_new_tokens=request.max_tokens,
                min_new_tokens=request.max_tokens,
                eos_token_id=None,
                pad_token_id=0,
            )
            expected = whole[0, len(request.prompt) :].tolist()
            if found[request.key] != expected:
                print(f"budget {budget}, request {request.key}: {found[request.key]} instead of {expected}")
                return 1
            compared += 1
    print(f"same {compared}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
