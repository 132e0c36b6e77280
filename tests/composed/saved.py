"""Small models with random weights, saved by their own libraries: what the code loads as it would load real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = {0: "person", 1: "car", 2: "dog", 3: "road", 4: "sky-other-merged"}
THINGS = (0, 1, 2)
QUERIES = 12


def save_detr(folder: Path, names: dict[int, str] = NAMES) -> Path:
    from transformers import DetrConfig, DetrForSegmentation, DetrImageProcessor

    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_resnet(),
        d_model=128,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=QUERIES,
        id2label=names,
    )
    return _save(folder, DetrForSegmentation(config), DetrImageProcessor(size={"height": 96, "width": 128}))


def save_maskformer(folder: Path, names: dict[int, str] = NAMES) -> Path:
    from transformers import (
        DetrConfig,
        MaskFormerConfig,
        MaskFormerForInstanceSegmentation,
        MaskFormerImageProcessor,
        SwinConfig,
    )

    decoder = DetrConfig(
        d_model=32,
        decoder_layers=1,
        encoder_layers=1,
        decoder_attention_heads=4,
        encoder_attention_heads=4,
        decoder_ffn_dim=32,
        encoder_ffn_dim=32,
        num_queries=QUERIES,
        backbone_config=_resnet(),  # is not used; else some versions ask the hub for one
        use_timm_backbone=False,
        use_pretrained_backbone=False,
    )
    config = MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=_swin(), decoder_config=decoder, id2label=names
    )
    processor = MaskFormerImageProcessor(size={"height": 96, "width": 128}, ignore_index=255)
    assert isinstance(_swin(), SwinConfig)
    return _save(folder, MaskFormerForInstanceSegmentation(config), processor)


def save_mask2former(folder: Path, names: dict[int, str] = NAMES) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    config = Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        dim_feedforward=32,
        num_queries=QUERIES,
        id2label=names,
    )
    processor = Mask2FormerImageProcessor(size={"height": 96, "width": 128}, ignore_index=255)
    return _save(folder, Mask2FormerForUniversalSegmentation(config), processor)


def save_that_finds(folder: Path, image: np.ndarray) -> Path:
    """A Mask2Former whose weights are drawn until it finds things and stuff in an image (H, W, 3), with certainty."""
    import banet

    save_mask2former(folder)
    model: Any = banet.load(f"hf:{folder}")
    network = model.model.model
    for seed in range(500):
        torch.manual_seed(seed)
        with torch.no_grad():
            network.class_predictor.weight.normal_(0, 3)
            for name, parameter in network.named_parameters():
                if "queries_" in name:
                    parameter.normal_(0, 1)
                elif "mask_embedder" in name and parameter.ndim == 2:
                    parameter.normal_(0, 0.3)
        if len({segment.isthing for segment in model.predict(image)}) == 2:
            network.save_pretrained(folder)
            return folder
    raise AssertionError("no weights found anything in this image")


def save_oneformer(folder: Path, names: dict[int, str] = NAMES) -> Path:
    from transformers import (
        CLIPTokenizer,
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        OneFormerImageProcessor,
        OneFormerProcessor,
    )

    folder.mkdir(parents=True, exist_ok=True)
    info = {str(n): {"name": name, "isthing": int(n in THINGS)} for n, name in names.items()}
    (folder / "classes.json").write_text(json.dumps(info))
    characters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(vocab={token: n for n, token in enumerate(vocabulary)}, merges=[], model_max_length=77)
    config = OneFormerConfig(
        backbone_config=_swin(),
        hidden_dim=32,
        conv_dim=32,
        mask_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        query_dec_layers=1,
        num_queries=QUERIES,
        task_seq_len=77,
        max_seq_len=77,
        text_encoder_width=32,
        text_encoder_n_layers=1,
        text_encoder_vocab_size=len(vocabulary),
        text_encoder_context_length=77,
        text_encoder_proj_layers=1,
        text_encoder_n_ctx=4,
        common_stride=4,
        id2label=names,
        is_training=False,
    )
    images = OneFormerImageProcessor(
        size={"height": 96, "width": 128}, repo_path=str(folder), class_info_file="classes.json", num_text=4
    )
    processor = OneFormerProcessor(images, tokenizer)
    return _save(folder, OneFormerForUniversalSegmentation(config), processor)


def save_eomt(folder: Path, names: dict[int, str] = NAMES, **options: Any) -> Path:
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=128,
        patch_size=16,
        num_blocks=1,
        num_queries=QUERIES,
        num_register_tokens=1,
        id2label=names,
    )
    settings = {"size": {"shortest_edge": 128, "longest_edge": 128}, "do_pad": True, **options}
    return _save(folder, EomtForUniversalSegmentation(config), EomtImageProcessor(**settings))


def save_rf_detr(folder: Path, names: dict[int, str] | None = None) -> Path:
    from transformers import RfDetrConfig, RfDetrForInstanceSegmentation, RfDetrImageProcessor

    things = names or {n: NAMES[n] for n in THINGS}
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": 96,
        "patch_size": 12,
        "num_windows": 2,
        "out_features": ["stage2", "stage4"],
    }
    config = RfDetrConfig(backbone_config=backbone, d_model=32, num_queries=QUERIES, decoder_layers=2, id2label=things)
    processor = RfDetrImageProcessor(size={"height": 96, "width": 96})
    return _save(folder, RfDetrForInstanceSegmentation(config), processor)


def save_segformer(folder: Path, names: dict[int, str] = NAMES) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=32,
        id2label=names,
    )
    return _save(
        folder, SegformerForSemanticSegmentation(config), SegformerImageProcessor(size={"height": 96, "width": 96})
    )


def save_classifier(folder: Path) -> Path:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    return _save(folder, ResNetForImageClassification(config), None)


def save_torchvision(folder: Path, things: int = 3) -> Path:
    """A Mask R-CNN as a state dict with its classes beside it."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=things + 1)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.half().state_dict(), folder / "maskrcnn.pth")
    (folder / "classes.json").write_text(json.dumps([NAMES[n] for n in THINGS[:things]]))
    return folder


def save_ultralytics(folder: Path) -> Path:
    """A segmentation model of Ultralytics as its .pt file."""
    from ultralytics import YOLO

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = YOLO("yolo11n-seg.yaml", verbose=False)
    things = dict(enumerate(NAMES[n] for n in THINGS))
    model.model.names = {n: things.get(n, f"class {n}") for n in model.model.names}
    path = folder / "tiny-seg.pt"
    model.ckpt = {"train_args": {"task": "segment"}}  # as training leaves it: 8.3.0 cannot do without
    model.save(path)
    return path


PANOPTIC: dict[str, Callable[[Path], Path]] = {
    "DETR": save_detr,
    "MaskFormer": save_maskformer,
    "Mask2Former": save_mask2former,
    "OneFormer": save_oneformer,
    "EoMT": save_eomt,
}
"""Families of panoptic models, and what saves a small one of each."""


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _swin() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _save(folder: Path, model: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    model.eval().save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
