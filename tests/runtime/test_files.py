"""What writing leaves behind: whole files, links that stay links, and devices and pipes that are still there."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.files import (
    LineFile,
    check_can_be_written,
    replacing_file,
    replacing_folder,
    write_atomically,
)


@pytest.fixture
def umask() -> Iterator[int]:
    """An unusual one, so that what follows it can be told from what is always the same."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Reader:
    """Reads a pipe with a name, as a program at its other end does."""

    def __init__(self, path: Path):
        os.mkfifo(path)
        self._read = b""
        self._thread = threading.Thread(target=self._work, args=(path,), daemon=True)
        self._thread.start()

    def _work(self, path: Path) -> None:
        self._read = path.read_bytes()

    def all(self) -> bytes:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self._read


def test_new_files_have_the_permissions_of_any_new_file(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "made" / "a.txt", "new")
    assert mode_of(tmp_path / "made" / "a.txt") == 0o666 & ~umask
    with replacing_file(tmp_path / "b.txt") as temporary:  # as writers do that replace what lies there themselves
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))
    assert mode_of(tmp_path / "b.txt") == 0o666 & ~umask
    with replacing_folder(tmp_path / "c"):
        pass
    assert mode_of(tmp_path / "c") == 0o777 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
@pytest.mark.usefixtures("umask")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing_file(path) as temporary:
        assert mode_of(temporary) & 0o077 & ~mode == 0  # never open to more people than the file is
        temporary.write_text("new")
    assert (path.read_text(), mode_of(path)) == ("new", mode)


@pytest.mark.usefixtures("umask")
def test_a_folder_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o2770)
    with replacing_folder(tmp_path / "a") as folder:
        (folder / "new").touch()
    assert (names_in(tmp_path / "a"), mode_of(tmp_path / "a")) == (["new"], 0o2770)
    assert names_in(tmp_path) == ["a"]


def test_what_root_replaces_stays_its_owners(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b").mkdir()
    try:
        for path in tmp_path.iterdir():
            os.chown(path, 1234, 1235)
    except PermissionError:
        pytest.skip("needs root")
    write_atomically(tmp_path / "a.txt", "new")
    with replacing_folder(tmp_path / "b"):
        pass
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(1234, 1235)}


def test_temporary_files_lie_beside_with_the_suffix_and_names_that_nobody_guesses(tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with replacing_file(tmp_path / ("long" * 60 + ".png")) as temporary:
            assert (temporary.parent, temporary.suffix, temporary.name[0]) == (tmp_path, ".png", ".")
            assert temporary.read_bytes() == b""  # made already, so that nobody puts a link there
            names.add(temporary.name)
        with replacing_folder(tmp_path / "folder") as temporary:
            assert (temporary.parent, temporary.name[0]) == (tmp_path, ".")
            names.add(temporary.name)
    assert len(names) == 4 and str(os.getpid()) not in {name.split(".")[2] for name in names}


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "folder").mkdir()
    for replacing, name in ((replacing_file, "a.txt"), (replacing_folder, "folder")):
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / name):
            raise KeyboardInterrupt
    assert names_in(tmp_path) == ["a.txt", "folder"] and (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("is_there", [True, False])
def test_links_stay_and_what_they_lead_to_changes(tmp_path: Path, is_there: bool) -> None:
    home, target = tmp_path / "home", tmp_path / "elsewhere" / "blob"
    home.mkdir()
    (home / "link.png").symlink_to("second")
    (home / "second").symlink_to(Path("..", "elsewhere", "blob"))
    if is_there:
        target.parent.mkdir()
        target.write_text("old")
    check_can_be_written(home / "link.png")
    with replacing_file(home / "link.png") as temporary:
        assert (temporary.parent.resolve(), temporary.suffix) == (target.parent, ".png")
        temporary.write_text("new")
    with LineFile(home / "link.png") as stream:
        stream.write("newer\n")
    assert target.read_text() == "newer\n" and names_in(target.parent) == ["blob"]
    assert (home / "link.png").is_symlink() and (home / "second").is_symlink()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_folder_stays(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "link").symlink_to(Path("elsewhere", "folder"))
    if is_there:
        (tmp_path / "elsewhere" / "folder").mkdir(parents=True)
        (tmp_path / "elsewhere" / "folder" / "old").touch()
    with replacing_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path / "elsewhere") == ["folder"] and names_in(tmp_path / "elsewhere" / "folder") == ["new"]


def test_links_in_a_ring(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "a", "text")
    with (
        pytest.raises(UsageError, match="a: is a file, expected a folder to write to"),
        replacing_folder(tmp_path / "a"),
    ):
        pass
    assert all(path.is_symlink() for path in tmp_path.iterdir())


