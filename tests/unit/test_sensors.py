"""workers/sensors.py over a stand-in for the bus: what devices say, what comes of it, and that none stops the agent."""

from __future__ import annotations

import errno
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncagent.core.board import Board
from syncagent.core.devices import Device, Limit, device_of
from syncagent.core.floor import GAIN_S, Floor
from syncagent.core.metadata import MAX_METADATA_BYTES, attach, size_of
from syncagent.core.sensing import JUMPS, MISSES
from syncagent.core.settings_files import DeviceFile
from syncagent.core.status import merge
from syncagent.edges.i2c import Buses, SmbusBus
from syncagent.workers.sensors import OFF_S, SET_EVERY_S, Sensors, lower_bound
from tests import chips
from tests.fakes import HANG, FakeBus, FakeClock, FakeStop, Flip

NOON = datetime(2027, 3, 4, 12, 5, 6, tzinfo=UTC)
GAUGE, HEAT, CLOCK, EUI = 0x36, 0x48, 0x68, 0x58
PERCENT = {"source": "max17048", "pause_below_percent": 15.0, "resume_above_percent": 20.0}


def device(name: str, **values: Any) -> Device:
    import attrs

    return device_of(name, attrs.asdict(DeviceFile(**values)))


class Bench:
    """The worker, its bus, and everything that it tells."""

    def __init__(self, *devices: Device, chips: dict[int, chips.Chip] | None = None, at: datetime = NOON) -> None:
        self.bus = FakeBus(chips)
        self.clock = FakeClock(at)
        self.stop = FakeStop(self.clock)
        self.board = Board(self.clock.monotonic)
        self.floor = Floor()
        self.is_synchronised = False
        self.said: list[str] = []
        self.resumed = 0
        self.identities: list[str] = []
        self.buses = Buses(lambda number: SmbusBus(number, new=self.bus.open), wait=lambda _: None, call_s=30)
        self.sensors = Sensors(
            devices,
            buses=self.buses,
            clock=self.clock,
            board=self.board,
            floor=self.floor,
            is_synchronised=lambda: self.is_synchronised,
            on_pause=self.before_pause,
            on_resume=self.resume,
            on_identity=self.identities.append,
        )

    def before_pause(self, reason: str) -> None:
        assert self.sensors.held() == "", "the last word goes out before sending waits"
        self.said.append(reason)

    def resume(self) -> None:
        assert self.sensors.held() == ""
        self.resumed += 1

    def sample(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(self.sensors.pass_once(self.stop))

    def set(self, address: int, chip: chips.Chip) -> None:
        self.bus.chips[address] = chip

    def face(self, name: str) -> dict[str, Any]:
        return self.board.devices()[name]

    def fact(self, name: str) -> tuple[bool, str, str]:
        fact = merge(self.board.facts(), name)
        return fact.ok, fact.state, fact.reason

    def lower_bound(self) -> datetime | None:
        return lower_bound(self.floor, self.clock, lambda: self.is_synchronised)


def battery(percent: float = 50, **more: Any) -> Bench:
    return Bench(device("battery", **PERCENT, **more), chips={GAUGE: chips.max17048(percent)})


# -- samples ----------------------------------------------------------------------------------------------------------


def test_without_a_device_file_no_bus_is_opened() -> None:
    bench = Bench()
    assert bench.sensors.pass_once(bench.stop) == 0
    assert bench.bus.opened == []
    assert (bench.sensors.held(), bench.sensors.is_power_low(), bench.lower_bound()) == ("", False, None)
    assert bench.fact("power") == (True, "none", "")


def test_a_device_is_sampled_at_its_own_pace() -> None:
    bench = Bench(
        device("battery", **PERCENT, sample_s=5),
        device("heat", source="tmp102", sample_s=60),
        chips={GAUGE: chips.max17048(50), HEAT: chips.tmp102(21.5)},
    )
    assert bench.sensors.pass_once(bench.stop) == 5
    count = len(bench.bus.history)
    bench.clock.advance(4)
    assert bench.sensors.pass_once(bench.stop) == 1
    assert len(bench.bus.history) == count
    bench.clock.advance(1)
    bench.sensors.pass_once(bench.stop)
    assert {address for _, address in bench.bus.history[count:]} == {GAUGE}


def test_what_a_device_says_is_in_the_status() -> None:
    bench = battery(50)
    bench.sample()
    face = bench.face("battery")
    assert face == {
        "source": "max17048",
        "role": "battery",
        "bus": 1,
        "address": "0x36",
        "ok": True,
        "state": "ok",
        "reason": "",
        "values": {"percent": 50.0, "volts": 3.7},
    }
    fact = merge(bench.board.facts(), "power")
    assert fact.to_json() == {"ok": True, "state": "ok", "reason": "", "percent": 50.0, "volts": 3.7}


def test_a_stop_is_heeded_between_two_devices() -> None:
    bench = Bench(device("a", **PERCENT), device("b", source="tmp102"), chips={GAUGE: chips.max17048(50)})
    bench.stop.set()
    bench.sensors.pass_once(bench.stop)
    assert bench.bus.history == []


# -- not there --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "why", "words"),
    [
        (errno.EREMOTEIO, "no answer", "nothing answers"),
        (errno.EBUSY, "busy", "a driver of the kernel uses it"),
        (errno.ETIMEDOUT, "stuck", "the bus is stuck"),
        (Flip(0, 0xFF), "lying", "its version"),
    ],
)
def test_a_device_that_is_missing_busy_stuck_or_lying_is_not_there_and_says_why(
    deed: Any, why: str, words: str
) -> None:
    bench = battery(5)
    bench.bus.always[GAUGE] = deed
    bench.sample()
    face = bench.face("battery")
    assert (face["ok"], face["state"], face["why"], face["values"]) == (False, "not there", why, {})
    assert words in face["reason"]
    ok, state, reason = bench.fact("power")
    assert (ok, state) == (False, "not there")
    assert reason.startswith("battery: 0x36 on bus 1")
    (complaint,) = bench.board.complaints()
    assert (complaint.path, complaint.what) == ("devices/battery", "not there")
    assert complaint.remedy
    assert bench.sensors.held() == "", "a gauge that is not there never pauses"


