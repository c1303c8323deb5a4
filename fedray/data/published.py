"""The published data sets: their shapes and classes, and where they are on disk, in either of two layouts.

One layout is the authors', as torchvision unpacks it. The other is Parquet, as on Hugging Face.

CIFAR-10 and CIFAR-100: Krizhevsky 2009, "Learning multiple layers of features from tiny images", 50,000 + 10,000
colour images of 32 x 32 pixels. MNIST: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to
document recognition", 60,000 + 10,000 grey images of 28 x 28 pixels. Fashion-MNIST: Xiao, Rasul, Vollgraf 2017
(arXiv:1708.07747), the same numbers and shape.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedray.core.errors import BadInputError
from fedray.data import batches, cache, idx, parquet
from fedray.data.batches import Batches
from fedray.data.dataset import Dataset
from fedray.data.decode import Form
from fedray.data.idx import Idx


@dataclass(frozen=True)
class Published:
    """A published data set: its two layouts, its shape and classes, and the names of its folders."""

    name: str
    original: Batches | Idx
    image: str
    """The column of the images in Parquet."""
    label: str
    """The column of the labels in Parquet."""
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """The mean of the training images, per channel, as published; `std` likewise."""
    std: tuple[float, ...]
    named: str
    """A regular expression, in lower case, for the names of the data set's folders."""
    alike: str = ""
    """The same for another data set that only its folder's name tells from this one."""

    @property
    def title(self) -> str:
        return self.original.title

    def locate(self, root: Path) -> Path | None:
        """The folder with the data set's files, or None.

        Candidates are `root`, the folders in it where torchvision puts the files, and the folders in it with Parquet.
        Folders in `root` that are named after the data set are searched like `root` itself. Of the folders with Parquet
        those named after the data set or `plain_text` come first, each group in alphabetical order. Parquet must have
        the data set's columns and, where it names classes, the data set's classes. Files that may be another data set's
        (`alike`) count in `root` and in folders named after this data set, but not in folders named after the other.
        """
        roots = [root, *(folder for folder in _folders(root) if self._is_named(folder))]
        for folder in (inner for outer in roots for inner in (outer, *(outer / i for i in self.original.inside))):
            if self.original.is_in(folder) and not self._is_named_otherwise(folder):
                return folder
        for outer in roots:
            if self._suits(outer, believed=True):
                return outer
            inner = sorted(_folders(outer), key=lambda folder: (not self._is_preferred(folder), folder.name.lower()))
            for folder in inner:
                if self._suits(folder, believed=self._is_named(outer) or self._is_named(folder)):
                    return folder
        return None

    def fingerprint(self, folder: Path) -> str:
        """A hash of every byte that `read` may read: 32 hex digits. Nothing is decoded."""
        original = self.original.is_in(folder)
        return cache.hash_files(
            (split, path)
            for split in ("train", "test")
            for path in (self.original.paths(folder, split) if original else parquet.paths(folder, split, self.title))
        )

    def read(self, folder: Path, counts: Mapping[str, int], identity: str) -> Dataset:
        """The first `counts` examples of each split (0: all); `identity` is the folder's fingerprint.

        Decoded images come from the cache where it has them, and whole splits are kept there.
        """
        train, test = (self.read_split(folder, split, counts[split], identity) for split in ("train", "test"))
        return Dataset(
            name=self.name,
            format=train[2],
            train_images=train[0],
            train_labels=train[1],
            test_images=test[0],
            test_labels=test[1],
            mean=self.mean,
            std=self.std,
            classes=self.classes,
            fingerprint=identity,
        )

    def read_split(self, folder: Path, split: str, count: int = 0, identity: str = "") -> cache.Split:
        """The first `count` examples of a split (0: all): images, int64 labels [n], and the format."""
        if self.original.is_in(folder):
            # Not cached: unpickling all takes 0.24 s, and the files are read anyway, for their hash.
            return *self.original.read(folder, split, count), self.original.format
        kept = cache.place(identity, split) if identity else None
        return cache.decoded_once(
            kept, count, lambda: self._decode(folder, split, count), lambda: self.fingerprint(folder) == identity
        )

    def missing(self, root: Path) -> str:
        """The statement that the data set is not in a folder, and which data is; the caller adds the remedy."""
        return f"there is no {self.title} in the folder {root}{self.others(root)}"

    def others(self, root: Path) -> str:
        """A remark, in brackets, about other data in a folder; empty where there is none."""
        for other in PUBLISHED.values():
            folder = None if other is self else other.locate(root)
            if folder and (other.original.is_in(folder) or other._is_named(folder)):
                return f" ({folder} is {other.title}, data.dataset = {other.name})"
        found = next((folder for folder in (root, *_folders(root)) if parquet.holds_parquet(folder)), None)
        return f" (the Parquet files in {found} are other data, which data.dataset = parquet reads)" if found else ""

    def _decode(self, folder: Path, split: str, count: int) -> cache.Split:
        files = parquet.paths(folder, split, self.title)
        for path in files:
            self._check_columns(path)
        labels = parquet.read_labels(files, self.label, len(self.classes), count)
        if not len(labels):
            raise BadInputError(f"{folder} has no {split} examples")
        images, encoding = parquet.read_images(files, self.image, Form(self.shape, exact=True), len(labels))
        return images, labels, encoding

    def _check_columns(self, path: Path) -> None:
        types = parquet.read_types(path)
        if not self._has_columns(path):
            raise BadInputError(
                f"{path} is not {self.title}: it needs the columns {self.image} (a struct with binary bytes) and "
                f"{self.label} (an integer), and has {', '.join(types) or 'none'}"
            )

    def _has_columns(self, path: Path) -> bool:
        types = parquet.read_types(path)
        image, label = types.get(self.image), types.get(self.label)
        if image is None or label is None:
            return False
        return parquet.content_type(image) not in (None, image) and parquet.value_kind(label) == "integers"

    def _suits(self, folder: Path, believed: bool) -> bool:
        """Whether the Parquet files in a folder are this data set, or are damaged; reading then names the damage."""
        path = min(parquet.find_files(folder, "train"), default=None)
        if path is None:
            return False
        plausible = not self.alike or (believed and not self._is_named_otherwise(folder))
        try:
            if not path.is_file():
                return plausible
            if not self._has_columns(path):
                return False
            names = parquet.class_names(path, self.label)
        except BadInputError:
            return plausible
        return self._are_classes(names) if names else plausible

    def _are_classes(self, names: tuple[str, ...]) -> bool:
        """Whether these are the classes, up to misspellings: a public CIFAR-100 has a class "cra"."""
        pairs = zip(map(_letters, names), map(_letters, self.classes), strict=False)
        return len(names) == len(self.classes) and 2 * sum(a == b for a, b in pairs) > len(names)

    def _is_named(self, folder: Path) -> bool:
        return bool(re.search(self.named, folder.name.lower()))

    def _is_named_otherwise(self, folder: Path) -> bool:
        named = folder.parent if folder.name == "raw" else folder
        return bool(self.alike and re.search(self.alike, named.name.lower()))

    def _is_preferred(self, folder: Path) -> bool:
        return folder.name.lower() == "plain_text" or self._is_named(folder)


