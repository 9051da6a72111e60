"""Fitted predictors as files: NAME.safetensors with all numbers, NAME.json with what they are and where they come from.

Nothing in either is code: safetensors holds arrays only, JSON text and numbers (no pickle). Each file appears whole or
not at all, the JSON last; it knows the other's checksum, so halves of two trainings are not taken for one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from harness.errors import BadInput
from harness.points import FloatArray
from harness.store.files import write_whole
from harness_analysis.baselines.terms import TERMS
from harness_analysis.baselines.whitebox import Factors
from harness_analysis.gnn.calibration import KINDS, Calibration, Range
from harness_analysis.gnn.inputs import WHOLE_FEATURES, InputScaling, Scaling
from harness_analysis.gnn.member import Member, Settings, TwoGnn
from harness_analysis.gnn.ours import Fitted, Ours
from harness_analysis.gnn.train import Schedule
from harness_analysis.graph import KERNEL_TYPES, NODE_FEATURES, NODES

FORMAT = 1
"""Of the pair of files; a reader refuses another."""
_FIX = "train it again with this version"
Arrays = dict[str, Any]


def save(predictor: Ours, path: Path, card: Mapping[str, object]) -> tuple[Path, Path]:
    """Writes both files beside each other and returns their paths.

    Args:
        path: without a suffix; an existing pair is replaced.
        card: what a reader should know: data fingerprint, provenance, versions, splits, scores. Anything JSON holds.

    Raises:
        ValueError: not fitted.
        StoreError: a file cannot be written; what was there before is.
    """
    fitted = predictor.fitted
    if fitted is None:
        raise ValueError("not fitted")
    arrays: Arrays = {"range.low": fitted.covered.low, "range.high": fitted.covered.high}
    arrays |= {"calibration.trust": fitted.calibration.trust, "calibration.width": fitted.calibration.width}
    groups = []
    for number, member in enumerate(fitted.members):
        keys = list(member.factors.of)
        groups.append(keys)
        arrays |= {f"{number}.{name}": values for name, values in _member_arrays(member, keys).items()}
    about = {
        "format": FORMAT,
        "name": predictor.name,
        "settings": asdict(predictor.settings),
        "columns": _columns(),
        "groups": groups,
        "range": {name: sorted(getattr(fitted.covered, name)) for name in ("deployments", "models", "gpus")},
        "scale": dict(fitted.calibration.scale),
        "card": dict(card),
    }
    weights_path, card_path = path.with_name(f"{path.name}.safetensors"), path.with_name(f"{path.name}.json")
    weights = to_bytes({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    about["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    write_whole(weights_path, weights)
    write_whole(card_path, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())
    return weights_path, card_path


def load(path: Path) -> tuple[Ours, Mapping[str, Any]]:
    """The predictor and its card.

    Raises:
        BadInput: a file missing or damaged, the two of different trainings, or of another format or other features than
            this version's.
    """
    weights_path, card_path = path.with_name(f"{path.name}.safetensors"), path.with_name(f"{path.name}.json")
    accepted = "the pair NAME.safetensors and NAME.json that training wrote"
    try:
        about = json.loads(card_path.read_text(encoding="utf-8"))
        weights = weights_path.read_bytes()
        arrays = {name: values.copy() for name, values in from_bytes(weights).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(str(path), f"cannot be read: {error}", accepted, _FIX) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("columns") != _columns():
        raise BadInput(str(path), "of another version", f"format {FORMAT} with this version's features", _FIX)
    if about.get("weights_sha256") != hashlib.sha256(weights).hexdigest():
        raise BadInput(str(path), "the two files are not of one training, or were changed", accepted, _FIX)
    try:
        return _restored(about, arrays), about["card"]
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise BadInput(str(path), f"damaged: {error!r}", accepted, _FIX) from error


def _restored(about: Mapping[str, Any], arrays: Arrays) -> Ours:
    schedule = Schedule(**about["settings"]["schedule"])
    settings = Settings(**{**about["settings"], "schedule": schedule})
    members = []
    for number, keys in enumerate(about["groups"]):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
        members.append(_member(own, [tuple(key) for key in keys], settings))
    known = {name: frozenset(about["range"][name]) for name in ("deployments", "models", "gpus")}
    predictor = Ours(settings, about["name"])
    predictor.fitted = Fitted(
        tuple(members),
        Range(**known, low=arrays["range.low"], high=arrays["range.high"]),
        Calibration(arrays["calibration.trust"], arrays["calibration.width"], about["scale"]),
    )
    return predictor


def _columns() -> dict[str, list[str]]:
    """What the numbers are of, in order: files of other features or kinds of question are of no use."""
    return {
        "kinds": list(KINDS),
        "terms": list(TERMS),
        "nodes": list(NODES),
        "node_features": list(NODE_FEATURES),
        "whole_features": list(WHOLE_FEATURES),
    }


def _member_arrays(member: Member, keys: list[tuple[str, ...]]) -> Arrays:
    arrays: Arrays = {"spread": member.spread, "factors": np.stack([member.factors.of[key] for key in keys])}
    for part in fields(InputScaling):
        scaling = getattr(member.scaling, part.name)
        arrays |= {f"scaling.{part.name}.{one.name}": getattr(scaling, one.name) for one in fields(Scaling)}
    arrays |= {f"network.{name}": weights.numpy() for name, weights in member.network.state_dict().items()}
    return arrays


def _member(arrays: Arrays, keys: list[tuple[str, ...]], settings: Settings) -> Member:
    scalings = {
        part.name: Scaling(**{one.name: arrays[f"scaling.{part.name}.{one.name}"] for one in fields(Scaling)})
        for part in fields(InputScaling)
    }
    weights = {
        name.removeprefix("network."): torch.from_numpy(values)
        for name, values in arrays.items()
        if name.startswith("network.")
    }
    network = TwoGnn(_sizes(weights, settings), settings.hidden, settings.chained)
    network.load_state_dict(weights)
    network.eval()
    factors: FloatArray = arrays["factors"]
    return Member(
        Factors(dict(zip(keys, factors, strict=True))),
        InputScaling(**scalings),
        arrays["spread"],
        network,
        settings,
    )


def _sizes(weights: Mapping[str, torch.Tensor], settings: Settings) -> tuple[int, int, int]:
    """Features of a prefill node, of a decode node and of the whole."""
    kinds = KERNEL_TYPES.shape[1]
    prefill, decode = (weights[f"{network}.first.own.weight"].shape[1] - kinds for network in ("prefill", "decode"))
    return prefill, decode, weights["prefill.joined.weight"].shape[1] - settings.hidden