def test_a_bus_that_is_switched_off_says_how_to_switch_it_on() -> None:
    bench = battery()
    bench.bus.opening = errno.ENOENT
    bench.sample()
    assert bench.face("battery")["why"] == "no bus"
    assert "raspi-config" in bench.face("battery")["remedy"]


def test_a_device_that_is_unplugged_and_comes_back_is_noticed_both_times() -> None:
    bench = battery(50)
    bench.sample()
    chip = bench.bus.chips.pop(GAUGE)
    bench.sample(MISSES)
    assert bench.face("battery")["state"] == "not there"
    bench.set(GAUGE, chip)
    bench.sample()
    assert bench.face("battery")["state"] == "ok"
    assert bench.board.complaints() == []


def test_a_missed_sample_is_not_yet_a_missing_part() -> None:
    bench = battery(10)
    bench.sample()
    assert bench.sensors.held()
    bench.bus.always[GAUGE] = errno.EREMOTEIO
    for missed in range(1, MISSES):
        bench.sample()
        assert bench.sensors.held(), "a bad contact does not end the pause"
        assert bench.face("battery")["values"] == {"percent": 10.0, "volts": 3.7}
        assert bench.face("battery")["why"] == "no answer"
        assert missed < MISSES
    bench.sample()
    assert bench.sensors.held() == ""
    assert bench.resumed == 1


@pytest.mark.parametrize("opening", [errno.ENOENT, errno.EACCES])
def test_what_is_no_passing_fault_counts_at_once(opening: int) -> None:
    bench = battery(50)
    bench.sample()
    bench.bus.opening = opening
    bench.sample()
    assert bench.face("battery")["state"] == "not there"


def test_on_a_stuck_bus_only_one_device_is_waited_for_in_a_pass() -> None:
    names = [device(f"heat{n}", source="tmp102", address=0x48 + n) for n in range(4)]
    bench = Bench(*names, device("battery", **PERCENT, bus=3), chips={GAUGE: chips.max17048(50)})
    bench.bus.always = dict.fromkeys(range(0x48, 0x4C), errno.ETIMEDOUT)
    bench.sample()
    assert {address for _, address in bench.bus.history} == {0x48, GAUGE}
    assert [bench.face(f"heat{n}")["why"] for n in range(4)] == ["stuck"] * 4
    assert bench.face("battery")["ok"]


def test_a_part_that_holds_the_bus_up_does_not_keep_the_others_from_being_read() -> None:
    heat = [device(f"heat{n}", source="tmp102", address=0x48 + n) for n in range(3)]
    bench = Bench(*heat, device("battery", **PERCENT), chips={GAUGE: chips.max17048(50), 0x49: chips.tmp102(21.5)})
    bench.bus.always = {0x48: errno.ETIMEDOUT, 0x4A: errno.EIO}
    bench.sample(4)
    states = [bench.face(name)["state"] for name in ("heat0", "heat1", "heat2", "battery")]
    assert states == ["not there", "ok", "not there", "ok"]
    bench.bus.always = {0x48: errno.ETIMEDOUT}
    bench.set(0x4A, chips.tmp102(20))
    bench.sample(2)
    assert bench.face("heat2")["state"] == "ok", "the next one is not always the same"


