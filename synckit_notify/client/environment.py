"""HTTP clients that obey the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR.

Out: an httpx2 client, or a ValueError that names the variable to correct. A proxy's password is never shown.
"""

import importlib.util
import os
import ssl
import urllib.request

import httpx2

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def make_http_client(timeout: float | None = None) -> httpx2.Client:
    """Return a client with the environment's proxies and certificates; `timeout` is in seconds.

    Raises ValueError if a variable must be corrected, and ImportError if an installed package cannot be loaded.
    """
    _check_proxies()
    try:
        return httpx2.Client() if timeout is None else httpx2.Client(timeout=timeout)
    except ImportError:
        if importlib.util.find_spec("socksio") is not None:
            importlib.import_module("socksio")  # raises an error that names what it lacks itself
            raise
        name = next((name for name, url in _proxies() if url.startswith("socks")), "ALL_PROXY")
        raise ValueError(
            f"{_variable(name)} names a SOCKS proxy, which requires the package socksio: pip install socksio"
        ) from None
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(certificate_problem(error)) from None


def make_ssl_context() -> ssl.SSLContext:
    """Return the TLS settings that such a client uses; raises ValueError."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise ValueError(certificate_problem(error)) from None


def certificate_problem(error: OSError) -> str:
    """Return what to correct where certificates cannot be loaded."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(name):
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            return f"{name}={os.environ[name]} cannot be used: {reason or error}. Correct or unset it."
    return f"the certificates of this machine cannot be loaded: {error}"


def proxy_for(scheme: str, host: str) -> str:
    """Return the proxy for requests to this host, without user and password; empty if there is none."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return "" if not proxy or urllib.request.proxy_bypass(host) else proxy.rpartition("@")[2]


def _check_proxies() -> None:
    for name, url in _proxies():
        try:
            parsed = httpx2.URL(url if "://" in url else f"http://{url}")
            good = parsed.scheme in PROXY_SCHEMES and bool(parsed.host) and " " not in url
        except httpx2.InvalidURL:
            good = False
        if not good:
            raise ValueError(
                f"{_variable(name)} must be the URL of a proxy, such as http://proxy.example.org:3128."
                " Correct or unset it."
            )


def _proxies() -> list[tuple[str, str]]:
    """Return the proxies that apply to HTTP, by the names that urllib gives them."""
    found = urllib.request.getproxies()
    if found.get("no", "").strip() == "*":
        return []
    return [(name, found[name].strip()) for name in ("http", "https", "all") if found.get(name, "").strip()]


def _variable(name: str) -> str:
    """Return the name of the variable as it is set, or a description of the system's setting."""
    upper = f"{name.upper()}_PROXY"
    return next((each for each in (upper, upper.lower()) if os.environ.get(each)), f"the system's {name} proxy")
