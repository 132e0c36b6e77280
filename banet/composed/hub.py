"""Repositories of the Hugging Face hub: downloaded whole or not at all, from a revision, with errors of one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banet.errors import InputError, MissingExtraError, errors_only

__all__ = ["HubOptions", "cached_folder", "download_repository"]

_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")  # configurations and tokenizers
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # one of them; transformers loads without
_WEIGHTS = ("*.safetensors", "*.bin")  # of which the first kind that there is


@dataclass(frozen=True)
class HubOptions:
    """How repositories are read. What is not given, the variables of huggingface_hub say (HF_TOKEN, HF_HOME, ...).

    Attributes:
        revision: Branch, tag or commit.
        token: Of somebody who may read them.
        cache: Folder that they are kept in.
        offline: Whether only what is in the cache is read.
    """

    revision: str | None = None
    token: str | None = None
    cache: str | None = None
    offline: bool = False


def download_repository(repository: str, options: HubOptions) -> Path:
    """Return the folder of a repository in the cache, downloaded if it is not there, with a line that says what.

    Only configurations and weights are fetched: safetensors, or where there are none PyTorch's files.

    Raises:
        InputError: It could not be read; says what to do.
        MissingExtraError: huggingface_hub is not installed.
    """
    found = cached_folder(repository, options)
    if found is not None:
        return found
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hf") from None
    if options.offline or constants.HF_HUB_OFFLINE:
        raise _unreachable(repository, "offline, and not in the cache")
    with _explained(repository, options):
        info = HfApi(token=options.token).model_info(repository, revision=options.revision, files_metadata=True)
        wanted = _wanted(info)
        card = info.card_data
        licence = (card.get("license") if card is not None else None) or "not stated"
        size = sum(file.size or 0 for file in info.siblings or () if file.rfilename in wanted)
        print(f"downloading {repository}, once: {size / 1e6:,.0f} MB, licence {licence}", flush=True)
        folder = snapshot_download(
            repository,
            revision=info.sha,
            cache_dir=options.cache,
            token=options.token,
            allow_patterns=sorted(wanted),
        )
        if options.revision is None or options.revision != info.sha:
            _remember(repository, options, str(info.sha))
    return Path(folder)


def _home(repository: str, options: HubOptions) -> Path:
    """Return the folder of a repository in the cache, there or not.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(options.cache or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def cached_folder(repository: str, options: HubOptions) -> Path | None:
    """Return the folder of a repository that was downloaded whole before, else None; asks nothing of the hub."""
    try:
        home = _home(repository, options)
    except ImportError:
        return None
    revision = options.revision or "main"
    reference = home / "refs" / revision
    with contextlib.suppress(OSError, ValueError):
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        folder = home / "snapshots" / commit
        weights = any(any(folder.glob(pattern)) for pattern in _WEIGHTS)
        texts = (folder / "config.json").is_file() and any((folder / name).is_file() for name in _PROCESSORS)
        if texts and weights and not _parts_missing(folder):
            return folder
    return None


def _parts_missing(folder: Path) -> bool:
    """Return whether an index of weights names files that are not there."""
    from banet.files.reading import read_json

    read = "model." if any(folder.glob("*.safetensors")) else ("model.", "pytorch_model.")
    for index in folder.glob("*.index.json"):
        named = read_json(index).get("weight_map", {}).values()
        if index.name.startswith(read) and not all((folder / name).is_file() for name in set(named)):
            return True
    return False


def _wanted(info: Any) -> set[str]:
    """Return the files of a repository that are read."""
    names = {file.rfilename for file in info.siblings or () if "/" not in file.rfilename}
    wanted = {name for name in names if any(Path(name).match(pattern) for pattern in _TEXTS)}
    for pattern in _WEIGHTS:
        weights = {name for name in names if Path(name).match(pattern)}
        whole = {name for name in weights if name.startswith(("model", "pytorch_model"))}
        if whole:
            return wanted | whole
    return wanted


def _remember(repository: str, options: HubOptions, commit: str) -> None:
    """Note which commit a branch or tag is, so that the next call asks nothing of the hub."""
    from banet.files.atomic import atomic_path

    reference = _home(repository, options) / "refs" / (options.revision or "main")
    reference.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(reference) as temporary:
        temporary.write_text(commit, encoding="utf-8")


@contextlib.contextmanager
def _explained(repository: str, options: HubOptions) -> Iterator[None]:
    """Turn errors of huggingface_hub into one line each; what was downloaded in part is deleted."""
    from huggingface_hub import errors

    try:
        with errors_only("huggingface_hub"):  # not a line per attempt to connect
            yield
    except errors.GatedRepoError:
        raise InputError(
            f"{repository}: asks for consent to its licence; accept it at https://huggingface.co/{repository} and log "
            "in with `hf auth login`, or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repository}: has no revision {options.revision}; choose another, or none") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{repository}: no such folder, nor a repository that the hub shows you; correct the name, or log in with "
            "`hf auth login` if it is private"
        ) from None
    except Exception as error:  # of the connection, the disk or an answer that makes no sense; there are many kinds
        _delete_parts(repository, options)
        raise _unreachable(repository, _reason(error)) from None
    except BaseException:
        _delete_parts(repository, options)
        raise


def _unreachable(repository: str, reason: str) -> InputError:
    return InputError(
        f"{repository}: could not be downloaded ({reason}); try again, or where there is internet `hf download "
        f"{repository} --local-dir FOLDER`, copy FOLDER here and give hf:FOLDER"
    )


def _reason(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines()
    return lines[0][:200] if lines else type(cause).__name__


def _delete_parts(repository: str, options: HubOptions) -> None:
    for part in _home(repository, options).glob("blobs/*.incomplete"):
        with contextlib.suppress(OSError):
            part.unlink()