def test_a_kernel_that_does_not_come_back_ends_the_pass_and_the_next_one() -> None:
    bench = battery(50)
    bench.buses._call_s = 0.05
    bench.bus.scripts[GAUGE] = [HANG]
    bench.sample(2)
    assert bench.face("battery")["why"] == "stuck"
    assert "has not come back" in bench.face("battery")["reason"]
    bench.bus.let_go()


def test_each_change_of_a_device_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bench = battery(50)
    with caplog.at_level(logging.INFO):
        bench.sample(3)
        del bench.bus.chips[GAUGE]
        bench.sample(MISSES + 3)
    lines = [record.message for record in caplog.records if record.message.startswith("device ")]
    assert [line.split(" name=")[0] for line in lines] == ["device ok", "device not there"]


# -- battery ----------------------------------------------------------------------------------------------------------


def test_sending_waits_below_the_limit_and_goes_on_above_the_other() -> None:
    bench = battery(24)
    for percent, held in [(24, False), (16, False), (14, True), (16, True), (19.9, True), (20, False), (16, False)]:
        bench.set(GAUGE, chips.max17048(percent))
        bench.sample()
        assert bool(bench.sensors.held()) is held, percent
        assert bench.sensors.is_power_low() is held
    assert bench.resumed == 1


def test_the_pause_says_why_and_until_when_everywhere() -> None:
    bench = battery(12)
    bench.sample()
    reason = "battery at 12 %, resumes above 20 %"
    assert bench.sensors.held() == f"power: {reason}"
    assert bench.said == [f"power: {reason}"]
    assert bench.fact("uploader") == (True, "paused", f"power: {reason}")
    assert bench.fact("power") == (False, "paused", reason)
    assert (bench.face("battery")["ok"], bench.face("battery")["state"]) == (True, "paused")
    bench.sample(2)
    assert len(bench.said) == 1, "the last word is said once"


def test_what_a_pause_left_in_the_status_goes_with_it() -> None:
    bench = battery(12)
    bench.sample()
    bench.set(GAUGE, chips.max17048(21))
    bench.sample()
    assert bench.fact("uploader") == (True, "unknown", "")
    assert bench.fact("power")[:2] == (True, "ok")


def test_a_last_word_that_fails_does_not_keep_sending_on() -> None:
    bench = battery(12)

    def broken(_reason: str) -> None:
        raise OSError("no link")

    bench.sensors._on_pause = broken
    bench.sample()
    assert bench.sensors.held()


def test_a_voltage_pauses_too_and_recovers_by_three_percent_unless_told() -> None:
    bench = Bench(device("solar", source="ina219", pause_below_v=11.5), chips={0x40: chips.ina219(11.4)})
    bench.sample()
    assert bench.sensors.held() == "power: battery at 11.4 V, resumes above 11.845 V"
    bench.set(0x40, chips.ina219(11.848))
    bench.sample()
    assert not bench.sensors.held()


def test_a_jump_is_believed_only_when_it_stays() -> None:
    bench = battery(75)
    bench.sample()
    bench.set(GAUGE, chips.max17048(12))
    for _ in range(JUMPS - 1):
        bench.sample()
        assert (bench.face("battery")["state"], bench.face("battery")["values"]["percent"]) == ("doubtful", 75.0)
        assert bench.sensors.held() == ""
    bench.sample()
    assert bench.sensors.held()


def test_a_gauge_that_says_something_else_each_time_never_pauses() -> None:
    bench = battery(75)
    bench.sample()
    for percent in (3, 60, 3, 45, 3, 30, 3, 75):
        bench.set(GAUGE, chips.max17048(percent))
        bench.sample()
        assert bench.sensors.held() == ""
    assert bench.face("battery")["state"] == "ok"


@pytest.mark.parametrize("between", [None, errno.EREMOTEIO])
def test_a_gauge_that_begins_to_say_something_else_each_time_does_not_pause_for_ever(between: int | None) -> None:
    bench = battery(10)
    bench.sample()
    assert bench.sensors.held()
    for percent in (90, 50, 30, 70) * 3:
        bench.set(GAUGE, chips.max17048(percent))
        bench.sample()
        if between is not None:
            bench.bus.always[GAUGE] = between
            bench.sample()
            del bench.bus.always[GAUGE]
    assert bench.sensors.held() == ""
    face = bench.face("battery")
    assert (face["ok"], face["state"], face["values"]) == (False, "not there", {})
    assert face["why"] == ("lying" if between is None else "no answer")
    bench.set(GAUGE, chips.max17048(5))
    bench.sample()
    assert bench.sensors.held() == "", "one sample of a part that lied is not believed"
    bench.sample(JUMPS)
    assert bench.sensors.held()


