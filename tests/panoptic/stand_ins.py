"""Results of detectron2 and mmdetection, which pip alone does not install: they keep the rules of the real classes."""

from __future__ import annotations

import torch


class Instances:
    """Keeps detectron2's rules: fields of one length, indexing cuts all of them."""

    def __init__(self, image_size, **fields):
        self._image_size, self._fields = image_size, {}
        for name, value in fields.items():
            setattr(self, name, value)

    @property
    def image_size(self):
        return self._image_size

    def __setattr__(self, name, value):
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            assert all(len(value) == len(other) for other in self._fields.values())
            self._fields[name] = value

    def __getattr__(self, name):
        if name == "_fields" or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]

    def get_fields(self):
        return self._fields

    def __getitem__(self, item):
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self):
        return len(next(iter(self._fields.values())))


class Boxes:
    """Keeps detectron2's rule: indexing by a tensor gives boxes."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __getitem__(self, item):
        assert isinstance(item, torch.Tensor)
        return type(self)(self.tensor[item])

    def __len__(self):
        return len(self.tensor)


class BitMasks(Boxes):
    """Likewise."""


class InstanceData:
    """Keeps mmengine's rules: data of one length, indexing by a tensor gives new data."""

    def __init__(self, **data):
        for name, value in data.items():
            setattr(self, name, value)

    def __setattr__(self, name, value):
        assert len(self) in (0, len(value))
        super().__setattr__(name, value)

    def __getitem__(self, item):
        assert isinstance(item, torch.Tensor)
        assert item.ndim == 1
        return InstanceData(**{name: value[item] for name, value in vars(self).items()})

    def __len__(self):
        return len(next(iter(vars(self).values()), ()))


class DetDataSample:
    """Keeps mmengine's rules: `new` copies the sample, not what is in it."""

    def __init__(self, **data):
        self.__dict__.update(data)

    def new(self):
        return DetDataSample(**vars(self))
