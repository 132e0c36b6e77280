"""What `Sources` calls images behind URLs and in archives."""

from __future__ import annotations

import tarfile
from pathlib import Path

from PIL import Image

from banet.engine.prediction.sources import Sources

SIGNED = "https://host/in/a.jpg?X-Amz-Signature=b/c*d"


def test_a_signed_url_is_one_image_without_its_signature(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{SIGNED}\t7\n")
    for sources in (Sources([SIGNED]), Sources([], listed=str(tmp_path / "list.txt"))):
        (item,) = sources
        assert (item.path, item.name, item.file_name) == (SIGNED, "a", "a.jpg")
        assert item.file == "https://host/in/a.jpg"


def test_images_of_an_archive_are_named_without_the_dot_of_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "a.png")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")  # as `tar cf all.tar -C in .`
    (item,) = Sources([str(tmp_path / "all.tar")])
    assert (item.file_name, item.image_id) == ("a.png", "a")
