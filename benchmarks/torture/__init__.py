"""The torture: real devices push and pull while everything between them is killed, hung, cut and restarted.

__main__   the command: start, run, watch, judge, print
site       what runs: broker, two servers, networks, client processes; everything ends with it
network    a TCP proxy between some devices and the servers, which can misbehave
devices    a client process: SDK devices that push at random and pull when told to
chaos      the faults, as a table, and when they strike
ledger     what was pushed, what the log holds, who has pulled what and how late
"""
