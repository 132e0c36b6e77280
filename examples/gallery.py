"""Write one HTML page that shows a folder of images under two occlusion rules, to sort and to click.

python examples/gallery.py photos/ gallery.html [WEIGHTS]
"""

import sys
from pathlib import Path

import banet
from banet.data.images import list_images, read_image
from banet.engine.report.gallery import write_gallery

folder, page = Path(sys.argv[1]), Path(sys.argv[2])
model = banet.BANet.from_pretrained(sys.argv[3] if len(sys.argv) > 3 else "scenes")
with write_gallery(page, f"Two rules on {folder}", model.categories) as gallery:
    for path in list_images(folder):
        image = read_image(path)
        results = {rule: model.predict(image, rule=rule) for rule in ("heuristic", "appearance")}
        gallery.add(path.name, image, results)
        differ = (results["heuristic"].ids != results["appearance"].ids).mean()
        print(f"{path.name}: the ids of {100 * differ:.1f} % of the pixels differ")
