"""Work that blocks runs beside the hub, never on it, and its errors arrive where it was called."""

import pytest

from synckit_notify.runtime import gevent_compat

from ..support.gevent_script import under_gevent


def test_without_monkey_patching_it_is_a_plain_call() -> None:
    assert gevent_compat.run_in_native_thread(lambda first, second: first + second, 1, second=2) == 3
    with pytest.raises(ZeroDivisionError):
        gevent_compat.run_in_native_thread(divmod, 1, 0)


def test_under_gevent_the_hub_goes_on_meanwhile() -> None:
    done = under_gevent("""
        import gevent, gevent.monkey, time
        from synckit_notify.runtime import gevent_compat
        sleep = gevent.monkey.get_original("time", "sleep")
        blocking = gevent.spawn(gevent_compat.run_in_native_thread, sleep, 0.3)
        ticks = 0
        while not blocking.dead:
            gevent.sleep(0.01)
            ticks += 1
        print(ticks)
    """)
    assert int(done.stdout) > 10


def test_under_gevent_an_error_is_raised_in_the_caller_and_not_printed() -> None:
    done = under_gevent("""
        from synckit_notify.runtime import gevent_compat
        try:
            gevent_compat.run_in_native_thread(divmod, 1, 0)
        except ZeroDivisionError:
            print("arrived")
    """)
    assert (done.stdout, done.stderr) == ("arrived\n", "")
