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


def test_an_event_wakes_all_that_wait_and_nobody_who_has_left() -> None:
    done = under_gevent("""
        import gevent
        from synckit_notify.runtime import gevent_compat

        def wait(name):
            event.wait()
            woken.append(name)

        for way in (lambda event: event.set(), gevent_compat.set_first):
            event, woken = gevent_compat.new_event(), []
            waiting = [gevent.spawn(wait, name) for name in "abc"]
            gevent.sleep(0)
            waiting[1].kill()
            way(event)
            gevent.sleep(0.01)
            print(woken, [greenlet.dead for greenlet in waiting])
    """)
    assert done.stdout == "['a', 'c'] [True, True, True]\n" * 2, done.stderr


def test_set_first_comes_before_what_was_ready_earlier() -> None:
    done = under_gevent("""
        import gevent
        from synckit_notify.runtime import gevent_compat

        event, order = gevent_compat.new_event(), []

        def wait():
            event.wait()
            order.append("event")

        def come_due():
            gevent.spawn(order.append, "ready")
            gevent_compat.set_first(event)

        waiting = gevent.spawn(wait)
        gevent.spawn_later(0.01, come_due)
        waiting.join()
        gevent.sleep(0)
        print(order)
    """)
    assert done.stdout == "['event', 'ready']\n", done.stderr


def test_an_event_is_set_in_a_native_thread_too() -> None:
    done = under_gevent("""
        import gevent
        from synckit_notify.runtime.gevent_compat import new_event, run_in_native_thread

        event = new_event()
        waiting = gevent.spawn(event.wait)
        gevent.sleep(0)
        run_in_native_thread(event.set)
        print(waiting.get(timeout=10))
    """)
    assert done.stdout == "True\n", done.stderr
