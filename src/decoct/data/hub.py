"""Rows of a data set by its hub name: from the folder that ``DECOCT_DATA`` names if it is there, else from the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from decoct.errors import MissingExtraError, TaskError


def rows(name: str, split: str) -> Any:
    """The split of a data set as a `datasets.Dataset` with the hub's columns, e.g. ``rows("ylecun/mnist", "train")``.

    Raises TaskError where neither folder nor hub has it.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError('data sets need the datasets library: pip install "decoct[data]"') from error
    datasets.disable_progress_bars()
    path = local(name, split)
    if path is not None:
        return datasets.Dataset.from_parquet(str(path))
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:
        where = os.environ.get("DECOCT_DATA")
        tried = f"{where}/{name}/{split}.parquet is not there" if where else "DECOCT_DATA is not set"
        raise TaskError(
            f"no data {name!r}, split {split!r}: {tried}, and the hub says {type(error).__name__}"
        ) from error


def local(name: str, split: str) -> Path | None:
    """The parquet file of a split in the folder that ``DECOCT_DATA`` names, or None."""
    folder = os.environ.get("DECOCT_DATA")
    path = Path(folder) / name / f"{split}.parquet" if folder else None
    return path if path is not None and path.is_file() else None
