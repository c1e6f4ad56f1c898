"""edges/i2c.py over a stand-in for smbus2: every error in our words, every call bounded, nothing written unasked."""

from __future__ import annotations

import errno
import sys
from datetime import UTC, datetime

import pytest

from syncagent.core.errors import Absence, NotThere
from syncagent.core.parts import PARTS, Options
from syncagent.edges import i2c
from syncagent.edges.i2c import RETRY_S, TRIES, Buses, SmbusBus
from tests import chips
from tests.fakes import HANG, FakeBus, Flip
from tests.servers import wait_until

NOON = datetime(2027, 3, 4, 12, 5, 6, tzinfo=UTC)
GAUGE = 0x36
AT24MAC, DS3231, INA219, MAX17048 = (PARTS[source] for source in ("at24mac", "ds3231", "ina219", "max17048"))


def buses_on(bus: FakeBus, *, call_s: float = 30.0, waits: list[float] | None = None) -> Buses:
    kept = waits if waits is not None else []
    return Buses(lambda number: SmbusBus(number, new=bus.open), wait=kept.append, call_s=call_s)


def sample(bus: FakeBus) -> dict[str, float]:
    reading, _ = buses_on(bus).sample(1, GAUGE, MAX17048, Options())
    return dict(reading.values)


@pytest.fixture
def gauge() -> FakeBus:
    return FakeBus({GAUGE: chips.max17048(50, volts=3.75)})


def test_a_part_is_read_by_its_registers_and_its_bus_closed_again(gauge: FakeBus) -> None:
    assert sample(gauge) == {"percent": 50.0, "volts": pytest.approx(3.75, abs=1e-4)}
    assert gauge.opened == ["/dev/i2c-1"]
    assert gauge.closed == 1


@pytest.mark.parametrize("source", PARTS)
def test_sampling_writes_nothing(source: str) -> None:
    samples = {
        "ds3231": chips.ds3231(NOON),
        "ds1307": chips.ds1307(NOON),
        "max17048": chips.max17048(50),
        "tmp102": chips.tmp102(25.0),
        "ina219": chips.ina219(12.1),
        "lm75": chips.lm75(25.0),
        "at24mac": chips.at24mac("fcc23d123456"),
    }
    part = PARTS[source]
    bus = FakeBus({part.address: samples[source]})
    buses_on(bus).sample(1, part.address, part, Options())
    assert bus.writes == []
    assert {name for name, _ in bus.history} == {"read"}


@pytest.mark.parametrize(
    ("number", "why", "word"),
    [
        (errno.ENXIO, Absence.NO_ANSWER, "nothing answers"),
        (errno.EREMOTEIO, Absence.NO_ANSWER, "nothing answers"),
        (errno.ENODEV, Absence.NO_ANSWER, "nothing answers"),
        (errno.EBUSY, Absence.BUSY, "a driver of the kernel uses it"),
        (errno.ETIMEDOUT, Absence.STUCK, "the bus is stuck"),
        (errno.EIO, Absence.STUCK, "the bus is stuck"),
        (errno.EAGAIN, Absence.STUCK, "the bus is stuck"),
        (errno.EPROTO, Absence.STUCK, "the bus is stuck"),
    ],
)
def test_each_error_of_a_transfer_says_why_where_and_what_to_do(
    gauge: FakeBus, number: int, why: Absence, word: str
) -> None:
    gauge.always[GAUGE] = number
    with pytest.raises(NotThere, match="0x36 on bus 1") as caught:
        sample(gauge)
    assert caught.value.why is why
    assert word in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOENT, Absence.NO_BUS),
        (errno.ENXIO, Absence.NO_BUS),
        (errno.EACCES, Absence.DENIED),
        (errno.EPERM, Absence.DENIED),
        (errno.EBUSY, Absence.BUSY),
    ],
)
def test_a_bus_that_cannot_be_opened_says_why_and_how_to_enable_it(gauge: FakeBus, number: int, why: Absence) -> None:
    gauge.opening = number
    with pytest.raises(NotThere) as caught:
        sample(gauge)
    assert caught.value.why is why
    if why is Absence.NO_BUS:
        assert "raspi-config" in caught.value.remedy
    assert gauge.history == []


def test_without_the_library_there_is_no_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smbus2", None)
    with pytest.raises(NotThere, match="smbus2 is not installed"):
        SmbusBus(1)


def test_this_machine_without_i2c_is_told_so() -> None:
    with pytest.raises(NotThere, match="there is no /dev/i2c-255") as caught:
        SmbusBus(255)
    assert caught.value.why is Absence.NO_BUS


@pytest.mark.parametrize("passing", [errno.EREMOTEIO, errno.EIO])
def test_a_transfer_that_fails_for_a_moment_is_tried_again_after_a_short_wait(gauge: FakeBus, passing: int) -> None:
    gauge.scripts[GAUGE] = [passing] * (TRIES - 1)
    waits: list[float] = []
    buses_on(gauge, waits=waits).sample(1, GAUGE, MAX17048, Options())
    assert waits == [RETRY_S] * (TRIES - 1)


def test_a_transfer_is_not_tried_for_ever(gauge: FakeBus) -> None:
    gauge.always[GAUGE] = errno.EREMOTEIO
    with pytest.raises(NotThere):
        sample(gauge)
    assert len(gauge.history) == TRIES


def test_what_the_kernel_owns_is_not_tried_again(gauge: FakeBus) -> None:
    gauge.always[GAUGE] = errno.EBUSY
    with pytest.raises(NotThere):
        sample(gauge)
    assert len(gauge.history) == 1


