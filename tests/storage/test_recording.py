"""What a process wrote is told without reading it again, and as a reader would find it."""

import threading

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.storage.parallel import mapped
from hydra_ray.storage.recording import record_text, recorded_below, recording, to_text

TABLE = pa.table({"user_id": ["a", "b"], "score": [0.5, 1.5]})


def test_what_is_recorded_is_what_a_reader_finds(tmp_path):
    folder = str(tmp_path / "stage")
    with recording(folder) as files:
        storage.write_part(f"{folder}/users/bucket-00000.parquet", TABLE, {"rows": 2, "seconds": 0.1})
        storage.write_json(f"{folder}/description.json", {"a": 1})
        storage.write_bytes(f"{folder}/page.html", b"<html>")
        storage.write_bytes(f"{folder}-other/page.html", b"<html>")
    assert {*files} == {"users/bucket-00000.parquet", "description.json", "page.html"}
    sizes = storage.file_sizes(folder)
    for path, written in files.items():
        assert written.digest == storage.content_digest(f"{folder}/{path}")
        assert written.num_bytes == sizes[path]
    part = files["users/bucket-00000.parquet"]
    assert part.counters == storage.read_counters(f"{folder}/users/bucket-00000.parquet")
    assert storage.written_part(f"{folder}/users/bucket-00000.parquet") == part
    assert recorded_below(folder) == {}
    with recording(folder):
        record_text(folder, to_text(files))
        assert recorded_below(folder) == files
        assert recorded_below(f"{folder}/users/") == {"bucket-00000.parquet": part}


def test_what_was_removed_or_written_in_an_unknown_way_is_not_recorded(tmp_path):
    folder = str(tmp_path)
    with recording(folder) as files:
        for name in ("a", "b", "inner/c", "inner-not"):
            storage.write_bytes(f"{folder}/{name}", b"1")
        storage.remove_file(f"{folder}/a")
        storage.remove_folder(f"{folder}/inner")
        with storage.open_output(f"{folder}/b") as file:
            file.write(b"2")
        assert {*files} == {"inner-not"}
        storage.write_bytes(f"{folder}/b", b"3")
    storage.write_bytes(f"{folder}/later", b"")
    assert {*files} == {"b", "inner-not"}


def test_a_failed_write_is_not_recorded(tmp_path):
    def tables():
        yield TABLE
        raise ValueError("no more")

    location = f"{tmp_path}/part.parquet"
    with recording(str(tmp_path)) as files:
        storage.write_part(location, TABLE)
        try:
            storage.write_row_groups(location, TABLE.schema, tables(), {})
        except ValueError:
            assert not files
        else:
            raise AssertionError("it was written")


def test_results_come_in_order_and_items_are_taken_only_so_far_ahead():
    taken, running, most = [], 0, 0
    lock = threading.Lock()

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return number * 2

    found = mapped(work, items(), 4)
    assert next(found) == 0
    assert len(taken) <= 5
    assert list(found) == [number * 2 for number in range(1, 50)]
    assert most <= 4
