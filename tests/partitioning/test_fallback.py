from dataclasses import replace

import numpy as np
import pytest

from midstream.partitioning import Candidate, Inputs, LinkState, Objective, Power, SystemState, Table, decide
from midstream.partitioning.fallback import PATIENCE_MS, give_up_ms, patience_ms
from midstream.partitioning.planner import predict

POWER = Power(idle_w=1.0, busy_w=2.0, radio_uj_per_byte=0.0)
LINK = LinkState(8_000.0, 8_000.0, 10.0)
STATE = SystemState(LINK)
LOCAL = Candidate(None, (0, 1), (), 50.0)
# 20 ms up, 10 of round trip, 5 there, 1 down.
SENT = Candidate(None, (), (0, 1), 0.0, 5.0, 20_000, 1_000, codec="raw", fallback_ms=50.0)
SPLIT = Candidate("c", (0,), (1,), 20.0, 3.0, 1_000, 1_000, codec="raw", fallback_ms=30.0)


def test_a_device_stops_waiting_in_time_to_finish_by_itself() -> None:
    assert give_up_ms(100.0, 50.0) == pytest.approx(100 - 57.5 - 2)
    assert give_up_ms(100.0, 50.0, late_ms=4.0) == pytest.approx(100 - 57.5 - 2 - 4)


def test_what_cannot_be_finished_in_time_is_left_to_the_gateway() -> None:
    assert give_up_ms(50.0, 50.0) == 50.0


def test_without_a_deadline_patience_lasts_as_long_as_it_is_worth() -> None:
    assert give_up_ms(None, 50.0) == PATIENCE_MS
    assert patience_ms(300.0, 2_000.0) == pytest.approx(300 + 4_000)
    # Not for being a little late, however quickly the device could finish.
    assert patience_ms(20.0, 1.0) == pytest.approx(120.0)
    assert patience_ms(300.0, 1.0) == pytest.approx(600.0)
    assert patience_ms(300.0, 60_000.0) == PATIENCE_MS


def test_a_plan_under_a_deadline_can_be_answered_by_the_device_still() -> None:
    assert predict(SENT, STATE, POWER).latency_ms == pytest.approx(36.0)
    assert decide([LOCAL, SENT], STATE, Objective(), POWER).offloads
    # Of 70 ms 59.5 are the device's own if no answer comes.
    assert not decide([LOCAL, SENT], STATE, Objective(deadline_ms=70.0), POWER).offloads
    assert decide([LOCAL, SENT], STATE, Objective(deadline_ms=110.0), POWER).offloads


def test_where_the_device_is_too_slow_by_itself_what_is_in_time_is_enough() -> None:
    assert decide([LOCAL, SENT], STATE, Objective(deadline_ms=45.0), POWER).offloads
    large = replace(LOCAL, device_bytes=2_000_000)
    limited = Objective(deadline_ms=70.0, max_device_memory_bytes=1_000_000.0)
    assert decide([large, SENT], STATE, limited, POWER).offloads


def test_what_is_under_way_is_waited_for_by_who_gets_there_before_it_has_left() -> None:
    busy = replace(STATE, uplink_wait_ms=30.0)
    assert predict(SENT, busy, POWER).latency_ms == pytest.approx(66.0)
    # Its head runs for 20 of them.
    assert predict(SPLIT, busy, POWER).latency_ms == pytest.approx(predict(SPLIT, STATE, POWER).latency_ms + 10.0)
    assert predict(LOCAL, busy, POWER).latency_ms == 50.0
    # So does the device, idle.
    assert predict(SENT, busy, POWER).energy_mj == pytest.approx(predict(SENT, STATE, POWER).energy_mj + 30.0)


def test_replies_that_are_to_come_are_waited_for() -> None:
    # The reply is there after 35 ms, and then waits for 15.
    busy = replace(STATE, downlink_wait_ms=50.0)
    assert predict(SENT, busy, POWER).latency_ms == pytest.approx(51.0)
    assert predict(SENT, replace(STATE, downlink_wait_ms=20.0), POWER).latency_ms == pytest.approx(36.0)


def test_what_the_next_input_would_wait_for_counts() -> None:
    table = Table([LOCAL, SENT], POWER)
    busy = replace(STATE, uplink_wait_ms=8.0, period_ms=25.0)
    columns, _ = table.allowed(busy, Objective())
    held = dict(zip(columns.rows.tolist(), columns.held_up_ms(busy, Inputs()).tolist(), strict=True))
    # 8 + 20 − 25 ms of the link; 50 − 25 of the device.
    assert held == {0: pytest.approx(25.0), 1: pytest.approx(3.0)}
    # Who asks again only when it is answered keeps nobody waiting.
    assert not np.any(columns.held_up_ms(replace(STATE, period_ms=25.0), Inputs()))


def test_where_no_link_is_good_enough_that_is_known() -> None:
    assert Table([LOCAL, SENT], POWER).offloading_could_pay(STATE, Objective())
    slow = replace(SENT, gateway_ms=60.0)
    assert not Table([LOCAL, slow], POWER).offloading_could_pay(STATE, Objective())
    kept = Table([LOCAL, replace(SENT, reveals_input=True)], POWER)
    assert not kept.offloading_could_pay(STATE, Objective(keep_input_local=True))
