"""Handlers in their process: what becomes of what they return, raise, print and break."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import syncagent
from syncagent.core.errors import HandlerFailed, Stopping, Transient, Trouble
from syncagent.edges.handling import HandlerHost, Product
from tests import pictures

DEADLINE_S = 30.0


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, f"never happened: {what}"
        pause.wait(0.01)


def is_alive(pid: int) -> bool:
    """Until the last of its threads is gone: before that, nobody can learn that it ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
        return state not in ("Z", "X") or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


class Bench:
    """A base directory, a file, and a host."""

    def __init__(self, base_dir: Path) -> None:
        self.base_dir = base_dir
        self.scratch = base_dir / "state" / "scratch"
        self.path = base_dir / "frame.jpg"
        self.path.write_bytes(b"original")
        (base_dir / "handlers").mkdir()
        self.host = HandlerHost(str(base_dir))

    def write(self, body: str, *, source: str = "own", head: str = "") -> None:
        """A handler `work` of the base directory; `body` is what its function does."""
        text = f"import os, signal, sys, time\n{head}\ndef work(content, path):\n{textwrap.indent(body, '    ')}\n"
        (self.base_dir / "handlers" / f"{source}.py").write_text(text)

    def call(
        self,
        content: dict[str, object] | None = None,
        *,
        source: str = "own",
        function: str = "work",
        timeout_s: float = DEADLINE_S,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Product]:
        return self.host.call(
            source,
            function,
            {"id": 7, "file_name": "frame.jpg"} if content is None else content,
            str(self.path),
            scratch=str(self.scratch),
            timeout_s=timeout_s,
            should_stop=should_stop,
        )

    def run(
        self, body: str, content: dict[str, object] | None = None, *, timeout_s: float = DEADLINE_S
    ) -> list[Product]:
        self.write(body)
        return self.call(content, timeout_s=timeout_s)

    def failure(self, body: str, *, timeout_s: float = DEADLINE_S) -> str:
        with pytest.raises(HandlerFailed) as failed:
            self.run(body, timeout_s=timeout_s)
        assert not self.scratch.exists()
        return str(failed.value)

    def pid(self) -> int:
        (product,) = self.call({}, source="pid")
        return int(str(product.content["pid"]))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.write("return {'pid': os.getpid()}", source="pid")
    yield bench
    bench.host.close()


# --- what it returns


def test_a_content_is_sent_with_the_file_itself(bench: Bench) -> None:
    assert bench.run("content['plot'] = 'Öst'\nreturn content") == [
        Product({"id": 7, "file_name": "frame.jpg", "plot": "Öst"}, None)
    ]


def test_none_drops_the_file_and_so_does_an_empty_list(bench: Bench) -> None:
    assert bench.run("return None") == []
    assert bench.run("return  []") == []


def test_the_handler_sees_the_content_the_absolute_path_and_an_empty_directory(bench: Bench) -> None:
    (product,) = bench.run(
        "open('left behind', 'w')\n"
        "return {'content': content, 'path': path, 'found': open(path).read(), 'cwd': os.getcwd()}",
        {"id": 1, "name": "caf\udce9"},
    )
    assert product.content == {
        "content": {"id": 1, "name": "caf\udce9"},
        "path": str(bench.path),
        "found": "original",
        "cwd": str(bench.scratch),
    }
    (product,) = bench.run("return {'names': os.listdir()}")
    assert product.content == {"names": []}


@pytest.mark.parametrize("disk_path", ["'new.jpg'", "'./new.jpg'", "os.path.abspath('new.jpg')"])
def test_a_file_of_the_scratch_directory_is_the_body(bench: Bench, disk_path: str) -> None:
    products = bench.run(f"open('new.jpg', 'w').write('new')\nreturn {{**content, 'disk_path': {disk_path}}}")
    assert products == [Product({"id": 7, "file_name": "frame.jpg"}, "new.jpg")]
    assert (bench.scratch / "new.jpg").read_bytes() == b"new"


