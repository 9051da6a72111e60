"""Where trained predictors lie: in a results folder, or where a person says."""

from pathlib import Path

from harness.errors import BadInput

FOLDER, NAME = "predictor", "two-gnn"
"""In a results folder, and of the files in there: NAME.safetensors, NAME.json and NAME.errors.parquet."""
TRAIN_FIRST = "run harness train first"


def predictor_of(results: tuple[Path, ...]) -> Path:
    """Where the predictor of results folders lies, without a suffix: in the folder, or beside several.

    Raises:
        BadInput: folders that do not lie beside one another.
    """
    parents = {folder.absolute().parent for folder in results}
    if len(results) == 1:
        return results[0] / FOLDER / NAME
    if len(parents) == 1:
        return results[0].parent / FOLDER / NAME
    shown = ", ".join(map(str, results))
    raise BadInput("--results", shown, "one folder, or several beside one another", "say where the predictor lies")


def without_suffix(path: Path) -> Path:
    """A predictor by the path of one of its files, or of a folder for it, or without a suffix as it is."""
    if path.is_dir():
        return path / NAME
    for suffix in (".errors.parquet", ".safetensors", ".json"):
        path = path.with_name(path.name.removesuffix(suffix))
    return path


def trained_predictor(path: Path) -> Path:
    """The trained predictor that a path means, without a suffix: one of its files, or the folder that it is in.

    Raises:
        BadInput: there is none.
    """
    for stem in (without_suffix(path), path / FOLDER / NAME):
        if stem.with_name(f"{stem.name}.json").is_file():
            return stem
    raise BadInput("predictor", str(path), f"a trained one ({FOLDER}/{NAME}.json of a results folder)", TRAIN_FIRST)


def only_predictor(root: Path) -> Path:
    """The one trained predictor under `root`, without a suffix.

    Raises:
        BadInput: none, or several to choose from.
    """
    found = sorted(
        path.parent / NAME for deep in ("", "*/", "*/*/") for path in root.glob(f"{deep}{FOLDER}/{NAME}.json")
    )
    if not found:
        raise BadInput("predictor", f"(none found under {root}/)", "a trained one", TRAIN_FIRST)
    if len(found) > 1:
        raise BadInput("predictor", "(not given)", "one of several", f"choose: {', '.join(map(str, found))}")
    return found[0]