def test_of_several_devices_any_one_makes_sending_wait() -> None:
    bench = Bench(
        device("battery", **PERCENT),
        device("case", source="tmp102", pause_above_c=70),
        chips={GAUGE: chips.max17048(50), HEAT: chips.tmp102(71)},
    )
    bench.sample()
    assert bench.sensors.held() == "power: temperature at 71 °C, resumes below 65 °C"
    assert bench.sensors.is_power_low() is False
    bench.set(GAUGE, chips.max17048(48))
    bench.set(HEAT, chips.tmp102(65))
    bench.sample()
    assert bench.sensors.held() == ""


@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        (Limit("percent", 15, 20), [(15, False), (14.99, True), (19.99, True), (20, False)]),
        (Limit("percent", 20, 20), [(20, False), (19.9, True), (20, False)]),
        (Limit("percent", 95, 100), [(94, True), (99.9, True), (100, False)]),
        (Limit("celsius", 70, 65), [(70, False), (70.1, True), (65.1, True), (65, False)]),
    ],
)
def test_a_limit_has_two_edges(limit: Limit, steps: list[tuple[float, bool]]) -> None:
    beyond = False
    for value, expected in steps:
        beyond = limit.is_beyond(value, was_beyond=beyond)
        assert beyond is expected, value


# -- clocks -----------------------------------------------------------------------------------------------------------


def rtc(at: datetime = NOON, *, wall: datetime = NOON, osf: bool = False, source: str = "ds3231") -> Bench:
    chip = chips.ds3231(at, osf=osf) if source == "ds3231" else chips.ds1307(at, halted=osf)
    return Bench(device("rtc", source=source), chips={CLOCK: chip}, at=wall)


@pytest.mark.parametrize("source", ["ds3231", "ds1307"])
def test_a_clock_tells_the_least_that_the_time_can_be_until_the_system_knows_better(source: str) -> None:
    bench = rtc(wall=datetime(1970, 1, 1, tzinfo=UTC), source=source)
    assert bench.lower_bound() is None
    bench.sample()
    bench.clock.advance(30 - 10)
    assert bench.lower_bound() == NOON + timedelta(seconds=30)
    bench.is_synchronised = True
    assert bench.lower_bound() is None


@pytest.mark.parametrize("source", ["ds3231", "ds1307"])
def test_a_clock_that_had_stopped_is_not_trusted_and_says_so(source: str) -> None:
    bench = rtc(osf=True, source=source)
    bench.sample()
    assert bench.lower_bound() is None
    assert (bench.face("rtc")["ok"], bench.face("rtc")["state"]) == (False, "doubtful")
    ok, state, reason = bench.fact("clock")
    assert (ok, state) == (False, "doubtful")
    assert reason.startswith("rtc: ")


def test_a_clock_that_stops_to_be_trusted_takes_back_what_it_said() -> None:
    bench = rtc(wall=datetime(1970, 1, 1, tzinfo=UTC))
    bench.sample()
    assert bench.lower_bound() is not None
    bench.set(CLOCK, chips.ds3231(NOON, osf=True))
    bench.sample()
    assert bench.lower_bound() is None


def test_a_clock_that_was_behind_is_believed_once_it_is_set() -> None:
    bench = rtc(NOON - timedelta(hours=1))
    bench.sample()
    assert bench.lower_bound() == NOON - timedelta(hours=1) + timedelta(seconds=10)
    bench.is_synchronised = True
    bench.sensors.pass_once(bench.stop)
    bench.sensors.pass_once(bench.stop)
    bench.is_synchronised = False
    assert bench.lower_bound() == NOON + timedelta(seconds=10)


def test_a_clock_that_is_unplugged_told_the_truth_before() -> None:
    bench = rtc(wall=datetime(1970, 1, 1, tzinfo=UTC))
    bench.sample()
    del bench.bus.chips[CLOCK]
    bench.sample(MISSES)
    assert bench.fact("clock")[:2] == (False, "not there")
    assert bench.lower_bound() == NOON + timedelta(seconds=10 * (MISSES + 1))


