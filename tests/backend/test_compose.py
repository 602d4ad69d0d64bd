"""`deploy/compose.yaml` without a container engine: what it names exists, and its parts start and are healthy."""

import os
import re
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from synckit_notify.backend import create_app

from ..support.backend import start
from ..support.programs import need
from ..support.proxies import DEPLOY
from ..support.server import ROOT, clean_environment
from ..support.tokens import KEY
from ..support.wait import until

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ENV = {"SYNCKIT_JWT_KEY": KEY, "POSTGRES_PASSWORD": "letters", "SITE_HOST": "localhost"}


def environment(service: str) -> dict[str, str]:
    """Return the environment of a service, with the variables of .env inserted as compose does."""
    given = SERVICES[service]["environment"]
    return {name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: ENV[found[1]], value) for name, value in given.items()}


def test_every_secret_comes_from_the_environment_and_must_be_set() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)[^}]*\}", text)) == set(ENV)
    assert all(":?" in variable for variable in re.findall(r"\$\{[^}]*\}", text))
    assert SERVICES["server"]["environment"]["SYNCKIT_JWT_KEY"].startswith("${")
    assert SERVICES["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${")


def test_the_image_is_built_from_files_and_with_extras_that_exist() -> None:
    build = SERVICES["server"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    containerfile = (context / build["dockerfile"]).read_text()
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert all(f"ARG {name}=" in containerfile for name in build["args"])
    assert set(build["args"]["EXTRAS"].split(",")) <= set(setup["options.extras_require"])
    assert f"EXPOSE {environment('server')['SYNCKIT_BIND'].rpartition(':')[2]}" in containerfile


def test_the_parts_find_each_other_and_only_the_proxy_has_open_ports() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["caddy"]
    assert environment("caddy")["UPSTREAM"] == "server:8000"
    database, server = environment("database"), environment("server")
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    url = f"postgresql://{user}:{database['POSTGRES_PASSWORD']}@database:5432/{name}"
    assert server["SYNCKIT_DATABASE_URL"] == url
    for service in SERVICES.values():
        assert service.get("image", "docker.io/").startswith("docker.io/"), "podman asks for short names"
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]


def test_the_database_is_asked_with_a_command_that_it_has() -> None:
    command = SERVICES["database"]["healthcheck"]["test"]
    assert command[:2] == ["CMD", "pg_isready"]
    if program := shutil.which("pg_isready"):
        silent = subprocess.run([program, *command[2:], "--port", "1"], capture_output=True, text=True)
        assert silent.returncode == 2, silent.stderr  # 3 would be a wrong option


@pytest.mark.parametrize("variables", [True, False], ids=["compose", "as shipped"])
def test_caddy_accepts_its_file_with_and_without_the_variables(variables: bool, tmp_path: Path) -> None:
    program, *words = SERVICES["caddy"]["command"]
    config = tmp_path / "Caddyfile"
    config.write_text((DEPLOY / "Caddyfile").read_text().replace("/var/log/caddy", str(tmp_path)))
    assert (program, words[0], words[2]) == ("caddy", "run", "/etc/caddy/Caddyfile")
    assert "./Caddyfile:/etc/caddy/Caddyfile:ro" in SERVICES["caddy"]["volumes"]
    env = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    env |= environment("caddy") if variables else {}
    options = ["--config", str(config), *words[3:]]
    caddy = need("caddy")
    subprocess.run([caddy, "validate", *options], env=env, check=True, capture_output=True)
    adapted = subprocess.run([caddy, "adapt", *options], env=env, check=True, capture_output=True, text=True).stdout
    host, upstream = ("localhost", "server:8000") if variables else ("sync.example.org", "127.0.0.1:8000")
    assert f'"dial":"{upstream}"' in adapted
    assert f'"host":["{host}"]' in adapted


@pytest.mark.thorough
def test_the_service_reads_its_settings_is_healthy_and_becomes_unhealthy(clone: Path) -> None:
    env = environment("server") | {"SYNCKIT_BIND": "127.0.0.1:0", "SYNCKIT_DATABASE_URL": f"sqlite:///{clone}/data.db"}
    with start(clone, **env) as server:
        assert until(lambda: healthy(server.port), 60.0)
        assert server.stop(signal.SIGTERM, within=30) == 0
        assert not healthy(server.port)


@pytest.mark.thorough
def test_the_database_url_has_the_form_that_the_server_reads(bare: str) -> None:
    settings = environment("server") | {"SYNCKIT_DATABASE_URL": bare}
    create_app(settings).extensions["synckit_backend"].store.dispose()


def healthy(port: int) -> bool:
    """Run the health check as the engine does, without a shell."""
    kind, python, *words = SERVICES["server"]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    words = [word.replace(":8000", f":{port}") for word in words]
    return subprocess.run([sys.executable, *words], env=clean_environment(), capture_output=True).returncode == 0
