"""`python -m fedray.data.download` as its users run it, against a file server of this machine."""

import hashlib
import os
import socket
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from making import FOLDERS, SPLITS, make_examples, write_original

from fedray.data import Data, load
from fedray.data.download import main
from fedray.data.published import PUBLISHED


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a folder that is served, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/cifar.tar.gz", folder
        http.shutdown()
        thread.join()


def download(root, url):
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-m", "fedray.data.download", "--root", str(root)],
        env=environment | {"FEDRAY_CIFAR10_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def pack(archive, folder):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)


def test_a_download_is_unpacked_read_back_and_not_repeated(tmp_path, server, write_batches, examples):
    url, served = server
    pack(served / "cifar.tar.gz", write_batches(tmp_path / "made"))
    root = tmp_path / "new" / "data"
    done = download(root, url)
    assert done.returncode == 0, done.stderr
    assert f"CIFAR-10 is now in {root / 'cifar-10-batches-py'}" in done.stdout
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]  # no archive, no hidden folder
    assert np.array_equal(load(Data(dataset="cifar10", root=str(root))).train_images, examples[0][:50])
    again = download(root, "http://127.0.0.1:1/")
    assert again.returncode == 0
    assert "already in" in again.stdout


def test_without_network_it_says_so_in_one_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("FEDRAY_CIFAR10_URL", f"http://127.0.0.1:{port}/cifar.tar.gz")
        assert main(["--root", str(tmp_path / "data")]) == 1
    said = capfd.readouterr().err
    assert "could not be downloaded" in said
    assert "--data.dataset synthetic" in said
    assert said.count("\n") == 1
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "incomplete", "elsewhere"])
def test_a_bad_archive_leaves_nothing_behind(tmp_path, server, write_batches, damage, monkeypatch, capsys):
    url, served = server
    made = write_batches(tmp_path / "made")
    if damage == "incomplete":
        (made / "data_batch_2").unlink()
    if damage == "elsewhere":
        made = made.rename(tmp_path / "made" / "other")
    archive = served / "cifar.tar.gz"
    pack(archive, made)
    if damage == "cut":
        archive.write_bytes(archive.read_bytes()[:100_000])
    if damage == "garbage":
        archive.write_bytes(b"<html>not found</html>")
    monkeypatch.setenv("FEDRAY_CIFAR10_URL", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert main(["--root", str(tmp_path / "data")]) == 1
    assert url in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []


def test_an_incomplete_folder_is_named_and_left_alone(tmp_path, write_batches):
    folder = write_batches(tmp_path)
    (folder / "test_batch").unlink()
    failed = download(tmp_path, "http://127.0.0.1:1/")
    assert failed.returncode == 1
    assert "test_batch is missing" in failed.stderr
    assert len(list(folder.iterdir())) == 5


def serve(served, tmp_path, name, address):
    """Put a small data set where it is downloaded from; returns the address."""
    folder = write_original(tmp_path / "made", name)
    if name == "cifar100":
        pack(served / "cifar.tar.gz", folder)
        return address
    for path in folder.iterdir():
        path.rename(served / path.name)
    return address.rpartition("/")[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_others_are_downloaded_read_back_and_not_repeated(tmp_path, server, name, monkeypatch, capsys):
    address, served = server
    url, root = serve(served, tmp_path, name, address), tmp_path / "new" / "data"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(f"FEDRAY_{name.upper()}_URL", url)
    assert main([name, "--root", str(root)]) == 0
    assert f"{PUBLISHED[name].title} is now in {root / FOLDERS[name]}" in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == [FOLDERS[name].partition("/")[0]]
    found = load(Data(dataset=name, root=str(root)))
    assert np.array_equal(found.train_images, make_examples(name)[0][SPLITS["train"]])
    monkeypatch.setenv(f"FEDRAY_{name.upper()}_URL", "http://127.0.0.1:1/")
    assert main([name, "--root", str(root)]) == 0
    assert "already in" in capsys.readouterr().out


def test_what_else_is_in_the_folder_stays(tmp_path, server, monkeypatch):
    """As an old torchvision leaves its own form of the images there."""
    address, served = server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("FEDRAY_MNIST_URL", serve(served, tmp_path, "mnist", address))
    old = tmp_path / "data" / "MNIST" / "processed" / "training.pt"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    assert main(["mnist", "--root", str(tmp_path / "data")]) == 0
    assert old.read_bytes() == b"old"
    assert len(load(Data(dataset="mnist", root=str(tmp_path / "data"))).train_labels) == 12


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_mirror_that_is_no_address_of_the_web_is_refused_before_anything_is_made(tmp_path, name, monkeypatch, capsys):
    for address in (f"file://{tmp_path}", "ftp://127.0.0.1/x", str(tmp_path)):
        monkeypatch.setenv(f"FEDRAY_{name.upper()}_URL", address)
        assert main([name, "--root", str(tmp_path / "data")]) == 1
        said = capsys.readouterr().err
        assert f"FEDRAY_{name.upper()}_URL = '{address}' must begin with http:// or https://" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.fixture
def downloaded(server, tmp_path, monkeypatch, capsys):
    """Runs the command for a data set in this process, against the server: its error; nothing is left in its folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(name, address=server[0]):
        monkeypatch.setenv(f"FEDRAY_{name.upper()}_URL", address)
        assert main([name, "--root", str(tmp_path / "data")]) == 1
        assert list((tmp_path / "data").iterdir()) == []
        *_, said = capsys.readouterr().err.splitlines()  # after torchvision's progress
        return said

    return run


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_is_left_of_others_that_cannot_be_downloaded(tmp_path, server, downloaded, name):
    """Without a server, without one of its files, and with a file of another data set or none."""
    address, served = server
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        said = downloaded(name, f"http://127.0.0.1:{closed.getsockname()[1]}/x")
    assert f"{PUBLISHED[name].title} could not be downloaded from http://127.0.0.1" in said
    assert f"set FEDRAY_{name.upper()}_URL to a mirror" in said
    url = serve(served, tmp_path, name, address)
    one = served / ("cifar.tar.gz" if name == "cifar100" else "t10k-labels-idx1-ubyte.gz")
    whole = one.read_bytes()
    one.write_bytes(whole[: len(whole) // 2])
    assert url in downloaded(name, url)
    one.write_bytes(b"<html>moved</html>")
    assert url in downloaded(name, url)
    one.unlink()
    assert "could not be downloaded" in downloaded(name, url)


def test_without_a_mirror_the_checksum_must_be_the_original_ones(tmp_path, server, monkeypatch, capsys):
    """Each file is asked of one place after the other."""
    from torchvision import datasets

    address, served = server
    url = serve(served, tmp_path, "mnist", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{url}/nowhere/", f"{url}/"])
    assert main(["mnist", "--root", str(tmp_path / "data")]) == 1
    assert "File not found or corrupted" in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []
    sums = [(name, hashlib.md5((served / name).read_bytes()).hexdigest()) for name, _ in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    assert main(["mnist", "--root", str(tmp_path / "data")]) == 0
    assert len(load(Data(dataset="mnist", root=str(tmp_path / "data"))).train_labels) == 12


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["imagenet"])
    assert "fashion_mnist" in capsys.readouterr().err
