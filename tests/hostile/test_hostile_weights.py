"""Weights from strangers: nothing in them is run, and no memory is taken for what they only claim."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peak import GIGABYTE, peak
from readers import TINY, tiny_model
from safetensors.torch import save, save_file

from banet import BANet
from banet.checkpoint import checkpoint
from banet.checkpoint.pickles import check_pickle
from banet.checkpoint.warm_start import initialize
from banet.cli import main
from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.errors import InputError
from banet.modeling.config import InferenceConfig
from banet.modeling.network import Network


@pytest.fixture(scope="module")
def model() -> BANet:
    return tiny_model()


@pytest.fixture(scope="module")
def whole(model: BANet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of weights."""
    return model.save_pretrained(tmp_path_factory.mktemp("weights"), half=True).read_bytes()


def refused(path: Path, *parts: str, read: Callable[[str], object] = BANet.from_pretrained) -> None:
    with peak() as grown, pytest.raises(InputError) as caught:
        read(str(path))
    message = str(caught.value)
    assert str(path) in message and message.isprintable()
    for part in parts:
        assert part in message
    assert grown[0] < GIGABYTE / 10


# -------------------------------------------------------------------------------------------------------- safetensors


def rewritten(whole: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The same file with a changed header; the texts in its metadata are decoded for the change."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    texts = header["__metadata__"]
    coded = ("model", "inference", "categories")
    texts.update({name: json.loads(texts[name]) for name in coded})
    change(header)
    texts.update({name: json.dumps(texts[name]) for name in coded if name in texts})
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + whole[8 + length :]


def option(part: str, name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["__metadata__"][part].update({name: value})


@pytest.mark.parametrize("length", [2**24 + 1, 10**8, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_to_be_long(tmp_path: Path, whole: bytes, length: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + whole[8:])
    refused(tmp_path / "a.safetensors", "not a")


@pytest.mark.parametrize("size", [10**12, 2**62, 2**64 - 1])
@pytest.mark.parametrize("moved", [True, False])
def test_a_tensor_that_claims_a_terabyte(tmp_path: Path, whole: bytes, size: int, moved: bool) -> None:
    def claim(header: dict[str, Any]) -> None:
        tensor = header["backbone.body.conv1.weight"]
        tensor["shape"] = [size]
        if moved:
            tensor["data_offsets"] = [tensor["data_offsets"][0], tensor["data_offsets"][0] + 2 * size]

    (tmp_path / "a.safetensors").write_bytes(rewritten(whole, claim))
    refused(tmp_path / "a.safetensors", "not a readable safetensors")


WIDTHS = ("fpn_channels", "box_head_channels", "mask_head_channels", "i2s_channels", "ocm_channels")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("model", name, value) for name in WIDTHS for value in (10**9, 2**31 - 1, 10**30)),
        ("model", "semantic_channels", [10**9] * 3),
        ("model", "ocm_cells", [10**6] * 4),
        ("model", "ocm_cells", [1] * 10**6),
        ("model", "anchor_ratios", [1.0] * 10**6),
        ("model", "backbone", "dcn101"),
    ],
)
def test_a_config_that_asks_for_a_giant(
    tmp_path: Path, whole: bytes, part: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(self: Network, *arguments: Any, **options: Any) -> None:
        built.append(torch.empty(0).device.type)
        make(self, *arguments, **options)

    built: list[str] = []
    make = Network.__init__
    monkeypatch.setattr(Network, "__init__", build)
    (tmp_path / "a.safetensors").write_bytes(rewritten(whole, option(part, name, value)))
    refused(tmp_path / "a.safetensors")
    assert set(built) <= {"meta"}, "memory was taken"


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("model", "backbone", value) for value in ("resnet999", "vgg16", "__init__", 5, None, ["resnet18"])),
        *(("model", "norm", value) for value in ("none", 1, True)),
        *(("model", "fpn_channels", value) for value in (0, -1, 16.0, "16", True, None, [16], float("nan"))),
        *(("model", "semantic_channels", value) for value in ([], [16], [16, 16, 8, 8], 16, ["a", "b", "c"])),
        *(("model", "ocm_cells", value) for value in ([], [0], [1.5])),
        *(("model", "anchor_sizes", value) for value in ([1], [float("inf")] * 5, [0] * 5, ["x"] * 5)),
        *(("model", "canonical_box_size", value) for value in (0, -1, float("nan"), 1e300)),
        ("model", "sim", False),
        ("model", "ocm", 1),
        ("model", "other", 1),
        *(("inference", "score_threshold", value) for value in (-1, 2, float("nan"), "0.5", None)),
        *(("inference", "shorter", value) for value in (0, 10**9, 1.5, 10**30)),
        ("inference", "longer", 10**6),
        *(("inference", "proposals", value) for value in (0, 10**30, float("inf"))),
        *(("inference", "rule", value) for value in ("best", None, ["appearance"])),
        ("inference", "thing_pixels", "zebra"),
        ("inference", "stuff_area", -1),
    ],
)
def test_options_that_are_none(tmp_path: Path, whole: bytes, part: str, name: str, value: Any) -> None:
    (tmp_path / "a.safetensors").write_bytes(rewritten(whole, option(part, name, value)))
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("__metadata__"),
        lambda h: h["__metadata__"].pop("model"),
        lambda h: h["__metadata__"].update(model=[]),
        lambda h: h["__metadata__"].update(categories=[]),
        lambda h: h["__metadata__"].update(categories=[{"id": 1, "name": "a", "isthing": 1}] * 2),
        lambda h: h["__metadata__"].update(categories=[{"id": n, "name": "a", "isthing": 1} for n in range(10**4)]),
        lambda h: h["__metadata__"].update(format="banet-2"),
        lambda h: h.pop("rpn.head.conv.0.0.weight"),
        lambda h: h["rpn.head.conv.0.0.bias"].update(dtype="I16"),
        lambda h: h["rpn.head.conv.0.0.bias"].update(shape=[4, 4]),
        lambda h: h["rpn.head.conv.0.0.bias"].update(data_offsets=[0, 32]),
    ],
)
def test_headers_that_describe_nothing(
    tmp_path: Path, whole: bytes, change: Callable[[dict[str, Any]], object]
) -> None:
    try:
        data = rewritten(whole, change)
    except KeyError:  # no metadata to decode
        data = save({"a": torch.zeros(3)})
    (tmp_path / "a.safetensors").write_bytes(data)
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, model: BANet, value: float) -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.rpn.head.cls_logits.bias[1] = value
    path = broken.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"rpn\.head\.cls_logits\.bias holds NaN or infinity"):
        BANet.from_pretrained(path)


