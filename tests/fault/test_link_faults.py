"""Every kind of trouble that a link, a store or a clock makes, played through real processes.

They show the README's promises that an outage fails no file and that confirmed means proved, and that the status says
what is wrong meanwhile. Each scene is one test and one line of the table of faults. They are played side by side,
because most of their time is waiting.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.fault.fault_table import FaultTable, Line
from tests.fault.field import AnyStore, Field, name_resolves, until
from tests.fault.scenes import RECOVERY_S, Scene, complaint, fact, play
from tests.proxy import Rule
from tests.s3_model import Fault
from tests.servers import ACCESS_KEY, SECRET_KEY, MotoS3, RcloneS3

AT_ONCE = 3
HOUR_S = 3600.0
YEAR_S = 365 * 24 * HOUR_S
MB = 1_000_000
#: Above multipart_bytes, so it goes in three parts.
LARGE = 12 * MB
NAME = "store.field.invalid"


def rule(wanted: Rule) -> Callable[[Field], None]:
    def act(here: Field) -> None:
        here.link.rule = wanted

    return act


def passing(here: Field) -> None:
    here.link.rule = Rule()


def fault(make: Callable[[], Fault]) -> Callable[[Field], None]:
    def act(here: Field) -> None:
        here.strict.faults.append(make())

    return act


def truthful(here: Field) -> None:
    here.strict.faults.clear()


def two_addresses(here: Field) -> None:
    """Every file goes to two prefixes."""
    here.agent.put_config("system/system", {"id": here.agent.system_id, "addresses": ["one", "two"], "tasks": []})
    for name in ("one", "two"):
        document = {"message_type": "image_info", "carrier": "store", "duration": "on_change"}
        here.agent.put_config(f"addresses/{name}", {**document, "additional_info": {"sub_path": name}})


def under_both(here: Field) -> dict[str, bytes]:
    return {f"camera/{name}/{file}": body for name in ("one", "two") for file, body in here.files.items()}


def the_other_prefix_is_whole(here: Field) -> None:
    """While the first prefix is refused, the second one gets everything, and the store counts as there."""
    wanted = {key: body for key, body in under_both(here).items() if key.startswith("camera/two/")}
    until(lambda: wanted.items() <= here.objects().items(), deadline_s=15, what=here.story)
    assert here.fact("store")["ok"]


def lose_name(here: Field) -> None:
    name_resolves(here, NAME, is_there=False)
    here.link.reset_all()


def find_name(here: Field) -> None:
    name_resolves(here, NAME)


def rotate_keys(here: Field) -> None:
    here.strict.credentials = {"ROTATEDKEY": "rotated-secret"}


def write_profile(here: Field, access_key: str, secret_key: str) -> None:
    """The shared credentials file, as a provisioning tool writes it: whole, in one step."""
    path = os.path.join(here.agent.top, "credentials")
    with open(path + ".new", "w") as file:
        file.write(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
    os.rename(path + ".new", path)


def keys_of_a_profile(here: Field) -> None:
    """A carrier without keys: they come from boto3's own chain."""
    here.agent.variables = (f"AWS_SHARED_CREDENTIALS_FILE={here.agent.top}/credentials",)
    here.agent.configure(
        here.link.endpoint_url,
        upload={"stall_s": 2, "connect_timeout_s": 2},
        carrier={"access_key_id": None, "secret_access_key": None},
    )
    write_profile(here, ACCESS_KEY, SECRET_KEY)


def write_new_profile(here: Field) -> None:
    write_profile(here, "ROTATEDKEY", "rotated-secret")


def write_new_keys(here: Field) -> None:
    """What an owner does who was told of the refusal; the agent takes them over, or asks for a restart."""
    keys = {"access_key_id": "ROTATEDKEY", "secret_access_key": "rotated-secret"}
    here.agent.configure(here.link.endpoint_url, upload={"stall_s": 2, "connect_timeout_s": 2}, carrier=keys)
    needs_restart = complaint("restart")

    def is_noticed() -> bool:
        return here.confirmed() == len(here.files) or bool(needs_restart(here.agent.status()))

    until(is_noticed, deadline_s=RECOVERY_S, what=here.story)
    if needs_restart(here.agent.status()):
        assert here.agent.stop() == 0
        here.agent.start()


def lose_bucket(here: Field) -> None:
    here.strict.buckets["elsewhere"] = here.strict.buckets.pop("bucket")


def make_bucket(here: Field) -> None:
    here.strict.buckets = {"bucket": here.strict.buckets["elsewhere"]}


