"""Reads the data files that come with the harness (manifest, profiles) into their models."""

import json
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import BadInput

Content = TypeVar("Content", bound=BaseModel)
_FIX = "reinstall the harness, or restore the file"


def read_datafile(path: Path, form: type[Content]) -> Content:
    """The content of a `.json` or `.yaml` file.

    Raises:
        BadInput: the file cannot be read, or does not have the form; names the first field at fault.
    """
    try:
        text = path.read_text("utf-8")
        return form.model_validate(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = " ".join([str(path), ".".join(str(part) for part in first["loc"])]).strip()
        raise BadInput(place, first["input"], first["msg"].removeprefix("Value error, "), _FIX) from error
    except OSError as error:
        raise BadInput(str(path), error.strerror, "a file that comes with the harness", _FIX) from error
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(str(path), str(error), f"{path.suffix[1:]} in UTF-8", _FIX) from error