def test_other_types_of_tensors(tmp_path: Path, model: BANet) -> None:
    def written(kind: torch.dtype) -> Path:
        tensors = {name: tensor.to(kind) for name, tensor in model.state_dict().items()}
        save_file(tensors, tmp_path / "a.safetensors", metadata(model))
        return tmp_path / "a.safetensors"

    assert BANet.from_pretrained(written(torch.bfloat16)).config == model.config
    kinds = [torch.float64, torch.int64, torch.bool, torch.float8_e4m3fn]
    if torch.complex64 in safetensors.torch._SIZE:  # the lowest version cannot store it
        kinds.append(torch.complex64)
    for kind in kinds:
        with pytest.raises(InputError, match="is of type"):
            BANet.from_pretrained(written(kind))


def metadata(model: BANet) -> dict[str, str]:
    """What `model` is saved with."""
    return {
        "format": checkpoint.FORMAT,
        "model": json.dumps(asdict(model.config)),
        "inference": json.dumps(asdict(model.inference)),
        "categories": json.dumps(model.categories.to_coco()),
    }


# ------------------------------------------------------------------------------------------------------------ pickles


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def calls(path: Path) -> dict[str, Call]:
    return {
        "system": Call(os.system, f"touch {path}"),
        "eval": Call(builtins.eval, f"open({str(path)!r}, 'w')"),
        "open": Call(builtins.open, str(path), "w"),
        "exec": Call(builtins.exec, f"open({str(path)!r}, 'w')"),
        "load": Call(torch.load, str(path)),
    }


