"""Fetch CIFAR-10: `python -m fedray.data.download [--root data]`, or `make data`.

The archive is downloaded and unpacked into a hidden folder beside its destination, checked, read back, and only then
renamed: an interrupted download leaves nothing that looks like a data set. FEDRAY_CIFAR10_URL
names a mirror; its archive need not have the original's checksum, but what it holds must read as CIFAR-10.
"""

import argparse
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from fedray.data import OFFLINE, batches, cifar10
from fedray.errors import BadInputError


def download(root: Path) -> Path:
    """Put `cifar-10-batches-py` into `root` and return its path; BadInputError in one sentence where that fails."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    mirror = os.environ.get("FEDRAY_CIFAR10_URL", "")
    url = mirror or CIFAR10.url
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=root) as folder:
            # Not the class CIFAR10 itself: it would unpickle what came, and a mirror's pickles are not to be trusted.
            download_and_extract_archive(
                url, folder, filename=CIFAR10.filename, md5=None if mirror else CIFAR10.tgz_md5
            )
            unpacked = Path(folder, batches.FOLDER)
            for split in batches.FILES:
                batches.read(unpacked, split)
            return unpacked.rename(root / batches.FOLDER)
    except BadInputError as error:
        raise BadInputError(f"what {url} holds is not CIFAR-10: {error}") from error
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError) as error:
        raise BadInputError(
            f"CIFAR-10 could not be downloaded from {url} to {root} ({error}): "
            f"try again with a network, set FEDRAY_CIFAR10_URL to a mirror, or stay offline with {OFFLINE}"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 and where the data is, or 1 and one sentence why it is not there."""
    parser = argparse.ArgumentParser(prog="python -m fedray.data.download", description="Download CIFAR-10.")
    default = os.environ.get("FEDRAY_DATA") or "data"
    parser.add_argument("--root", type=Path, default=Path(default), help=f"folder to put it in (default: {default})")
    root = parser.parse_args(arguments).root.expanduser()
    try:
        folder = cifar10.locate(root)
        if folder:
            cifar10.fingerprint(folder)  # every file is there and can be read
            print(f"CIFAR-10 is already in {folder}")
        else:
            print(f"CIFAR-10 is now in {download(root)}")
    except BadInputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
