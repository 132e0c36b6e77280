"""Which repositories count as downloaded whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from banet.composed.hub import HubOptions, cached_folder

pytest.importorskip("huggingface_hub")

SHARD = "{}-00001-of-00002.{}"


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        (["model.safetensors"], False),  # as transformers leaves it that loads a model without its processor
        (["model.safetensors", "preprocessor_config.json"], True),
        (["model.safetensors", "processor_config.json"], True),
        ([SHARD.format("pytorch_model", "bin"), "pytorch_model.bin.index.json", "processor_config.json"], False),
        ([SHARD.format("model", "safetensors"), "model.safetensors.index.json", "processor_config.json"], False),
        (["model.safetensors", "pytorch_model.bin.index.json", "processor_config.json"], True),
    ],
    ids=str,
)
def test_what_is_downloaded_whole(tmp_path: Path, files: list[str], whole: bool) -> None:
    folder = tmp_path / "models--ours--tiny" / "snapshots" / "main"
    folder.mkdir(parents=True)
    for name in ("config.json", *files):
        stem, _, suffix = name.removesuffix(".index.json").partition(".")
        shards = {f"weight{n}": f"{stem}-0000{n}-of-00002.{suffix}" for n in (1, 2)}
        (folder / name).write_text(json.dumps({"weight_map": shards}))
    assert (cached_folder("ours/tiny", HubOptions(cache=str(tmp_path))) == folder) == whole
