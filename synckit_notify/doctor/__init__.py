"""`synckit doctor`: diagnose what interferes with an event stream between this machine and the server.

    runner.py         sends the requests, reads the stream, measures times, and yields findings
    network.py        the steps below HTTP: DNS, TCP, TLS
    health_checks.py  rules for DNS, TCP, TLS, `/live`, `/ready` and the clocks
    response.py       rules for the response to the subscription, and for HTTP/2
    stream.py         rules for what the stream sent while it was open
    fixes.py          configuration lines that correct a problem, and which servers a response names
    findings.py       the type that all rules return
    report.py         prints findings

`runner.py` and `network.py` do the input and output. The rules are functions of plain values.
"""

from .network import Address, readable_token
from .report import Report
from .runner import examine

__all__ = ["Address", "Report", "examine", "readable_token"]
