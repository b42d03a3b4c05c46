"""Detection of processes with different blob folders, from what they announce."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backstop.runtime.blob_folders import HEARD_MS, BlobFolders, folder_id, own_folder
from backstop.runtime.kafka.broker_clock import said
from backstop.runtime.process.chance import random_hex

OWN, OTHER = "a" * 32, "b" * 32
T0 = 1_000_000


def test_a_folder_has_one_name_for_all_processes(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: folder_id(tmp_path / "blobs", random_hex), range(16)))
    assert len(names) == 1
    assert names != {folder_id(tmp_path / "others", random_hex)}
    assert sorted(file.name for file in (tmp_path / "blobs").iterdir()) == ["folder-id"]


def test_a_folder_that_can_not_be_written_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert own_folder(tmp_path / "file" / "blobs", random_hex) is None


def test_a_starting_process_is_unready_while_another_process_reports_another_folder() -> None:
    now = [T0]
    folders = BlobFolders(OWN, lambda: now[0])
    folders.heard(said("worker", OTHER), T0)
    assert not folders.shared()
    assert (
        folders.not_ready() == "another process uses another blob folder: give all of them the same BACKSTOP_BLOB_DIR"
    )
    now[0] += HEARD_MS + 1
    assert folders.shared()
    assert folders.difference() is None
    assert folders.not_ready() is None


def test_a_new_process_with_another_folder_leaves_a_ready_process_ready() -> None:
    folders = BlobFolders(OWN, lambda: T0)
    assert folders.not_ready() is None
    folders.heard(said("receiver", OTHER), T0)
    assert folders.not_ready() is None
    assert not folders.shared()
    told = folders.difference()
    assert told is not None
    assert told.startswith("receiver on another machine or with other settings")


def test_a_record_that_names_no_folder_is_ignored() -> None:
    folders = BlobFolders(OWN, lambda: T0)
    for value in (
        None,
        b"",
        b"worker",
        said("outgoing", None),
        said("worker", OWN),
        b"\xff" * 40,
        b"x " + b"g" * 32,
        b"{}" * 9_000,
    ):
        folders.heard(value, T0)
    assert folders.shared()