def test_a_clock_that_leaps_ahead_does_not_move_the_floor_and_one_that_goes_back_lowers_it() -> None:
    floor = Floor()
    floor.note("rtc", NOON, 0.0)
    floor.note("rtc", NOON + timedelta(seconds=10 + GAIN_S + 1), 10.0)
    assert floor.at(10.0) == NOON + timedelta(seconds=10)
    floor.note("rtc", NOON + timedelta(seconds=15), 10.0)
    assert floor.at(10.0) == NOON + timedelta(seconds=15)
    floor.note("rtc", NOON - timedelta(days=1), 10.0)
    assert floor.at(10.0) == NOON - timedelta(days=1)
    floor.note("other", NOON, 10.0)
    assert floor.at(10.0) == NOON - timedelta(days=1), "of two, the one that says less"
    floor.forget("rtc")
    floor.forget("other")
    assert floor.at(10.0) is None


@pytest.mark.parametrize("source", ["ds3231", "ds1307"])
def test_a_clock_is_set_once_a_day_from_a_synchronised_system_and_only_when_it_is_off(source: str) -> None:
    bench = rtc(NOON - timedelta(seconds=60), source=source)
    bench.sample()
    assert bench.bus.writes == [], "the system's clock is no better"
    bench.is_synchronised = True
    bench.sample()
    address, register, data = bench.bus.writes[0]
    assert (address, register, data) == (CLOCK, 0, chips.clock_registers(NOON + timedelta(seconds=10)))
    count = len(bench.bus.writes)
    bench.set(CLOCK, chips.ds3231(NOON) if source == "ds3231" else chips.ds1307(NOON))
    bench.clock.advance(SET_EVERY_S - 1000)
    bench.sample()
    assert len(bench.bus.writes) == count, "at most once a day, whatever it says"
    bench.clock.advance(1000)
    bench.sample()
    assert len(bench.bus.writes) == 2 * count


def test_a_clock_that_is_right_is_not_set() -> None:
    bench = rtc(NOON - timedelta(seconds=OFF_S))
    bench.is_synchronised = True
    bench.sample()
    assert bench.bus.writes == []
    assert bench.face("rtc")["ahead_s"] == -OFF_S


def test_setting_clears_the_flag_of_a_stopped_oscillator_and_the_next_sample_trusts_it() -> None:
    bench = rtc(osf=True)
    bench.is_synchronised = True
    assert bench.sensors.pass_once(bench.stop) == 0, "looked at again at once"
    assert bench.bus.writes == [(CLOCK, 0x00, chips.clock_registers(NOON)), (CLOCK, 0x0F, b"\x08")]
    bench.sensors.pass_once(bench.stop)
    assert bench.face("rtc")["state"] == "ok"
    assert bench.fact("clock") == (True, "unknown", ""), "the store's word is what is left"
    bench.is_synchronised = False
    assert bench.lower_bound() == NOON


def test_a_clock_that_cannot_be_written_stays_untrusted_and_stops_nobody() -> None:
    bench = rtc(osf=True)
    bench.is_synchronised = True
    bench.bus.scripts[CLOCK] = [None, None, errno.EREMOTEIO]
    bench.sample()
    assert bench.bus.writes == []
    assert bench.face("rtc")["state"] == "doubtful"


# -- identity, metadata -----------------------------------------------------------------------------------------------


def test_an_identity_is_told_once() -> None:
    bench = Bench(device("who", source="at24mac", address=0x50), chips={EUI: chips.at24mac("fcc23d123456")})
    bench.sample(3)
    assert bench.identities == ["fcc23d123456"]
    assert (bench.face("who")["address"], bench.face("who")["eui"]) == ("0x58", "fcc23d123456")


def test_attached_readings_become_metadata_and_the_others_do_not() -> None:
    bench = Bench(
        device("My battery!", **PERCENT, attach=True),
        device("case", source="tmp102"),
        chips={GAUGE: chips.max17048(50.5, volts=3.75), HEAT: chips.tmp102(21.5)},
    )
    assert bench.sensors.attached() == {}
    bench.sample()
    assert bench.sensors.attached() == {
        "syncagent-my-battery-percent": "50.5",
        "syncagent-my-battery-volts": "3.75",
    }
    del bench.bus.chips[GAUGE]
    bench.sample(MISSES)
    assert bench.sensors.attached() == {}


def test_what_is_attached_leaves_room_in_the_two_kilobytes() -> None:
    readings = {f"syncagent-device-number-{number}-percent": "50.5" for number in range(100)}
    own = {"syncagent-sha256": "0" * 64, "owner": "x" * 1000}
    attached = attach(readings, own=own)
    assert 0 < len(attached) < 100
    assert list(attached) == list(readings)[: len(attached)]
    assert size_of(attached) + size_of(own) <= MAX_METADATA_BYTES - 500
    assert attach({"owner": "y"}, own=own) == {}