def _folders(root: Path) -> Iterator[Path]:
    """The folders in a folder, in alphabetical order."""
    return (folder for folder in sorted(root.glob("*")) if folder.is_dir())


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = Published(
    name="cifar10",
    original=batches.CIFAR10,
    image="img",
    label="label",
    shape=(3, 32, 32),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    named=r"cifar[-_ ]?10(?!\d)",
)
CIFAR100 = Published(
    name="cifar100",
    original=batches.CIFAR100,
    image="img",
    label="fine_label",
    shape=(3, 32, 32),
    classes=tuple(CIFAR100_CLASSES.split()),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    named=r"cifar[-_ ]?100(?!\d)",
)
OF_DIGITS, OF_FASHION = r"(?<![a-z])(?<!fashion[-_ ])mnist", r"fashion[-_ ]?mnist"
MNIST = Published(
    name="mnist",
    original=idx.MNIST,
    image="image",
    label="label",
    shape=(1, 28, 28),
    classes=tuple("0123456789"),
    mean=(0.1307,),
    std=(0.3081,),
    named=OF_DIGITS,
    alike=OF_FASHION,
)
FASHION_MNIST = Published(
    name="fashion_mnist",
    original=idx.FASHION_MNIST,
    image="image",
    label="label",
    shape=(1, 28, 28),
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    mean=(0.2860,),
    std=(0.3530,),
    named=OF_FASHION,
    alike=OF_DIGITS,
)
PUBLISHED = {each.name: each for each in (CIFAR10, CIFAR100, MNIST, FASHION_MNIST)}
