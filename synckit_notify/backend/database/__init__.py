"""Where the backend keeps what it keeps.

    work(connection) ──▶ store, one transaction ──▶ sqlite or postgres, behind the protocol Database
                          └── schema, the tables and their version

Nothing here knows of accounts, changes or requests.
"""
