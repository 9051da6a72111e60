"""Latency anchors from the measured kernel tables of NVIDIA's aiconfigurator, as JSON rows.

Run by a Python that has `aiconfigurator` (`kernel_tables.txt`); nothing else is needed, the harness neither.
The same for one row on its command line:

    aiconfigurator cli estimate --model-path DIR --system a100_sxm --backend trtllm --estimate-mode static \
        --isl 1024 --osl 128 --batch-size 1 --tp-size 4 --pp-size 1 --gemm-quant-mode bfloat16 \
        --kvcache-quant-mode bfloat16 --fmha-quant-mode bfloat16

It sums kernels measured one by one and adds nothing of a serving engine's host, so its figures are lower bounds. A
pipeline's stages do not overlap: one batch passes them one after another. `tables` names the engine whose kernels were
measured; it is not the same version on both GPUs.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path

MODELS_FOLDER = Path(__file__).parents[2] / "deployments" / "models"
MODELS = ("llama-2-7b", "internlm-20b", "llama-2-70b")
SYSTEMS = {"a100": "a100_sxm", "h100": "h100_sxm"}
"""Our kinds of GPU, and aiconfigurator's systems: both cards have 80 GB."""
PARALLELISMS = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (4, 2))
"""(tensor, pipeline) parallel sizes: every pair of powers of two that a node of eight cards holds."""
BATCH_SIZES = (1, 8, 32, 64)
PROMPT_TOKENS = 1024
GENERATED_TOKENS = 128
Row = dict[str, object]


def estimate(gpu: str, folder: Path, tp: int, pp: int, batch_size: int) -> Row:
    """One row: `ttft_s` and `tpot_s`, or null in both and a `reason`; `memory_gib` is of one card.

    Args:
        gpu: a key of `SYSTEMS`.
        folder: a folder with the model's `config.json`; its name is the model's.
        tp, pp: tensor and pipeline parallel sizes.
        batch_size: sequences of `PROMPT_TOKENS` each, all started at once, in 16 bits throughout.
    """
    from aiconfigurator.cli.api import cli_estimate

    ttft_s = tpot_s = memory_gib = None
    source, reason = "", ""
    try:
        answer = cli_estimate(
            str(folder),
            SYSTEMS[gpu],
            mode="static",
            backend_name="trtllm",
            isl=PROMPT_TOKENS,
            osl=GENERATED_TOKENS,
            batch_size=batch_size,
            tp_size=tp,
            pp_size=pp,
            gemm_quant_mode="bfloat16",
            kvcache_quant_mode="bfloat16",
            fmha_quant_mode="bfloat16",
        )
    except (ValueError, LookupError, RuntimeError) as refusal:  # what its own errors derive from, and a table's miss
        reason = " ".join(f"{type(refusal).__name__}: {refusal}".split())
    else:
        source = f"trtllm {answer.backend_version}"
        memory_gib = round(answer.memory, 3)
        if answer.kv_cache_warning:
            reason = "does not fit in the card's memory"
        else:
            ttft_s, tpot_s = answer.ttft / 1e3, answer.tpot / 1e3
    return {
        "gpu": gpu,
        "model": folder.name,
        "tp": tp,
        "pp": pp,
        "batch_size": batch_size,
        "prompt_tokens": PROMPT_TOKENS,
        "generated_tokens": GENERATED_TOKENS,
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "memory_gib": memory_gib,
        "reason": reason,
        "tables": source,
    }


def rows(folders: list[Path]) -> Iterator[Row]:
    """All rows, models within GPUs; half a second each."""
    for gpu, folder in product(SYSTEMS, folders):
        print(f"{gpu} {folder.name}", file=sys.stderr)
        for (tp, pp), batch_size in product(PARALLELISMS, BATCH_SIZES):
            yield {**estimate(gpu, folder, tp, pp, batch_size), "version": version("aiconfigurator")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the rows; standard output without it")
    out = parser.parse_args().out
    logging.disable(logging.WARNING)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / model for model in MODELS]
        for folder in folders:
            folder.mkdir()
            (folder / "config.json").write_bytes((MODELS_FOLDER / f"{folder.name}.json").read_bytes())
        found = list(rows(folders))
    text = json.dumps(found, indent=1) + "\n"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
    refused = sum(bool(row["reason"]) for row in found)
    print(f"{len(found) - refused} rows, {refused} refused, {time.monotonic() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
