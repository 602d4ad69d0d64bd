"""Run as a program: publishes fifty notices and ends at once, as a shell command or a script does.

python -m tests.support.publishing <broker url> plain|gevent|listening|forked
"""

import os
import sys

if sys.argv[2] == "gevent":
    from gevent import monkey

    monkey.patch_all()

from synckit_notify.brokers import Broker, Notice, connect


def publish(broker: Broker, numbers: range) -> None:
    for number in numbers:
        broker.publish(Notice("notes", str(number)))


broker = connect(sys.argv[1])
if sys.argv[2] in ("listening", "forked"):
    broker.start(lambda message: None)
if sys.argv[2] == "forked":
    publish(broker, range(25))
    if os.fork() == 0:  # it inherits everything, and ends as any Python process does
        publish(connect(sys.argv[1]), range(25, 50))
        sys.exit()
    sys.exit(os.wait()[1])
publish(broker, range(50))
