"""Records and blobs: one suite for SQLite and Postgres, one for a folder and S3; what records need is never deleted."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text

from tunesmith.core.errors import ConfigError, MissingError, StoreError, TunesmithError
from tunesmith.store import backup as backup_module
from tunesmith.store import records as records_module
from tunesmith.store.backup import backup, restore
from tunesmith.store.blobs import Damaged, Missing, open_blobs
from tunesmith.store.records import as_json, as_text, migrate, open_records, persistently
from tunesmith.store.schema import blobs as contents
from tunesmith.store.schema import metadata, projects, settings, uses
from tunesmith.store.stores import Stores, keep, know_project, open_stores, release, sweep, touch, use

pytestmark = pytest.mark.usefixtures("connections")

# Records


def test_records_are_made_once_and_found_again(database):
    first = open_records(database)
    assert open_records(database).id == first.id
    assert len(first.id) == 24


def test_many_may_open_new_records_at_once(database):
    with ThreadPoolExecutor(8) as pool:
        assert len({one.id for one in pool.map(lambda _: open_records(database), range(16))}) == 1


def test_what_fails_leaves_nothing(records):
    def half():
        with records.write() as connection:
            know_project(connection, "a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    with records.read() as connection:
        assert connection.scalar(select(projects.c.name)) is None


def test_the_tables_are_those_of_the_schema(records):
    folder = Path(records_module.__file__).parent / "migrations"
    assert ScriptDirectory(folder).get_current_head() == records_module.VERSION
    with records.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_earlier_schema_is_brought_up_to_date_with_what_is_in_it(database, monkeypatch):
    monkeypatch.setattr(records_module, "VERSION", "0001")
    monkeypatch.setattr(records_module, "migrate", lambda connection, name: migrate(connection, name, "0001"))
    old = open_records(database)
    with old.write() as connection:
        connection.execute(text("INSERT INTO projects (name, served, most_queued) VALUES ('a', 7, 3)"))
        assert not connection.dialect.has_table(connection, "runs")
    monkeypatch.undo()
    new = open_records(database)
    with new.read() as connection:
        assert connection.execute(select(projects)).all() == [("a", 7, 3, None)]
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert new.id == old.id


def test_records_of_a_newer_tunesmith_are_refused(database):
    records = open_records(database)
    with records.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"of another tunesmith .*9999.*Use the newer one"):
        open_records(database)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("records.db", "not an address. Write sqlite:///"),
        ("mysql://a:secret@b/c", "mysql is not known"),
        ("sqlite://", "in memory would be lost"),
        ("sqlite:////proc/nowhere/x.sqlite", "cannot write records there"),
    ],
)
def test_addresses_that_are_none_are_refused_without_their_password(url, reason):
    with pytest.raises(TunesmithError, match=reason) as error:
        open_records(url)
    assert "secret" not in str(error.value)


def test_a_database_that_is_not_there_is_named_without_its_password():
    with pytest.raises(
        StoreError, match=r"postgresql://me:\*\*\*@127.0.0.1:1/x: the records cannot be reached"
    ) as error:
        open_records("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(error.value)


def test_what_is_no_database_is_refused(tmp_path):
    (tmp_path / "x.sqlite").write_text("not a database " * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        open_records(f"sqlite:///{tmp_path / 'x.sqlite'}")


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path):
    records = open_records(f"sqlite:///{tmp_path / 'r.sqlite'}")
    with records.read() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 2]  # 2: FULL


def test_values_that_databases_do_not_take_are_made_such():
    assert as_json({"loss": float("nan"), "a": [float("inf"), 1]}) == '{"loss": null, "a": [null, 1]}'
    assert as_text("a\x00b\ud800") == "a\ufffdb?"


def test_a_store_is_tried_until_it_answers_or_nobody_waits():
    waited = []

    def fails(times):
        def action():
            if len(waited) < times:
                raise StoreError("gone")
            return "there"

        return action

    def wait(seconds):
        waited.append(seconds)
        return len(waited) > 5

    assert persistently(fails(3), wait) == "there"
    assert waited == [0.05, 0.1, 0.2]
    waited.clear()
    with pytest.raises(StoreError):
        persistently(fails(100), wait)


# Blobs


def test_a_blob_is_found_under_the_hash_of_its_bytes(blobs, tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 1000)
    sha256 = blobs.put(tmp_path / "file")
    assert blobs.put(tmp_path / "file") == sha256 == blobs.put_stream([b"abc"] * 1000)[0]
    assert blobs.size(sha256) == 3000
    assert list(blobs.all()) == [sha256]
    assert b"".join(blobs.read(sha256)) == b"abc" * 1000
    blobs.fetch(sha256, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"abc" * 1000
    blobs.delete(sha256)
    blobs.delete(sha256)
    assert blobs.size(sha256) is None
    assert list(blobs.all()) == []
    assert blobs.put_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert b"".join(blobs.read(blobs.put_bytes(b""))) == b""


def test_a_blob_of_many_pieces(blobs, tmp_path):
    content = random.Random(0).randbytes((3 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    blobs.fetch(blobs.put(tmp_path / "file"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_a_blob_that_is_missing_or_damaged_is_never_taken_for_one(blobs, tmp_path):
    sha256 = blobs.put_bytes(b"what it was")
    with pytest.raises(Missing, match=r"is not there. Bring it back from a backup"):
        blobs.fetch("0" * 64, tmp_path / "none")
    blobs.files.pipe_file(blobs._path(sha256), b"what it is.")
    with pytest.raises(Damaged, match="is damaged"):
        blobs.fetch(sha256, tmp_path / "none")
    assert not any(path.is_file() and path.name.startswith((".none", "none")) for path in tmp_path.rglob("*"))


def test_a_stream_that_breaks_or_is_too_long_leaves_nothing(blobs):
    def breaks():
        yield b"half"
        raise KeyError

    with pytest.raises(KeyError):
        blobs.put_stream(breaks())
    with pytest.raises(TunesmithError, match="more than 10 bytes"):
        blobs.put_stream([b"123456"] * 3, most=10)
    assert list(blobs.all()) == []
    if blobs.local:
        assert [path.name for path in blobs.local.rglob("*") if path.is_file()] == ["records.txt"]


def test_blobs_belong_to_one_database(blobs):
    blobs.bind("tests")
    blobs.bind("tests", known=True)
    with pytest.raises(ConfigError, match="they belong to other records"):
        blobs.bind("two")


def test_a_disk_that_is_not_mounted_is_no_empty_store(database, tmp_path):
    """Neither a blob that is missing, nor a place to begin anew: whoever met it waits."""
    stores = open_stores(database, str(tmp_path / "blobs"))
    sha256 = stores.blobs.put_bytes(b"x")
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    for root in (None, tmp_path / "blobs"):
        if root is not None:
            root.mkdir()  # the mount point
        for act in (lambda: stores.blobs.size(sha256), lambda: list(stores.blobs.read(sha256))):
            with pytest.raises(StoreError, match=r"are not there .* Is the address right, and the disk mounted"):
                act()
        with pytest.raises(StoreError):
            stores.blobs.put_bytes(b"y")
        with pytest.raises(StoreError, match="are not there"):
            open_stores(database, str(tmp_path / "blobs"))


def test_a_store_whose_owner_was_killed_while_it_said_so_is_free(tmp_path):
    blobs = open_blobs(str(tmp_path / "blobs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.link", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            blobs.bind("one")
    blobs.bind("two")


def test_what_is_damaged_is_put_aside_and_can_be_put_there_again(blobs, tmp_path):
    sha256 = blobs.put_bytes(b"what it was")
    blobs.files.pipe_file(blobs._path(sha256), b"what it is.")
    with pytest.raises(Damaged):
        blobs.fetch(sha256, tmp_path / "none")
    assert blobs.put_bytes(b"what it was") == sha256
    blobs.fetch(sha256, tmp_path / "found")
    assert (tmp_path / "found").read_bytes() == b"what it was"
    assert list(blobs.all()) == [sha256]


def test_a_file_that_cannot_be_written_is_no_damage(blobs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        blobs.fetch(blobs.put_bytes(b"x"), tmp_path / "file" / "inside")


def test_what_a_killed_writer_left_is_taken_away(tmp_path):
    blobs = open_blobs(str(tmp_path))
    (tmp_path / ".1-abc.tmp").write_text("half")
    blobs.clean(time.time() - 60)
    assert (tmp_path / ".1-abc.tmp").exists()
    blobs.clean(time.time() + 60)
    assert not (tmp_path / ".1-abc.tmp").exists()


@pytest.mark.parametrize(
    ("url", "reason"), [("s3://", "a bucket is missing"), ("nonsense://x", "Protocol not known: nonsense")]
)
def test_addresses_of_blobs_that_are_none_are_refused(url, reason):
    with pytest.raises(ConfigError, match=reason):
        open_blobs(url)


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises(StoreError, match=r"s3://nowhere: .*there is no such folder or bucket"):
        open_blobs("s3://nowhere").bind("one")


def test_a_full_disk_is_an_error_with_its_reason(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    blobs = open_blobs(str(tmp_path / "blobs"))
    blobs.bind("one")

    def full(*arguments):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="No space left on device"):
            blobs.put(tmp_path / "file")
    assert list(blobs.all()) == []


# Both


def test_stores_are_bound_to_each_other(database, tmp_path):
    first = open_stores(database, str(tmp_path / "blobs"))
    assert open_stores(database, str(tmp_path / "blobs")).records.id == first.records.id
    with pytest.raises(ConfigError, match="they belong to other records"):
        open_stores(f"sqlite:///{tmp_path / 'other.sqlite'}", str(tmp_path / "blobs"))


def put(stores, text):
    path = stores.blobs.local.parent / f"{text}.txt"
    if not path.exists():
        path.write_text(text)
    return keep(stores, {"file": path})


def test_a_file_that_changes_while_it_is_read_is_not_kept_under_a_wrong_name(blobs, tmp_path):
    (tmp_path / "file").write_text("after")
    if blobs.local:
        with pytest.raises(StoreError, match="changed while it was read"):
            blobs.put(tmp_path / "file", "0" * 64)
        assert list(blobs.all()) == []


def test_only_what_nobody_needs_is_swept(stores):
    used, unused = put(stores, "used"), put(stores, "unused")
    with stores.records.write() as connection:
        use(connection, "file:1", used.values())
    assert sweep(stores, time.time() - 60) == (0, 0)  # both were touched just now
    assert sweep(stores, time.time() + 60, dry=True) == (1, 6)
    assert sweep(stores, time.time() + 60) == (1, 6)
    assert list(stores.blobs.all()) == [used["file"][0]]
    with stores.records.write() as connection:
        release(connection, "file:1")
    assert sweep(stores, time.time() + 60) == (1, 4)
    assert unused["file"][0] not in list(stores.blobs.all())


def test_a_record_cannot_use_what_was_swept(stores):
    found = put(stores, "late")
    sweep(stores, time.time() + 60)

    def commit():
        with stores.records.write() as connection:
            use(connection, "file:1", found.values())

    with pytest.raises(StoreError, match="was deleted before it was used"):
        commit()
    put(stores, "late")
    commit()
    assert stores.blobs.size(found["file"][0]) == 4


def test_sweeping_beside_those_who_keep_loses_nothing(stores):
    """Sweeps of what nobody has touched for half a second, beside threads that keep, use and leave a few contents."""
    stop, held, deleted = threading.Event(), {}, []

    def sweeps():
        while not stop.is_set():
            deleted.append(sweep(stores, time.time() - 0.5)[0])

    def keeps(seed):
        draw = random.Random(seed)
        for number in range(15):
            word = str(draw.randrange(6))

            def commit(word=word):
                found = put(stores, word)
                with stores.records.write() as connection:
                    use(connection, f"holder:{seed}", found.values())
                return found["file"][0]

            held[seed] = persistently(commit, lambda seconds: False)
            assert stores.blobs.size(held[seed]) is not None, number
            time.sleep(draw.uniform(0, 0.2))

    for word in range(6):
        put(stores, str(word))
    sweeper = threading.Thread(target=sweeps)
    sweeper.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(keeps, range(3)))
    stop.set()
    sweeper.join()
    sweep(stores, time.time() + 60)
    assert set(stores.blobs.all()) == set(held.values())
    assert sum(deleted) > 0


def test_touching_comes_before_looking(stores):
    touch(stores.records, [("a" * 64, 3)])
    with stores.records.read() as connection:
        assert connection.execute(select(contents.c.sha256, contents.c.bytes)).all() == [("a" * 64, 3)]


# Backups


def test_a_backup_comes_back_into_empty_stores(database, postgres, tmp_path):
    from conftest import new_database

    stores = open_stores(database, str(tmp_path / "blobs"))
    used = put(stores, "used")
    put(stores, "unused")
    with stores.records.write() as connection:
        connection.execute(insert(settings).values(name="colour", value="blue"))
        use(connection, "file:1", used.values())
    assert backup(stores, tmp_path / "backup").contents == 1
    assert backup(stores, tmp_path / "backup").bytes == 4  # again, on top of it
    sqlite = stores.records.sqlite is not None
    target = f"sqlite:///{tmp_path / 'new' / 'r.sqlite'}" if sqlite else new_database(postgres)
    restore(tmp_path / "backup", target, str(tmp_path / "new-blobs"))
    again = open_stores(target, str(tmp_path / "new-blobs"))
    assert again.records.id == stores.records.id
    with again.records.read() as connection:
        assert connection.scalar(select(settings.c.value).where(settings.c.name == "colour")) == "blue"
        assert connection.scalars(select(uses.c.sha256)).all() == [used["file"][0]]
    assert list(again.blobs.all()) == [used["file"][0]]
    again.records.close()
    with pytest.raises(ConfigError, match=r"there are (records|tables) already"):
        restore(tmp_path / "backup", target, str(tmp_path / "new-blobs"))
    other = new_database(postgres) if sqlite else f"sqlite:///{tmp_path / 'other.sqlite'}"
    with pytest.raises(ConfigError, match="into a database of its kind"):
        restore(tmp_path / "backup", other, str(tmp_path / "more-blobs"))


def test_a_backup_that_lacks_something_is_none(tmp_path):
    stores = open_stores(f"sqlite:///{tmp_path / 'r.sqlite'}", str(tmp_path / "blobs"))
    used = put(stores, "used")
    with stores.records.write() as connection:
        use(connection, "file:1", used.values())
    stores.blobs.delete(used["file"][0])
    with pytest.raises(TunesmithError, match="not whole, 1 contents lack"):
        backup(stores, tmp_path / "backup")
    with pytest.raises(MissingError, match="no whole backup"):
        restore(tmp_path / "backup", f"sqlite:///{tmp_path / 'n.sqlite'}", str(tmp_path / "n"))


def test_a_backup_that_fails_leaves_the_one_before_it(tmp_path):
    stores = open_stores(f"sqlite:///{tmp_path / 'r.sqlite'}", str(tmp_path / "blobs"))
    backup(stores, tmp_path / "backup")
    used = put(stores, "used")
    with stores.records.write() as connection:
        use(connection, "file:1", used.values())
    stores.blobs.delete(used["file"][0])
    with pytest.raises(TunesmithError, match="not whole"):
        backup(stores, tmp_path / "backup")
    assert restore(tmp_path / "backup", f"sqlite:///{tmp_path / 'n.sqlite'}", str(tmp_path / "n")).contents == 0


def test_a_restore_that_was_broken_off_is_done_again(tmp_path, monkeypatch):
    stores = open_stores(f"sqlite:///{tmp_path / 'r.sqlite'}", str(tmp_path / "blobs"))
    used = put(stores, "used")
    with stores.records.write() as connection:
        use(connection, "file:1", used.values())
    backup(stores, tmp_path / "backup")
    target = (f"sqlite:///{tmp_path / 'n.sqlite'}", str(tmp_path / "n"))
    monkeypatch.setattr(backup_module, "_free_leases", lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        restore(tmp_path / "backup", *target)
    monkeypatch.undo()
    restore(tmp_path / "backup", *target)
    assert open_stores(*target).blobs.size(used["file"][0]) == 4


def test_a_backup_of_sqlite_is_a_database(tmp_path):
    stores = open_stores(f"sqlite:///{tmp_path / 'r.sqlite'}", str(tmp_path / "blobs"))
    backup(stores, tmp_path / "backup")
    with sqlite3.connect(tmp_path / "backup" / "records.sqlite") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_postgres_needs_its_own_programs(postgres, tmp_path, monkeypatch):
    from conftest import new_database

    stores = Stores(open_records(new_database(postgres)), open_blobs(str(tmp_path / "blobs")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pg_dump is not here. Install"):
        backup(stores, tmp_path / "backup")


def test_engines_are_let_go(records):
    records.close()
    with records.read() as connection:  # and a closed one opens again
        assert connection.scalar(select(settings.c.value).where(settings.c.name == "id")) == records.id
