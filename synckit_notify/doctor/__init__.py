"""`synckit doctor`: what stands between a device and its stream, found out from where the device is.

    examination.py  the edge: asks, listens, takes times, and yields what the rules find
    reaching.py     the edge below HTTP: names, ports, TLS
    way.py          rules: name, port, TLS, `/live` and `/ready`, clocks
    answer.py       rules: the answer to a subscription, HTTP/2
    watch.py        rules: what was heard while the stream was watched
    remedies.py     which proxy shows itself, and the line to write into which
    findings.py     what all of them yield
    report.py       how that looks

Observations are plain values, so all but the edge is pure.
"""

from .network import Address, readable_token
from .report import Report
from .runner import examine

__all__ = ["Address", "Report", "examine", "readable_token"]