def no_upload_is_left(here: Field) -> None:
    assert not here.strict.uploads, "a multipart upload of ours was left behind"


def completed_once(here: Field) -> None:
    no_upload_is_left(here)
    assert len(here.strict.requests(operation="CreateMultipartUpload")) == 1, "the film was begun twice"
    assert not [e for e in here.strict.requests(operation="AbortMultipartUpload") if e.status == 204]


def sent_once(here: Field) -> None:
    """Slow is not stalled: no file was begun twice."""
    puts = [event.key for event in here.strict.requests(operation="PutObject") if "/.syncagent/" not in event.key]
    assert len(puts) == len(set(puts)), f"sent again: {puts}"


def nobody_has_the_lie(here: Field) -> None:
    """A wrong ETag is no proof: what was confirmed by it was read back."""
    assert here.strict.requests(operation="GetObject"), "confirmed without proof"


def clock(name: str, shift_s: float, words: str) -> Scene:
    return Scene(
        f"clock {name}",
        begin=lambda here: None,
        end=lambda here: None,
        says=fact("clock", "wrong", words),
        most_requests=16,
        is_passable=True,
        is_early=True,
        shift_s=shift_s,
        most_ratio=1.6,
    )


SCENES = (
    Scene("refused", rule(Rule("refuse")), passing, fact("link", "link", "refused"), kind="rclone", is_uncounted=True),
    Scene(
        "black hole",
        *(rule(Rule("black_hole")), passing, fact("link", "stalled", "acknowledged nothing")),
        kind="rclone",
        most_requests=16,
        lasts_s=6,
    ),
    Scene(
        "reset mid-body",
        *(rule(Rule(reset_after_up_bytes=20_000)), passing, fact("link", "link")),
        kind="rclone",
        most_requests=20,
    ),
    Scene(
        "reset mid-body, moto", rule(Rule(reset_after_up_bytes=20_000)), passing, None, kind="moto", most_requests=20
    ),
    Scene(
        "reset after the body",
        *(rule(Rule(reset_before_answer=True)), passing, fact("link", "link")),
        most_requests=20,
    ),
    Scene(
        "slow 2 KB/s",
        *(rule(Rule(up_bytes_per_s=2_000)), passing, None),
        files=1,
        is_passable=True,
        upload={"stall_s": 5, "workers": 1},
        check=sent_once,
        most_ratio=1.1,
    ),
    Scene(
        "30 % of connections cut",
        *(rule(Rule(cut_share=0.3, cut_within_bytes=40_000)), passing, None),
        kind="moto",
        files=20,
        lasts_s=6,
        most_requests=80,
        most_ratio=2.5,
    ),
    Scene(
        "DNS gone",
        lose_name,
        find_name,
        fact("link", "link", NAME, "resolve"),
        host=NAME,
        most_requests=8,
        lasts_s=5,
    ),
    Scene(
        "captive portal (200, HTML)",
        *(fault(Fault.portal), truthful, fact("store", "store", "200")),
        most_requests=16,
    ),
    Scene(
        "403 for one prefix",
        fault(lambda: Fault.denied("camera/one/")),
        truthful,
        fact("store", "forbidden", "one", "403", ok=True),
        prepare=two_addresses,
        meanwhile=the_other_prefix_is_whole,
        copies=2,
        expected=under_both,
        most_requests=8 + 16,
    ),
    Scene(
        "403 for everything",
        *(fault(Fault.denied), truthful, fact("store", "forbidden", "403")),
        most_requests=16,
    ),
    Scene(
        "400 for everything",
        *(fault(lambda: Fault(status=400, code="InvalidRequest")), truthful, fact("store", "refused", "400")),
        most_requests=16,
    ),
    Scene(
        "400 for a storage class",
        *(fault(lambda: Fault(status=400, code="InvalidStorageClass")), truthful, fact("store", "bucket", "400")),
        most_requests=12,
    ),
    Scene(
        "503 with Retry-After",
        *(fault(lambda: Fault.throttled(3)), truthful, fact("store", "throttled", "503")),
        most_requests=8,
    ),
    Scene(
        "500 after storing",
        *(fault(lambda: Fault.store_then(500)), truthful, fact("store", "store", "500")),
        most_requests=16,
    ),
    Scene(
        "404 NoSuchUpload",
        fault(lambda: Fault("UploadPart", skip=1, times=1, status=404, code="NoSuchUpload")),
        truthful,
        complaint("NoSuchUpload"),
        files=2,
        large_bytes=LARGE,
        is_passable=True,
        most_ratio=2.1,
        most_requests=30,
    ),
    Scene(
        "wrong ETag",
        *(fault(lambda: Fault("PutObject", etag="0" * 32)), truthful, None),
        check=nobody_has_the_lie,
        most_requests=40,
        most_ratio=2.0,
    ),
    Scene(
        "flipped byte",
        *(rule(Rule(flip_up_byte_at=20_000, times=2)), passing, complaint("400")),
        is_passable=True,
        most_requests=24,
        most_ratio=1.5,
    ),
    Scene(
        "flipped byte, rclone",
        *(rule(Rule(flip_up_byte_at=20_000, times=2)), passing, None),
        kind="rclone",
        is_passable=True,
        most_requests=24,
        most_ratio=1.5,
    ),
    Scene(
        "late Complete",
        fault(lambda: Fault("CompleteMultipartUpload", times=1, after_s=4)),
        truthful,
        complaint("acknowledged nothing"),
        files=2,
        large_bytes=LARGE,
        is_passable=True,
        check=completed_once,
        most_ratio=1.1,
        most_requests=20,
    ),
    Scene(
        "error in Complete's 200",
        *(fault(lambda: Fault.error_in_complete(times=2)), truthful, complaint("200", "InternalError")),
        files=2,
        large_bytes=LARGE,
        is_passable=True,
        check=completed_once,
        most_ratio=1.1,
        most_requests=20,
    ),
    Scene(
        "403 for the time, by a right clock",
        fault(lambda: Fault(status=403, code="RequestTimeTooSkewed")),
        truthful,
        fact("store", "clock", "RequestTimeTooSkewed"),
        most_requests=10,
    ),
    clock("3 h behind", -3 * HOUR_S, "behind"),
    clock("3 h ahead", 3 * HOUR_S, "ahead"),
    clock("2 years behind", -2 * YEAR_S, "behind"),
    clock("2 years ahead", 2 * YEAR_S, "ahead"),
    clock("in 1970", 86_400 - time.time(), "behind"),
    Scene(
        "credentials rotated mid-run (profile)",
        *(rotate_keys, write_new_profile, fact("store", "credentials", "InvalidAccessKeyId")),
        prepare=keys_of_a_profile,
        most_requests=12,
    ),
    Scene(
        "credentials rotated mid-run (carrier's file)",
        *(rotate_keys, write_new_keys, fact("store", "credentials", "InvalidAccessKeyId")),
        most_requests=12,
    ),
    Scene(
        "bucket missing, then made",
        *(lose_bucket, make_bucket, fact("store", "bucket", "NoSuchBucket")),
        most_requests=12,
    ),
)


