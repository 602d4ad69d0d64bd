"""What differs between the versions of redis-py that are supported. redis-py itself is not imported here."""

import inspect


def no_client_info(connection_class: type) -> dict[str, None]:
    """Return the options with which a connection does not send CLIENT SETINFO, which a user may not be allowed to.

    `connection_class` is `redis.connection.AbstractConnection`. redis-py 7.2 renamed the options.
    """
    is_new = "driver_info" in inspect.signature(connection_class).parameters
    return {"driver_info": None} if is_new else {"lib_name": None, "lib_version": None}
