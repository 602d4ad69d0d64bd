"""An expired token is 401 in every REST framework, in production as in debug; the SDK renews its token only then."""

import importlib
from collections.abc import Callable

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from flask.views import MethodView

from synckit_notify import Notifier

from .support.tokens import KEY, make_token

View = Callable[[], str]


def flask_itself(app: Flask, view: View) -> None:
    app.add_url_rule("/push", view_func=view)


def flask_method_view(app: Flask, view: View) -> None:
    class Push(MethodView):
        def get(self) -> str:
            return view()

    app.add_url_rule("/push", view_func=Push.as_view("push"))


def flask_restful(app: Flask, view: View) -> None:
    restful = importlib.import_module("flask_restful")

    class Push(restful.Resource):
        def get(self) -> str:
            return view()

    restful.Api(app).add_resource(Push, "/push")


def flask_restx(app: Flask, view: View) -> None:
    restx = importlib.import_module("flask_restx")
    api = restx.Api(app)

    @api.route("/push")
    class Push(restx.Resource):
        def get(self) -> str:
            return view()


def flask_smorest(app: Flask, view: View) -> None:
    smorest = importlib.import_module("flask_smorest")
    app.config.update(API_TITLE="host", API_VERSION="1", OPENAPI_VERSION="3.1.0")
    api = smorest.Api(app)
    blueprint = smorest.Blueprint("host", "host")

    @blueprint.route("/push")
    class Push(MethodView):
        def get(self) -> str:
            return view()

    api.register_blueprint(blueprint)


def flask_classful(app: Flask, view: View) -> None:
    classful = importlib.import_module("flask_classful")

    class PushView(classful.FlaskView):
        default_methods = ("GET",)

        def index(self) -> str:
            return view()

    PushView.register(app, route_base="/push")


def flask_rebar(app: Flask, view: View) -> None:
    rebar = importlib.import_module("flask_rebar").Rebar()
    registry = rebar.create_handler_registry()
    registry.add_handler(view, rule="/push", endpoint="push")
    rebar.init_app(app)


FRAMEWORKS: dict[str, tuple[str, Callable[[Flask, View], None]]] = {
    "flask": ("flask:Flask", flask_itself),
    "MethodView": ("flask:Flask", flask_method_view),
    "Flask-RESTful": ("flask:Flask", flask_restful),
    "flask-restx": ("flask:Flask", flask_restx),
    "flask-smorest": ("flask:Flask", flask_smorest),
    "APIFlask": ("apiflask:APIFlask", flask_itself),
    "flask-openapi3": ("flask_openapi3:OpenAPI", flask_itself),
    "Flask-Classful": ("flask:Flask", flask_classful),
    "Flask-Rebar": ("flask:Flask", flask_rebar),
}


def host(framework: str, *, debug: bool, propagate: bool | None) -> FlaskClient:
    """A host with one resource, written as the framework wants it, that asks who is there."""
    application, add = FRAMEWORKS[framework]
    module, name = application.split(":")
    app: Flask = getattr(importlib.import_module(module), name)("host")
    app.debug = debug
    app.config.update(SYNCKIT_JWT_KEY=KEY, PROPAGATE_EXCEPTIONS=propagate)
    notifier = Notifier(app)
    add(app, lambda: notifier.authenticate(request).user)
    return app.test_client()


@pytest.mark.parametrize("debug", [False, True], ids=["production", "debug"])
@pytest.mark.parametrize("propagate", [None, True, False], ids=["default", "propagate", "swallow"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_expired_token_is_401(framework: str, propagate: bool | None, debug: bool) -> None:
    client = host(framework, debug=debug, propagate=propagate)
    for life, status in ((60, 200), (-1, 401)):
        headers = {"Authorization": f"Bearer {make_token(life=life)}"}
        answer = client.get("/push", headers=headers, follow_redirects=True)
        assert (answer.status_code, answer.mimetype != "text/html" or status == 200) == (status, True)