def test_a_list_is_several_objects(bench: Bench) -> None:
    body = "open('s', 'w').write('s')\nreturn [content, {'id': 7, 'file_name': 's.jpg', 'disk_path': 's'}]"
    assert bench.run(body) == [
        Product({"id": 7, "file_name": "frame.jpg"}, None),
        Product({"id": 7, "file_name": "s.jpg"}, "s"),
    ]


@pytest.mark.parametrize("disk_path", ["generated_data/frame.jpg", "/elsewhere/frame.jpg", "frame.jpg"])
def test_an_unchanged_disk_path_is_the_file_itself(bench: Bench, disk_path: str) -> None:
    content: dict[str, object] = {"disk_path": disk_path}
    assert bench.run("return content", content) == [Product(content, None)]
    assert bench.run("return {**content, 'disk_path': path}", content) == [
        Product({"disk_path": str(bench.path)}, None)
    ]


def test_what_the_handler_wrote_under_the_name_that_it_was_told_is_the_body(bench: Bench) -> None:
    body = "open('frame.jpg', 'w').write('stripped')\nreturn content"
    assert bench.run(body, {"disk_path": "frame.jpg"}) == [Product({}, "frame.jpg")]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return {'disk_path': '/etc/passwd'}", "is not directly in its working directory"),
        ("return {'disk_path': '../../frame.jpg'}", "is not directly in its working directory"),
        ("return {'disk_path': '..'}", "is not directly in its working directory"),
        ("return {'disk_path': '.'}", "is not directly in its working directory"),
        ("return {'disk_path': ''}", "is not directly in its working directory"),
        ("return {'disk_path': os.getcwd()}", "is not directly in its working directory"),
        ("return {'disk_path': os.getcwd() + '/../../frame.jpg'}", "is not directly in its working directory"),
        ("os.mkdir('d'); open('d/x', 'w')\nreturn {'disk_path': 'd/x'}", "is not directly in its working directory"),
        ("return {'disk_path': 'new.jpg'}", "is not there"),
        ("os.symlink(path, 'new.jpg')\nreturn {'disk_path': 'new.jpg'}", "is not a regular file"),
        ("os.link(path, 'new.jpg')\nreturn {'disk_path': 'new.jpg'}", "is a link to another file"),
        ("os.mkdir('new.jpg')\nreturn {'disk_path': 'new.jpg'}", "is not a regular file"),
        ("os.mkfifo('new.jpg')\nreturn {'disk_path': 'new.jpg'}", "is not a regular file"),
    ],
)
def test_any_other_disk_path_is_a_failure(bench: Bench, body: str, why: str) -> None:
    assert bench.failure(body).endswith(why)


def test_a_disk_path_that_is_no_text_is_a_failure(bench: Bench) -> None:
    assert bench.failure("return {'disk_path': 7}") == "handler: returned a disk_path that is no text"


