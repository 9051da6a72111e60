"""What the harness puts beside an engine: modules for its process, found through PYTHONPATH; nothing is installed."""

import shutil
from pathlib import Path

from harness.errors import DiskTooSmall

INSIDE = Path(__file__).parent / "inside"
DISTRIBUTION = "harness_inside-1.dist-info"
_METADATA = "Metadata-Version: 2.1\nName: harness-inside\nVersion: 1\n"
_ENTRY_POINTS = "[vllm.general_plugins]\nharness_steps = vllm_plugin:register\n"


def write_kit(folder: Path) -> Path:
    """Copy the modules of harness/engines/inside to a folder of their own; returns what PYTHONPATH needs.

    Copies, so that a container needs to see the launch's folder only, and so that one launch keeps one version.

    Raises:
        DiskTooSmall: no space for them.
    """
    kit = folder / "inside"
    try:
        (kit / DISTRIBUTION).mkdir(parents=True, exist_ok=True)
        for module in INSIDE.glob("*.py"):
            shutil.copyfile(module, kit / module.name)
        (kit / DISTRIBUTION / "METADATA").write_text(_METADATA, "utf-8")
        (kit / DISTRIBUTION / "entry_points.txt").write_text(_ENTRY_POINTS, "utf-8")
    except OSError as error:
        raise DiskTooSmall(f"{folder} cannot be written: {error}") from error
    return kit
