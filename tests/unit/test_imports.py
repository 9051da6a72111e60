"""Imports point one way: a module may import only from layers before its own."""

import ast
from pathlib import Path

from harness import __file__ as package_init

PACKAGE = Path(package_init).parent
ANALYSIS = Path(__file__).parents[2] / "analysis" / "harness_analysis"
ANALYSIS_SEES = [
    "harness.errors",
    "harness.units",
    "harness.points",
    "harness.bundled",
    "harness.records",
    "harness.schema",
    "harness.store",
    "harness.workload",
    "harness.statistics",
    "harness.deployment",
    "harness.feasibility",
    "harness.sampling",
    "harness.trainer",
    "harness.predictorfiles",
]
"""What was measured and how it is kept; not what measures. Above all not the simulator: a predictor that took its
formulas would be scored on itself."""

LAYERS = [
    ["harness", "harness.errors"],
    ["harness.units", "harness.clock", "harness.points", "harness.bundled", "harness.texts"],
    ["harness.sampling"],
    ["harness.prompts", "harness.trainer", "harness.predictorfiles"],
    ["harness.meters.base", "harness.engines.base"],
    ["harness.node", "harness.feasibility"],
    ["harness.records"],
    ["harness.schema", "harness.plan"],
    ["harness.store", "harness.meters", "harness.workload", "harness.engines", "harness.simulator"],
    ["harness.machine", "harness.hygiene", "harness.statistics", "harness.deployment", "harness.drift"],
    ["harness.doctor", "harness.replay", "harness.measured", "harness.machine_node"],
    ["harness.happened", "harness.questions", "harness.joint_node"],
    ["harness.assemble"],
    ["harness.experiment"],
    ["harness.agent"],
    ["harness.space"],
    ["harness.probes", "harness.hosts", "harness.spending", "harness.roundfiles", "harness.shelf", "harness.crew"],
    ["harness.controller"],
    ["harness.order", "harness.nightprobes"],
    ["harness.desk"],
    ["harness.sweep", "harness.estimate", "harness.targeting"],
    ["harness.rounds", "harness.nights"],
    ["harness.retraining"],
    ["harness.cluster"],
    ["harness.repeatability", "harness.labels"],
    ["harness.summary"],
    ["harness.standing"],
    ["harness.report"],
    ["harness.collect"],
    ["harness.cli"],
    ["harness.__main__"],
]


def layer_of(module: str) -> tuple[int, str]:
    """The layer of a module, and the entry of LAYERS that it belongs to (the longest that matches)."""
    matches = [
        (len(entry), level, entry)
        for level, entries in enumerate(LAYERS)
        for entry in entries
        if module == entry or (entry != "harness" and module.startswith(entry + "."))
    ]
    assert matches, f"{module} has no layer: add it to LAYERS"
    _, level, entry = max(matches)
    return level, entry


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                is_module = (PACKAGE.parent / Path(*module.split("."), f"{alias.name}.py")).is_file()
                found.add(f"{module}.{alias.name}" if is_module else module)
    return {name for name in found if name.split(".")[0] in ("harness", "harness_analysis")}


def test_no_import_runs_back_up() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        level, entry = layer_of(module)
        for imported in sorted(imports_of(path)):
            assert not imported.startswith("harness_analysis"), f"{module}: the trainer is found by its entry point"
            target_level, target_entry = layer_of(imported)
            if target_level > level or (target_level == level and target_entry != entry):
                wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_the_analysis_sees_records_and_no_simulator() -> None:
    wrong = []
    for path in sorted(ANALYSIS.rglob("*.py")):
        for imported in sorted(imports_of(path)):
            # `harness` itself holds its version and nothing else.
            own = imported.split(".")[0] == "harness_analysis" or imported == "harness"
            if not own and not any(imported == entry or imported.startswith(entry + ".") for entry in ANALYSIS_SEES):
                wrong.append(f"{path.relative_to(ANALYSIS)} imports {imported}")
    assert any(ANALYSIS.rglob("*.py"))
    assert not wrong, "\n".join(wrong)


def test_every_layer_exists() -> None:
    for entry in (entry for entries in LAYERS for entry in entries):
        path = PACKAGE.parent.joinpath(*entry.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{entry} is gone: take it out of LAYERS"