@pytest.mark.parametrize("function", ["system", "eval", "open", "exec", "load"])
@pytest.mark.parametrize("form", ["archive", "legacy", "bare", "inside"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pickle_runs_nothing(tmp_path: Path, model: BANet, function: str, form: str, suffix: str) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    content: Any = calls(trace)[function]
    if form == "inside":
        content = {"model": {"a": torch.zeros(2), "b": content}}
    if form == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    readers: list[Callable[[str], object]] = [BANet.from_pretrained, lambda source: initialize(model, source)]
    for read in readers:
        refused(path, read=read)
    assert not trace.exists()


TRAIN = [
    *("train", "--config", "scenes_small", "--device", "cpu", "--data.workers", "0", "--train.init", "random"),
    *("--model.fpn_channels", "16", "--model.semantic_channels", "[16, 16, 8]"),
    *("--model.box_head_channels", "16", "--model.mask_head_channels", "16", "--model.i2s_channels", "8"),
]
"""Builds its network in no time."""


def test_a_checkpoint_to_go_on_from_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace"
    for name, content in calls(trace).items():
        path = tmp_path / f"{name}.ckpt"
        torch.save({"global_step": 3, "state_dict": content}, path)
        assert main([*TRAIN, "--out", str(tmp_path / "run"), "--resume", str(path)]) == 2
        assert f"{path}: not a checkpoint of a run" in capsys.readouterr().err
    assert not trace.exists()


def test_a_checkpoint_to_go_on_from_is_of_this_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"pytorch-lightning_version": "2.6", "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    tensors = {"model.mean": torch.zeros(1).expand(10**12)}
    whole = {**parts, "loops": {"fit_loop": {}}, "global_step": 3, "state_dict": tensors}
    for content, said in (
        (whole, "is of another network"),
        ({**whole, "loops": {}}, "not a checkpoint of a run ('fit_loop')"),
        ({**whole, "global_step": "three"}, "not a checkpoint of a run"),
        ([whole], "not a checkpoint of a run"),
    ):
        torch.save(content, tmp_path / "a.ckpt")
        assert main([*TRAIN, "--out", str(tmp_path / "run"), "--resume", str(tmp_path / "a.ckpt")]) == 2
        assert said in capsys.readouterr().err


def test_a_script_of_torch_is_refused(tmp_path: Path, model: BANet) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    refused(tmp_path / "a.pt", read=lambda source: initialize(model, source))


@pytest.mark.parametrize(
    "content",
    [
        {"rpn.head.conv.0.0.bias": torch.zeros(1).expand(10**6, 10**6)},
        {"rpn.head.conv.0.0.bias": torch.zeros(1).as_strided((10**12,), (0,))},
        {"rpn.head.conv.0.0.bias": torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), [1.0], (10**15,))},
        {"rpn.head.conv.0.0.bias": torch.zeros(10**15, device="meta")},
        {"rpn.head.conv.0.0.bias": torch.zeros(16, dtype=torch.complex64)},
        {"rpn.head.conv.0.0.bias": torch.quantize_per_tensor(torch.zeros(16), 1.0, 0, torch.qint8)},
        {3: torch.zeros(16)},
        {"rpn.head.conv.0.0.bias": [1.0] * 16},
        {"model": {"model": torch.zeros(16), "other": None}},
        {},
        [torch.zeros(16)],
        torch.zeros(16),
        "text",
        None,
    ],
    ids=lambda content: str(type(content).__name__),
)
def test_what_is_no_state_dict(tmp_path: Path, model: BANet, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", read=lambda source: initialize(model, source))


def test_rows_of_a_checkpoint_are_of_its_own_size(tmp_path: Path, model: BANet) -> None:
    """Rows of the box head are taken out by class before shapes are compared: no tensor may be larger than it is."""
    logits = torch.zeros(91, 1).expand(91, 10**10)
    torch.save({"roi_heads.box_predictor.cls_score.weight": logits}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "holds no state_dict", read=lambda source: initialize(model, source))


def test_storages_that_claim_more_than_the_file_has(tmp_path: Path, model: BANet) -> None:
    for new in (True, False):
        torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        data = (tmp_path / "a.pth").read_bytes()
        if new:
            members = {
                i.filename: zipfile.ZipFile(io.BytesIO(data)).read(i)
                for i in zipfile.ZipFile(io.BytesIO(data)).infolist()
            }
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, body in members.items():
                    size = pickle.BININT + struct.pack("<i", 2**31 - 4)
                    body = body.replace(b"K\x03tQ", size + b"tQ") if name.endswith("data.pkl") else body
                    archive.writestr(name, bytes(1 << 27) if name.endswith("data/0") else body)
            data = stream.getvalue()
        else:
            assert b"K\x03" in data
            data = data.replace(b"K\x03", b"\x8a\x05" + (10**12).to_bytes(5, "little"))
        (tmp_path / "a.pth").write_bytes(data)
        refused(tmp_path / "a.pth", read=lambda source: initialize(model, source))


def test_the_tiny_network_of_these_tests(model: BANet, whole: bytes, tmp_path: Path) -> None:
    """That what is refused above is refused for the change made to it."""
    (tmp_path / "a.safetensors").write_bytes(rewritten(whole, lambda header: None))
    loaded = BANet.from_pretrained(tmp_path / "a.safetensors")
    assert (loaded.config.fpn_channels, loaded.categories) == (TINY.fpn_channels, SCENE_CATEGORIES)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert not initialize(tiny_model(), str(tmp_path / "a.pth")).missing
    assert InferenceConfig().longer <= 8192


# ---------------------------------------------------------------------------------------------------- steps of pickles


def checkpoints() -> dict[str, Any]:
    norm = torch.nn.BatchNorm2d(4)
    state = norm.state_dict()
    others = {"c": Counter([1, 2]), "s": {1, 2}, "p": norm.weight, "kind": torch.bfloat16, "size": torch.Size([2, 3])}
    plain = [1.5, "a", b"", True, None, (1, 2, 3), (1,), (1, 2), 10**30, {}, [], torch.device("cpu")]
    optimizer = torch.optim.Adam(norm.parameters()).state_dict()
    deep: tuple[Any, ...] = ()
    for _ in range(50):
        deep = (deep, deep)
    return {"state": state, "all": {"model": state, "optimizer": optimizer, **others, "plain": plain}, "deep": deep}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["state", "all"])
def test_checkpoints_of_torch_pass(name: str, zipped: bool) -> None:
    stream = io.BytesIO()
    torch.save(checkpoints()[name], stream, _use_new_zipfile_serialization=zipped)
    stream.seek(0)
    check_pickle(stream)


def test_values_that_are_shared_many_times() -> None:
    stream = io.BytesIO()
    torch.save(checkpoints()["deep"], stream)
    with pytest.raises(ValueError, match="nests values in values many times over"):
        check_pickle(stream)


@pytest.mark.parametrize("step", [b"0", b"h\x05", b"q\x01", b"t", b"a", b"R", b"\x86"])
def test_steps_that_use_what_is_not_there(step: bytes) -> None:
    with pytest.raises(ValueError, match="damaged at a step"):
        check_pickle(io.BytesIO(b"\x80\x02" + step + b"."))


def test_lengths_in_pickles_are_not_believed():
    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and size < 1 << 25
            return super().read(size)

    with pytest.raises(ValueError, match="only 4 remain"):
        check_pickle(Stream(b"\x80\x02X\xff\xff\xff\x7fabcd"))
