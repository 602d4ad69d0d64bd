"""The database of the backend.

    work(connection) ──▶ store, one transaction ──▶ sqlite or postgres, behind the protocol Database
                          └── schema, the tables and their version

Nothing here knows accounts, changes or requests.
"""
