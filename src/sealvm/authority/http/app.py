"""The FastAPI application of one authority."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from sealvm.authority.http import admission_routes, host_routes, operator_routes, problems, trust_routes
from sealvm.authority.http.limits import BodyLimit
from sealvm.authority.ports import Context
from sealvm.protocol.operator import Problem

REFUSED = (400, 401, 403, 404, 408, 409, 413)
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in REFUSED}


def create_app(ctx: Context) -> FastAPI:
    """The application that serves `ctx`; OpenAPI at /v1/openapi.json."""
    app = FastAPI(
        title="sealvm authority",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = ctx
    problems.install(app)
    app.add_middleware(BodyLimit)
    app.include_router(host_routes.router, responses=PROBLEM_RESPONSES)
    app.include_router(admission_routes.router, responses=PROBLEM_RESPONSES)
    app.include_router(operator_routes.router, responses=PROBLEM_RESPONSES)
    app.include_router(trust_routes.router, responses=PROBLEM_RESPONSES)

    @app.get("/healthz", tags=["health"])
    def health() -> dict[str, str]:
        """The process is up. Says nothing about the database."""
        return {"status": "ok"}

    return app