def test_a_body_and_its_directory_reach_the_disk_before_the_call_returns(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    bench.run("open('new', 'w').write('x')\nreturn {'disk_path': 'new'}")
    assert synced == [str(bench.scratch / "new"), str(bench.scratch), str(bench.scratch.parent)]


def test_a_scratch_directory_without_a_body_is_removed(bench: Bench) -> None:
    bench.run("open('unused', 'w').write('x')\nreturn content")
    assert not bench.scratch.exists()


def test_making_the_scratch_directory_empty_follows_no_link(bench: Bench) -> None:
    kept = bench.base_dir / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    bench.scratch.parent.mkdir()
    bench.scratch.symlink_to(kept)
    bench.write("open('new', 'w').write('x')\nos.symlink(content['kept'], 'link')\nreturn {'disk_path': 'new'}")
    for _ in range(2):
        assert bench.call({"kept": str(kept)}) == [Product({}, "new")]
        assert not bench.scratch.is_symlink()
    assert (kept / "file").read_text() == "kept"
    assert os.listdir(kept) == ["file"]


# --- how it fails


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('bad picture')", "ValueError: bad picture"),
        ("raise ValueError('two\\n  lines\\x1b[31m')", "ValueError: two lines [31m"),
        ("raise KeyError", "KeyError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("sys.exit(3)", "called sys.exit(3)"),
        ("os._exit(3)", "ended with exit code 3"),
        ("os._exit(0)", "ended with exit code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended with signal 9"),
        ("os.closerange(3, 100)\nsignal.pause()", "closed its connection to the agent"),
        ("return 7", "returned a value of type int; a dict, a list of dicts or None is wanted"),
        ("return 'ok'", "returned a value of type str; a dict, a list of dicts or None is wanted"),
        ("return [content, None]", "returned a list with an element of type NoneType; "),
        ("return {1: 2}", "returned a content with the key 1, which is no text"),
        ("return {'a': b'x'}", "returned a content that is not JSON: Object of type bytes is not JSON serializable"),
        ("return {'a': float('nan')}", "returned a content that is not JSON: Out of range float values"),
        ("content['a'] = content\nreturn content", "returned a content that is not JSON: Circular reference"),
        ("a = []\nfor _ in range(9**5): a = [a]\nreturn {'a': a}", "returned a content that is not JSON: maximum"),
        ("return {'a': 'x' * 2**20}", "its answer is larger than 1048576 bytes of JSON"),
        ("return [content] * 101", "returned 101 objects, more than 100"),
        ("while True: sys.stdout.write('again and again')", "printed more than 1048576 bytes"),
        ("while True: os.write(2, b'x' * 9)", "printed more than 1048576 bytes"),
        ("import shutil\nshutil.rmtree(os.getcwd())\nreturn content", "removed its working directory"),
        ("return missing", "NameError: name 'missing' is not defined"),
    ],
)
def test_each_way_to_fail_is_one_reason_and_the_next_call_works(bench: Bench, body: str, reason: str) -> None:
    assert bench.failure(body).startswith(f"handler: {reason}")
    assert bench.pid()


def test_a_long_reason_is_cut(bench: Bench) -> None:
    assert len(bench.failure("raise ValueError('x' * 9999)")) < 320


@pytest.mark.parametrize(
    "body", ["signal.pause()", "while True: pass", "signal.signal(15, lambda *_: 0)\nsignal.pause()"]
)
def test_a_handler_that_hangs_is_ended_after_its_time(bench: Bench, body: str) -> None:
    first = bench.pid()
    began = time.monotonic()
    assert bench.failure(body, timeout_s=0.5) == "handler: still running after 0.5 s"
    assert time.monotonic() - began < 5
    assert not is_alive(first)
    assert bench.pid() != first


def test_what_a_hanging_handler_started_ends_with_it(bench: Bench) -> None:
    started = bench.base_dir / "started"
    body = f"import subprocess\np = subprocess.Popen(['sleep', '600'])\nopen({str(started)!r}, 'w').write(str(p.pid))\n"
    bench.failure(body + "p.wait()", timeout_s=2)
    pid = int(started.read_text())
    wait_until(lambda: not is_alive(pid), "the program ends")


def test_what_a_crashing_handler_started_ends_with_it(bench: Bench) -> None:
    started = bench.base_dir / "started"
    body = f"pid = os.fork()\nif not pid: signal.pause()\nopen({str(started)!r}, 'w').write(str(pid))\nos.abort()"
    assert bench.failure(body) == "handler: ended with signal 6"
    pid = int(started.read_text())
    wait_until(lambda: not is_alive(pid), "the copy ends")


def test_a_copy_that_a_handler_made_of_its_process_does_not_answer(bench: Bench) -> None:
    assert bench.run("pid = os.fork()\nif pid: os.waitpid(pid, 0)\nreturn {'child': not pid}") == [
        Product({"child": False}, None)
    ]
    assert bench.run("return {'next': 1}") == [Product({"next": 1}, None)]