@pytest.mark.parametrize("is_linked", [True, False])
def test_a_pipe_is_written_and_stays(tmp_path: Path, is_linked: bool) -> None:
    pipe = path = tmp_path / "pipe.bin"
    reader = Reader(pipe)
    if is_linked:
        path = tmp_path / "link"
        path.symlink_to("pipe.bin")
    check_can_be_written(path)
    with replacing_file(path) as temporary:
        assert temporary.suffix == path.suffix and temporary.parent != tmp_path
        with temporary.open("wb") as stream:
            stream.seek(3)
            stream.write(b"later")
            stream.seek(0)
            stream.write(b"and")
    assert not temporary.parent.exists()
    assert reader.all() == b"andlater" and stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(UsageError, match="is a file, expected a folder to write to"), replacing_folder(path):
        pass
    assert stat.S_ISFIFO(pipe.stat().st_mode) and len(names_in(tmp_path)) == 1 + is_linked


def test_nothing_goes_through_where_the_work_fails(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody reads it, so that opening it would wait for ever
    with pytest.raises(OSError, match="No such file"), replacing_file(tmp_path / "pipe") as temporary:
        (temporary / "below").write_text("half")


def test_lines_are_there_as_they_come_and_a_full_disk_leaves_whole_ones(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from yolor_edge.runtime.files import LineFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with LineFile(Path(sys.argv[1])) as stream:\n"
        "    for _ in range(9): stream.write('0123456789\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "full"], stderr=subprocess.PIPE)
    assert b"File too large" in done.stderr
    assert (tmp_path / "full").read_text() == "0123456789\n" * 2
    lines = LineFile(tmp_path / "lines")
    assert not (tmp_path / "lines").exists()
    lines.write("one\n")
    assert (tmp_path / "lines").read_text() == "one\n"
    lines.close()
    assert names_in(tmp_path) == ["full", "lines"]


@pytest.mark.parametrize("rest", ["", "half of", "x" * 200_000])
def test_lines_are_appended_behind_the_last_whole_one(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "lines"
    path.write_text("one\n" + rest)
    with LineFile(path, append=True) as lines:
        lines.write("two\n")
    assert path.read_text() == "one\ntwo\n"
    with LineFile(path) as lines:
        lines.write("new\n")
    assert path.read_text() == "new\n"


def test_lines_go_through_a_pipe_as_they_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with LineFile(tmp_path / "pipe") as stream:
        for line in (b"one\n", "zw\u00f6lf\n".encode()):
            stream.write(line.decode())
            assert os.read(end, 100) == line
    assert os.read(end, 100) == b""
    os.close(end)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_is_written_and_stays(tmp_path: Path, kind: int) -> None:
    device = tmp_path / "device"
    try:
        os.mknod(device, 0o640 | kind, os.makedev(1, 3) if kind == stat.S_IFCHR else os.makedev(0, 0))
        device.open("wb").close()
    except OSError as error:
        if kind == stat.S_IFCHR or not device.exists():
            pytest.skip(f"needs to make a device ({error.strerror})")
    before = device.stat()
    if kind == stat.S_IFCHR:  # discards what it is given
        write_atomically(device, b"text")
        with LineFile(device) as stream:
            stream.write("text\n")
    else:  # is of no driver
        with pytest.raises(OSError, match="device"):
            write_atomically(device, b"text")
    after = device.stat()
    assert (after.st_mode, after.st_rdev, after.st_ino) == (before.st_mode, before.st_rdev, before.st_ino)
    assert names_in(tmp_path) == ["device"]


def test_a_socket_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device or address"):
            write_atomically(tmp_path / "socket", "text")
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    program = (
        "import sys; from pathlib import Path; from yolor_edge.runtime.files import *\n"
        "print('before', flush=True); path = Path(sys.argv[1])\n"
        "with LineFile(path) as stream: stream.write('line\\n')\n"
        "write_atomically(path, 'whole\\n'); check_can_be_written(path); print('after')"
    )
    before = log.stat().st_ino
    with log.open("ab") as stream:
        subprocess.run([sys.executable, "-c", program, name], stdout=stream, check=True)
    assert log.read_text().split() == ["earlier", "before", "line", "whole", "after"] and log.stat().st_ino == before
    with log.open("wb") as stream:
        subprocess.run([sys.executable, "-c", program, name], stdout=stream, check=True)
    assert log.read_text().split() == ["before", "line", "whole", "after"] and log.stat().st_ino == before
    piped = subprocess.run([sys.executable, "-c", program, name], stdout=subprocess.PIPE, check=True)
    assert piped.stdout.split() == [b"before", b"line", b"whole", b"after"]


def test_what_another_process_has_open_is_added_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        stream.write(b"its own\n")
        stream.flush()
        with subprocess.Popen(["sleep", "60"], stdout=stream) as other:
            write_atomically(Path(f"/proc/{other.pid}/fd/1"), "added\n")
            other.kill()
    assert log.read_text() == "its own\nadded\n"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(Path("file", "below"))
    for path in (tmp_path / "file" / "below" / "a", tmp_path / "link"):
        with pytest.raises(UsageError, match=r"cannot be written, .*file is no folder; choose another place"):
            check_can_be_written(path)
    check_can_be_written(tmp_path)
    check_can_be_written(tmp_path / "a" / "b")
    with pytest.raises(UsageError, match="is a folder, expected the name of a file to write"):
        write_atomically(tmp_path, "text")
    assert names_in(tmp_path) == ["file", "link"]
