"""Fetch a data set: `python -m fedray.data.download [cifar10|cifar100|mnist|fashion_mnist] [--root data]`.

Files are downloaded into a hidden folder beside their destination, checked, read back, and only then renamed. So an
interrupted download leaves nothing that looks like a data set. FEDRAY_CIFAR10_URL and FEDRAY_CIFAR100_URL name another
archive. FEDRAY_MNIST_URL and FEDRAY_FASHION_MNIST_URL name another folder of the four files. Files from there need not
have the original's checksum, but must read as the data set.
"""

import argparse
import os
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedray.core.errors import BadInputError
from fedray.data import OFFLINE
from fedray.data.batches import Batches
from fedray.data.published import CIFAR10, PUBLISHED, Published


def download(root: Path, published: Published = CIFAR10) -> Path:
    """Download a data set into `root` and return its folder; BadInputError where that fails."""
    from torchvision import datasets

    original, variable = published.original, f"FEDRAY_{published.name.upper()}_URL"
    kind = getattr(datasets, original.title.replace("-", ""))  # its addresses and checksums are used, not its readers
    mirror = os.environ.get(variable, "")
    if mirror and not mirror.lower().startswith(("http://", "https://")):
        raise BadInputError(
            f"{variable} = {mirror[:200]!r} must begin with http:// or https://; files that are here already are read "
            "from the folder that data.root names"
        )
    places = [mirror] if mirror else [kind.url] if isinstance(original, Batches) else kind.mirrors
    fetch = _fetch_archive if isinstance(original, Batches) else _fetch_files
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{published.name}-", dir=root) as folder:
            fetch(kind, places, Path(folder), original.inside[0], check=not mirror)
            for split in ("train", "test"):
                original.read(Path(folder, original.inside[0]), split)
            place = root / original.inside[0]
            place.parent.mkdir(exist_ok=True)  # the folder MNIST may exist: older torchvision leaves MNIST/processed
            Path(folder, original.inside[0]).rename(place)
            return place
    except BadInputError as error:
        raise BadInputError(f"what {' and '.join(places)} holds is not {original.title}: {error}") from error
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError) as error:
        raise BadInputError(
            f"{original.title} could not be downloaded from {' or '.join(places)} to {root} ({error}): "
            f"try again with a network, set {variable} to a mirror, or stay offline with {OFFLINE}"
        ) from error


def _fetch_archive(kind: Any, places: Sequence[str], folder: Path, _: str, check: bool) -> None:
    """Download and unpack the archive."""
    from torchvision.datasets.utils import download_and_extract_archive

    # The class of torchvision is not used: it would unpickle the files, and a mirror's pickles are not to be trusted.
    download_and_extract_archive(places[0], str(folder), filename=kind.filename, md5=kind.tgz_md5 if check else None)


def _fetch_files(kind: Any, places: Sequence[str], folder: Path, inside: str, check: bool) -> None:
    """Download four gzipped files, each from the first place that has it. They stay gzipped."""
    from torchvision.datasets.utils import download_url

    for file, md5 in kind.resources:
        for place in places:
            try:
                download_url(f"{place.rstrip('/')}/{file}", str(folder / inside), md5=md5 if check else None)
                break
            except (OSError, RuntimeError, ValueError):
                if place == places[-1]:
                    raise


def main(arguments: list[str] | None = None) -> int:
    """Run the command. It prints the data's folder and returns 0, or prints one sentence of refusal and returns 1."""
    parser = argparse.ArgumentParser(prog="python -m fedray.data.download", description="Download a data set.")
    default = os.environ.get("FEDRAY_DATA") or "data"
    parser.add_argument("dataset", nargs="?", choices=list(PUBLISHED), default="cifar10", help="(default: cifar10)")
    parser.add_argument("--root", type=Path, default=Path(default), help=f"folder to put it in (default: {default})")
    asked = parser.parse_args(arguments)
    root, published = asked.root.expanduser(), PUBLISHED[asked.dataset]
    try:
        folder = published.locate(root)
        if folder:
            published.fingerprint(folder)  # raises where a file is missing or cannot be read
            print(f"{published.title} is already in {folder}")
        else:
            print(f"{published.title} is now in {download(root, published)}")
    except BadInputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