def test_a_forged_answer_is_not_taken(bench: Bench) -> None:
    forge = "for fd in range(3, 20):\n    try: os.write(fd, b'{}\\n')\n    except OSError: pass\n"
    assert bench.failure(f"{forge}signal.pause()").startswith("handler: ")
    assert bench.failure(f"{forge}return content").startswith("handler: ")
    assert bench.pid()


def test_what_is_said_between_two_calls_is_no_answer(bench: Bench) -> None:
    late = "def late():\n    time.sleep(0.2)\n    for fd in range(3, 20):\n"
    late += "        try: os.write(fd, b'{\"returned\": []}\\n')\n        except OSError: pass\n"
    late += "    open(content['said'], 'w')\n"
    said = bench.base_dir / "said"
    bench.run(f"import threading\n{late}threading.Thread(target=late).start()\nreturn {{}}", {"said": str(said)})
    wait_until(said.exists, "it was said")
    assert bench.run("return {'the': 'answer'}") == [Product({"the": "answer"}, None)]


def test_a_full_disk_is_not_the_files_fault(bench: Bench) -> None:
    with pytest.raises(Transient) as met:
        bench.run("import errno\nraise OSError(errno.ENOSPC, 'No space left on device')")
    assert met.value.trouble is Trouble.DISK
    assert str(met.value) == "handler: No space left on device"


def test_no_room_for_the_scratch_directory_is_not_the_files_fault(bench: Bench) -> None:
    (bench.base_dir / "state").write_text("in the way")
    with pytest.raises(Transient) as met:
        bench.pid()
    assert met.value.trouble is Trouble.DISK


def test_no_process_is_not_the_files_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(bench.base_dir / "no python"))
    with pytest.raises(Transient, match="cannot start the process of the handlers: No such file"):
        bench.pid()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Transient, match="cannot start the process of the handlers: ended with exit code 1"):
        bench.pid()
    monkeypatch.undo()
    assert bench.pid()


# --- its process


def test_one_process_serves_many_calls_and_starts_with_the_first(bench: Bench) -> None:
    assert bench.pid() == bench.pid() != os.getpid()


def test_a_process_that_was_killed_between_two_calls_is_replaced(bench: Bench) -> None:
    first = bench.pid()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(first), "it ends")
    assert bench.pid() != first


def test_close_ends_the_process_and_may_be_repeated(bench: Bench) -> None:
    bench.host.close()
    pid = bench.pid()
    bench.host.close()
    bench.host.close()
    assert not is_alive(pid)


def test_a_stop_ends_a_running_handler_at_once(bench: Bench) -> None:
    bench.pid()
    begun = bench.base_dir / "begun"
    bench.write("open(content['begun'], 'w')\nsignal.pause()")
    seen: list[float] = []

    def should_stop() -> bool:
        if begun.exists() and not seen:
            seen.append(time.monotonic())
        return bool(seen)

    with pytest.raises(Stopping):
        bench.call({"begun": str(begun)}, should_stop=should_stop)
    assert time.monotonic() - seen[0] < 0.5
    assert not bench.scratch.exists()
    assert bench.pid()


def test_a_stop_is_noticed_within_half_a_second(bench: Bench) -> None:
    bench.pid()
    bench.write("signal.pause()")
    stop = threading.Event()
    set_at = []

    def set_soon() -> None:
        set_at.append(time.monotonic())
        stop.set()

    timer = threading.Timer(0.5, set_soon)
    timer.start()
    with pytest.raises(Stopping):
        bench.call(should_stop=stop.is_set)
    assert time.monotonic() - set_at[0] < 0.5
    timer.join()


