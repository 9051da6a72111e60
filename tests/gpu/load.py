"""A known GPU load: square bf16 matrix products, back to back.

Run by an interpreter that has torch with CUDA. Prints `ready`, then for each line `go SECONDS` on its input
multiplies for so long and prints `done COUNT`, the number of products.
"""

import sys
import time

import torch

SIZE = 8192
QUEUED = 32


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("torch has no CUDA here")
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.matmul(a, b)
    torch.cuda.synchronize()
    print("ready", flush=True)
    for line in sys.stdin:
        count, until_s = 0, time.monotonic() + float(line.split()[1])
        while time.monotonic() < until_s:
            for _ in range(QUEUED):
                torch.matmul(a, b, out=out)
            torch.cuda.synchronize()
            count += QUEUED
        print(f"done {count}", flush=True)


if __name__ == "__main__":
    main()
