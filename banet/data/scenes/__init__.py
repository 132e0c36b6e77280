"""Procedural scenes with a known depth order, and collages of real cut-outs."""

from __future__ import annotations

from banet.data.scenes.generate import SCENE_CATEGORIES, Scene, Scenes, make_scene, write_coco
from banet.data.scenes.videos import SceneFrame, SceneVideo

__all__ = ["SCENE_CATEGORIES", "Scene", "SceneFrame", "SceneVideo", "Scenes", "make_scene", "write_coco"]