@pytest.mark.parametrize("body", ["signal.pause()", "while True: pass", "return {}"])
def test_it_does_not_outlive_an_agent_that_is_killed(bench: Bench, body: str) -> None:
    begun = bench.base_dir / "begun"
    bench.write(
        f"with open({str(begun)!r} + '~', 'w') as f: f.write(str(os.getpid()))\n"
        f"os.rename({str(begun)!r} + '~', {str(begun)!r})\n{body}"
    )
    script = (
        "import signal, sys\nfrom syncagent.edges.handling import HandlerHost\n"
        "HandlerHost(sys.argv[1]).call('own', 'work', {}, '/dev/null', scratch=sys.argv[2], timeout_s=60)\n"
        "signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(syncagent.__file__))}
    arguments = [sys.executable, "-c", script, str(bench.base_dir), str(bench.scratch)]
    with subprocess.Popen(arguments, env=environment) as agent:
        wait_until(begun.exists, "the handler runs")
        pid = int(begun.read_text())
        assert is_alive(pid)
        agent.kill()
    wait_until(lambda: not is_alive(pid), "the handlers' process ends")


def test_it_sees_nothing_of_the_agents_own_variables(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "SYNCAGENT_BASE_DIR", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("FARM", "north")
    (product,) = bench.run("return dict(os.environ)")
    assert not [name for name in product.content if name.startswith(("AWS_", "SYNCAGENT_", "NOTIFY_"))]
    assert product.content["FARM"] == "north"
    assert product.content["TMPDIR"] == str(bench.scratch)


def test_it_stands_back_and_has_a_group_of_its_own(bench: Bench) -> None:
    body = "return {'nice': os.nice(0), 'group': os.getpgrp() == os.getpid(), "
    body += "'oom': open('/proc/self/oom_score_adj').read(), 'input': sys.stdin.read()}"
    (product,) = bench.run(body)
    assert product.content == {"nice": os.nice(0) + 10, "group": True, "oom": "500\n", "input": ""}


def test_what_it_prints_is_in_the_log_and_not_in_the_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = "print('said', path)\nos.write(1, b'{\"returned\": 7}\\n')\nos.system('echo from a program')\n"
    assert bench.run(body + "sys.stderr.write('no end of line')\nreturn {}") == [Product({}, None)]
    for text in (f"said {bench.path}", '{"returned": 7}', "from a program", "no end of line"):
        assert f"handler said source=own line={text}" in caplog.messages


def test_the_log_has_where_it_raised_and_crashed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.failure("raise ValueError('bad')")
    assert "own.py" in caplog.text
    caplog.clear()
    bench.failure("os.kill(os.getpid(), signal.SIGSEGV)")
    assert "Segmentation fault" in caplog.text


def test_the_log_is_spared_a_flood(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.run("for n in range(1000): print(n)\nprint('x' * 9999)\nreturn {}")
    assert len(caplog.messages) == 51
    assert caplog.messages[-1] == "handler said more source=own lines=951"


def test_a_large_content_reaches_the_handler(bench: Bench) -> None:
    (product,) = bench.run("return {'size': len(content['text'])}", {"text": "x" * 900_000})
    assert product.content == {"size": 900_000}


# --- where it comes from


def test_a_file_that_changed_is_loaded_anew_and_else_only_once(bench: Bench) -> None:
    head = "calls = []"
    body = "calls.append(1)\nreturn {'calls': len(calls), 'is': 'one'}"
    bench.write(body, head=head)
    pid = bench.pid()
    assert [bench.call()[0].content["calls"] for _ in range(3)] == [1, 2, 3]
    # As long as before and within the same second: what a cache of compiled files would not notice.
    bench.write(body.replace("one", "two"), head=head)
    assert bench.call()[0].content == {"calls": 1, "is": "two"}
    assert bench.pid() == pid
    assert not (bench.base_dir / "handlers" / "__pycache__").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def work(content, path:\n", 'cannot load "own": SyntaxError: '),
        ("import nothing_of_this_name", 'cannot load "own": ModuleNotFoundError: No module named'),
        ("raise SystemExit(2)", 'cannot load "own": SystemExit: 2'),
        ("work = 7", '"own" has no function "work"'),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why_until_it_is_mended(bench: Bench, text: str, reason: str) -> None:
    (bench.base_dir / "handlers" / "own.py").write_text(text)
    for _ in range(2):
        with pytest.raises(HandlerFailed) as failed:
            bench.call()
        assert str(failed.value).startswith(f"handler: {reason}")
    assert bench.run("return {}") == [Product({}, None)]


def test_a_handler_that_is_nowhere_says_where_it_was_looked_for(bench: Bench) -> None:
    with pytest.raises(HandlerFailed, match=r'handler: there is no handler "nowhere": .*/handlers/nowhere\.py$'):
        bench.call(source="nowhere")


def test_no_link_leads_out_of_the_directory_of_the_handlers(bench: Bench) -> None:
    (bench.base_dir / "outside.py").write_text("def work(content, path): return content")
    (bench.base_dir / "handlers" / "own.py").symlink_to(bench.base_dir / "outside.py")
    with pytest.raises(HandlerFailed, match="is a link"):
        bench.call()
    with pytest.raises(HandlerFailed, match="is not the name of a handler"):
        bench.call(source="../outside")


def test_a_pipe_in_place_of_a_handler_blocks_nobody(bench: Bench) -> None:
    os.mkfifo(bench.base_dir / "handlers" / "own.py")
    with pytest.raises(HandlerFailed, match="is not a regular file"):
        bench.call()


def install(place: Path, name: str, *, points: str, modules: dict[str, str]) -> None:
    """A package with entry points, as an installer leaves it."""
    metadata = place / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[syncagent.handlers]\n{points}\n")
    for module, text in modules.items():
        (place / f"{module}.py").write_text(text)


def test_an_entry_point_of_an_installed_package_goes_before_the_base_directory(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("installed")
    module = "import dataclasses\ndef work(content, path): return {'from': 'package', 'name': __name__}"
    install(place, "orchard", points="own = orchard_handlers", modules={"orchard_handlers": module})
    bench.write("return {'from': 'base directory'}")
    assert bench.call()[0].content == {"from": "base directory"}
    bench.host.close()
    monkeypatch.syspath_prepend(str(place))
    assert bench.call()[0].content == {"from": "package", "name": "orchard_handlers"}


def test_two_packages_with_a_handler_of_one_name_are_refused(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("installed")
    install(place, "orchard", points="own = orchard_handlers", modules={})
    install(place, "meadow", points="own = meadow_handlers", modules={})
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(HandlerFailed, match=r'more than one .* "own": meadow_handlers and orchard_handlers'):
        bench.call()


def test_a_broken_entry_point_says_why(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("installed")
    install(place, "orchard", points="own = not_there_at_all", modules={})
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(HandlerFailed, match='cannot load "own": ModuleNotFoundError'):
        bench.call()


# --- the shipped ones


def test_the_shipped_handlers_are_found_also_without_metadata(bench: Bench) -> None:
    bench.path.write_bytes(pictures.jpeg())
    (product,) = bench.call(source="strip_gps", function="strip_gps")
    assert product == Product({"id": 7, "file_name": "frame.jpg"}, "frame.jpg")
    assert not pictures.location_of((bench.scratch / "frame.jpg").read_bytes())
    original, thumb = bench.call(source="thumbnail", function="thumbnail")
    assert original == Product({"id": 7, "file_name": "frame.jpg"}, None)
    assert thumb.content == {"id": 7, "file_name": "frame.thumb.jpg", "thumbnail_of": "frame.jpg"}
    assert thumb.body == "thumbnail.jpg"


def test_a_broken_picture_is_one_clear_reason(bench: Bench) -> None:
    bench.path.write_bytes(pictures.jpeg()[:-2])
    with pytest.raises(HandlerFailed, match=r"^handler: Damaged: the picture ends before its end marker$"):
        bench.call(source="strip_gps", function="strip_gps")


def test_without_the_imaging_library_the_reason_says_what_to_install(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("broken")
    (place / "PIL.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(HandlerFailed, match='Pillow is missing: install the extra "images"'):
        bench.call(source="thumbnail", function="thumbnail")
