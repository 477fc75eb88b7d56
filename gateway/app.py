"""The HTTP application: the contract's routes, its OpenAPI document, the docs page, and the guard around them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway import docs, rest
from gateway.config import GatewayConfig
from gateway.guard import Guard
from gateway.routing import Router
from mistudio_rpc.contract import Contract


def create_app(contract: Contract, router: Router, config: GatewayConfig) -> Starlette:
    """The application for every RPC of `contract` that has an HTTP rule."""
    app = Starlette(
        routes=[*docs.routes(contract), *rest.routes(contract, router, config.limits)],
        middleware=[Middleware(Guard, config=config)],
    )
    app.router.redirect_slashes = False
    app.router.default = rest.not_found
    return app
