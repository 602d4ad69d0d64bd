"""The paths of a FakeServer with their methods, and the errors for another path or another method.

In: the method and the path of a request. Out: the method that answers it. Raises Refused before a token is looked at,
as the included backend does.
"""

from .fields import Refused

SUBSCRIBE = "/api/sync/subscribe"
DEVICES = "/api/sync/devices"

METHODS = {
    SUBSCRIBE: ("GET",),
    "/api/sync/live": ("GET",),
    "/api/sync/auth": ("POST",),
    "/api/sync/password": ("POST",),
    "/api/sync/logout": ("POST",),
    DEVICES: ("GET", "POST"),
    f"{DEVICES}/<id>": ("DELETE",),
    "/api/sync/push": ("POST",),
    "/api/sync/pull": ("POST",),
    "/api/sync/status": ("GET",),
    "/api/sync/keys": ("GET", "PUT"),
    "/oauth/token": ("POST",),
    "/oauth/userinfo": ("GET",),
}


def allowed_methods(path: str) -> list[str]:
    """Return all methods of a path; raises Refused for a path that does not exist."""
    folder, _, device = path.rpartition("/")
    methods = METHODS.get(f"{DEVICES}/<id>" if folder == DEVICES and device else path)
    if methods is None:
        raise Refused(
            404,
            "The requested URL was not found on the server. If you entered the URL manually please "
            "check your spelling and try again.",
        )
    return [*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"]


def method_of(method: str, path: str) -> str:
    """Return the method that answers a request: GET for HEAD; raises Refused for one that the path does not have."""
    allowed = allowed_methods(path)
    if method not in allowed:
        message = "The method is not allowed for the requested URL."
        if path == SUBSCRIBE:
            message = f"the method {method} is not allowed here"
        raise Refused(405, message, headers={"Allow": ", ".join(allowed)})
    return "GET" if method == "HEAD" else method
