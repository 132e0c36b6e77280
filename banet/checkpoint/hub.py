"""Weights on the Hugging Face hub, with a card that tells what they are."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banet._renamed import accept_old_names
from banet.checkpoint.checkpoint import FILE_NAME, read_checkpoint
from banet.errors import InputError, MissingExtraError, first_line
from banet.files.outputs import RECORD, Entry, Record, digest_of

__all__ = ["model_card", "push_to_hub"]

CARD = "README.md"
KIND = "banet push"


@accept_old_names
def model_card(metadata: Mapping[str, str], repository: str, license: str) -> str:
    """Return the card of some weights: classes, recipe, measured PQ and license.

    Args:
        metadata: The header of their file: `categories`, and where known `recipe`, `recipe_yaml`, `iterations`, `pq`.
        repository: Its name, as in `owner/name`.
        license: Identifier of the license of the weights, such as `apache-2.0`.
    """
    import yaml

    pq = metadata.get("pq")
    if pq is not None and not re.fullmatch(r"\d{1,3}(\.\d+)?", pq):
        pq = None
    recipe = metadata.get("recipe", "unknown")
    facts: dict[str, object] = {
        "license": license,
        "library_name": "banet",
        "pipeline_tag": "image-segmentation",
        "tags": ["panoptic-segmentation", "banet"],
    }
    if pq is not None:
        task = {"type": "image-segmentation", "name": "Panoptic segmentation"}
        dataset = {"type": recipe, "name": f"validation split of {recipe}"}
        result = {"task": task, "dataset": dataset, "metrics": [{"type": "pq", "name": "PQ", "value": float(pq)}]}
        facts["model-index"] = [{"name": repository.rpartition("/")[2], "results": [result]}]
    classes = json.loads(metadata["categories"])
    named = {kind: ", ".join(c["name"] for c in classes if bool(c["isthing"]) == kind) for kind in (True, False)}
    measured = f"{pq} on the validation split of its recipe" if pq is not None else "not measured"
    trained = f" in {metadata['iterations']} iterations" if "iterations" in metadata else ""
    options = metadata.get("recipe_yaml", "").strip()
    sections = [
        f"---\n{yaml.safe_dump(facts, sort_keys=False).strip()}\n---",
        f"# {repository.rpartition('/')[2]}",
        "Weights of BANet (Chen et al., CVPR 2020) for panoptic segmentation.",
        f'```python\nimport banet\n\nmodel = banet.BANet.from_pretrained("{repository}")\n'
        'result = model.predict("image.jpg")\n```',
        f"- **PQ:** {measured}\n- **Recipe:** {recipe}{trained}\n- **License:** {license}",
        f"## Classes\n\nThings: {named[True] or 'none'}\n\nStuff: {named[False] or 'none'}",
    ]
    if options:
        sections.append(f"## Recipe\n\n```yaml\n{options}\n```")
    return "\n\n".join(sections) + "\n"


@accept_old_names
def push_to_hub(
    weights: str | Path, repository: str, *, license: str, private: bool = False, overwrite: bool = False
) -> str:
    """Upload weights and their card.

    Args:
        weights: As for `BANet.from_pretrained`.
        repository: `owner/name`; made if it is not there.
        license: See `model_card`.
        private: Whether a new repository is private.
        overwrite: Also replace a card and weights that this function did not upload, or that were changed since.

    Returns:
        The address of the commit.

    Raises:
        InputError: No such weights, a file of the repository would be replaced that may not be, or the hub refused
            them.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    checkpoint = read_checkpoint(weights)
    card = model_card(checkpoint.metadata, repository, license)
    files = [CommitOperationAdd(FILE_NAME, checkpoint.path), CommitOperationAdd(CARD, card.encode())]
    files.append(CommitOperationAdd(RECORD, _record(checkpoint.path, card)))
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if not overwrite:
            _check_repository(api, repository)
        return str(api.create_commit(repository, files, commit_message="Weights and card").commit_url)
    except InputError:
        raise
    except Exception as error:  # the library that connects, and with it its errors, differ between versions
        reason = first_line(error)
        answered = isinstance(error, (OSError, ValueError, HfHubHTTPError))
        hint = "see `hf auth login`" if answered else "check the connection and try again"
        raise InputError(f"the hub did not take the weights: {reason}", where=repository, hint=hint) from None


def _check_repository(api: Any, repository: str) -> None:
    """Ask that a repository holds no card and no weights but those that its record names (see `Outputs`).

    Raises:
        InputError: It holds others.
    """
    there = {info.path: info for info in api.get_paths_info(repository, [CARD, FILE_NAME, RECORD])}
    with tempfile.TemporaryDirectory() as folder:
        for name in {CARD, RECORD} & there.keys():
            api.hf_hub_download(repository, name, local_dir=folder)
        record = Record(folder)
        changed = []
        if CARD in there and record.find(CARD, KIND) is None:
            changed.append(CARD)
        if FILE_NAME in there:
            digest = getattr(there[FILE_NAME].lfs, "sha256", None)
            if digest not in {entry.sha256 for entry in record.entries.of(FILE_NAME) if entry.kind == KIND}:
                changed.append(FILE_NAME)
    if changed:
        raise InputError(
            f"exists already and was not written by `{KIND}`, or was changed since",
            where=f"{repository}: {' and '.join(changed)}",
            hint="choose another repository, or add --overwrite",
        )


def _record(weights: Path, card: str) -> bytes:
    """Return the record of what is uploaded."""
    with tempfile.TemporaryDirectory() as folder:
        record = Record(folder)
        with weights.open("rb") as stream:
            size = weights.stat().st_size
            record.append({FILE_NAME: Entry(KIND, size, digest_of(stream, size))})
        text = card.encode()
        record.append({CARD: Entry(KIND, len(text), digest_of(io.BytesIO(text), len(text)))})
        record.close()
        return record.path.read_bytes()
