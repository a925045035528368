"""Images: stacks of layers (directories) that machines are mounted on.

images/
  layers/<layer>/       a directory tree; the lowest is a Debian, others are the upper directories
                        of overlays, with their whiteouts
  <image id>.json       what the API knows of an image, and its layers, the top one first
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from localcloud.cloud import Cloud
from localcloud.host import base
from localcloud.host.system import remove_tree, write

BASE_NAME = "debian-12"


@dataclass
class Image:
    """One image; fields are those of its JSON file."""

    id: str
    name: str
    layers: list[str]  # the top one first
    description: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.created).replace(tzinfo=None)


class Images:
    """The images of one cloud, on disk and in memory."""

    def __init__(self, cloud: Cloud) -> None:
        self.directory = cloud.images
        self.layers = cloud.images / "layers"
        self.lock = threading.RLock()
        self.new: set[str] = set()  # complete layers of images that are not saved yet
        self.layers.mkdir(parents=True, exist_ok=True)
        self.known = {
            image.id: image
            for path in self.directory.glob("ami-*.json")
            for image in [Image(**json.loads(path.read_text()))]
        }

    def paths(self, layers: Iterable[str]) -> list[Path]:
        return [self.layers / layer for layer in layers]

    def save(self, image: Image) -> None:
        """Write an image, old or new, and know it from now on."""
        with self.lock:
            self.known[image.id] = image
            self.new -= set(image.layers)
            write(self.directory / f"{image.id}.json", json.dumps(asdict(image), indent=2) + "\n")

    def remove(self, image_id: str) -> None:
        """Forget an image; `sweep` removes its layers."""
        with self.lock:
            self.known.pop(image_id, None)
            (self.directory / f"{image_id}.json").unlink(missing_ok=True)

    def add_layer(self, make: Callable[[Path], object]) -> str:
        """Let `make` fill the path of a new layer, and return the layer's name.

        It gets its name only when it is complete; `sweep` removes what a crash leaves.
        """
        layer = uuid.uuid4().hex[:12]
        unfinished = self.layers / f"new-{layer}"
        make(unfinished)
        with self.lock:
            self.new.add(layer)
            unfinished.rename(self.layers / layer)
        return layer

    def sweep(self, in_use: Iterable[str] = (), unfinished: bool = False) -> None:
        """Remove the layers that no image needs and that are not `in_use`.

        `unfinished`: also those that are being made; nobody may be making one.
        """
        with self.lock:
            needed = {layer for image in self.known.values() for layer in image.layers}
            needed |= self.new | {*in_use}
            for path in self.layers.iterdir():
                if path.name.startswith("new-") and not unfinished:
                    continue
                if path.name not in needed:
                    remove_tree(path)

    def ensure_base(self, cloud: Cloud, progress: Callable[[str], None]) -> Image:
        """Return the base image; make it first when there is none of what it is made from today."""
        files = base.host_files()
        image_id = f"ami-{base.fingerprint(files)[:17]}"
        if image_id not in self.known:
            progress(f"base image {image_id}: making it with mmdebstrap, about a minute")
            layer = self.add_layer(lambda path: base.build(cloud, path, files))
            tags = {"name": BASE_NAME, "Name": BASE_NAME}
            self.save(Image(image_id, BASE_NAME, [layer], "Debian 12, the base image", tags=tags))
        for old in list(self.known.values()):  # of other origin
            if old.tags.get("name") == BASE_NAME and old.id != image_id:
                self.remove(old.id)
        return self.known[image_id]