#: By name: how long it lasts now, and what may be asked of the store or the link meanwhile.
LONGER = {
    "refused": (65, None),
    "black hole": (65, 40),
    "captive portal (200, HTML)": (65, 30),
    "403 for everything": (65, 24),
    "403 for the time, by a right clock": (65, 16),
    "503 with Retry-After": (65, 30),
}
LONG_SCENES = tuple(
    dataclasses.replace(
        scene, name=f"{scene.name}, for a minute", lasts_s=LONGER[scene.name][0], most_requests=LONGER[scene.name][1]
    )
    for scene in SCENES
    if scene.name in LONGER
)


@pytest.fixture(scope="module")
def lines(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fault_table: FaultTable,
    rclone: RcloneS3,
    moto: MotoS3,
) -> Iterator[Mapping[str, Future[Line]]]:
    """The scenes that were asked for, being played."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [item.callspec.params.get("scene") for item in items if item.module is request.module]
    wanted = [scene for scene in chosen if isinstance(scene, Scene)]
    fault_table.order = [scene.name for scene in (*SCENES, *LONG_SCENES)]
    servers: dict[str, AnyStore] = {"rclone": rclone, "moto": moto}
    # Between two tests the environment of whoever runs them comes back; the agents must not see it.
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(AT_ONCE) as pool:
        for name in list(os.environ):
            if name.startswith("AWS_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield {
            scene.name: pool.submit(play, scene, str(tmp_path_factory.mktemp("scene")), fault_table, servers=servers)
            for scene in wanted
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name.replace(" ", "-"))
def test_nothing_is_lost_and_status_says_why_when_the_trouble_is(
    scene: Scene, lines: Mapping[str, Future[Line]]
) -> None:
    lines[scene.name].result()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", LONG_SCENES, ids=lambda scene: scene.name.replace(" ", "-"))
def test_a_minute_of_trouble_loses_nothing_and_does_not_become_a_storm_of_requests(
    scene: Scene, lines: Mapping[str, Future[Line]]
) -> None:
    lines[scene.name].result()
