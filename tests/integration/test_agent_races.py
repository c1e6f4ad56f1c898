"""What the disk does while a worker has a file in its hands."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from syncagent.app import App
from syncagent.assembly import Directories
from syncagent.core.model import Digest
from syncagent.edges.configfiles import identify, load_settings
from syncagent.edges.files import PinnedFile
from syncagent.edges.objects import Body, PutRequest, S3Store
from tests.agent import Agent, sent, suffixed
from tests.servers import VerifyingS3, wait_until

#: Above what is read into memory at once: such a file is hashed first, which may take long.
LARGE = 1_200_000


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Agent:
    agent = Agent(str(tmp_path))
    agent.configure(verifying.endpoint_url, watch={"settle_s": 0.05, "scan_s": 1})
    return agent


@pytest.fixture
def run_beside(agent: Agent) -> Iterator[Callable[[Callable[[App], None]], None]]:
    """Runs the agent in this thread while `work` happens in another."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGIO)
    before = [signal.getsignal(number) for number in numbers]

    def run(work: Callable[[App], None]) -> None:
        directories = Directories(agent.config_dir, os.path.realpath(agent.base_dir), os.path.realpath(agent.state_dir))
        app = App(load_settings(agent.config_dir, identity=identify), directories)
        errors: list[BaseException] = []

        def beside() -> None:
            try:
                work(app)
            except BaseException as error:
                errors.append(error)
            finally:
                app.stop.set()

        thread = threading.Thread(target=beside)
        thread.start()
        code = app.run()
        thread.join()
        if errors:
            raise errors[0]
        assert code == 0

    yield run
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Interruption:
    """Holds up the first hashing of a file until something was done to it and the journal knows."""

    def __init__(self, act: Callable[[], None], is_known: Callable[[], bool]) -> None:
        self._act = act
        self._is_known = is_known
        self._real = PinnedFile.digest
        self.happened = False

    def digest(self, pinned: PinnedFile, start: int = 0, size_bytes: int | None = None) -> Digest:
        digest = self._real(pinned, start, size_bytes)
        if not self.happened:
            self.happened = True
            self._act()
            wait_until(self._is_known, what="the journal knows")
        return digest


def uploader_is_well(app: App, caplog: pytest.LogCaptureFixture) -> None:
    assert app.status()["facts"]["uploader"]["ok"], app.status()["facts"]["uploader"]
    assert not [record for record in caplog.records if "crashed" in record.getMessage()]


def test_a_file_that_is_removed_while_it_is_hashed_is_gone_and_no_error(
    agent: Agent,
    verifying: VerifyingS3,
    run_beside: Callable[[Callable[[App], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interruption = Interruption(
        lambda: os.unlink(agent.path("large.mp4")), lambda: agent.states("large.mp4") == ["gone"]
    )
    monkeypatch.setattr(PinnedFile, "digest", lambda *given: interruption.digest(*given))

    def work(app: App) -> None:
        agent.write("large.mp4", bytes(LARGE))
        wait_until(lambda: interruption.happened and not app.journal.asked(), what="it was hashed")
        wait_until(lambda: agent.states("large.mp4") == ["gone"], what="it is gone")
        agent.write("next.jpg", b"next")
        wait_until(lambda: sent(verifying) == {agent.key("next.jpg"): b"next"}, what="the next file arrives")
        uploader_is_well(app, caplog)
        assert app.status()["last_errors"] == []

    run_beside(work)


def test_a_file_that_is_rewritten_while_it_is_hashed_is_superseded_and_its_next_version_sent(
    agent: Agent,
    verifying: VerifyingS3,
    run_beside: Callable[[Callable[[App], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    second = b"second" * 200_000

    def rewrite() -> None:
        agent.write("large.mp4", second)

    interruption = Interruption(rewrite, lambda: len(agent.states("large.mp4")) == 2)
    monkeypatch.setattr(PinnedFile, "digest", lambda *given: interruption.digest(*given))

    def work(app: App) -> None:
        agent.write("large.mp4", bytes(LARGE))
        keys = (agent.key("large.mp4"), suffixed(agent.key("large.mp4"), second))
        wait_until(lambda: any(sent(verifying).get(key) == second for key in keys), what="the second one arrives")
        wait_until(lambda: agent.states("large.mp4") == ["superseded", "confirmed"], what="the first is superseded")
        uploader_is_well(app, caplog)
        assert set(sent(verifying).values()) == {second}

    run_beside(work)


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_file_that_is_removed_or_rewritten_while_its_request_is_on_its_way_crashes_nothing(
    agent: Agent,
    verifying: VerifyingS3,
    run_beside: Callable[[Callable[[App], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_rewritten: bool,
) -> None:
    put = S3Store.put
    name, second = "brief.jpg", b"the second version"

    def interrupted(store: S3Store, request: PutRequest, body: Body) -> str:
        etag = put(store, request, body)
        if request.key == agent.key(name) and not interruptions:
            interruptions.append(request.key)
            if is_rewritten:
                agent.write(name, second)
                wait_until(lambda: len(agent.states(name)) == 2, what="the second version is known")
            else:
                os.unlink(agent.path(name))
                # What is on its way may be known as gone only afterwards; an agent that waits is as good.
                agent.write("marker.jpg", b"marker")
                wait_until(lambda: agent.states("marker.jpg") != [], what="the intake has passed by")
        return etag

    interruptions: list[str] = []
    monkeypatch.setattr(S3Store, "put", interrupted)

    def work(app: App) -> None:
        agent.write(name, b"the first version")
        wait_until(lambda: interruptions != [], what="the request was sent")
        expected = {agent.key(name): b"the first version"}
        if is_rewritten:
            expected[suffixed(agent.key(name), second)] = second
        else:
            expected[agent.key("marker.jpg")] = b"marker"
        wait_until(lambda: sent(verifying) == expected, what="what is on the disk arrives")
        last = "confirmed" if is_rewritten else "removed"
        wait_until(lambda: agent.states(name)[-1] == last, what="the journal knows")
        uploader_is_well(app, caplog)

    run_beside(work)
