"""The torture: SDK devices push and pull while everything between them is killed, paused, cut and restarted.

__main__   the command: start, run, watch, compare, print
site       what runs: broker, two servers, networks, client processes; everything ends with it
network    a TCP proxy between some devices and the servers, with faults that can be switched on and off
devices    a client process: SDK devices that push at random and pull when notified
chaos      the table of faults, and the thread that applies them
tables     the tables of the devices that use `run(SQLiteStore)`, compared in the end
ledger     what was pushed, what the log holds, which device has pulled what, and how late
"""
