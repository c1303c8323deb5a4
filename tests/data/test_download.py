"""`python -m fedray.data.download` as its users run it, against a file server of this machine."""

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

from fedray.data import Data, load
from fedray.data.download import main


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


def test_without_network_it_says_so_in_one_sentence(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        failed = download(tmp_path / "data", f"http://127.0.0.1:{port}/cifar.tar.gz")
    assert failed.returncode == 1
    assert "could not be downloaded" in failed.stderr
    assert "--data.dataset synthetic" in failed.stderr
    assert failed.stderr.count("\n") == 1
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
