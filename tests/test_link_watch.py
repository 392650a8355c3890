import pytest

from midstream.link_watch import PROBE_EVERY_S, LinkWatch


def measured(kbps: float = 8_000.0, rtt_ms: float = 10.0) -> LinkWatch:
    """One that has seen an echo and a transfer."""
    watch = LinkWatch()
    echo = watch.begins(64, 0.0)
    watch.after_echo(rtt_ms, echo, rtt_ms / 1e3)
    transfer = watch.begins(100_000, 1.0)
    watch.ends(transfer, 1.0 + 100_000 * 8 / kbps / 1e3 + rtt_ms / 1e3)
    return watch


def test_a_transfer_holds_one_round_trip() -> None:
    watch = measured()
    assert watch.estimate.uplink_kbps == pytest.approx(8_000.0)
    assert watch.estimate.downlink_kbps == pytest.approx(8_000.0)
    assert watch.estimate.rtt_ms == 10.0


def test_what_went_behind_another_is_measured_from_where_that_ended() -> None:
    watch = measured()
    first, second = watch.begins(100_000, 2.0), watch.begins(50_000, 2.0)
    watch.ends(first, 2.11)
    watch.ends(second, 2.16)
    assert watch.estimate.uplink_kbps == pytest.approx(8_000.0)


def test_what_is_under_way_is_waited_for() -> None:
    watch = measured()
    assert watch.uplink_wait_ms(2.0) == 0.0
    first = watch.begins(100_000, 2.0)
    watch.begins(100_000, 2.0)
    assert watch.uplink_wait_ms(2.0) == pytest.approx(200.0)
    assert watch.uplink_wait_ms(2.05) == pytest.approx(150.0)
    watch.ends(first, 2.11)
    # The second one has been on its way since the first had left, a round trip ago.
    assert watch.uplink_wait_ms(2.11) == pytest.approx(90.0)


def test_what_is_overdue_is_expected_to_take_as_long_again() -> None:
    watch = measured()
    transfer = watch.begins(100_000, 2.0)
    assert watch.uplink_wait_ms(2.1) == pytest.approx(0.0, abs=1e-6)
    assert watch.uplink_wait_ms(5.11) == pytest.approx(3_000.0)
    watch.ends(transfer, 5.2, acknowledged=False)
    assert watch.uplink_wait_ms(5.2) == 0.0
    # What was given up has shown nothing of the link.
    assert watch.estimate.uplink_kbps == pytest.approx(8_000.0)


def test_a_lost_connection_leaves_nothing_under_way() -> None:
    watch = measured()
    transfer = watch.begins(1_000_000, 2.0)
    watch.nothing_under_way()
    assert watch.uplink_wait_ms(2.0) == 0.0
    watch.ends(transfer, 9.0)
    assert watch.estimate.uplink_kbps == pytest.approx(8_000.0)


def test_an_echo_behind_others_tells_only_of_a_shorter_round_trip() -> None:
    watch = measured(rtt_ms=50.0)
    watch.begins(1_000_000, 2.0)
    watch.after_echo(400.0, watch.begins(64, 2.0), 2.4)
    assert watch.estimate.rtt_ms == 50.0
    watch.after_echo(20.0, watch.begins(64, 3.0), 3.02)
    assert watch.estimate.rtt_ms < 50.0


def test_the_downlink_is_what_a_reply_comes_later_than_the_acknowledgement_and_the_gateway() -> None:
    watch = measured()
    transfer = watch.begins(100_000, 2.0)
    watch.ends(transfer, 2.11)
    watch.came_back(transfer, 20_000, 30.0, 2.11 + 0.03 + 0.04)
    assert watch.estimate.downlink_kbps == pytest.approx(4_000.0)
    assert watch.estimate.uplink_kbps == pytest.approx(8_000.0)


def test_replies_that_come_after_one_another_share_the_downlink() -> None:
    watch = measured()
    first, second = watch.begins(1_000, 2.0), watch.begins(1_000, 2.0)
    for transfer in (first, second):
        watch.ends(transfer, 2.02)
    watch.came_back(first, 20_000, 0.0, 2.06)
    watch.came_back(second, 20_000, 0.0, 2.10)
    assert watch.estimate.downlink_kbps == pytest.approx(4_000.0)


def test_replies_that_are_to_come_are_waited_for() -> None:
    watch = measured()
    watch.awaits(10_000)
    assert watch.downlink_wait_ms() == pytest.approx(10.0)
    watch.awaits(-10_000)
    assert watch.downlink_wait_ms() == 0.0


def test_a_link_that_was_measured_is_not_probed() -> None:
    watch = LinkWatch()
    assert watch.probe_bytes(0.0) is not None
    assert watch.probe_bytes(0.5) is None
    watch.ends(watch.begins(100_000, 0.6), 0.7)
    assert watch.probe_bytes(PROBE_EVERY_S + 0.6) is None
    assert watch.probe_bytes(PROBE_EVERY_S + 0.8, every_s=5.0) is None
    assert watch.probe_bytes(PROBE_EVERY_S + 0.8) is not None


def test_a_sample_that_disagrees_is_followed_by_a_probe() -> None:
    watch = measured()
    watch.ends(watch.begins(100_000, 2.0), 12.0)
    assert watch.probe_bytes(12.0) == 8 << 10