# -- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("which", [0, 1])
def test_one_flipped_bit_of_a_gauge_changes_nothing_that_matters(at: int, bit: int, which: int) -> None:
    bus = FakeBus({GAUGE: chips.max17048(50, volts=3.75)})
    bus.scripts[GAUGE] = [None, None, None, None]
    bus.scripts[GAUGE][1 + 2 * which] = Flip(at, 1 << bit)  # of the voltage and the charge, not of the version
    values = sample(bus)
    assert values["percent"] == pytest.approx(50, abs=10)
    assert values["volts"] == pytest.approx(3.75, abs=0.95)


def test_one_flipped_bit_never_makes_another_device_of_this_one() -> None:
    for at in range(8):
        for bit in range(8):
            for turn in range(2):
                bus = FakeBus({0x58: chips.at24mac("fcc23d123456")})
                bus.scripts[0x58] = [*[None] * turn, Flip(at, 1 << bit)]
                reading, _ = buses_on(bus).sample(1, 0x58, AT24MAC, Options())
                assert reading.eui == "fcc23d123456"


def test_one_flipped_bit_never_moves_a_clock() -> None:
    for at in range(7):
        for bit in range(8):
            bus = FakeBus({0x68: chips.ds3231(NOON)})
            bus.scripts[0x68] = [Flip(at, 1 << bit)]
            reading, _ = buses_on(bus).sample(1, 0x68, DS3231, Options())
            assert reading.moment is not None
            assert abs((reading.moment - NOON).total_seconds()) <= 2


def test_a_part_that_never_says_the_same_twice_is_a_lie(gauge: FakeBus) -> None:
    gauge.scripts[GAUGE] = [None, Flip(2, 0x20), None, None] * 10
    with pytest.raises(NotThere, match="two readings never agree") as caught:
        sample(gauge)
    assert caught.value.why is Absence.LYING


def test_another_part_at_the_address_is_a_lie_and_says_why() -> None:
    bus = FakeBus({GAUGE: {0: bytes(range(1, 33))}})
    with pytest.raises(NotThere, match="this is no max17048: its version") as caught:
        sample(bus)
    assert caught.value.why is Absence.LYING


def test_an_answer_that_is_too_short_is_a_lie() -> None:
    with pytest.raises(NotThere, match="0 bytes came of 2") as caught:
        sample(FakeBus({GAUGE: {2: b"\xc0\0\x32\0"}}))
    assert caught.value.why is Absence.LYING


# -- a kernel that does not come back ---------------------------------------------------------------------------------


def test_a_call_that_hangs_is_given_up_and_its_bus_is_stuck_until_it_comes_back(gauge: FakeBus) -> None:
    gauge.scripts[GAUGE] = [HANG]
    buses = buses_on(gauge, call_s=0.05)
    with pytest.raises(NotThere, match="does not come back within") as caught:
        buses.sample(1, GAUGE, MAX17048, Options())
    assert caught.value.why is Absence.STUCK
    with pytest.raises(NotThere, match="has not come back"):
        buses.sample(1, GAUGE, MAX17048, Options())
    assert len(gauge.history) == 1, "the second call does not join the first"
    gauge.let_go()
    wait_until(lambda: gauge.closed == 1, what="the kernel comes back, and the bus is closed")
    wait_until(lambda: not buses._calls[1].is_alive(), what="the thread ends")
    buses._call_s = 30
    assert buses.sample(1, GAUGE, MAX17048, Options())[0].values["percent"] == 50


def test_a_bus_that_hangs_holds_up_no_other() -> None:
    hung, good = FakeBus({GAUGE: chips.max17048(50)}), FakeBus({GAUGE: chips.max17048(60)})
    hung.scripts[GAUGE] = [HANG]
    buses = Buses(lambda number: SmbusBus(number, new=(hung if number == 1 else good).open), call_s=0.05)
    with pytest.raises(NotThere):
        buses.sample(1, GAUGE, MAX17048, Options())
    buses._call_s = 30
    assert buses.sample(3, GAUGE, MAX17048, Options())[0].values["percent"] == 60
    hung.let_go()


def test_a_bug_in_a_call_is_raised_where_it_was_called() -> None:
    def broken(_number: int) -> i2c.Bus:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Buses(broken).sample(1, GAUGE, MAX17048, Options())


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_write_is_what_was_asked_in_its_order_and_is_not_repeated() -> None:
    bus = FakeBus({0x68: chips.ds3231(NOON, osf=True)})
    assert DS3231.set_time is not None
    buses = buses_on(bus)
    writes = DS3231.set_time(NOON, buses.look(1, 0x68, DS3231))
    buses.write(1, 0x68, writes)
    assert bus.writes == [(0x68, 0x00, chips.clock_registers(NOON)), (0x68, 0x0F, b"\x08")]
    bus.scripts[0x68] = [errno.EREMOTEIO]
    with pytest.raises(NotThere):
        buses.write(1, 0x68, writes)
    assert len(bus.writes) == 2, "the flag stays set when the time could not be written"


def test_the_current_of_an_ina219_comes_with_its_shunt() -> None:
    bus = FakeBus({0x40: chips.ina219(12.0, shunt_mv=50.0)})
    reading, _ = buses_on(bus).sample(1, 0x40, INA219, Options(shunt_ohm=0.1))
    assert reading.values == {"volts": pytest.approx(12.0), "amps": pytest.approx(0.5)}
