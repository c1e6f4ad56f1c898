"""The simulated camera: a process that writes pictures in bursts, and keeps a record of what it finished.

Promises: every version of every file that it finished stands in the record, with its SHA-256, after its last close;
told to stop (its standard input closes), it finishes the file in its hand. It knows nothing of the agent.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from syncagent.demo.picture import draw_jpeg
from syncagent.edges.clock import Clock, Stop

BURST = 6
#: A picture is written in so many pieces, as a slow card takes it.
PIECES = 4
PIECE_S = 0.07
REST_S = 2.5
#: Bursts from one clip to the next; the second burst has the first one.
CLIP_EVERY = 10
CLIP_BYTES = 12_000_000
#: The camera's card: what a demo that is forgotten on a machine may write at most.
CARD_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Version:
    """One finished version of a file. `path` is relative to the base directory."""

    path: str
    size_bytes: int
    sha256: str


class Record:
    """Reads what the camera noted; only complete lines, only once each."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self.versions: list[Version] = []

    def read(self) -> list[Version]:
        """Everything that is noted so far, in the order of finishing."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                news = file.read()
        except FileNotFoundError:
            return self.versions
        whole = news[: news.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.versions += [Version(**json.loads(line)) for line in whole.splitlines()]
        return self.versions


class Camera:
    """Writes below `<base_dir>/generated_data/camera/<date>/` until told to stop."""

    def __init__(self, base_dir: str, record_path: str, stop: Stop, clock: Clock) -> None:
        self._base_dir = base_dir
        self._record_path = record_path
        self._stop = stop
        self._clock = clock
        self._frame = 0
        self._written_bytes = 0
        self._pictures: list[str] = []

    def run(self) -> None:
        burst = 0
        while not self._stop.is_set() and self._written_bytes < CARD_BYTES:
            for _ in range(BURST):
                if not self._stop.is_set():
                    self.take_picture()
            if burst % 2 == 1 and not self._stop.is_set():
                self.correct_picture()
            if burst % CLIP_EVERY == 1 and not self._stop.is_set():
                self.take_clip()
            burst += 1
            self._stop.wait(REST_S)

    def take_picture(self) -> str:
        """A new picture under a new name. Returns its path."""
        self._frame += 1
        path = self._path(f"img_{self._frame:05d}.jpg")
        self._write(path, _pieces(draw_jpeg(self._frame, self._clock.now()), PIECES))
        self._pictures.append(path)
        return path

    def correct_picture(self) -> str:
        """An earlier picture anew under its name: same file, other bytes."""
        path = self._pictures[-BURST]
        frame = self._frame - BURST + 1
        self._write(path, _pieces(draw_jpeg(frame, self._clock.now(), note="exposure corrected"), PIECES))
        return path

    def take_clip(self) -> str:
        """A short clip, large enough to be sent in parts: JPEG pictures in a row, as motion JPEG is."""
        self._frame += 1
        path = self._path(f"clip_{self._frame:05d}.mjpeg")
        self._write(path, self._clip())
        return path

    def _clip(self) -> Iterator[bytes]:
        size_bytes = 0
        while size_bytes < CLIP_BYTES and not self._stop.is_set():
            picture = draw_jpeg(self._frame, self._clock.now(), note=f"clip {size_bytes // 1000:,} kB", quality=97)
            size_bytes += len(picture)
            yield picture

    def _path(self, name: str) -> str:
        return os.path.join("generated_data", "camera", f"{self._clock.now():%Y-%m-%d}", name)

    def _write(self, path: str, pieces: Iterable[bytes]) -> None:
        whole = hashlib.sha256()
        size_bytes = 0
        full = os.path.join(self._base_dir, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
                whole.update(piece)
                size_bytes += len(piece)
                self._stop.wait(PIECE_S)  # told to stop, the rest is written without a pause
        self._written_bytes += size_bytes
        line = json.dumps({"path": path, "size_bytes": size_bytes, "sha256": whole.hexdigest()})
        with open(self._record_path, "a", encoding="utf-8") as record:
            record.write(line + "\n")


def _pieces(content: bytes, count: int) -> Iterator[bytes]:
    step = -(-len(content) // count)
    return (content[start : start + step] for start in range(0, len(content), step))


def stop_with_input(stop: Stop) -> None:
    """Set `stop` when standard input closes: the demo says so, or is gone. Not a signal, which could tear a file."""

    def listen() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=listen, name="input", daemon=True).start()


def main(base_dir: str, record_path: str) -> None:
    stop = Stop()
    stop_with_input(stop)
    Camera(base_dir, record_path, stop, Clock()).run()


if __name__ == "__main__":
    main(*sys.argv[1:3])
